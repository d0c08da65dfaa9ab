"""Metrics on the validation rows: each shard's share, exact rank metrics, per-entity averages."""

from __future__ import annotations

from pathlib import Path

from gdmix_core.data.partitions import read_scoring_partition
from gdmix_core.data.scores import read_home_shard, read_partition_offsets, write_offsets
from gdmix_core.metrics import additive_sums, entity_sums, parse_metric, write_run
from gdmix_core.metrics import merge_runs as merge_sorted_runs
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    PARTITION_FILE,
    ROWS_FILE,
    RUN_FILE,
    EntitiesMeasured,
    MeasureEntities,
    MeasureShard,
    MergeRuns,
    RunsMerged,
    ShardMeasured,
    grouping_file,
    metric_offsets_file,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.fixed_effect import offsets_of


def measure_shard(task: MeasureShard, context: TaskContext) -> ShardMeasured:
    """Write one validation shard's share of the metrics."""
    output, directory = Path(task.output), Path(task.input.directory)
    rows = read_home_shard(directory / ROWS_FILE)
    predictors = offsets_of(task.input)
    metrics = [parse_metric(name) for name in task.metrics]
    sums = additive_sums(metrics, Loss(task.loss), predictors, rows["label"], rows["weight"])
    context.check()
    if any(metric.ranking and metric.entity_column is None for metric in metrics):
        write_run(output / RUN_FILE, predictors, rows["label"], rows["weight"])
    for grouping in task.groupings:
        context.check()
        write_offsets(
            output / metric_offsets_file(grouping.name), predictors, directory / grouping_file(grouping.name)
        )
    context.advance(rows=len(predictors))
    return ShardMeasured(
        rows=len(predictors), sums={name: tuple(state) for name, state in sums.items()}, seconds=0.0
    )


def merge_runs(task: MergeRuns, context: TaskContext) -> RunsMerged:
    """Merge the sorted runs of all validation shards into the exact rank metrics."""
    context.check()
    values = merge_sorted_runs(
        [parse_metric(name) for name in task.metrics], [Path(run) / RUN_FILE for run in task.runs]
    )
    return RunsMerged(values=values, seconds=0.0)


def measure_entities(task: MeasureEntities, context: TaskContext) -> EntitiesMeasured:
    """Sum the per-entity metrics over one partition of the validation rows."""
    partition = read_scoring_partition(Path(task.partition_directory) / PARTITION_FILE)
    files = [Path(shard) / metric_offsets_file(task.grouping.name) for shard in task.predictors]
    predictors = read_partition_offsets(task.partition, files, partition)
    context.check()
    states = entity_sums(
        [parse_metric(name) for name in task.metrics], Loss(task.loss), partition, predictors
    )
    context.advance(rows=partition.rows, entities=partition.entities)
    return EntitiesMeasured(
        sums={name: state.total for name, state in states.items()},
        entities={name: state.defined for name, state in states.items()},
        entities_undefined={name: state.undefined for name, state in states.items()},
        seconds=0.0,
    )
