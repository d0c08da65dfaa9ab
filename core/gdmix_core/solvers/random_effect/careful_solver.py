"""The careful path: one entity at a time, whatever its size, and whatever is wrong with it.

Three ways, by cost and memory: a dense Newton in coefficients; the same in rows, after the rotation described in
`lane_solver`; Newton with conjugate gradients where neither Hessian can be held.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.conjugate_gradient import newton_conjugate_gradient
from gdmix_core.solvers.random_effect.dense_newton import newton_dense
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays, SolutionArrays
from gdmix_core.solvers.random_effect.single_model import (
    Model,
    State,
    certificate,
    entity_model,
    evaluate_model,
    new_state,
)

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

_CONVERGED: Final = 0
_SINGULAR: Final = 1
_UNBOUNDED: Final = 2
_MAX_ITERATIONS: Final = 3
_NUMERICAL_FAILURE: Final = 4

MOST_DENSE: Final = 1536
"""Largest Hessian (18 MiB) that is chosen by cost."""
MOST_RESCUE: Final = 3072
"""Largest Hessian (72 MiB) that is formed as a last resort."""

_TARGET: Final = 0.5  # of what the certificate allows
_DROPPED: Final = 1e-14


class CarefulPlan(NamedTuple):
    """Which of the listed entities go which way; disjoint, together all of them."""

    in_rows: Int64Array
    dense: Int64Array
    gradients: Int64Array


def plan_careful(p: ProblemArrays, entities: Int64Array, free: npt.NDArray[np.int32]) -> CarefulPlan:
    """Choose by estimated cost and memory; `free` counts each entity's coefficients without l2."""
    rows = np.diff(p.row_ptr)[entities].astype(np.float64)
    size = np.diff(p.coefficient_ptr)[entities].astype(np.float64)
    entries = (p.indptr[p.row_ptr[entities + 1]] - p.indptr[p.row_ptr[entities]]) + rows
    unpenalised = free[entities]
    first_l2 = p.l2[np.minimum(p.coefficient_ptr[entities], max(p.l2.size - 1, 0))]
    only_intercept = unpenalised == (p.intercept & (first_l2 == 0.0))
    dense_cost = 7.0 * (
        0.5 * entries * np.minimum(size, 2.0 * entries / np.maximum(rows, 1.0)) + size**3 / 6.0
    )
    rows_cost = 0.5 * rows * entries + 7.0 * (5.0 / 12.0) * rows**3
    gradients_cost = 2000.0 * entries
    dense = (size <= MOST_DENSE) & ((unpenalised > 0) | (dense_cost <= gradients_cost) | (size <= 64))
    in_rows = only_intercept & (rows <= MOST_DENSE) & (rows_cost < gradients_cost)
    in_rows &= ~dense | (rows_cost < dense_cost)
    dense &= ~in_rows
    return CarefulPlan(entities[in_rows], entities[dense], entities[~in_rows & ~dense])


@compiled
def rotate_rows(m: Model, inverse_l2: Float64Array, K: Float64Array) -> None:
    """Factor X·L⁻¹·Xᵀ = R·Rᵀ into the lower triangle of K; a row that depends on those before gets no column."""
    n = m.y.size
    spread = np.zeros(inverse_l2.size)
    constant = inverse_l2[0] if m.intercept else 0.0
    for i in range(n):
        for q in range(m.indptr[i], m.indptr[i + 1]):
            spread[m.indices[q]] = m.values[q] * inverse_l2[m.indices[q]]
        for k in range(i, n):
            total = constant
            for q in range(m.indptr[k], m.indptr[k + 1]):
                total += m.values[q] * spread[m.indices[q]]
            K[k, i] = total
        for q in range(m.indptr[i], m.indptr[i + 1]):
            spread[m.indices[q]] = 0.0
    for i in range(n):
        whole = K[i, i]
        for k in range(i + 1):
            total = K[i, k]
            for q in range(k):
                total -= K[i, q] * K[k, q]
            if k < i:
                K[i, k] = total / K[k, k] if K[k, k] > 0.0 else 0.0
            else:
                K[i, i] = math.sqrt(total) if total > _DROPPED * whole else 0.0


