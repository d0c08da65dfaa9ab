"""Per-entity metrics, such as `auc:user_id`: the unweighted mean over entities where they are defined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError
from gdmix_core.metrics.metric import Metric, MetricValue
from gdmix_core.solvers.losses import Loss

if TYPE_CHECKING:  # it brings compiled kernels, which a coordinator never needs
    from gdmix_core.data.partitions import ScoringPartition

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class EntityState(NamedTuple):
    """One partition's share: the sum over entities where the metric is defined, and the counts."""

    total: float
    defined: int
    undefined: int


def entity_values(
    metric: Metric, loss: Loss, partition: ScoringPartition, z: Float64Array
) -> tuple[Float64Array, BoolArray]:
    """Return the metric of each entity of a partition, and where it is defined (0 where it is not).

    Args:
        metric: Any metric; its entity column is taken to be the partition's.
        loss: The model's loss.
        partition: The validation rows grouped by entity.
        z: float64[N] linear predictors in the partition's row order, offsets included.

    Raises:
        InternalError: `z` does not fit the partition.
    """
    from gdmix_core.metrics.metric_kernels import entity_metric

    if len(z) != partition.rows:
        raise InternalError(f"{len(z)} predictors for a partition of {partition.rows} rows")
    label, weight = partition.label, partition.weight
    if metric.ranking:
        entity = np.repeat(np.arange(partition.entities), np.diff(partition.row_ptr))
        order = np.lexsort((-z, entity))
        z, label, weight = z[order], label[order], weight[order]
    values = np.empty(partition.entities)
    defined = np.empty(partition.entities, np.uint8)
    entity_metric(int(metric.kind), int(loss), partition.row_ptr, z, label, weight, values, defined)
    return values, defined.astype(np.bool_)


def entity_sums(
    metrics: Iterable[Metric], loss: Loss, partition: ScoringPartition, z: Float64Array
) -> dict[str, EntityState]:
    """Return one partition's share of every per-entity metric of `metrics`, by name.

    All of `metrics` that have an entity column MUST have the partition's. Raises as `entity_values`.
    """
    states = {}
    for metric in metrics:
        if metric.entity_column is not None:
            values, defined = entity_values(metric, loss, partition, z)
            total = float(np.cumsum(values)[-1]) if len(values) else 0.0
            states[metric.name] = EntityState(total, int(defined.sum()), int((~defined).sum()))
    return states


def finish_entities(metric: Metric, states: Sequence[EntityState]) -> MetricValue:
    """Return a per-entity metric's value from the shares of all partitions, in partition order."""
    total = 0.0
    defined = undefined = 0
    for state in states:
        total += state[0]
        defined += state[1]
        undefined += state[2]
    if defined:
        return MetricValue(total / defined, "", defined, undefined)
    reason = (
        f"{metric.name.partition(':')[0]} is undefined for each of the {undefined} entities"
        if undefined
        else f"no validation row has an entity in column {metric.entity_column}"
    )
    return MetricValue(None, reason, 0, undefined)
