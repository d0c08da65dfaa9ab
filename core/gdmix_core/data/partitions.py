"""Partitions: all rows of the entities that hash to one number, grouped by entity, as a solver reads them.

Entities are sorted by their id's bytes, an entity's rows by row id (shard, position): what is computed for an
entity depends on its own rows in that order and on nothing else. Memory depends on the partition's size only.

A *training* partition numbers features inside each entity (local numbers, intercept first), because an entity
sees few of a coordinate's features. A *scoring* partition (validation rows, per-entity metrics) keeps the
coordinate's own numbers, and is scored against the coefficients of a training partition by merging the two
sorted lists of entities. Layouts: `docs/specs/data-plane.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, Arrays, write_arrays
from gdmix_core.data.byte_strings import ByteStrings, find_sorted
from gdmix_core.data.csr import SparseRows, place_rows
from gdmix_core.data.home_shards import PARTITION_SPILL_FORMAT
from gdmix_core.data.partition_kernels import local_features, local_numbers, score_rows
from gdmix_core.data.sampling import sample_rows
from gdmix_core.errors import InternalError

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

PARTITION_FORMAT: Final = 2
_SHARED_FACTS: Final = ("grouping", "partitions", "dimension", "intercept", "min_rows", "max_rows")


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """What a partition holds; `largest_entity` counts the rows of the entity that has most."""

    rows: int
    entities: int
    largest_entity: int


@dataclass(frozen=True, slots=True)
class ScoringPartition:
    """N rows of E entities, grouped by entity.

    Attributes:
        ids: The E entity ids, sorted by bytes.
        row_ptr: int64[E + 1]; rows of entity e are row_ptr[e] ≤ i < row_ptr[e + 1].
        shard: int32[N], the row's home shard.
        position: int64[N], the row's position there; (shard, position) ascends inside an entity.
        label: float64[N].
        weight: float64[N].
        order: int64[N], row i's place in the concatenation of the partition's rows over all shards.
        shard_ptr: int64[S + 1], where each shard's rows begin in that concatenation.
        matrix: N sparse rows; features are numbered inside the entity (from 1 with an intercept) in a
            training partition, in the coordinate's space in a scoring one; empty rows for a metric's.
        intercept: Whether coefficient 0 of every entity is an intercept, which rows never store.
        dimension: Size of the coordinate's feature space, intercept included; 0 for a per-entity metric.
    """

    ids: ByteStrings
    row_ptr: Int64Array
    shard: Int32Array
    position: Int64Array
    label: Float64Array
    weight: Float64Array
    order: Int64Array
    shard_ptr: Int64Array
    matrix: SparseRows
    intercept: bool
    dimension: int

    @property
    def rows(self) -> int:
        """The number of rows, N."""
        return len(self.order)

    @property
    def entities(self) -> int:
        """The number of entities, E."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TrainingPartition(ScoringPartition):
    """A partition whose features are numbered inside each entity.

    Attributes:
        coefficient_ptr: int64[E + 1], where the coefficients of each entity begin.
        features: int32[C], each coefficient's feature in the coordinate's feature space, ascending
            inside an entity; 0 for an intercept.
        active: uint8[N], 1 for the rows that are trained on, whose weight is scaled up to all of the entity's;
            None when all rows are.
    """

    coefficient_ptr: Int64Array
    features: Int32Array
    active: UInt8Array | None

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which entities have rows to be trained on, bool[E]."""
        if self.active is None:
            return np.ones(self.entities, np.bool_)
        ends = np.append(0, np.cumsum(self.active, dtype=np.int64))
        return np.asarray(np.diff(ends[self.row_ptr]) > 0)


@dataclass(frozen=True, slots=True)
class PartitionScores:
    """Scores x·θ of a scoring partition's rows, and what was not seen in training.

    Attributes:
        scores: float64[N] in the partition's row order, without offsets.
        unseen_entities: Entities that training did not see; their rows score 0.
        unseen_rows: Rows of those entities.
        unseen_features: Stored entries of the other rows whose feature that entity never had; they add 0.
    """

    scores: Float64Array
    unseen_entities: int
    unseen_rows: int
    unseen_features: int


def build_partition(partition: int, spills: Sequence[str | Path], path: str | Path) -> PartitionSummary:
    """Gather one training partition of a grouping from the partition spills of all home shards.

    Args:
        partition: The partition's number.
        spills: The partition spills of all home shards, in shard order; each is read at this segment only.
        path: The partition file, one segment; see `TrainingPartition`.

    Raises:
        DataError: A file cannot be read or written.
        InternalError: The spills are not those of all home shards, in order, of one random effect.
    """
    arrays, facts, matrix = _gather(partition, spills)
    if matrix is None:
        raise InternalError(f"{spills[0]}: has no features to train on")
    row_ptr, intercept, dimension = arrays["row_ptr"], bool(facts["intercept"]), int(facts["dimension"])
    indices = matrix.indices
    used = None
    if dimension > 4 * len(indices) + 1024:  # number the features that occur: memory as the partition's size
        used, inverse = np.unique(indices, return_inverse=True)
        indices, dimension = inverse.astype(np.int32), len(used)
    first = 1 if intercept else 0
    coefficient_ptr, features = local_features(row_ptr, matrix.indptr, indices, dimension, first)
    local = local_numbers(row_ptr, matrix.indptr, indices, dimension, first, coefficient_ptr, features)
    if used is not None:
        features = _original_features(features, coefficient_ptr, used.astype(np.int32), first)
    arrays |= {
        **SparseRows(matrix.indptr, local, matrix.values).arrays(),
        "coefficient_ptr": coefficient_ptr,
        "features": features,
    }
    if "uid" in arrays:
        sample = sample_rows(
            row_ptr, arrays.pop("uid"), arrays["active"], facts["min_rows"], facts["max_rows"]
        )
        arrays |= {"active": sample.active, "weight": arrays["weight"] * sample.factor}
    write_arrays(path, [arrays], {**facts, "kind": "training"})
    return _summary(arrays)


def build_scoring_partition(
    partition: int, spills: Sequence[str | Path], path: str | Path
) -> PartitionSummary:
    """Gather one scoring partition: as `build_partition`, but features keep the coordinate's numbers.

    Serves validation rows and per-entity metrics (whose spills hold no features). See `ScoringPartition`.
    """
    arrays, facts, matrix = _gather(partition, spills)
    if matrix is not None:
        arrays |= matrix.arrays()
    write_arrays(path, [arrays], {**facts, "kind": "scoring"})
    return _summary(arrays)


def read_partition(path: str | Path) -> TrainingPartition:
    """Map a training partition.

    Raises:
        DataError: The file cannot be read.
        InternalError: It is not a training partition of this format.
    """
    arrays, fields = _read(path, "training")
    return TrainingPartition(
        **fields,
        coefficient_ptr=arrays["coefficient_ptr"],
        features=arrays["features"],
        active=arrays.get("active"),
    )


def read_scoring_partition(path: str | Path) -> ScoringPartition:
    """Map a scoring partition; raises as `read_partition`."""
    return ScoringPartition(**_read(path, "scoring")[1])


def score_partition(
    partition: ScoringPartition,
    ids: ByteStrings,
    coefficient_ptr: Int64Array,
    features: Int32Array,
    coefficients: Float64Array,
) -> PartitionScores:
    """Score a partition's rows with the coefficients of the same partition's training.

    Args:
        partition: The rows to score.
        ids: The trained entities' ids, sorted by bytes.
        coefficient_ptr: int64[E + 1] of the trained entities.
        features: int32[C] features in the coordinate's space, ascending inside an entity.
        coefficients: float64[C].
    """
    trained = find_sorted(partition.ids, ids)
    scores = np.zeros(partition.rows)
    unseen_features = score_rows(
        partition.row_ptr,
        partition.matrix.indptr,
        partition.matrix.indices,
        partition.matrix.values,
        trained,
        coefficient_ptr,
        features,
        coefficients,
        partition.intercept,
        scores,
    )
    unseen = trained < 0
    unseen_rows = int((partition.row_ptr[1:] - partition.row_ptr[:-1])[unseen].sum())
    return PartitionScores(scores, int(unseen.sum()), unseen_rows, int(unseen_features))


def _gather(partition: int, paths: Sequence[str | Path]) -> tuple[Arrays, dict[str, Any], SparseRows | None]:
    """Concatenate one segment of all spills and group its rows by entity; see `ScoringPartition`."""
    segments, facts = _segments(partition, paths)
    counts = [len(segment["position"]) for segment in segments]
    shard_ptr = np.cumsum([0, *counts]).astype(np.int64)
    ids, code = ByteStrings.concatenate([ByteStrings.from_arrays(s, "entity") for s in segments]).group()
    order = np.argsort(code, kind="stable")
    row_ptr = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(code, minlength=len(ids)), out=row_ptr[1:])

    def ordered(name: str) -> npt.NDArray[Any]:
        joined: npt.NDArray[Any] = np.concatenate([segment[name] for segment in segments])
        return joined[order]

    arrays: Arrays = {
        **ids.arrays("ids"),
        "row_ptr": row_ptr,
        "shard": np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order],
        **{
            name: ordered(name)
            for name in ("position", "label", "weight", "uid", "active")
            if name in segments[0]
        },
        "order": order,
        "shard_ptr": shard_ptr,
    }
    if "indptr" not in segments[0]:
        return arrays, facts, None
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    destinations = [place[shard_ptr[s] : shard_ptr[s + 1]] for s in range(len(segments))]
    matrix = place_rows([[SparseRows.from_arrays(s)] for s in segments], destinations, [0], len(order))
    return arrays, facts, matrix


def _segments(partition: int, paths: Sequence[str | Path]) -> tuple[list[Arrays], dict[str, Any]]:
    """Map the segments and agree on the facts that all spills of a grouping share."""
    segments: list[Arrays] = []
    facts: dict[str, Any] = {}
    for shard, path in enumerate(paths):
        with ArrayFile(path) as file:
            found = file.metadata
            own = {key: found.get(key) for key in _SHARED_FACTS}
            facts = facts or own
            if found.get("format") != PARTITION_SPILL_FORMAT or found.get("shard") != shard or own != facts:
                raise InternalError(f"{path}: is not the partition spill of home shard {shard} of {facts}")
            segments.append(file.segment(partition))
    if not segments:
        raise InternalError(f"partition {partition} has no partition spills")
    return segments, {**facts, "format": PARTITION_FORMAT, "partition": partition}


def _summary(arrays: Arrays) -> PartitionSummary:
    sizes = np.diff(arrays["row_ptr"])
    return PartitionSummary(len(arrays["order"]), len(sizes), int(sizes.max(initial=0)))


def _original_features(
    features: Int32Array, coefficient_ptr: Int64Array, used: Int32Array, first: int
) -> Int32Array:
    """Translate numbers among `used` back, leaving the intercepts' 0 alone."""
    original = np.zeros_like(features)
    stored = np.ones(len(features), np.bool_)
    if first:
        stored[coefficient_ptr[:-1]] = False
    original[stored] = used[features[stored]]
    return original


def _read(path: str | Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    with ArrayFile(path) as file:
        facts, arrays = file.metadata, file.segment(0)
    if facts.get("format") != PARTITION_FORMAT or facts.get("kind") != kind:
        raise InternalError(f"{path}: is not a {kind} partition of format {PARTITION_FORMAT}")
    rows = len(arrays["order"])
    matrix = (
        SparseRows.from_arrays(arrays)
        if "indptr" in arrays
        else SparseRows(np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0))
    )
    names = ("row_ptr", "shard", "position", "label", "weight", "order", "shard_ptr")
    fields: dict[str, Any] = {name: arrays[name] for name in names}
    fields["ids"] = ByteStrings.from_arrays(arrays, "ids")
    return arrays, fields | {
        "matrix": matrix,
        "intercept": facts["intercept"],
        "dimension": facts["dimension"],
    }
