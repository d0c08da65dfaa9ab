"""The constant that boosting begins with; LightGBM takes none of its own where rows have initial scores."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.fixed_effects.plugin import Task

Float64Array = npt.NDArray[np.float64]

_STEPS: Final = 100
_LONGEST: Final = 2.0
"""Longest step; labels that are all alike drive the constant without end."""
_FARTHEST: Final = 20.0
_TOLERANCE: Final = 1e-10


def fit_intercept(task: Task, label: Float64Array, weight: Float64Array, offset: Float64Array) -> float:
    """Return the constant c that minimises Σ weight · loss(label, offset + c), by Newton's method.

    Args:
        task: says which loss.
        label: float64[rows].
        weight: float64[rows].
        offset: float64[rows].

    Returns:
        c, at most 20 from 0 where the loss has no minimum (labels that are all alike).
    """
    if not np.any(weight):
        return 0.0
    if task == "linear_regression":
        return float(np.average(label - offset, weights=weight))
    constant = 0.0
    for _ in range(_STEPS):
        mean, slope = _mean(task, offset + constant)
        gradient, curvature = float(weight @ (mean - label)), float(weight @ slope)
        step = np.clip(-gradient / max(curvature, 1e-12), -_LONGEST, _LONGEST)
        constant = float(np.clip(constant + step, -_FARTHEST, _FARTHEST))
        if abs(step) <= _TOLERANCE or abs(constant) == _FARTHEST:
            break
    return constant


def _mean(task: Task, predictor: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return means and their derivatives by the linear predictor."""
    if task == "poisson_regression":
        mean = np.exp(np.minimum(predictor, 30.0))
        return mean, mean
    mean = 0.5 * (1.0 + np.tanh(0.5 * predictor))
    return mean, mean * (1.0 - mean)
