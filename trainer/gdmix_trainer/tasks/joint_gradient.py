"""The gradient of the joint objective after a pass: what slopes have changed by since each coordinate was solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import write_arrays
from gdmix_core.data.row_exchange import rows_of_shards, write_rows_of_shard
from gdmix_core.data.scores import read_home_shard
from gdmix_core.solvers.losses import Loss, loss_terms, ordered_sum
from gdmix_core.tasks import (
    ROWS_FILE,
    GradientMeasured,
    MeasureGradient,
    ShardInput,
    SlopeChangesWritten,
    WriteSlopeChanges,
    grouping_file,
    shares_file,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.fixed_effect import offsets_of
from gdmix_trainer.tasks.joint_part import PartitionPart, read_part
from gdmix_trainer.tasks.joint_rows import design_of_shard

Float64Array = npt.NDArray[np.float64]


def write_slope_changes(task: WriteSlopeChanges, context: TaskContext) -> SlopeChangesWritten:
    """Hand each coordinate's parts the changes of one shard's rows; a fixed effect gets its sums."""
    from gdmix_core.solvers.joint.products import multiply_transposed

    directory, output = Path(task.input.directory), Path(task.output)
    rows = read_home_shard(directory / ROWS_FILE)
    label, weight = rows["label"], rows["weight"]

    def slopes(of: ShardInput) -> Float64Array:
        slope: Float64Array = loss_terms(Loss(task.loss), label, offsets_of(of)).first
        return slope

    now = slopes(task.input)
    for of in task.coordinates:
        context.check()
        changes = (now - slopes(of.input)).astype(np.float32)[:, None]
        if of.grouping is not None:  # whose partitions have weights of their own, where rows are sampled
            spill = directory / grouping_file(of.grouping.name)
            write_rows_of_shard(output / shares_file(of.grouping.name), changes, None, spill)
        elif of.design is not None:
            changes *= weight[:, None].astype(np.float32)
            sums = multiply_transposed(design_of_shard(directory, of.design.name), changes)
            write_arrays(output / shares_file(of.design.name), [{"numbers": sums.reshape(-1)}])
    context.advance(rows=len(label))
    return SlopeChangesWritten(rows=len(label), seconds=0.0)


def measure_gradient(task: MeasureGradient, context: TaskContext) -> GradientMeasured:
    """Measure one part's gradient; entities without a model have none."""
    from gdmix_core.solvers.joint.products import multiply_transposed

    part = read_part(task.part)
    if isinstance(part, PartitionPart):
        partition = part.partition
        changes = rows_of_shards(part.number, part.share_files(task.shards), partition, 1).copy()
        weight = partition.weight if partition.active is None else partition.weight * partition.active
        changes[partition.order, 0] *= weight.astype(np.float32)
        gradient = multiply_transposed(part.design, changes, partition.order)[:, 0]
        gradient[np.repeat(~part.present, np.diff(part.design.coefficient_ptr))] = 0.0
    else:
        gradient = part.gather(task.shards, 1)[:, 0]
    context.advance(rows=part.design.rows)
    largest = float(np.max(np.abs(gradient), initial=0.0))
    return GradientMeasured(largest=largest, square=ordered_sum(gradient * gradient), seconds=0.0)
