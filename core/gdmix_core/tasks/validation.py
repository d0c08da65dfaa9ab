"""Measuring on validation rows: each shard's share, rank metrics, metrics by entity."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.data.layout import GroupingSpec
from gdmix_core.metric_value import MetricValue
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.task import Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureShard(Task):
    """One validation shard's share of the metrics: additive sums, a sorted run, predictors by grouping."""

    kind = "measure_shard"
    loss: int
    metrics: tuple[str, ...]
    input: ShardInput
    groupings: tuple[GroupingSpec, ...]
    """Groupings of the per-entity metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeasured(TaskResult):
    """A validation shard's share of the metrics."""

    rows: int
    sums: dict[str, tuple[float, ...]]
    """Additive state by metric name, added in shard order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRuns(Task):
    """Merge the sorted runs of all validation shards into the exact rank metrics."""

    kind = "merge_runs"
    metrics: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsMerged(TaskResult):
    """The rank metrics over all validation rows."""

    values: dict[str, MetricValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureEntities(Task):
    """Per-entity metrics over one partition of the validation rows."""

    kind = "measure_entities"
    loss: int
    metrics: tuple[str, ...]
    """Names with their column, say `auc:user_id`."""
    grouping: GroupingSpec
    partition: int
    partition_directory: str
    predictors: tuple[str, ...]
    """Directories of the measured validation shards, in shard order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitiesMeasured(TaskResult):
    """One partition's share of the per-entity metrics, by name."""

    sums: dict[str, float]
    """Sum of the metric over the entities where it is defined."""
    entities: dict[str, int]
    entities_undefined: dict[str, int]
