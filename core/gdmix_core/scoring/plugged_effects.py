"""Fixed effects that are plugged in, as a request meets them: its columns, typed, and one score for each candidate."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.layout import InputSpec
from gdmix_core.errors import InternalError
from gdmix_core.fixed_effects.registry import load_plugin
from gdmix_core.model.manifest import CoordinateManifest, PluginColumn
from gdmix_core.model.plugin_files import write_plugin_files
from gdmix_core.scoring.faults import raise_faults
from gdmix_core.scoring.request import Columns

if TYPE_CHECKING:
    import pyarrow as pa

    from gdmix_core.fixed_effects.plugin import FixedEffectModel

Float64Array = npt.NDArray[np.float64]

_LISTS: Final = frozenset({"strings", "vector", "sparse"})


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PluggedEffect:
    """A loaded model of a plug-in; only one thread at a time may score by it.

    Attributes:
        name: of the coordinate.
        plugin: its name.
        columns: data columns that it reads.
        model: scores.
    """

    name: str
    plugin: str
    columns: tuple[PluginColumn, ...]
    model: FixedEffectModel

    @classmethod
    def load(cls, manifest: CoordinateManifest, read: Callable[[str], bytes]) -> PluggedEffect:
        """Fetch, check and load a model, and do what would make its first scores slow.

        Its files lie in a private temporary directory, which is removed with the object.

        Args:
            manifest: of a coordinate that is plugged in.
            read: returns the contents of a file of the version by its name.

        Raises:
            StoreCorrupt: a file is not that of the manifest.
            NotFound: the plug-in is not installed.
            GdmixError: as `load_plugin`.
        """
        if manifest.plugin is None or manifest.model is None:
            raise InternalError(f"coordinate {manifest.name!r} is not plugged in")
        plugin = load_plugin(manifest.model)
        files = Path(mkdtemp(prefix="gdmix-plugin-"))
        try:
            write_plugin_files(read, manifest, files)
            model = plugin.load(files)
            model.warm_up()
        except BaseException:
            shutil.rmtree(files, ignore_errors=True)
            raise
        effect = cls(manifest.name, manifest.model, manifest.plugin.columns, model)
        weakref.finalize(effect, shutil.rmtree, files, ignore_errors=True)
        return effect

    @property
    def list_columns(self) -> frozenset[str]:
        """The columns that hold a list in each row."""
        return frozenset(column.name for column in self.columns if column.kind in _LISTS)

    def inputs(self, columns: Columns) -> pa.RecordBatch:
        """Return a request's columns as the plug-in wants them; columns that are not there are null.

        Raises:
            DataError: a value is not of its column's kind, or not allowed; the message names column and candidate.
        """
        import pyarrow as pa

        from gdmix_core.data.input_values import input_values

        arrays = {}
        first = pa.array(np.zeros(columns.candidates, np.int64))
        for column in self.columns:
            spec = InputSpec(name=column.name, kind=column.kind, dimension=column.dimension)
            if column.name in columns.per_candidate:
                found = input_values(columns.per_candidate[column.name], spec)
                raise_faults(found.faults, context=False)
                arrays[column.name] = found.array
            else:
                found = input_values(columns.context.get(column.name, pa.nulls(1)), spec)
                raise_faults(found.faults, context=True)
                arrays[column.name] = found.array.take(first)
        return pa.RecordBatch.from_pydict(arrays)

    def score(self, inputs: pa.RecordBatch) -> Float64Array:
        """Return one score for each row.

        Raises:
            InternalError: the plug-in fails, or returns what is no score.
        """
        try:
            scores = np.ascontiguousarray(self.model.score(inputs), np.float64)
        except Exception as error:
            raise InternalError(
                f"{self.name}: plug-in {self.plugin} failed: {type(error).__name__}: {error}"
            ) from error
        if scores.shape != (inputs.num_rows,) or not np.isfinite(scores).all():
            raise InternalError(
                f"{self.name}: plug-in {self.plugin} does not give one finite number for each candidate"
            )
        return scores
