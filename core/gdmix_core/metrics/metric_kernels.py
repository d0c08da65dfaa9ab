"""Compiled kernels of the metrics: weighted sums of row terms, ranks of sorted rows, and both per entity."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.solvers.loss_kernels import loss_mean_and_curvature, loss_value

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

# The numbers of `MetricKind` and `Loss`: kernels take constants of their own module.
_AUC = 0
_AUPR = 1
_LOGLOSS = 2
_RMSE = 3
_POISSON_DEVIANCE = 5
_LOGISTIC = 0
_POISSON = 2

RANKING_STATE: Final = 8
"""Length of the state of `rank_rows`: open tie (0 or 1), its score, its positive and negative weight; the
positive and negative weight above it; the numerators of AUC and of AUPR. It starts as zeros."""


@compiled
def weighted_sum(kind: int, loss: int, z: Float64Array, labels: Float64Array, weights: Float64Array) -> float:
    """Return Σ w · term(y, z) in row order; rows of weight 0 add nothing whatever their term."""
    total = 0.0
    for i in range(z.size):
        if weights[i] != 0.0:
            total += weights[i] * row_term(kind, loss, labels[i], z[i])
    return total


@compiled
def row_term(kind: int, loss: int, y: float, z: float) -> float:
    """Return one row's log loss, squared error of the mean (MSE and RMSE) or Poisson deviance."""
    if kind == _LOGLOSS:
        return loss_value(_LOGISTIC, y, z)
    if kind == _POISSON_DEVIANCE:
        return 2.0 * ((y * np.log(y) - y if y > 0.0 else 0.0) + loss_value(_POISSON, y, z))
    error = y - loss_mean_and_curvature(loss, z)[0]
    return error * error


@compiled
def rank_rows(z: Float64Array, labels: Float64Array, weights: Float64Array, state: Float64Array) -> None:
    """Add rows, sorted by descending z, to the state; call it again with the rows that follow.

    A row is positive when its label exceeds ½. Rows of equal z are one step, also across calls.
    """
    for i in range(z.size):
        if state[0] == 0.0 or z[i] != state[1]:
            close_tie(state)
            state[0] = 1.0
            state[1] = z[i]
        if labels[i] > 0.5:
            state[2] += weights[i]
        else:
            state[3] += weights[i]


@compiled
def close_tie(state: Float64Array) -> None:
    """Take the rows of one score as a step; MUST be called once after the last row."""
    positive, negative = state[2], state[3]
    state[6] += negative * (state[4] + 0.5 * positive)
    state[4] += positive
    state[5] += negative
    if positive > 0.0:
        state[7] += positive * (state[4] / (state[4] + state[5]))
    state[0] = 0.0
    state[2] = 0.0
    state[3] = 0.0


@compiled
def entity_metric(
    kind: int,
    loss: int,
    row_ptr: Int64Array,
    z: Float64Array,
    labels: Float64Array,
    weights: Float64Array,
    values: Float64Array,
    defined: UInt8Array,
) -> None:
    """Fill each entity's metric and whether it is defined; rank metrics need z descending inside an entity.

    Undefined: no weight, a z that is not finite; rank metrics without both classes.
    """
    state = np.zeros(8)
    for e in range(row_ptr.size - 1):
        start, stop = row_ptr[e], row_ptr[e + 1]
        values[e] = 0.0
        defined[e] = 0
        weight = 0.0
        finite = True
        for i in range(start, stop):
            weight += weights[i]
            finite = finite and np.isfinite(z[i])
        if not finite or weight <= 0.0:
            continue
        if kind > _AUPR:
            mean = weighted_sum(kind, loss, z[start:stop], labels[start:stop], weights[start:stop]) / weight
            values[e] = np.sqrt(mean) if kind == _RMSE else mean
            defined[e] = 1 if np.isfinite(mean) else 0
            continue
        state[:] = 0.0
        rank_rows(z[start:stop], labels[start:stop], weights[start:stop], state)
        close_tie(state)
        if state[4] > 0.0 and state[5] > 0.0:
            values[e] = state[7] / state[4] if kind == _AUPR else state[6] / (state[4] * state[5])
            defined[e] = 1


def _warm_up() -> None:
    row_ptr, one = np.array([0, 1], np.int64), np.ones(1)
    weighted_sum(_LOGLOSS, _LOGISTIC, one, one, one)
    state = np.zeros(RANKING_STATE)
    rank_rows(one, one, one, state)
    close_tie(state)
    entity_metric(_AUC, _LOGISTIC, row_ptr, one, one, one, np.empty(1), np.empty(1, np.uint8))


register_warm_up("metrics", _warm_up)
