"""The block preconditioner of the joint Hessian: each entity's own Hessian, factored.

What the entities of one coordinate have in common with each other is nothing (no row belongs to two), so that
these blocks leave out only what crosses coordinates. An entity with fewer rows than coefficients is factored in
its rows (Woodbury); beyond `MOST_DENSE` both ways, the Hessian's diagonal stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.joint.products import Design
from gdmix_core.solvers.random_effect.problem_arrays import kernel_array
from gdmix_core.solvers.random_effect.variances import cholesky, inverse_diagonal

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]

MOST_DENSE: Final = 512
"""Largest side of a dense factor."""
_ABSENT: Final = 0
_DENSE: Final = 1
_IN_ROWS: Final = 2
_DIAGONAL: Final = 3
_CONTRACT: Final = frozenset({"contract"})
_JITTER: Final = 1e-9
"""Added to a fixed effect's block, relative to its diagonal: features may determine each other."""


class Blocks(NamedTuple):
    """A part's blocks.

    Attributes:
        kind: int8[E], how the entity's block is held.
        factor_ptr: int64[E+1].
        factor: float64, Cholesky factors (square, upper triangle) or reciprocal diagonals, entity after entity.
        root: float64[N], √(w·ℓ'') of the rows; empty for a fixed effect.
        l2: float64[C].
    """

    kind: Int8Array
    factor_ptr: Int64Array
    factor: Float64Array
    root: Float64Array
    l2: Float64Array


@compiled
def _plan(d: Design, present: npt.NDArray[np.uint8], l2: Float64Array, b: Blocks) -> None:
    for e in range(d.row_ptr.size - 1):
        rows = d.row_ptr[e + 1] - d.row_ptr[e]
        c0 = d.coefficient_ptr[e]
        size = d.coefficient_ptr[e + 1] - c0
        length = 0
        if present[e] == 0 or size == 0:
            b.kind[e] = _ABSENT
        else:
            lowest = l2[c0]
            for j in range(c0, c0 + size):
                lowest = min(lowest, l2[j])
            if rows < size and rows <= MOST_DENSE and lowest > 0.0:
                b.kind[e] = _IN_ROWS
                length = rows * rows
            elif size <= MOST_DENSE:
                b.kind[e] = _DENSE
                length = size * size
            else:
                b.kind[e] = _DIAGONAL
                length = size
        b.factor_ptr[e + 1] = b.factor_ptr[e] + length


@compiled(fastmath=_CONTRACT)
def _fill_dense(d: Design, b: Blocks, e: int, H: Float64Array, inverse: Float64Array) -> None:
    c0 = d.coefficient_ptr[e]
    for j in range(H.shape[0]):
        H[j, j] = b.l2[c0 + j]
    for i in range(d.row_ptr[e], d.row_ptr[e + 1]):
        w = b.root[i] * b.root[i]
        if d.intercept:
            H[0, 0] += w
        for q in range(d.indptr[i], d.indptr[i + 1]):
            j = d.indices[q]
            scaled = w * d.values[q]
            if d.intercept:
                H[0, j] += scaled
            for t in range(q, d.indptr[i + 1]):
                H[j, d.indices[t]] += scaled * d.values[t]
    cholesky(H)
    inverse_diagonal(H, inverse)


@compiled(fastmath=_CONTRACT)
def _forward(U: Float64Array, x: Float64Array) -> None:
    for i in range(x.size):
        t = x[i] / U[i, i]
        x[i] = t
        for j in range(i + 1, x.size):
            x[j] -= U[i, j] * t


@compiled(fastmath=_CONTRACT)
def _fill_in_rows(d: Design, b: Blocks, e: int, B: Float64Array, inverse: Float64Array) -> None:
    """Factor I + W^½·X·L⁻¹·Xᵀ·W^½; the inverse Hessian's diagonal is 1/l2 less what that explains."""
    first = d.row_ptr[e]
    c0 = d.coefficient_ptr[e]
    n = B.shape[0]
    size = inverse.size
    A = np.zeros((size, n))  # row j: W^½·X·L⁻¹ of coefficient j over the rows
    for i in range(n):
        root = b.root[first + i]
        if d.intercept:
            A[0, i] = root / b.l2[c0]
        for q in range(d.indptr[first + i], d.indptr[first + i + 1]):
            j = d.indices[q]
            A[j, i] = root * d.values[q] / b.l2[c0 + j]
        B[i, i] = 1.0
    for j in range(size):
        for i in range(n):
            u = A[j, i] * b.l2[c0 + j]
            if u != 0.0:
                for k in range(i, n):
                    B[i, k] += u * A[j, k]
    cholesky(B)
    for j in range(size):
        _forward(B, A[j])
        explained = 0.0
        for i in range(n):
            explained += A[j, i] * A[j, i]
        inverse[j] = max(0.0, 1.0 / b.l2[c0 + j] - explained)


