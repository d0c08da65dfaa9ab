"""One version of a model, ready to score: its features, its fixed effects, what each coordinate needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import entity_ids, number_values
from gdmix_core.data.csr import bag_shifts
from gdmix_core.data.encoding import RowEncoder
from gdmix_core.data.feature_index import FeatureIndex
from gdmix_core.errors import DataError, StoreCorrupt, UsageError
from gdmix_core.model.coefficients import read_fixed_effect
from gdmix_core.model.directory import FEATURE_INDEX_FILE, FIXED_EFFECT_FILE
from gdmix_core.model.manifest import CoordinateManifest, ModelManifest
from gdmix_core.scoring import score_kernels as kernels
from gdmix_core.scoring.faults import raise_faults
from gdmix_core.scoring.plugged_effects import PluggedEffect
from gdmix_core.scoring.record_cache import new_scope
from gdmix_core.scoring.request import Columns, EncodedCandidates, EntityIds, FeatureRows, Scores
from gdmix_core.solvers.losses import Loss

if TYPE_CHECKING:
    import pyarrow as pa

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

EXTERNAL: Final = "external"
"""Name of the fixed effect whose scores come from outside, with the request."""
_MAX_SCRATCH: Final = 1 << 22
"""Largest dimension of a random effect for which a dense vector is kept ready."""
_NO_SCORES: Final = np.zeros(1)
_NO_SCORES.flags.writeable = False
_ROW_FAULTS: Final = {
    kernels.ROWS_FALL: "row_offsets must begin with 0 and never fall",
    kernels.ROWS_END: "row_offsets must end with the number of indices",
    kernels.NOT_INCREASING: "indices must increase strictly inside a row",
    kernels.OUTSIDE: "indices must be from 0 to {last}",
    kernels.NOT_FINITE: "values must be finite numbers",
}


@dataclass(frozen=True, slots=True)
class RandomEffect:
    """A random-effect coordinate: its name, its entity column, and the scope of its records in the cache."""

    name: str
    entity_column: str
    scope: int


@dataclass(frozen=True, slots=True)
class Located:
    """Where a request's coefficients are.

    Attributes:
        words: int64, the memory of a record cache.
        places: int64, the entities' entries, one random effect behind the other; negative: no entry.
        spans: int64[random effects, 2]: where an effect's places begin, and 1 if it has one for each candidate,
            0 if one for all.
        unknown: by random effect, the ids that the version has no coefficients for.
    """

    words: Int64Array
    places: Int64Array
    spans: Int64Array
    unknown: Mapping[str, Sequence[bytes]]


class ScoringModel:
    """A version of a model, read-only; only one thread at a time may score by it."""

    def __init__(
        self,
        manifest: ModelManifest,
        index: FeatureIndex,
        fixed_effects: Mapping[str, Float64Array],
        plugged: Sequence[PluggedEffect] = (),
    ) -> None:
        """Take a version apart.

        Args:
            manifest: of the version.
            index: its feature index.
            fixed_effects: coefficients, intercept first where there is one, by native fixed effect.
            plugged: fixed effects that are plugged in, in training order.

        Raises:
            StoreCorrupt: the parts do not fit together.
        """
        self.manifest = manifest
        self._encoder = RowEncoder(index)
        self._encoder_of: Callable[[frozenset[str]], RowEncoder] = lru_cache(maxsize=64)(self._encoder.only)
        self._loss = int(Loss.from_task(manifest.task))
        self._bags = {bag: number for number, bag in enumerate(manifest.bag_sizes)}
        self.random_effects = tuple(
            RandomEffect(c.name, c.entity_column or "", new_scope()) for c in manifest.random_effects()
        )
        self.entity_columns = tuple(dict.fromkeys(effect.entity_column for effect in self.random_effects))
        self._entity_columns = frozenset(self.entity_columns)
        self.columns = index.columns
        self.feature_columns = frozenset(column.column.column for column in index.columns)
        self.plugged = tuple(plugged)
        self._list_columns = frozenset(
            column.column.column for column in index.columns if column.column.kind in {"list", "vector"}
        ).union(*(effect.list_columns for effect in self.plugged))
        self._external = any(c.model == EXTERNAL for c in manifest.fixed_effects())
        self._offset = manifest.offset_column
        if index.schema_fingerprint != manifest.schema_fingerprint:
            raise StoreCorrupt(f"{self.name}: the feature index is not the one of the manifest")
        self._coordinates, self._weights = self._tables(fixed_effects)
        largest = max((c.dimension for c in manifest.random_effects()), default=0)
        self._scratch = np.zeros(largest if largest <= _MAX_SCRATCH else 0)

    @classmethod
    def from_files(cls, manifest: ModelManifest, read: Callable[[str], bytes]) -> Self:
        """Load a version whose files a store holds.

        Args:
            manifest: of the version.
            read: returns the contents of a file by its name.

        Raises:
            StoreCorrupt: a file is damaged, or they do not fit together.
            GdmixError: a plug-in is not installed, or cannot load its model.
        """
        try:
            index = FeatureIndex.from_bytes(read(FEATURE_INDEX_FILE))
            fixed_effects = {
                c.name: read_fixed_effect(read(f"{c.name}/{FIXED_EFFECT_FILE}")).coefficients
                for c in manifest.fixed_effects()
                if c.model != EXTERNAL and c.plugin is None
            }
            plugged = [PluggedEffect.load(c, read) for c in manifest.fixed_effects() if c.plugin is not None]
        except DataError as error:
            raise StoreCorrupt(f"version {manifest.version} of model {manifest.model!r}: {error}") from error
        return cls(manifest, index, fixed_effects, plugged)

    @property
    def name(self) -> str:
        """Model and version, for messages."""
        return f"version {self.manifest.version} of model {self.manifest.model!r}"

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The rows of the contributions: an offset that the model was trained with comes first."""
        names = tuple(c.name for c in self.manifest.coordinates)
        return (self._offset, *names) if self._offset else names

    @property
    def needs_fixed_effect_scores(self) -> bool:
        """Whether a request must bring scores of an outside model."""
        return bool(self._external or self._offset)

    def _tables(self, fixed_effects: Mapping[str, Float64Array]) -> tuple[Int64Array, Float64Array]:
        """Return the kernel's table of coordinates and the fixed effects' coefficients."""
        rows: list[list[int]] = []
        if self._offset:
            rows.append([kernels.EXTERNAL, 0, 0, 0, *(-1 for _ in self._bags)])
        weights: list[Float64Array] = []
        randoms, given = 0, int(self.needs_fixed_effect_scores)
        for c in self.manifest.coordinates:
            row = [kernels.FIXED, int(c.intercept), 0, 0, *self._shifts(c)]
            if c.kind == "random_effect":
                row[kernels.KIND], row[kernels.ENTITIES] = kernels.RANDOM, randoms
                randoms += 1
            elif c.plugin is not None:
                row[kernels.KIND], row[kernels.WEIGHTS] = kernels.EXTERNAL, given
                given += 1
            elif c.model == EXTERNAL:
                row[kernels.KIND] = kernels.EXTERNAL
            else:
                own = fixed_effects[c.name]
                if len(own) != c.dimension:
                    raise StoreCorrupt(
                        f"{self.name}: {c.name!r} has {len(own)} coefficients, its manifest says {c.dimension}"
                    )
                row[kernels.WEIGHTS] = sum(map(len, weights))
                weights.append(own)
            rows.append(row)
        table = np.array(rows, np.int64).reshape(len(rows), kernels.SHIFTS + len(self._bags))
        return (
            kernel_input(table, np.int64),
            kernel_input(np.concatenate([np.empty(0), *weights]), np.float64),
        )

    def _shifts(self, coordinate: CoordinateManifest) -> list[int]:
        shifts = [-1] * len(self._bags)
        starts, _ = bag_shifts(coordinate.features, self.manifest.bag_sizes, coordinate.intercept)
        for bag, start in zip(coordinate.features, starts, strict=True):
            shifts[self._bags[bag]] = start
        return shifts

    # ---- data columns ------------------------------------------------------------------------------------

    def encode(self, columns: Columns) -> EncodedCandidates:
        """Encode data columns by the version's feature index; columns that are not there are null.

        Raises:
            DataError: a value is not of its column's kind, or not allowed; the message names column and candidate.
            UsageError: a column is given for the context and for the candidates.
        """
        twice = columns.context.keys() & columns.per_candidate.keys()
        if twice:
            raise UsageError(
                f"column {min(twice)!r} is given in the context and in candidates: give it in one of them"
            )
        columns = self.plain(columns)
        own = self.feature_columns.intersection(columns.per_candidate)
        features: list[FeatureRows] = []
        unknown: dict[str, int] = {}
        for context, names in ((True, self.feature_columns - own), (False, own)):
            if names:
                features += self._encoded(columns, names, context, unknown)
        known = self.feature_columns.union(
            self.entity_columns,
            {self._offset},
            *({c.name for c in effect.columns} for effect in self.plugged),
        )
        for name in columns.context.keys() | columns.per_candidate.keys():
            if name not in known:
                unknown[name] = columns.candidates if name in columns.per_candidate else 1
        return EncodedCandidates(
            candidates=columns.candidates,
            features=features,
            entities={name: self._entity_ids(columns, name) for name in self.entity_columns},
            fixed_effect_scores=self._outside_scores(columns),
            schema_fingerprint=self.manifest.schema_fingerprint,
            unknown_features=unknown,
            inputs={effect.name: effect.inputs(columns) for effect in self.plugged},
        )

    def plain(self, columns: Columns) -> Columns:
        """Return the columns with lists of one item each as values, where the model's columns hold no lists.

        A tensor of shape [n, 1] is both; only the model tells which is meant.
        """
        context, per_candidate = (
            {name: self._plain(name, array) for name, array in part.items()}
            for part in (columns.context, columns.per_candidate)
        )
        return replace(columns, context=context, per_candidate=per_candidate)

    def _plain(self, name: str, array: pa.Array) -> pa.Array:
        import pyarrow as pa

        kind = array.type
        lists = pa.types.is_fixed_size_list(kind) and kind.list_size == 1 and name not in self._list_columns
        return array.flatten() if lists else array

    def _encoded(
        self, columns: Columns, names: frozenset[str], context: bool, unknown: dict[str, int]
    ) -> list[FeatureRows]:
        import pyarrow as pa

        rows = 1 if context else columns.candidates
        given = columns.context if context else columns.per_candidate
        encoder = self._encoder_of(names)
        batch = encoder.encode(
            {name: given[name] if name in given else pa.nulls(rows) for name in names}, rows
        )
        raise_faults(batch.faults, context)
        unknown.update(batch.unknown)
        return [FeatureRows(bag, context, matrix) for bag, matrix in encoder.join([batch]).items()]

    def _entity_ids(self, columns: Columns, name: str) -> EntityIds:
        context = name not in columns.per_candidate
        array = (columns.context if context else columns.per_candidate).get(name)
        if array is None:
            return EntityIds(True, ByteStrings.of([b""]))
        found, faults = entity_ids(array, name)
        raise_faults(faults, context)
        return EntityIds(context, found.ids)

    def _outside_scores(self, columns: Columns) -> Float64Array | None:
        """Return the outside scores: given as such, or in the column that was the offset in training."""
        if columns.fixed_effect_scores is not None or not self._offset:
            return columns.fixed_effect_scores
        context = self._offset not in columns.per_candidate
        array = (columns.context if context else columns.per_candidate).get(self._offset)
        if array is None:
            return None
        numbers = number_values(array, self._offset)
        raise_faults(numbers.faults, context)
        return numbers.values

    def unknown_columns(self, request: EncodedCandidates) -> Mapping[str, int]:
        """Return what a request has that the version does not know: values and columns, entity columns included."""
        if request.entities.keys() <= self._entity_columns:
            return request.unknown_features
        others = request.entities.keys() - self._entity_columns
        return {**request.unknown_features, **{name: len(request.entities[name].ids) for name in others}}

    # ---- scoring -----------------------------------------------------------------------------------------

    def check(self, request: EncodedCandidates) -> None:
        """Check features that were encoded elsewhere, before anything is made of them.

        Raises:
            UsageError: they are not for this version's index, or break a rule; the message names the field.
        """
        if self.plugged:
            raise UsageError(
                f"{self.name}: {self.plugged[0].name} is the plug-in {self.plugged[0].plugin}, which reads data "
                "columns: send these instead of encoded features"
            )
        if not request.features:
            return
        if request.schema_fingerprint != self.manifest.schema_fingerprint:
            raise UsageError(
                f"schema_fingerprint: found {request.schema_fingerprint!r}; {self.name} has "
                f"{self.manifest.schema_fingerprint!r}: encode the features by its feature index"
            )
        seen: set[tuple[str, bool]] = set()
        for number, rows in enumerate(request.features):
            where = f"features[{number}] (bag {rows.bag!r})"
            if rows.bag not in self._bags:
                raise UsageError(
                    f"features[{number}].bag: found {rows.bag!r}; {self.name} has {_list(self._bags)}"
                )
            if (rows.bag, rows.context) in seen:
                raise UsageError(
                    f"{where}: comes twice for the {'context' if rows.context else 'candidates'}"
                )
            seen.add((rows.bag, rows.context))
            size = self.manifest.bag_sizes[rows.bag]
            matrix = rows.rows
            fault, row = kernels.check_rows(
                kernel_input(matrix.indptr, np.int64),
                kernel_input(matrix.indices, np.int32),
                kernel_input(matrix.values, np.float64),
                size,
            )
            if fault:
                raise UsageError(f"{where}, row {row}: {_ROW_FAULTS[fault].format(last=size - 1)}")

    def score_plugged(self, request: EncodedCandidates) -> Float64Array:
        """Return the scores of the fixed effects that are plugged in, float64[effects, candidates]; takes its time.

        Raises:
            InternalError: a plug-in fails.
        """
        scores = np.empty((len(self.plugged), request.candidates))
        for row, effect in zip(scores, self.plugged, strict=True):
            row[:] = effect.score(request.inputs[effect.name])
        return scores

    def score(
        self, request: EncodedCandidates, located: Located, plugged: Float64Array | None = None
    ) -> Scores:
        """Score all candidates in one compiled pass.

        Args:
            request: encoded by this version's index, checked.
            located: the entities' coefficients.
            plugged: what `score_plugged` returned.

        Raises:
            UsageError: scores of an outside fixed effect are missing, or the model has no use for them.
        """
        outside = self._checked_outside(request)[None, :]
        if self.plugged:
            assert plugged is not None
            rows = (
                [np.broadcast_to(outside, (1, request.candidates))] if self.needs_fixed_effect_scores else []
            )
            outside = np.concatenate([*rows, plugged])
        candidates = request.candidates
        contributions = np.empty((len(self._coordinates), candidates))
        scores, predictions = np.empty(candidates), np.empty(candidates)
        blocks, bounds, indices, values = _blocks(request.features, self._bags)
        kernels.score(
            located.words, self._coordinates, self._weights, self._scratch, blocks, bounds, indices, values,
            located.places, located.spans, kernel_input(outside, np.float64), self._loss,
            contributions, scores, predictions,
        )  # fmt: skip
        return Scores(scores, predictions, contributions, located.unknown)

    def _checked_outside(self, request: EncodedCandidates) -> Float64Array:
        given = request.fixed_effect_scores
        if given is None:
            if self.needs_fixed_effect_scores:
                raise UsageError(
                    f"fixed_effect_score: {self.name} was trained on the scores of an outside model, so a request "
                    "must bring them, in the context or for each candidate"
                )
            return _NO_SCORES
        if not self.needs_fixed_effect_scores:
            raise UsageError(
                f"fixed_effect_score: {self.name} computes its fixed effect itself; leave the scores out"
            )
        if len(given) not in (1, request.candidates):
            raise UsageError(
                f"fixed_effect_scores: found {len(given)}; allowed are 1 or {request.candidates}, the candidates"
            )
        if not np.isfinite(given).all():
            raise UsageError("fixed_effect_scores: must be finite numbers")
        return kernel_input(given, np.float64)


