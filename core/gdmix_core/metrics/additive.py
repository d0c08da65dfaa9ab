"""Metrics that are weighted means over rows: log loss, MSE, RMSE, Poisson deviance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError
from gdmix_core.metrics.metric import Metric, MetricKind, MetricValue
from gdmix_core.solvers.losses import Loss

Float64Array = npt.NDArray[np.float64]


class AdditiveState(NamedTuple):
    """One shard's share of a metric: Σ w·term, Σ w, the number of rows; added in shard order."""

    total: float
    weight: float
    rows: float


def additive_sums(
    metrics: Iterable[Metric], loss: Loss, z: Float64Array, label: Float64Array, weight: Float64Array
) -> dict[str, AdditiveState]:
    """Return one shard's share of every metric of `metrics` that is a mean over all rows, by name.

    Args:
        metrics: Any metrics; rank metrics and per-entity ones are passed over.
        loss: The model's loss, whose mean MSE and RMSE compare with the label.
        z: float64[rows] linear predictors, offsets included.
        label: float64[rows].
        weight: float64[rows].
    """
    from gdmix_core.metrics.metric_kernels import weighted_sum

    weight_sum = float(np.cumsum(weight)[-1]) if len(weight) else 0.0
    return {
        metric.name: AdditiveState(
            weighted_sum(int(metric.kind), int(loss), z, label, weight), weight_sum, float(len(z))
        )
        for metric in metrics
        if not metric.ranking and metric.entity_column is None
    }


def finish_additive(metric: Metric, states: Sequence[Sequence[float]]) -> MetricValue:
    """Return a metric's value from the shares of all shards, in shard order."""
    if metric.ranking or metric.entity_column is not None:
        raise InternalError(f"metric {metric.name} is not a mean over all rows")
    total = weight = rows = 0.0
    for state in states:
        total, weight, rows = total + state[0], weight + state[1], rows + state[2]
    if rows == 0.0:
        return MetricValue(None, "there are no validation rows")
    if weight <= 0.0:
        return MetricValue(None, "all validation rows have weight 0")
    value = total / weight
    if not math.isfinite(value):
        return MetricValue(None, "the model's predictions are so large that the value is not finite")
    return MetricValue(math.sqrt(value) if metric.kind is MetricKind.RMSE else value)