@compiled(fastmath=_CONTRACT)
def _fill(d: Design, b: Blocks, inverse: Float64Array) -> None:
    """Fill the factors and the diagonals of the blocks' inverses."""
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        c1 = d.coefficient_ptr[e + 1]
        held = b.factor[b.factor_ptr[e] : b.factor_ptr[e + 1]]
        if b.kind[e] == _DENSE:
            _fill_dense(d, b, e, held.reshape((c1 - c0, c1 - c0)), inverse[c0:c1])
        elif b.kind[e] == _IN_ROWS:
            n = d.row_ptr[e + 1] - d.row_ptr[e]
            _fill_in_rows(d, b, e, held.reshape((n, n)), inverse[c0:c1])
        elif b.kind[e] == _DIAGONAL:
            for j in range(c1 - c0):
                held[j] = b.l2[c0 + j]
            for i in range(d.row_ptr[e], d.row_ptr[e + 1]):
                w = b.root[i] * b.root[i]
                if d.intercept:
                    held[0] += w
                for q in range(d.indptr[i], d.indptr[i + 1]):
                    held[d.indices[q]] += w * d.values[q] * d.values[q]
            for j in range(c1 - c0):
                held[j] = 1.0 / max(held[j], 1e-300)
                inverse[c0 + j] = held[j]


@compiled(fastmath=_CONTRACT)
def _solve_factor(U: Float64Array, x: Float64Array) -> None:
    """Replace x, float64[n, K], by (Uᵀ·U)⁻¹·x."""
    n, columns = x.shape
    for i in range(n):
        reciprocal = 1.0 / U[i, i]
        for k in range(columns):
            x[i, k] *= reciprocal
        for j in range(i + 1, n):
            u = U[i, j]
            if u != 0.0:
                for k in range(columns):
                    x[j, k] -= u * x[i, k]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            u = U[i, j]
            if u != 0.0:
                for k in range(columns):
                    x[i, k] -= u * x[j, k]
        reciprocal = 1.0 / U[i, i]
        for k in range(columns):
            x[i, k] *= reciprocal


@compiled(fastmath=_CONTRACT)
def _rows_of(d: Design, b: Blocks, e: int, x: Float64Array, t: Float64Array) -> None:
    """Fill t = W^½·X·x of one entity."""
    first = d.row_ptr[e]
    columns = x.shape[1]
    for i in range(t.shape[0]):
        for k in range(columns):
            t[i, k] = x[0, k] if d.intercept else 0.0
        for q in range(d.indptr[first + i], d.indptr[first + i + 1]):
            for k in range(columns):
                t[i, k] += d.values[q] * x[d.indices[q], k]
        for k in range(columns):
            t[i, k] *= b.root[first + i]


@compiled(fastmath=_CONTRACT)
def _add_transposed(d: Design, b: Blocks, e: int, t: Float64Array, x: Float64Array) -> None:
    """Add Xᵀ·W^½·t of one entity to x."""
    first = d.row_ptr[e]
    columns = x.shape[1]
    for i in range(t.shape[0]):
        for k in range(columns):
            scaled = b.root[first + i] * t[i, k]
            if d.intercept:
                x[0, k] += scaled
            t[i, k] = scaled
        for q in range(d.indptr[first + i], d.indptr[first + i + 1]):
            for k in range(columns):
                x[d.indices[q], k] += d.values[q] * t[i, k]


@compiled(fastmath=_CONTRACT)
def solve_block(d: Design, b: Blocks, e: int, x: Float64Array) -> None:
    """Replace x, float64[coefficients of entity e, K], by the entity's share of M⁻¹·x."""
    c0 = d.coefficient_ptr[e]
    size, columns = x.shape
    held = b.factor[b.factor_ptr[e] : b.factor_ptr[e + 1]]
    kind = b.kind[e]
    if kind == _ABSENT:
        x[:] = 0.0
    elif kind == _DENSE:
        _solve_factor(held.reshape((size, size)), x)
    elif kind == _DIAGONAL:
        for j in range(size):
            for k in range(columns):
                x[j, k] *= held[j]
    else:
        for j in range(size):
            for k in range(columns):
                x[j, k] /= b.l2[c0 + j]
        n = d.row_ptr[e + 1] - d.row_ptr[e]
        t = np.empty((n, columns))
        _rows_of(d, b, e, x, t)
        _solve_factor(held.reshape((n, n)), t)
        lost = np.zeros((size, columns))
        _add_transposed(d, b, e, t, lost)
        for j in range(size):
            for k in range(columns):
                x[j, k] -= lost[j, k] / b.l2[c0 + j]


