"""Validation metrics: weighted, exact, additive over shards, and the same whatever the number of workers.

To measure a model on validation rows that lie in home shards:

1. per shard, `additive_sums` and, for rank metrics, `write_run`;
2. `finish_additive` adds the shards' sums in shard order, `merge_runs` merges the runs in bounded memory;
3. per-entity averages (`auc:user_id`): per partition `entity_sums`, then `finish_entities`.

Scores are linear predictors z, offset included. A metric without a value says why; it is never NaN.
"""

from gdmix_core.metrics.additive import AdditiveState, additive_sums, finish_additive
from gdmix_core.metrics.entities import EntityState, entity_sums, entity_values, finish_entities
from gdmix_core.metrics.metric import Metric, MetricKind, MetricValue, parse_metric
from gdmix_core.metrics.ranking import merge_runs, write_run

__all__ = [
    "AdditiveState",
    "EntityState",
    "Metric",
    "MetricKind",
    "MetricValue",
    "additive_sums",
    "entity_sums",
    "entity_values",
    "finish_additive",
    "finish_entities",
    "merge_runs",
    "parse_metric",
    "write_run",
]
