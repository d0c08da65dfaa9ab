"""The three losses ℓ(y, z) of a label y and a linear predictor z, their derivatives in z, and their means.

    logistic  ℓ = log(1 + e^z) − y·z    mean σ(z)
    squared   ℓ = ½ (y − z)²            mean z
    Poisson   ℓ = e^z − y·z             mean e^z

This module is numpy only, for drivers, tests and metrics; `loss_kernels` holds the same for kernels.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import UsageError

Float64Array = npt.NDArray[np.float64]

POISSON_LINEAR_BEYOND: Final = 500.0
"""e^z goes on as its tangent beyond this z, so that no sum of e^z·x² overflows; no optimum lies there."""


class Loss(IntEnum):
    """A loss; the number is what kernels branch on and what is stored."""

    LOGISTIC = 0
    SQUARED = 1
    POISSON = 2

    @property
    def task(self) -> str:
        """Return the task's name in a job config."""
        return _TASKS[self]

    @classmethod
    def from_task(cls, task: str) -> Loss:
        """Return the loss of a task's name, or raise `UsageError`."""
        for loss, name in _TASKS.items():
            if name == task:
                return loss
        raise UsageError(f"task: {task!r} is unknown; allowed are {', '.join(_TASKS.values())}")


_TASKS: Final = {
    Loss.LOGISTIC: "logistic_regression",
    Loss.SQUARED: "linear_regression",
    Loss.POISSON: "poisson_regression",
}


class LossTerms(NamedTuple):
    """Elementwise ℓ, dℓ/dz, d²ℓ/dz² and the mean μ, each float64 of the shape of z."""

    value: Float64Array
    first: Float64Array
    second: Float64Array
    mean: Float64Array


def loss_terms(loss: Loss, labels: Float64Array, z: Float64Array) -> LossTerms:
    """Return value, first and second derivative in z, and mean, without overflow for any finite z."""
    z = np.asarray(z, dtype=np.float64)
    if loss is Loss.LOGISTIC:
        small = np.exp(-np.abs(z))
        upper = 1.0 / (1.0 + small)
        mean = np.where(z >= 0.0, upper, small * upper)
        value = np.maximum(z, 0.0) - labels * z + np.log1p(small)
        return LossTerms(value, mean - labels, small * upper * upper, mean)
    if loss is Loss.SQUARED:
        residual = z - labels
        return LossTerms(0.5 * residual * residual, residual, np.ones_like(z), z.copy())
    excess = np.maximum(z - POISSON_LINEAR_BEYOND, 0.0)
    mean = np.exp(z - excess)
    return LossTerms(mean * (1.0 + excess) - labels * z, mean - labels, mean, mean.copy())


def mean(loss: Loss, z: Float64Array) -> Float64Array:
    """Return μ(z): the probability, the value itself, or the rate."""
    z = np.asarray(z, dtype=np.float64)
    return loss_terms(loss, np.zeros_like(z), z).mean


def ridge_penalty(l2: Float64Array, coefficients: Float64Array) -> float:
    """Return ½ Σ l2 θ², added in order; 0 for no coefficients."""
    return 0.5 * ordered_sum(l2 * coefficients * coefficients)


def ordered_sum(values: Float64Array) -> float:
    """Return the sum of float64[n], added one after another, the same on every machine."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
