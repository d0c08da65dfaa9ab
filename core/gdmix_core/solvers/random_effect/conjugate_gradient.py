"""Newton's method with conjugate gradients for one entity whose Hessian is too large to hold.

Each Newton system is solved by conjugate gradients preconditioned with the Hessian's diagonal, only as exactly as the
outer iteration can use (Nocedal and Wright, Numerical Optimization, algorithm 7.1). Begun at the prior mean, its steps
stay orthogonal to the Hessian's null space.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.single_model import (
    Model,
    State,
    add_transposed,
    certificate,
    evaluate_model,
    moves_on,
    multiply,
    search_line,
)

Float64Array = npt.NDArray[np.float64]

_MOST_INNER: Final = 2000


@compiled
def conjugate_gradient_step(
    m: Model,
    s: State,
    exactness: float,
    step: Float64Array,
    residual: Float64Array,
    direction: Float64Array,
    image: Float64Array,
    diagonal: Float64Array,
    row_work: Float64Array,
) -> None:
    """Solve H·step = gradient until the preconditioned residual has fallen by `exactness`."""
    d = step.size
    n = m.y.size
    for j in range(d):
        diagonal[j] = m.l2[j]
    for i in range(n):
        if m.intercept:
            diagonal[0] += s.curvature[i]
        for q in range(m.indptr[i], m.indptr[i + 1]):
            diagonal[m.indices[q]] += s.curvature[i] * m.values[q] * m.values[q]
    size = 0.0
    for j in range(d):
        diagonal[j] = 1.0 / diagonal[j] if diagonal[j] > 0.0 else 0.0
        step[j] = 0.0
        residual[j] = s.gradient[j]
        direction[j] = diagonal[j] * residual[j]
        size += residual[j] * direction[j]
    goal = exactness * exactness * size
    for _ in range(min(_MOST_INNER, 2 * d + 50)):
        if not size > goal:
            break
        multiply(m, direction, row_work)
        for i in range(n):
            row_work[i] *= s.curvature[i]
        for j in range(d):
            image[j] = m.l2[j] * direction[j]
        add_transposed(m, row_work, image)
        bend = 0.0
        for j in range(d):
            bend += direction[j] * image[j]
        if not bend > 0.0:
            break
        length = size / bend
        next_size = 0.0
        for j in range(d):
            step[j] += length * direction[j]
            residual[j] -= length * image[j]
            next_size += residual[j] * residual[j] * diagonal[j]
        turn = next_size / size
        size = next_size
        for j in range(d):
            direction[j] = diagonal[j] * residual[j] + turn * direction[j]


@compiled
def newton_conjugate_gradient(
    m: Model, theta: Float64Array, s: State, max_iterations: int, target: float, free: bool
) -> tuple[int, bool]:
    """Minimise from theta, in place; return (iterations, unbounded). See `newton_dense` for the arguments."""
    d = theta.size
    step = np.empty(d)
    trial = np.empty(d)
    residual = np.empty(d)
    direction = np.empty(d)
    image = np.empty(d)
    diagonal = np.empty(d)
    row_work = np.empty(m.y.size)
    value = evaluate_model(m, theta, s)
    _, first = certificate(m, s)
    iterations = 0
    failures = 0
    while True:
        ratio = certificate(m, s)[1]
        finished = ratio <= target or iterations >= max_iterations or failures > 1
        if finished and not free:
            return iterations, False
        exactness = 0.1 if finished else max(1e-12, min(0.1, math.sqrt(ratio / first), 0.3 * target / ratio))
        exactness = exactness if failures == 0 else 1e-12
        if not finished and ratio < 1e4:
            exactness = min(exactness, 0.01 * target / ratio)
        conjugate_gradient_step(m, s, exactness, step, residual, direction, image, diagonal, row_work)
        if finished:
            return iterations, moves_on(m, step, row_work)
        reached = search_line(m, theta, value, step, s, trial)
        iterations += 1
        if not np.isnan(reached):
            value = reached
            failures = 0
            continue
        failures += 1
        for j in range(d):
            trial[j] = theta[j]
        for j in range(d):
            theta[j] -= step[j]
        reached = evaluate_model(m, theta, s)
        if certificate(m, s)[1] < 0.9 * ratio and reached <= value + 1e-9 * abs(value):
            value = reached
            failures = 0
            continue
        for j in range(d):
            theta[j] = trial[j]
        evaluate_model(m, theta, s)
