"""Metrics that early stopping goes by."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.fixed_effects.deep_text.options import EarlyStoppingMetric
from gdmix_core.fixed_effects.plugin import Task

Float64Array: TypeAlias = npt.NDArray[np.float64]

METRICS: Final[dict[Task, tuple[EarlyStoppingMetric, ...]]] = {
    "logistic_regression": ("auc", "logloss"),
    "linear_regression": ("rmse",),
    "poisson_regression": ("poisson_loss",),
}
"""Metrics of each task, the one that is used by default first."""


def evaluate(task: Task, score: Float64Array, label: Float64Array, weight: Float64Array) -> dict[str, float]:
    """Return the task's metrics; NaN where undefined.

    Args:
        task: which metrics.
        score: linear predictors, offsets added, float64[rows].
        label: float64[rows].
        weight: float64[rows].
    """
    total = weight.sum()
    if not total:
        return dict.fromkeys(METRICS[task], float("nan"))
    if task == "logistic_regression":
        losses = np.logaddexp(0, score) - label * score
        return {"auc": auc(score, label, weight), "logloss": float(weight @ losses / total)}
    if task == "linear_regression":
        return {"rmse": float(np.sqrt(weight @ np.square(label - score) / total))}
    return {"poisson_loss": float(weight @ (np.exp(score) - label * score) / total)}


def better(metric: EarlyStoppingMetric, value: float, best: float | None) -> bool:
    """Return whether a value is better than the best until now, None for none; NaN is not."""
    if best is None or np.isnan(best):
        return not np.isnan(value)
    return value > best if metric == "auc" else value < best


def auc(score: Float64Array, label: Float64Array, weight: Float64Array) -> float:
    """Return the weighted area under the ROC curve, ties as one half; NaN without both classes."""
    order = np.argsort(score, kind="stable")
    positive = (weight * (label > 0.5))[order]
    negative = (weight * (label <= 0.5))[order]
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    positives, negatives = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(negatives) - negatives
    pairs = positive.sum() * negative.sum()
    return float(positives @ (below + 0.5 * negatives) / pairs) if pairs else float("nan")
