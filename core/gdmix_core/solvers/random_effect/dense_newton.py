"""Newton's method with a dense Hessian for one entity, exact also where the Hessian is singular.

The Hessian, scaled to a unit diagonal, is factored by Cholesky with full pivoting; directions below rounding take no
part in a step. Steps then stay in the Hessian's range, and what a solution has in its null space can be removed at the
end: that leaves the optimal coefficients nearest to the prior mean.
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
    certificate,
    evaluate_model,
    moves_on,
    search_line,
)

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_CONTRACT: Final = frozenset({"contract"})
_RANK_TOLERANCE: Final = 1e-13


@compiled(fastmath=_CONTRACT)
def add_gram(m: Model, scale: Float64Array, H: Float64Array) -> None:
    """Add Xᵀ·diag(scale)·X to the upper triangle of H."""
    n = m.y.size
    d = H.shape[0]
    entries = m.indptr[n] - m.indptr[0]
    if 4 * entries < n * d:  # few entries: one product each
        for i in range(n):
            h = scale[i]
            if m.intercept:
                H[0, 0] += h
                for q in range(m.indptr[i], m.indptr[i + 1]):
                    H[0, m.indices[q]] += h * m.values[q]
            for q in range(m.indptr[i], m.indptr[i + 1]):
                a = m.indices[q]
                u = h * m.values[q]
                for k in range(q, m.indptr[i + 1]):
                    H[a, m.indices[k]] += u * m.values[k]
        return
    block = np.zeros((4, d))
    for i in range(0, n, 4):
        high = min(i + 4, n)
        for r in range(high - i):
            if m.intercept:
                block[r, 0] = 1.0
            for q in range(m.indptr[i + r], m.indptr[i + r + 1]):
                block[r, m.indices[q]] = m.values[q]
        h0 = scale[i]
        h1 = scale[i + 1] if i + 1 < n else 0.0
        h2 = scale[i + 2] if i + 2 < n else 0.0
        h3 = scale[i + 3] if i + 3 < n else 0.0
        for a in range(d):
            u0 = h0 * block[0, a]
            u1 = h1 * block[1, a]
            u2 = h2 * block[2, a]
            u3 = h3 * block[3, a]
            if u0 != 0.0 or u1 != 0.0 or u2 != 0.0 or u3 != 0.0:
                for b in range(a, d):
                    H[a, b] += u0 * block[0, b] + u1 * block[1, b] + u2 * block[2, b] + u3 * block[3, b]
        for r in range(high - i):
            for q in range(m.indptr[i + r], m.indptr[i + r + 1]):
                block[r, m.indices[q]] = 0.0


@compiled(fastmath=_CONTRACT)
def factor_pivoted(H: Float64Array, scale: Float64Array, pivots: Int64Array) -> int:
    """Factor P·S·H·S·Pᵀ = Uᵀ·U in place (upper triangle), with S = `scale` to a unit diagonal; return the rank."""
    d: int = H.shape[0]
    for j in range(d):
        scale[j] = 1.0 / math.sqrt(H[j, j]) if H[j, j] > 0.0 else 0.0
        pivots[j] = j
    for a in range(d):
        for b in range(a, d):
            H[a, b] *= scale[a] * scale[b]
    for k in range(d):
        best = k
        for j in range(k + 1, d):
            if H[j, j] > H[best, best]:
                best = j
        if not H[best, best] > _RANK_TOLERANCE:
            return k
        if best != k:
            pivots[k], pivots[best] = pivots[best], pivots[k]
            H[k, k], H[best, best] = H[best, best], H[k, k]
            for i in range(k):
                H[i, k], H[i, best] = H[i, best], H[i, k]
            for j in range(best + 1, d):
                H[k, j], H[best, j] = H[best, j], H[k, j]
            for i in range(k + 1, best):
                H[k, i], H[i, best] = H[i, best], H[k, i]
        root = math.sqrt(H[k, k])
        H[k, k] = root
        reciprocal = 1.0 / root
        for j in range(k + 1, d):
            H[k, j] *= reciprocal
        for i in range(k + 1, d):
            u = H[k, i]
            if u != 0.0:
                for j in range(i, d):
                    H[i, j] -= u * H[k, j]
    return d


@compiled(fastmath=_CONTRACT)
def solve_pivoted(
    U: Float64Array,
    scale: Float64Array,
    pivots: Int64Array,
    rank: int,
    right: Float64Array,
    x: Float64Array,
    work: Float64Array,
) -> None:
    """Solve H·x = right in the leading `rank` pivots; the other entries of x are 0."""
    for k in range(rank):
        work[k] = right[pivots[k]] * scale[pivots[k]]
    for k in range(rank):
        t = work[k] / U[k, k]
        work[k] = t
        for j in range(k + 1, rank):
            work[j] -= U[k, j] * t
    for k in range(rank - 1, -1, -1):
        t = work[k]
        for j in range(k + 1, rank):
            t -= U[k, j] * work[j]
        work[k] = t / U[k, k]
    for j in range(x.size):
        x[j] = 0.0
    for k in range(rank):
        x[pivots[k]] = work[k] * scale[pivots[k]]


@compiled
def nearest_to_prior(
    U: Float64Array,
    scale: Float64Array,
    pivots: Int64Array,
    rank: int,
    prior: Float64Array,
    theta: Float64Array,
) -> None:
    """Remove from theta − prior what lies in the Hessian's null space.

    The null space is spanned by V = P·S·[−U₁⁻¹·U₂; I], one column for each lost pivot; what is removed is
    V·(VᵀV)⁻¹·Vᵀ·(theta − prior).
    """
    d = theta.size
    lost = d - rank
    V = np.zeros((lost, d))
    for c in range(lost):
        last = pivots[rank + c]
        for k in range(rank - 1, -1, -1):
            t = -U[k, rank + c]
            for j in range(k + 1, rank):
                t -= U[k, j] * V[c, pivots[j]]
            V[c, pivots[k]] = t / U[k, k]
        for k in range(rank):
            V[c, pivots[k]] *= scale[pivots[k]]
        V[c, last] = scale[last] if scale[last] > 0.0 else 1.0
        # Gram–Schmidt, twice: columns of V may be nearly parallel.
        for _ in range(2):
            for b in range(c):
                t = 0.0
                for j in range(d):
                    t += V[b, j] * V[c, j]
                for j in range(d):
                    V[c, j] -= t * V[b, j]
        t = 0.0
        for j in range(d):
            t += V[c, j] * V[c, j]
        t = 1.0 / math.sqrt(t) if t > 0.0 else 0.0
        for j in range(d):
            V[c, j] *= t
        t = 0.0
        for j in range(d):
            t += V[c, j] * (theta[j] - prior[j])
        for j in range(d):
            theta[j] -= t * V[c, j]


@compiled
def newton_dense(
    m: Model, theta: Float64Array, s: State, max_iterations: int, target: float, free: bool
) -> tuple[int, bool, bool]:
    """Minimise from theta, in place; return (iterations, singular, unbounded).

    Args:
        m: the problem.
        theta: start and result.
        s: state; that of the result at the end.
        max_iterations: most steps.
        target: certificate ratio at which to stop.
        free: some l2 is 0, so that the optimum may be no single point, or at infinity.
    """
    d = theta.size
    H = np.empty((d, d))
    scale = np.empty(d)
    pivots = np.empty(d, dtype=np.int64)
    step = np.empty(d)
    trial = np.empty(d)
    value = evaluate_model(m, theta, s)
    iterations = 0
    while True:
        finished = iterations >= max_iterations or certificate(m, s)[1] <= target
        if finished and not free:
            return iterations, False, False
        for a in range(d):
            for b in range(a, d):
                H[a, b] = 0.0
            H[a, a] = m.l2[a]
        add_gram(m, s.curvature, H)
        rank = factor_pivoted(H, scale, pivots)
        solve_pivoted(H, scale, pivots, rank, s.gradient, step, trial)
        if not finished:
            reached = search_line(m, theta, value, step, s, trial)
            iterations += 1
            if not np.isnan(reached):
                value = reached
                continue
            # In the noise: a plain step is the last thing to try.
            _, before = certificate(m, s)
            for j in range(d):
                trial[j] = theta[j]
            for j in range(d):
                theta[j] -= step[j]
            reached = evaluate_model(m, theta, s)
            if certificate(m, s)[1] < 0.9 * before and reached <= value + 1e-9 * abs(value):
                value = reached
                continue
            for j in range(d):
                theta[j] = trial[j]
            evaluate_model(m, theta, s)
            if not free:
                return iterations, False, False
        unbounded = moves_on(m, step, s.z)
        if rank < d:
            ratio = certificate(m, s)[1]
            for j in range(d):
                trial[j] = theta[j]
            nearest_to_prior(H, scale, pivots, rank, m.prior, theta)
            evaluate_model(m, theta, s)
            if certificate(m, s)[1] > max(1.0, ratio):
                for j in range(d):
                    theta[j] = trial[j]
        evaluate_model(m, theta, s)
        return iterations, rank < d, unbounded