@compiled(fastmath=_CONTRACT)
def _solve(d: Design, b: Blocks, x: Float64Array) -> None:
    for e in range(d.row_ptr.size - 1):
        if d.coefficient_ptr[e + 1] > d.coefficient_ptr[e]:
            solve_block(d, b, e, x[d.coefficient_ptr[e] : d.coefficient_ptr[e + 1]])


@compiled(fastmath=_CONTRACT)
def _multiply(d: Design, b: Blocks, vectors: Float64Array, out: Float64Array) -> None:
    columns = vectors.shape[1]
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        size = d.coefficient_ptr[e + 1] - c0
        x = out[c0 : c0 + size]
        held = b.factor[b.factor_ptr[e] : b.factor_ptr[e + 1]]
        kind = b.kind[e]
        if kind == _ABSENT:
            x[:] = 0.0
        elif kind == _DENSE:
            U = held.reshape((size, size))
            for i in range(size):
                for k in range(columns):
                    x[i, k] = 0.0
                for j in range(i, size):
                    for k in range(columns):
                        x[i, k] += U[i, j] * vectors[c0 + j, k]
            for i in range(size - 1, -1, -1):
                for k in range(columns):
                    x[i, k] *= U[i, i]
                for j in range(i):
                    for k in range(columns):
                        x[i, k] += U[j, i] * x[j, k]
        elif kind == _DIAGONAL:
            for j in range(size):
                for k in range(columns):
                    x[j, k] = vectors[c0 + j, k] / held[j]
        else:
            n = d.row_ptr[e + 1] - d.row_ptr[e]
            t = np.empty((n, columns))
            _rows_of(d, b, e, vectors[c0 : c0 + size], t)
            for j in range(size):
                for k in range(columns):
                    x[j, k] = b.l2[c0 + j] * vectors[c0 + j, k]
            _add_transposed(d, b, e, t, x)


@dataclass(frozen=True, slots=True)
class BlockPreconditioner:
    """M, the joint Hessian's diagonal blocks of one part.

    Attributes:
        design: the part's features.
        blocks: the factors.
        inverse_diagonal: float64[C], diag(M⁻¹); 0 for entities that have no part in the model.
    """

    design: Design
    blocks: Blocks
    inverse_diagonal: Float64Array

    @classmethod
    def of_entities(
        cls, design: Design, curvature: Float64Array, l2: Float64Array, present: npt.NDArray[np.bool_]
    ) -> Self:
        """Factor the Hessians of a partition's entities.

        Args:
            design: the partition's features.
            curvature: float64[N], w·ℓ'' of the rows.
            l2: float64[C].
            present: bool[E], entities that have a part in the model; the others' coefficients stay 0.
        """
        entities = present.size
        blocks = Blocks(
            np.zeros(entities, np.int8),
            np.zeros(entities + 1, np.int64),
            np.empty(0),
            np.sqrt(curvature),
            kernel_array(l2, np.float64),
        )
        _plan(design, present.astype(np.uint8), blocks.l2, blocks)
        blocks = blocks._replace(factor=np.zeros(int(blocks.factor_ptr[-1])))
        inverse = np.zeros(design.coefficients)
        _fill(design, blocks, inverse)
        return cls(design, blocks, inverse)

    @classmethod
    def of_hessian(cls, design: Design, hessian: Float64Array, l2: Float64Array) -> Self:
        """Take a fixed effect's Hessian without regularisation: float64[D, D], or its diagonal, float64[D]."""
        diagonal = (np.diagonal(hessian) if hessian.ndim == 2 else hessian) + l2
        inverse = np.empty(l2.size)
        if hessian.ndim == 2:
            factor = hessian.copy()
            np.fill_diagonal(factor, diagonal * (1.0 + _JITTER) + 1e-300)
            cholesky(factor)
            inverse_diagonal(factor, inverse)
            kind = _DENSE
        else:
            factor = 1.0 / np.maximum(diagonal, 1e-300)
            inverse[:] = factor
            kind = _DIAGONAL
        blocks = Blocks(
            np.array([kind], np.int8),
            np.array([0, factor.size]),
            np.ascontiguousarray(factor).reshape(-1),
            np.empty(0),
            kernel_array(l2, np.float64),
        )
        return cls(design, blocks, inverse)

    def solve(self, vectors: Float64Array) -> Float64Array:
        """Return M⁻¹·V, float64[C, K]."""
        out = np.array(vectors, np.float64, order="C")
        _solve(self.design, self.blocks, out)
        return out

    def multiply(self, vectors: Float64Array) -> Float64Array:
        """Return M·V, float64[C, K]."""
        out = np.empty(vectors.shape)
        _multiply(self.design, self.blocks, kernel_array(vectors, np.float64), out)
        return out
