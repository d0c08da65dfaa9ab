"""One generalised linear model with CSR features, and what every careful method needs of it.

These kernels work on one entity at a time: those too large for the lanes, and those whose optimum is not unique or lies
far away. The rows of the rotated problem (see `careful_solver`) have the same form.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.loss_kernels import loss_mean_and_curvature, loss_value
from gdmix_core.solvers.random_effect.lane_newton import NOISE
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

_SMALL_DECREASE: Final = 1e-12


class Model(NamedTuple):
    """One entity's problem; `indptr` holds positions in `indices` and `values`, one more than rows."""

    loss: int
    indptr: Int64Array
    indices: Int32Array
    values: Float64Array
    y: Float64Array
    w: Float64Array
    offset: Float64Array
    intercept: bool
    l2: Float64Array
    prior: Float64Array
    tolerance: float


class State(NamedTuple):
    """An iterate: predictors, residuals w·(μ−y), curvatures w·dμ/dz, magnitudes w·(|y|+|μ|), gradient and its noise."""

    z: Float64Array
    residual: Float64Array
    curvature: Float64Array
    magnitude: Float64Array
    gradient: Float64Array
    noise: Float64Array


@compiled
def entity_model(loss: int, p: ProblemArrays, e: int) -> Model:
    """Return one entity's problem; its arrays are views."""
    first = p.row_ptr[e]
    last = p.row_ptr[e + 1]
    c0 = p.coefficient_ptr[e]
    c1 = p.coefficient_ptr[e + 1]
    weight = 0.0
    for i in range(first, last):
        weight += p.weights[i]
    return Model(
        loss,
        p.indptr[first : last + 1],
        p.indices,
        p.values,
        p.labels[first:last],
        p.weights[first:last],
        p.offsets[first:last],
        p.intercept,
        p.l2[c0:c1],
        p.prior_mean[c0:c1],
        1e-8 * max(1.0, weight),
    )


@compiled
def new_state(rows: int, size: int) -> State:
    """Allocate a state."""
    return State(
        np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows), np.empty(size), np.empty(size)
    )


@compiled
def multiply(m: Model, vector: Float64Array, out: Float64Array) -> None:
    """Compute out = X·vector."""
    constant = vector[0] if m.intercept else 0.0
    for i in range(m.y.size):
        total = constant
        for q in range(m.indptr[i], m.indptr[i + 1]):
            total += m.values[q] * vector[m.indices[q]]
        out[i] = total


@compiled
def add_transposed(m: Model, vector: Float64Array, out: Float64Array) -> None:
    """Add Xᵀ·vector to out."""
    for i in range(m.y.size):
        v = vector[i]
        if m.intercept:
            out[0] += v
        for q in range(m.indptr[i], m.indptr[i + 1]):
            out[m.indices[q]] += v * m.values[q]


@compiled
def evaluate_model(m: Model, theta: Float64Array, s: State) -> float:
    """Fill the state at theta and return the objective."""
    multiply(m, theta, s.z)
    value = 0.0
    for i in range(m.y.size):
        z = s.z[i] + m.offset[i]
        mean, curvature = loss_mean_and_curvature(m.loss, z)
        s.z[i] = z
        s.residual[i] = m.w[i] * (mean - m.y[i])
        s.curvature[i] = m.w[i] * curvature
        s.magnitude[i] = m.w[i] * (abs(m.y[i]) + abs(mean))
        if m.w[i] > 0.0:
            value += m.w[i] * loss_value(m.loss, m.y[i], z)
    for j in range(theta.size):
        away = theta[j] - m.prior[j]
        s.gradient[j] = m.l2[j] * away
        s.noise[j] = 0.0
        value += 0.5 * m.l2[j] * away * away
    add_transposed(m, s.residual, s.gradient)
    for i in range(m.y.size):
        size = s.magnitude[i]
        if m.intercept:
            s.noise[0] += size
        for q in range(m.indptr[i], m.indptr[i + 1]):
            s.noise[m.indices[q]] += size * abs(m.values[q])
    return value


@compiled
def certificate(m: Model, s: State) -> tuple[float, float]:
    """Return max_j |g_j| and max_j |g_j| / allowed_j; both infinite where a gradient is NaN."""
    largest = 0.0
    ratio = 0.0
    for j in range(s.gradient.size):
        size = abs(s.gradient[j])
        allowed = max(m.tolerance, NOISE * s.noise[j])
        if not size < np.inf or not allowed > 0.0:
            return np.inf, np.inf
        largest = max(largest, size)
        ratio = max(ratio, size / allowed)
    return largest, ratio


@compiled
def search_line(
    m: Model, theta: Float64Array, value: float, step: Float64Array, s: State, trial: Float64Array
) -> float:
    """Go from theta against `step` as far as is useful; return the objective there, or NaN where no length helps.

    The whole step is shortened until the objective falls and the slope behind it has not turned far upwards; it is
    doubled while the slope stays nearly as steep or the objective still halves (an exponential's steps are short).
    On success theta and the state are those of the new point, else both are as before.
    """
    slope = 0.0
    for j in range(step.size):
        slope += s.gradient[j] * step[j]
    if not slope > 0.0:
        return np.nan
    length = 1.0
    good_length = 0.0
    good_value = value
    for _ in range(60):
        for j in range(step.size):
            trial[j] = theta[j] - length * step[j]
        reached = evaluate_model(m, trial, s)
        behind = 0.0
        for j in range(step.size):
            behind += s.gradient[j] * step[j]
        fell = reached <= good_value + _SMALL_DECREASE * abs(value)
        if fell and behind >= -0.5 * slope:
            far = behind > 0.7 * slope or reached < 0.5 * good_value
            good_length = length
            good_value = reached
            if not far or length > 1e6 or length < 1.0:
                break
            length *= 2.0
        elif good_length > 0.0:
            break
        else:
            length *= 0.5 if not behind < 0.0 else max(0.1, min(0.5, slope / (slope - behind)))
    if good_length > 0.0:
        for j in range(step.size):
            theta[j] -= good_length * step[j]
    if good_length != length:
        reached = evaluate_model(m, theta, s)
    return reached if good_length > 0.0 else np.nan


@compiled
def moves_on(m: Model, step: Float64Array, scratch: Float64Array) -> bool:
    """Return whether a Newton step still changes some row's predictor although the gradient has vanished."""
    multiply(m, step, scratch)
    largest = 0.0
    for i in range(m.y.size):
        if m.w[i] > 0.0:
            largest = max(largest, abs(scratch[i]))
    return largest > 0.25