class RotatedProblem(NamedTuple):
    """The problem in rows, its start and state, and what leads back: the factor of K and reciprocal l2."""

    model: Model
    beta: Float64Array
    state: State
    factor: Float64Array
    inverse_l2: Float64Array


@compiled
def rotate(m: Model, theta: Float64Array, free_intercept: bool) -> RotatedProblem:
    """Set up the problem in rows with the start that theta stands for."""
    n = m.y.size
    d = theta.size
    inverse_l2 = np.empty(d)
    steepest = 1.0
    for j in range(d):
        inverse_l2[j] = 1.0 / m.l2[j] if m.l2[j] > 0.0 else 0.0
        steepest = max(steepest, m.l2[j])
    K = np.zeros((n, n))
    rotate_rows(m, inverse_l2, K)
    shift = 1 if free_intercept else 0
    indptr = np.empty(n + 1, dtype=np.int64)
    indices = np.empty(n * (n + 1) // 2, dtype=np.int32)
    values = np.empty(n * (n + 1) // 2)
    offset = np.empty(n)
    beta = np.zeros(n + shift)
    l2 = np.ones(n + shift)
    if free_intercept:
        l2[0] = 0.0
        beta[0] = theta[0] - m.prior[0]
    at = 0
    for i in range(n):
        indptr[i] = at
        for k in range(i + 1):
            indices[at] = k + shift
            values[at] = K[i, k]
            at += 1
        before = m.prior[0] if m.intercept else 0.0
        moved = theta[0] - m.prior[0] if m.intercept and not free_intercept else 0.0
        for q in range(m.indptr[i], m.indptr[i + 1]):
            j = m.indices[q]
            before += m.values[q] * m.prior[j]
            moved += m.values[q] * (theta[j] - m.prior[j])
        offset[i] = m.offset[i] + before
        for k in range(i):
            moved -= K[i, k] * beta[k + shift]
        beta[i + shift] = moved / K[i, i] if K[i, i] > 0.0 else 0.0
    indptr[n] = at
    # A reduced gradient of this size keeps |g_j| ≤ √l2_j·‖reduced gradient‖₂ inside the certificate.
    tolerance = 0.2 * m.tolerance / math.sqrt(steepest * n)
    model = Model(
        m.loss, indptr, indices, values, m.y, m.w, offset, free_intercept, l2, np.zeros(n + shift), tolerance
    )
    return RotatedProblem(model, beta, new_state(n, n + shift), K, inverse_l2)


@compiled
def rotate_back(m: Model, r: RotatedProblem, free_intercept: bool, theta: Float64Array) -> None:
    """Turn the solution of the problem in rows into coefficients."""
    n = m.y.size
    shift = 1 if free_intercept else 0
    alpha = np.empty(n)
    for i in range(n - 1, -1, -1):
        total = r.beta[i + shift]
        for k in range(i + 1, n):
            total -= r.factor[k, i] * alpha[k]
        alpha[i] = total / r.factor[i, i] if r.factor[i, i] > 0.0 else 0.0
    for j in range(theta.size):
        theta[j] = 0.0
    for i in range(n):
        if m.intercept and not free_intercept:
            theta[0] += alpha[i]
        for q in range(m.indptr[i], m.indptr[i + 1]):
            theta[m.indices[q]] += alpha[i] * m.values[q]
    for j in range(theta.size):
        theta[j] = m.prior[j] + r.inverse_l2[j] * theta[j]
    if free_intercept:
        theta[0] = m.prior[0] + r.beta[0]


@compiled
def count_free(m: Model) -> int:
    """Return the number of coefficients without l2."""
    free = 0
    for j in range(m.l2.size):
        free += 1 if m.l2[j] == 0.0 else 0
    return free


@compiled
def begin(m: Model, start: Float64Array, warm: bool, free: int, theta: Float64Array) -> None:
    """Set theta to the start; to the prior mean where features without l2 make the solution depend on the start."""
    fresh = not warm or free > (1 if m.intercept and m.l2[0] == 0.0 else 0)
    for j in range(theta.size):
        theta[j] = m.prior[j] if fresh else start[j]


@compiled
def finish(
    e: int,
    m: Model,
    theta: Float64Array,
    s: State,
    outcome: int,
    iterations: int,
    max_iterations: int,
    solution: SolutionArrays,
    status: UInt8Array,
) -> None:
    """Write an entity's certificate and status; `outcome` is the status if the certificate holds."""
    norm, ratio = certificate(m, s)
    if not norm < np.inf:
        for j in range(theta.size):
            theta[j] = m.prior[j]
        evaluate_model(m, theta, s)
        norm, ratio = certificate(m, s)
        status[e] = _NUMERICAL_FAILURE
    elif ratio <= 1.0:
        status[e] = outcome
    else:
        status[e] = _MAX_ITERATIONS if iterations >= max_iterations else _NUMERICAL_FAILURE
    for j in range(theta.size):
        theta[j] += 0.0
    solution.iterations[e] = iterations
    solution.gradient_norm[e] = norm
    solution.tolerance_ratio[e] = ratio


@compiled
def solve_dense(
    loss: int,
    entities: Int64Array,
    in_rows: bool,
    p: ProblemArrays,
    start: Float64Array,
    warm: bool,
    max_iterations: int,
    solution: SolutionArrays,
    status: UInt8Array,
) -> None:
    """Solve the listed entities with a dense Hessian, in coefficients or in rows.

    Args:
        loss: number of the loss.
        entities: entity numbers.
        in_rows: solve the rotated problem; every coefficient but an intercept MUST have l2 above 0.
        p: the problems.
        start: coefficients where the iteration starts.
        warm: `start` is a previous solution rather than the prior.
        max_iterations: most Newton steps.
        solution: output.
        status: output, `EntityStatus` numbers.
    """
    for at in range(entities.size):
        e = entities[at]
        m = entity_model(loss, p, e)
        c0 = p.coefficient_ptr[e]
        c1 = p.coefficient_ptr[e + 1]
        theta = solution.coefficients[c0:c1]
        free = count_free(m)
        free_intercept = m.intercept and m.l2[0] == 0.0
        s = new_state(m.y.size, c1 - c0)
        begin(m, start[c0:c1], warm, free, theta)
        problem = m
        unknown = theta
        state = s
        if in_rows:
            rotated = rotate(m, theta, free_intercept)
            problem = rotated.model
            unknown = rotated.beta
            state = rotated.state
        iterations, singular, unbounded = newton_dense(
            problem, unknown, state, max_iterations, _TARGET, free > 0
        )
        if in_rows:
            rotate_back(m, rotated, free_intercept, theta)
            evaluate_model(m, theta, s)
            singular = False
        outcome = _UNBOUNDED if unbounded else _SINGULAR if singular else _CONVERGED
        finish(e, m, theta, s, outcome, iterations, max_iterations, solution, status)


@compiled
def solve_with_gradients(
    loss: int,
    entities: Int64Array,
    p: ProblemArrays,
    start: Float64Array,
    warm: bool,
    max_iterations: int,
    solution: SolutionArrays,
    status: UInt8Array,
) -> None:
    """Solve the listed entities by Newton with conjugate gradients; arguments as for `solve_dense`."""
    for at in range(entities.size):
        e = entities[at]
        m = entity_model(loss, p, e)
        c0 = p.coefficient_ptr[e]
        c1 = p.coefficient_ptr[e + 1]
        theta = solution.coefficients[c0:c1]
        free = count_free(m)
        s = new_state(m.y.size, c1 - c0)
        begin(m, start[c0:c1], warm, free, theta)
        iterations, unbounded = newton_conjugate_gradient(m, theta, s, max_iterations, _TARGET, free > 0)
        singular = free > m.y.size
        outcome = _UNBOUNDED if unbounded else _SINGULAR if singular else _CONVERGED
        finish(e, m, theta, s, outcome, iterations, max_iterations, solution, status)
