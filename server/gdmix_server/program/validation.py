"""Measuring the model as it stands on the validation rows."""

from __future__ import annotations

from typing import cast

from gdmix_core.config import JobConfig
from gdmix_core.metrics import EntityState, MetricValue, finish_additive, finish_entities, parse_metric
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    EntitiesMeasured,
    MeasureEntities,
    MeasureShard,
    MergeRuns,
    RunsMerged,
    ShardInput,
    ShardMeasured,
)
from gdmix_server.program.prepared import Prepared
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.state.model import Metric as ReportedMetric


def measure(
    config: JobConfig, prepared: Prepared, step: CoordinateStep, inputs: tuple[ShardInput, ...]
) -> Steps[tuple[ReportedMetric, ...]]:
    """Return the job's metrics, in the order of the config."""
    loss = int(Loss.from_task(config.task))
    names = config.effective_metrics
    metrics = [parse_metric(name) for name in names]
    groupings = prepared.metric_groupings
    shards = yield from step.run(
        "measure",
        "measuring",
        [
            MeasureShard(
                output="", loss=loss, metrics=names, input=shard, groupings=tuple(groupings.values())
            )
            for shard in inputs
        ],
        rows=prepared.shards["validation"].rows,
    )
    whole = tuple(m.name for m in metrics if m.ranking and m.entity_column is None)
    units: list[MergeRuns | MeasureEntities] = []
    if whole:
        units.append(MergeRuns(output="", metrics=whole, runs=shards.directories))
    for column, grouping in groupings.items():
        partitions = prepared.partitions["validation", grouping.name]
        units += [
            MeasureEntities(
                output="",
                loss=loss,
                metrics=tuple(m.name for m in metrics if m.entity_column == column),
                grouping=grouping,
                partition=partition,
                partition_directory=directory,
                predictors=shards.directories,
            )
            for partition, directory in enumerate(partitions.directories)
        ]
    values: dict[str, MetricValue] = {}
    states: dict[str, list[EntityState]] = {}
    if units:
        combined = yield from step.run("combine", "combining metrics", units)
        for result in combined.results:
            if isinstance(result, RunsMerged):
                values.update(result.values)
            elif isinstance(result, EntitiesMeasured):
                for name, total in result.sums.items():
                    state = EntityState(total, result.entities[name], result.entities_undefined[name])
                    states.setdefault(name, []).append(state)
    for metric in metrics:
        if metric.entity_column is not None:
            values[metric.name] = finish_entities(metric, states.get(metric.name, []))
        elif not metric.ranking:
            sums = [cast("ShardMeasured", result).sums[metric.name] for result in shards.results]
            values[metric.name] = finish_additive(metric, sums)
    return tuple(
        ReportedMetric(
            name=name,
            value=values[name].value,
            reason=values[name].reason,
            entities=values[name].entities,
            entities_undefined=values[name].entities_undefined,
        )
        for name in names
    )
