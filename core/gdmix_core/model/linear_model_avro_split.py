"""The model splitter: one global model with crossed features becomes many small models.

A crossed feature is named `<model>_gdmixcross_<feature>`; the record of `<model>` gets `<feature>` with the same term.
GDMix's own splitter fails at every other name, an intercept included, and at a name with several separators. Here an
intercept is left out and reported, and a name is cut at its first separator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.hashing import entity_partitions
from gdmix_core.errors import DataError, UsageError
from gdmix_core.model.linear_model_avro_names import FeatureNames, arrow_strings, gathered, strings_of
from gdmix_core.model.linear_model_avro_reading import LinearModels, read_models
from gdmix_core.model.linear_model_avro_writing import write_models
from gdmix_core.store.record import CoefficientBlock

Int64Array: TypeAlias = npt.NDArray[np.int64]

CROSS: Final = "_gdmixcross_"
"""Between a model's id and a feature's name."""
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class SplitModels:
    """What the splitter made.

    Attributes:
        models: number of models.
        coefficients: of all of them.
        files: the files, in order.
        intercept: the global model's intercept, which no model got; None when it had none.
    """

    models: int
    coefficients: int
    files: tuple[Path, ...]
    intercept: float | None


def split_models(
    source_paths: str | Path | Sequence[str | Path], output_dir: str | Path, files: int = 1
) -> SplitModels:
    """Split a global model by its crossed features.

    Models go to `part-00000.avro`, `part-00001.avro`, … by a hash of their id, and are sorted by the bytes of their id
    inside a file; their coefficients keep the order of the global model. The same model gives the same bytes.

    Args:
        source_paths: the file of the global model, or several that hold it together with no other.
        output_dir: where the files go; it is made.
        files: how many.

    Raises:
        DataError: the source is no readable model file, holds other than one model, or has features that are not
            crossed; or a file cannot be written.
        UsageError: `files` is not from 1 to 100,000.
    """
    if not 1 <= files <= 100_000:
        raise UsageError(f"the number of files is {files}; allowed: 1 to 100,000")
    where = str(source_paths if isinstance(source_paths, str | Path) else source_paths[0])
    models = read_models(source_paths)
    if len(models) != 1:
        raise DataError(f"{where}: holds {len(models)} models; the splitter takes one global model")
    intercept = models.names.intercept()
    at = np.flatnonzero(models.features != intercept) if intercept >= 0 else np.arange(len(models.values))
    ids, names = _cut(models.names, where, intercept)
    distinct, place = ids.take(models.features[at].astype(np.int64)).group()
    order = at[np.argsort(place, kind="stable")]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(distinct)))]).astype(np.int64)
    keys = arrow_strings(names.keys()).dictionary_encode()
    features = keys.indices.to_numpy()[models.features[order]]
    split = LinearModels(
        ids=distinct,
        ptr=ptr,
        names=FeatureNames.from_keys(strings_of(keys.dictionary)),
        features=features,
        values=models.values[order],
        variances=None if models.variances is None else models.variances[order],
        model_classes=models.model_classes,
    )
    dropped = np.flatnonzero(models.features == intercept)
    return SplitModels(
        models=len(split),
        coefficients=len(order),
        files=_written(split, Path(output_dir), files),
        intercept=float(models.values[dropped[0]]) if len(dropped) else None,
    )


def _cut(names: FeatureNames, where: str, intercept: int) -> tuple[ByteStrings, FeatureNames]:
    """Return the model's id of every feature and the features' own names; the intercept's are of no meaning."""
    found = pc.find_substring(arrow_strings(names.names), pattern=CROSS.encode()).to_numpy().astype(np.int64)
    start, end = names.names.ptr[:-1], names.names.ptr[1:]
    wrong = (found <= 0) | (start + found + len(CROSS) >= end)
    if intercept >= 0:
        wrong[intercept] = False
        found[intercept] = -len(CROSS)
    if wrong.any():
        examples = ", ".join(repr(names.text(int(i))[0]) for i in np.flatnonzero(wrong)[:_EXAMPLES])
        raise DataError(
            f"{where}: {np.count_nonzero(wrong):,} of {len(names):,} features are not named "
            f"<model>{CROSS}<feature>, as the splitter needs it: {examples}"
        )
    middle = start + found
    ids = gathered(names.names.data, _bounds(start, np.maximum(middle, start)))
    own = gathered(names.names.data, _bounds(middle + len(CROSS), end))
    return ids, FeatureNames(own, names.terms)


def _bounds(start: Int64Array, end: Int64Array) -> Int64Array:
    return np.stack([start, end], axis=1).ravel()


def _written(models: LinearModels, directory: Path, files: int) -> tuple[Path, ...]:
    """Write models to the files that their ids' hashes say."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{directory}: cannot be made: {error.strerror}") from error
    file_of = entity_partitions(models.ids.data, models.ids.ptr, files)
    paths = tuple(directory / f"part-{number:05d}.avro" for number in range(files))
    model_class = models.model_classes[0] if models.model_classes else None
    for number, path in enumerate(paths):
        block = _chosen(models, np.flatnonzero(file_of == number))
        write_models(path, [block], models.names, model_class=model_class)
    return paths


def _chosen(models: LinearModels, chosen: Int64Array) -> CoefficientBlock:
    """Return some of the models."""
    sizes = np.diff(models.ptr)[chosen]
    ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    at = np.arange(ptr[-1]) + np.repeat(models.ptr[:-1][chosen] - ptr[:-1], sizes)
    ids = models.ids.take(chosen)
    return CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=ptr,
        indices=models.features[at],
        coefficients=models.values[at],
        variances=None if models.variances is None else models.variances[at],
    )
