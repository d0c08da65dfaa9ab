"""The model of one partition of a random effect: what was trained, and what an earlier model adds to it.

A warm start begins every solve at the earlier coefficients; it does not move the optimum. What the data do
not have is carried over: entities without rows to train on, and features of an entity that no row of it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import FeatureIndex
from gdmix_core.data.feature_mapping import feature_mapping
from gdmix_core.data.layout import GroupingSpec
from gdmix_core.data.partitions import PartitionScores, ScoringPartition, TrainingPartition, score_partition
from gdmix_core.errors import NotFound
from gdmix_core.model.coefficients import RandomEffectCoefficients, read_random_effect
from gdmix_core.model.directory import open_model
from gdmix_core.store.record import CoefficientBlock

if TYPE_CHECKING:
    from gdmix_core.solvers.random_effect import EntitySolutions

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PreviousModel:
    """A partition of an earlier model, its features numbered by the new index.

    Attributes:
        part: Its entities; features that the new index does not have are left out.
        ids: The distinct ids of both models, sorted by bytes.
        entity: int64[entities of `part`], the place of each among `ids`.
        trained_entity: int64[E], the place of each entity of the training partition.
        keys: int64[coefficients of `part`], place of the entity times dimension plus feature; ascending.
        coefficients: float64[C], what it says of every coefficient of the training partition, 0 for nothing.
        dimension: Size of the coordinate's feature space.
    """

    part: RandomEffectCoefficients
    ids: ByteStrings
    entity: Int64Array
    trained_entity: Int64Array
    keys: Int64Array
    coefficients: Float64Array
    dimension: int

    @classmethod
    def read(
        cls,
        directory: str | Path,
        grouping: GroupingSpec,
        partition: int,
        index: FeatureIndex,
        trained: TrainingPartition,
    ) -> Self | None:
        """Read a partition of the model in `directory`; None when that has no such coordinate.

        Raises:
            DataError: A file is missing or damaged.
            NotFound: The directory holds no model.
        """
        model = open_model(directory)
        try:
            manifest = model.manifest.coordinate(grouping.name)
        except NotFound:
            return None
        if manifest.kind != "random_effect":
            return None
        new_number = feature_mapping(
            FeatureIndex.load(model.feature_index),
            (manifest.features, manifest.intercept),
            index,
            (grouping.bags or (), grouping.intercept),
        )
        part = _renumbered(read_random_effect(model.parts(grouping.name)[partition]), new_number)
        block = part.block
        ids, places = ByteStrings.concatenate(
            [trained.ids, ByteStrings(block.ids_bytes, block.ids_ptr)]
        ).group()
        ours, theirs = places[: trained.entities], places[trained.entities :]
        keys = np.repeat(theirs, np.diff(block.coefficient_ptr)) * trained.dimension + block.indices
        wanted = _keys_of(trained, ours)
        place = np.searchsorted(keys, wanted)
        known = np.append(keys, -1)[place] == wanted
        coefficients = np.where(known, np.append(block.coefficients, 0.0)[place], 0.0)
        return cls(part, ids, theirs, ours, keys, coefficients, trained.dimension)


@dataclass(frozen=True, slots=True)
class PartitionModel:
    """What a trained partition amounts to.

    Attributes:
        stored: Entities and coefficients of the model, ids ascending.
        local: float64[C], every coefficient of the training partition as the model has it; 0 for what it has not.
        trained: bool[E], entities of the partition that had rows to train on.
        untrained: Entities of the partition that the model does not have.
        carried_over: Entities that the earlier model alone gives.
    """

    stored: RandomEffectCoefficients
    local: Float64Array
    trained: BoolArray
    untrained: int
    carried_over: int

    @classmethod
    def of(
        cls,
        partition: TrainingPartition,
        solutions: EntitySolutions,
        sparsity_threshold: float,
        previous: PreviousModel | None,
    ) -> Self:
        """Put solutions and an earlier model together; small coefficients are left out, intercepts never."""
        sizes = np.diff(partition.coefficient_ptr)
        trained = partition.trained
        of_trained = np.repeat(trained, sizes)
        large = np.abs(solutions.coefficients) > sparsity_threshold
        if sparsity_threshold == 0.0:
            large[:] = True
        if partition.intercept:
            large[partition.coefficient_ptr[:-1]] = True
        of_trained &= _seen(partition)
        known = np.zeros(len(large)) if previous is None else previous.coefficients
        local = np.where(of_trained, np.where(large, solutions.coefficients, 0.0), known)
        own = _selected(partition, solutions, trained, of_trained & large)
        if previous is None:
            return cls(own, local, trained, int(np.count_nonzero(~trained)), 0)
        decided = _keys_of(partition, previous.trained_entity)[of_trained]
        stored = _merged(own, previous.trained_entity[trained], previous, decided)
        in_model = np.isin(previous.trained_entity, previous.entity) | trained
        return cls(
            stored,
            local,
            trained,
            int(np.count_nonzero(~in_model)),
            len(stored.rows) - int(np.count_nonzero(trained)),
        )


def score_block(partition: ScoringPartition, block: CoefficientBlock) -> PartitionScores:
    """Score a partition's rows with a model's coefficients of the same partition."""
    ids = ByteStrings(block.ids_bytes, block.ids_ptr)
    return score_partition(
        partition, ids, block.coefficient_ptr, block.indices.astype(np.int32, copy=False), block.coefficients
    )


def _seen(partition: TrainingPartition) -> BoolArray:
    """Return which coefficients the rows that are trained on say anything about; intercepts count as such."""
    seen = np.zeros(len(partition.features), np.bool_)
    if partition.active is None:
        seen[:] = True
        return seen
    lengths = np.diff(partition.matrix.indptr)
    entity = np.repeat(np.arange(partition.entities), np.diff(partition.row_ptr))
    places = np.repeat(partition.coefficient_ptr[:-1][entity], lengths) + partition.matrix.indices
    seen[places[np.repeat(partition.active == 1, lengths)]] = True
    if partition.intercept:
        seen[partition.coefficient_ptr[:-1]] = True
    return seen


def _selected(
    partition: TrainingPartition, solutions: EntitySolutions, trained: BoolArray, kept: BoolArray
) -> RandomEffectCoefficients:
    """Return the solutions of the trained entities, only the coefficients `kept`."""
    everything = bool(trained.all() and kept.all())
    ids = partition.ids if everything else partition.ids.take(np.flatnonzero(trained))
    ends = np.append(0, np.cumsum(kept, dtype=np.int64))[partition.coefficient_ptr]
    lengths = np.diff(ends)[trained]
    rows = np.diff(partition.row_ptr)
    if partition.active is not None:
        rows = np.diff(np.append(0, np.cumsum(partition.active, dtype=np.int64))[partition.row_ptr])
    block = CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=partition.coefficient_ptr if everything else np.append(0, np.cumsum(lengths)),
        indices=partition.features if everything else partition.features[kept],
        coefficients=solutions.coefficients if everything else solutions.coefficients[kept],
        variances=None
        if solutions.variances is None
        else solutions.variances
        if everything
        else solutions.variances[kept],
    )
    return RandomEffectCoefficients(
        block=block,
        rows=rows[trained],
        status=solutions.status[trained],
        iterations=solutions.iterations[trained],
        gradient_norm=solutions.gradient_norm[trained],
    )


def _merged(
    own: RandomEffectCoefficients, own_entity: Int64Array, previous: PreviousModel, decided: Int64Array
) -> RandomEffectCoefficients:
    """Return both models' entities; the earlier one's coefficients except those that training decided on."""
    block, other = own.block, previous.part.block
    own_keys = np.repeat(own_entity, np.diff(block.coefficient_ptr)) * previous.dimension + block.indices
    kept = ~np.isin(previous.keys, decided)
    keys, order = np.unique(np.concatenate([own_keys, previous.keys[kept]]), return_index=True)
    entities = np.union1d(own_entity, previous.entity)
    place_of = np.full(len(previous.ids), -1, np.int64)
    place_of[entities] = np.arange(len(entities))
    counts = np.bincount(place_of[keys // previous.dimension], minlength=len(entities))
    ids = previous.ids.take(entities)
    variances = None
    if block.variances is not None:
        theirs = other.variances if other.variances is not None else np.zeros(len(other.coefficients))
        variances = np.concatenate([block.variances, theirs[kept]])[order]
    merged = CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=np.append(0, np.cumsum(counts)),
        indices=(keys % previous.dimension).astype(np.int32),
        coefficients=np.concatenate([block.coefficients, other.coefficients[kept]])[order],
        variances=variances,
    )

    def column(theirs: npt.NDArray[np.generic], ours: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        values = np.zeros(len(entities), ours.dtype)
        values[place_of[previous.entity]] = theirs
        values[place_of[own_entity]] = ours
        return values

    return RandomEffectCoefficients(
        block=merged,
        rows=column(np.zeros_like(previous.part.rows), own.rows),  # type: ignore[arg-type]
        status=column(previous.part.status, own.status),  # type: ignore[arg-type]
        iterations=column(np.zeros_like(previous.part.iterations), own.iterations),  # type: ignore[arg-type]
        gradient_norm=column(previous.part.gradient_norm, own.gradient_norm),  # type: ignore[arg-type]
    )


def _renumbered(part: RandomEffectCoefficients, new_number: Int64Array) -> RandomEffectCoefficients:
    """Return a part with its features numbered anew; those without a new number (-1) are left out."""
    block = part.block
    numbers = new_number[block.indices]
    entity = np.repeat(np.arange(block.entities), np.diff(block.coefficient_ptr))
    kept = np.flatnonzero(numbers >= 0)
    order = kept[np.lexsort((numbers[kept], entity[kept]))]
    counts = np.bincount(entity[order], minlength=block.entities)
    renumbered = CoefficientBlock(
        ids_bytes=block.ids_bytes,
        ids_ptr=block.ids_ptr,
        coefficient_ptr=np.append(0, np.cumsum(counts)),
        indices=numbers[order].astype(np.int32),
        coefficients=block.coefficients[order],
        variances=None if block.variances is None else block.variances[order],
    )
    return RandomEffectCoefficients(renumbered, part.rows, part.status, part.iterations, part.gradient_norm)


def _keys_of(partition: TrainingPartition, entity: Int64Array) -> Int64Array:
    keys: Int64Array = (
        np.repeat(entity, np.diff(partition.coefficient_ptr)) * partition.dimension + partition.features
    )
    return keys
