"""One part's share of preconditioned conjugate gradients on several right-hand sides at once.

The form of A. T. Chronopoulos and C. W. Gear, "s-step iterative methods for symmetric linear systems", J. Comput.
Appl. Math. 25 (1989): one product with the joint Hessian an iteration, after which both of its inner products are
known. Step lengths come from sums over all parts and rows, so that a part never sees another one.

Iterates are kept as float32, which is what their tolerance needs, and one pass goes through them, entity by entity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner, Blocks, solve_block
from gdmix_core.solvers.joint.products import Design
from gdmix_core.solvers.random_effect.problem_arrays import kernel_array

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_CONTRACT: Final = frozenset({"contract"})


@dataclass(frozen=True, slots=True)
class SolveState:
    """A part of an iterate; all float32[C, K].

    Attributes:
        x: the solution so far.
        r: the residual b − H·x.
        u: M⁻¹·r.
        p: the direction.
        s: H·p.
    """

    x: Float32Array
    r: Float32Array
    u: Float32Array
    p: Float32Array
    s: Float32Array


@dataclass(frozen=True, slots=True)
class InnerProducts:
    """This part's shares, float64[K]: gamma of ⟨r, u⟩, ridge of ⟨u, L·u⟩ with the penalty's Hessian L."""

    gamma: Float64Array
    ridge: Float64Array


def start(
    wanted: Float32Array, x: Float32Array, product: Float64Array, preconditioner: BlockPreconditioner
) -> tuple[SolveState, InnerProducts]:
    """Begin at x.

    Args:
        wanted: right-hand sides b.
        x: float32[C, K].
        product: float64[C, K], Xᵀ·W·(all parts' products with their x).
        preconditioner: M.
    """
    columns = wanted.shape[1]
    state = SolveState(x, *(np.zeros(x.shape, np.float32) for _ in range(4)))
    r = (wanted - (product + preconditioner.blocks.l2[:, None] * x)).astype(np.float32)
    begun = SolveState(x, r, state.u, state.p, state.s)
    return _advanced(begun, np.zeros(x.shape), np.zeros(columns), np.zeros(columns), preconditioner)


def advance(
    state: SolveState,
    product: Float64Array,
    alpha: Float64Array,
    beta: Float64Array,
    preconditioner: BlockPreconditioner,
) -> tuple[SolveState, InnerProducts]:
    """Make a step, given float64[C, K], Xᵀ·W·(all parts' products with their u)."""
    return _advanced(state, product, alpha, beta, preconditioner)


def _advanced(
    state: SolveState,
    product: Float64Array,
    alpha: Float64Array,
    beta: Float64Array,
    preconditioner: BlockPreconditioner,
) -> tuple[SolveState, InnerProducts]:
    before = tuple(kernel_array(array, np.float32) for array in (state.x, state.r, state.u, state.p, state.s))
    after = tuple(np.empty(state.x.shape, np.float32) for _ in before)
    gamma, ridge = np.zeros(alpha.size), np.zeros(alpha.size)
    _advance(
        preconditioner.design,
        preconditioner.blocks,
        kernel_array(product, np.float64),
        alpha,
        beta,
        before,
        after,
        gamma,
        ridge,
    )
    return SolveState(*after), InnerProducts(gamma, ridge)


@compiled(fastmath=_CONTRACT)
def _advance(
    d: Design,
    b: Blocks,
    product: Float64Array,
    alpha: Float64Array,
    beta: Float64Array,
    before: tuple[Float32Array, ...],
    after: tuple[Float32Array, ...],
    gamma: Float64Array,
    ridge: Float64Array,
) -> None:
    x, r, u, p, s = before
    new_x, new_r, new_u, new_p, new_s = after
    columns = alpha.size
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        size = d.coefficient_ptr[e + 1] - c0
        if size == 0:
            continue
        solved = np.empty((size, columns))
        for i in range(size):
            j = c0 + i
            for k in range(columns):
                direction = u[j, k] + beta[k] * p[j, k]
                image = product[j, k] + b.l2[j] * u[j, k] + beta[k] * s[j, k]
                residual = r[j, k] - alpha[k] * image
                new_p[j, k] = direction
                new_s[j, k] = image
                new_x[j, k] = x[j, k] + alpha[k] * direction
                new_r[j, k] = residual
                solved[i, k] = new_r[j, k]
        solve_block(d, b, e, solved)
        for i in range(size):
            j = c0 + i
            for k in range(columns):
                new_u[j, k] = solved[i, k]
                gamma[k] += new_r[j, k] * solved[i, k]
                ridge[k] += b.l2[j] * solved[i, k] * solved[i, k]


@compiled
def _column_sums(a: Float64Array, b: Float64Array, out: Float64Array) -> None:
    rows, columns = a.shape
    for j in range(rows):
        for k in range(columns):
            out[k] += a[j, k] * b[j, k]


def column_sums(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Float64Array:
    """Return Σ_j a_jk·b_jk of each column, added in order, float64[K]."""
    out = np.zeros(a.shape[1])
    _column_sums(kernel_array(a, np.float64), kernel_array(b, np.float64), out)
    return out