def _blocks(
    features: Sequence[FeatureRows], bags: Mapping[str, int]
) -> tuple[Int64Array, Int64Array, npt.NDArray[np.int32], Float64Array]:
    """Return the kernel's table of feature blocks, and their arrays one behind the other."""
    table = np.zeros((len(features), 4), np.int64)
    first_row = first_nonzero = 0
    for number, block in enumerate(features):
        table[number] = bags[block.bag], block.context, first_row, first_nonzero
        first_row += len(block.rows.indptr)
        first_nonzero += len(block.rows.indices)
    if len(features) == 1:
        rows = features[0].rows
        return table, *_arrays(rows.indptr, rows.indices, rows.values)
    return table, *_arrays(
        np.concatenate([np.empty(0, np.int64), *(block.rows.indptr for block in features)]),
        np.concatenate([np.empty(0, np.int32), *(block.rows.indices for block in features)]),
        np.concatenate([np.empty(0), *(block.rows.values for block in features)]),
    )


def _arrays(
    bounds: Int64Array, indices: npt.NDArray[np.int32], values: Float64Array
) -> tuple[Int64Array, npt.NDArray[np.int32], Float64Array]:
    return kernel_input(bounds, np.int64), kernel_input(indices, np.int32), kernel_input(values, np.float64)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"
