"""Random effects: offsets to partitions, one solve for each entity, scores back to home shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import read_segment
from gdmix_core.data.partitions import TrainingPartition, read_partition, read_scoring_partition
from gdmix_core.data.score_blocks import write_score_block
from gdmix_core.data.scores import (
    assemble_scores,
    read_home_shard,
    read_partition_offsets,
    write_offsets,
    write_partition_scores,
)
from gdmix_core.model.coefficients import write_random_effect
from gdmix_core.model.partition_model import PartitionModel, PreviousModel, score_block
from gdmix_core.solvers.entity_status import EntityStatus
from gdmix_core.solvers.losses import Loss, ridge_penalty
from gdmix_core.tasks import (
    COEFFICIENTS_FILE,
    CROSSING_FILE,
    OFFSETS_FILE,
    PARTITION_FILE,
    ROWS_FILE,
    SCORES_FILE,
    VALIDATION_SCORES_FILE,
    AssembleScores,
    OffsetsWritten,
    RandomEffectTrained,
    ShardScored,
    TrainRandomEffect,
    Unconverged,
    WriteOffsets,
    grouping_file,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.active_rows import active_rows
from gdmix_trainer.tasks.fixed_effect import offsets_of
from gdmix_trainer.tasks.indexes import feature_index_of

if TYPE_CHECKING:
    from gdmix_core.solvers.random_effect import EntityProblems, EntitySolutions

BoolArray = npt.NDArray[np.bool_]

_NAMED_UNCONVERGED = 20


def offsets(task: WriteOffsets, context: TaskContext) -> OffsetsWritten:
    """Write one training shard's offsets in the order of a random effect's partitions."""
    total = offsets_of(task.input)
    context.check()
    spill = Path(task.input.directory) / grouping_file(task.grouping.name)
    write_offsets(Path(task.output) / OFFSETS_FILE, total, spill)
    context.advance(rows=len(total))
    return OffsetsWritten(rows=len(total), seconds=0.0)


def train(task: TrainRandomEffect, context: TaskContext) -> RandomEffectTrained:
    """Solve every entity of one partition; write coefficients, training scores and validation scores."""
    from gdmix_core.solvers.random_effect import linear_predictor, solve

    output = Path(task.output)
    partition = read_partition(Path(task.partition_directory) / PARTITION_FILE)
    previous = _previous(task, partition)
    problems = _problems(task, partition)
    context.check()
    solutions = solve(
        active_rows(problems, partition.active),
        Loss(task.loss),
        variance=task.variance,
        initial=None if previous is None else previous.coefficients,
        max_iterations=task.max_iterations,
        threads=1,
    )
    context.advance(rows=partition.rows, entities=partition.entities)
    context.check()
    gone = feature_index_of(task.index).vanished(
        task.grouping.bags or (), task.grouping.intercept, task.regularization
    )
    solutions.coefficients[gone[partition.features]] = 0.0
    if task.crossing is not None and solutions.variances is not None:
        solutions.variances += read_segment(Path(task.crossing) / CROSSING_FILE)["crossing"]
    model = PartitionModel.of(partition, solutions, task.sparsity_threshold, previous)
    write_random_effect(output / COEFFICIENTS_FILE, model.stored)
    scores = linear_predictor(problems, model.local)
    write_partition_scores(output / SCORES_FILE, partition, scores)
    unseen = 0
    if task.validation_directory is not None:
        context.check()
        held_out = read_scoring_partition(Path(task.validation_directory) / PARTITION_FILE)
        scored = score_block(held_out, model.stored.block)
        write_partition_scores(output / VALIDATION_SCORES_FILE, held_out, scored.scores)
        unseen = scored.unseen_rows
    return RandomEffectTrained(
        entities=int(np.count_nonzero(model.trained)),
        rows=partition.rows,
        coefficients=len(model.stored.block.coefficients),
        statuses=_statuses(solutions, model.trained),
        unconverged=_unconverged(partition, solutions, model.trained),
        validation_rows_unseen=unseen,
        untrained=model.untrained,
        passive_rows=0 if partition.active is None else int(np.count_nonzero(partition.active == 0)),
        carried_over=model.carried_over,
        penalty=ridge_penalty(problems.l2, model.local),
        seconds=0.0,
    )


def assemble(task: AssembleScores, context: TaskContext) -> ShardScored:
    """Gather one home shard's score block of a random effect from all partitions."""
    rows = len(read_home_shard(Path(task.directory) / ROWS_FILE)["uid"])
    name = SCORES_FILE if task.role == "train" else VALIDATION_SCORES_FILE
    context.check()
    scores = assemble_scores(task.shard, rows, [Path(partition) / name for partition in task.partitions])
    write_score_block(Path(task.output) / SCORES_FILE, task.shard, scores)
    context.advance(rows=rows)
    return ShardScored(rows=rows, seconds=0.0)


def _problems(task: TrainRandomEffect, partition: TrainingPartition) -> EntityProblems:
    from gdmix_core.solvers.random_effect import EntityProblems

    index = feature_index_of(task.index)
    l2 = index.ridge(task.grouping.bags or (), task.grouping.intercept, task.regularization)
    offset = read_partition_offsets(
        task.partition, [Path(directory) / OFFSETS_FILE for directory in task.offsets], partition
    )
    return EntityProblems(
        row_ptr=partition.row_ptr,
        indptr=partition.matrix.indptr,
        indices=partition.matrix.indices,
        values=partition.matrix.values,
        labels=partition.label,
        weights=partition.weight,
        offsets=offset,
        coefficient_ptr=partition.coefficient_ptr,
        intercept=task.grouping.intercept,
        l2=l2[partition.features],
        prior_mean=np.zeros(len(partition.features)),
    )


def _previous(task: TrainRandomEffect, partition: TrainingPartition) -> PreviousModel | None:
    """Return what the initial model says of this partition; None without one, or where it has no such effect."""
    if task.initial is None:
        return None
    return PreviousModel.read(
        task.initial, task.grouping, task.partition, feature_index_of(task.index), partition
    )


def _statuses(solutions: EntitySolutions, trained: BoolArray) -> dict[str, int]:
    """Count trained entities by status name, leaving out those that do not occur."""
    counts = np.bincount(solutions.status[trained], minlength=len(EntityStatus))
    return {status.name.lower(): int(counts[status]) for status in EntityStatus if counts[status]}


def _unconverged(
    partition: TrainingPartition, solutions: EntitySolutions, trained: BoolArray
) -> tuple[Unconverged, ...]:
    """Name the first trained entities, in id order, that did not meet the certificate."""
    failed = trained & (solutions.status != EntityStatus.CONVERGED)
    first = np.flatnonzero(failed)[:_NAMED_UNCONVERGED]
    return tuple(
        Unconverged(
            entity=partition.ids[entity].decode("utf-8", "replace"),
            status=EntityStatus(int(solutions.status[entity])).name.lower(),
            gradient_ratio=float(solutions.tolerance_ratio[entity]),
        )
        for entity in first.tolist()
    )
