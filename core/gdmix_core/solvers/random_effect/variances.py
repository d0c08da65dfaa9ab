"""The diagonal of each entity's inverse Hessian: the variances of a Laplace approximation.

With no more coefficients than rows the Hessian is factored. With fewer rows than coefficients, and l2 above 0 for every
feature, Woodbury's identity needs one row-sized factor:

    C⁻¹ = L⁻¹ − L⁻¹·Xᵀ·W^½·B⁻¹·W^½·X·L⁻¹,   B = I + W^½·X·L⁻¹·Xᵀ·W^½

and an unregularised intercept is bordered on: with a = Σw, b = XᵀW·1, s = a − bᵀC⁻¹b, its variance is 1/s and that of
coefficient j grows by (C⁻¹b)_j² / s.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.loss_kernels import loss_mean_and_curvature
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect.dense_newton import add_gram
from gdmix_core.solvers.random_effect.plan import BROKEN
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays
from gdmix_core.solvers.random_effect.single_model import Model, entity_model, multiply
from gdmix_core.solvers.random_effect.threads import on_threads

Float64Array = npt.NDArray[np.float64]

_CONTRACT: Final = frozenset({"contract"})
_MOST_DENSE: Final = 4096
_PIVOT_FLOOR: Final = 1e-13


@compiled(fastmath=_CONTRACT)
def cholesky(H: Float64Array) -> None:
    """Factor H = Uᵀ·U in place in the upper triangle; a pivot lost to rounding is held at `_PIVOT_FLOOR`."""
    d = H.shape[0]
    whole = np.empty(d)
    for k in range(d):
        whole[k] = H[k, k] if H[k, k] > 0.0 else 1.0
    for k in range(d):
        root = math.sqrt(max(H[k, k], _PIVOT_FLOOR * whole[k]))
        H[k, k] = root
        reciprocal = 1.0 / root
        for j in range(k + 1, d):
            H[k, j] *= reciprocal
        for i in range(k + 1, d):
            u = H[k, i]
            if u != 0.0:
                for j in range(i, d):
                    H[i, j] -= u * H[k, j]


@compiled(fastmath=_CONTRACT)
def inverse_diagonal(U: Float64Array, out: Float64Array) -> None:
    """Fill the diagonal of (Uᵀ·U)⁻¹, row by row of U⁻ᵀ."""
    d = U.shape[0]
    column = np.zeros(d)
    for k in range(d):
        for i in range(k, d):
            column[i] = 0.0
        column[k] = 1.0
        # column k of U⁻ᵀ: forward substitution that starts at k
        for i in range(k, d):
            t = column[i] / U[i, i]
            column[i] = t
            for j in range(i + 1, d):
                column[j] -= U[i, j] * t
        total = 0.0
        for i in range(k, d):
            total += column[i] * column[i]
        out[k] = total


@compiled(fastmath=_CONTRACT)
def _forward(U: Float64Array, x: Float64Array) -> None:
    """Replace x by U⁻ᵀ·x."""
    for i in range(x.size):
        t = x[i] / U[i, i]
        x[i] = t
        for j in range(i + 1, x.size):
            x[j] -= U[i, j] * t


@compiled(fastmath=_CONTRACT)
def woodbury_diagonal(m: Model, curvature: Float64Array, free_intercept: bool, out: Float64Array) -> None:
    """Fill the diagonal of the inverse Hessian through one factor of the size of the rows."""
    n = m.y.size
    d = out.size
    # A[j] is row j of (W^½·X·L⁻¹)ᵀ: one coefficient's entries over the rows.
    A = np.zeros((d, n))
    root = np.empty(n)
    for i in range(n):
        root[i] = math.sqrt(curvature[i])
        if m.intercept and not free_intercept:
            A[0, i] = root[i] / m.l2[0]
        for q in range(m.indptr[i], m.indptr[i + 1]):
            j = m.indices[q]
            A[j, i] = root[i] * m.values[q] / m.l2[j]
    B = np.zeros((n, n))
    for i in range(n):
        B[i, i] = 1.0
    for j in range(d):
        for i in range(n):
            u = A[j, i] * m.l2[j]
            if u != 0.0:
                for k in range(i, n):
                    B[i, k] += u * A[j, k]
    cholesky(B)
    border = np.zeros(n)
    corner = 0.0
    if free_intercept:
        for i in range(n):
            border[i] = root[i]
        # C⁻¹b = L⁻¹XᵀW^½·B⁻¹·√w, and bᵀC⁻¹b = √wᵀ(B − I)B⁻¹√w, so that s = √wᵀB⁻¹√w without cancellation.
        _forward(B, border)
        for i in range(n):
            corner += border[i] * border[i]
    for j in range(d):
        if j == 0 and free_intercept:
            out[0] = 1.0 / max(corner, 1e-300)
            continue
        _forward(B, A[j])
        lost = 0.0
        shared = 0.0
        for i in range(n):
            lost += A[j, i] * A[j, i]
            shared += A[j, i] * border[i]
        out[j] = 1.0 / m.l2[j] - lost
        if free_intercept:
            out[j] += shared * shared / max(corner, 1e-300)


@compiled
def variances_of_range(
    loss: int,
    low: int,
    high: int,
    p: ProblemArrays,
    coefficients: Float64Array,
    method: npt.NDArray[np.int8],
    simple: bool,
    out: Float64Array,
) -> None:
    """Fill the variances of the entities low:high."""
    for e in range(low, high):
        first = p.row_ptr[e]
        last = p.row_ptr[e + 1]
        c0 = p.coefficient_ptr[e]
        c1 = p.coefficient_ptr[e + 1]
        n = last - first
        d = c1 - c0
        if d == 0:
            continue
        if method[e] == BROKEN:
            continue
        m = entity_model(loss, p, e)
        curvature = np.empty(n)
        multiply(m, coefficients[c0:c1], curvature)
        for i in range(n):
            curvature[i] = m.w[i] * loss_mean_and_curvature(loss, curvature[i] + m.offset[i])[1]
        free = 0
        for j in range(d):
            free += 1 if m.l2[j] == 0.0 else 0
        free_intercept = p.intercept and m.l2[0] == 0.0
        if not simple and n < d and n <= _MOST_DENSE and n > 0 and free == (1 if free_intercept else 0):
            woodbury_diagonal(m, curvature, free_intercept, out[c0:c1])
        elif not simple and d <= _MOST_DENSE:
            H = np.zeros((d, d))
            for j in range(d):
                H[j, j] = m.l2[j]
            add_gram(m, curvature, H)
            cholesky(H)
            inverse_diagonal(H, out[c0:c1])
        else:
            for j in range(c0, c1):
                out[j] = p.l2[j]
            for i in range(n):
                if p.intercept:
                    out[c0] += curvature[i]
                for q in range(m.indptr[i], m.indptr[i + 1]):
                    out[c0 + m.indices[q]] += curvature[i] * m.values[q] * m.values[q]
            for j in range(c0, c1):
                out[j] = 1.0 / max(out[j], 1e-300)


def inverse_hessian_diagonals(
    p: ProblemArrays,
    loss: Loss,
    coefficients: Float64Array,
    method: npt.NDArray[np.int8],
    threads: int,
    *,
    simple: bool = False,
) -> Float64Array:
    """Return the diagonal of every entity's inverse Hessian, float64[C].

    Exact up to `_MOST_DENSE` rows or coefficients; beyond, 1 / H_jj (a lower bound). Where the Hessian is singular the
    numbers are very large but finite; entities with broken data get 0. With `simple`, 1 / H_jj for all.
    """
    out = np.zeros(coefficients.size)
    entities = method.size
    parts = [
        (int(part[0]), int(part[-1]) + 1)
        for part in np.array_split(np.arange(entities), min(max(entities, 1), 16 * threads))
        if part.size
    ]
    on_threads(
        lambda part: variances_of_range(int(loss), part[0], part[1], p, coefficients, method, simple, out),
        parts,
        threads,
    )
    return out
