"""Products of a part's features with several vectors at once, which lie side by side: float64[coefficients, K].

Numbers per row travel as float32: they decide directions and traces, which need few digits, and never a result.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.prefetch import AHEAD, prefetch_row
from gdmix_core.solvers.random_effect.problem_arrays import kernel_array

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

_CONTRACT: Final = frozenset({"contract"})


class Design(NamedTuple):
    """A part's features: rows grouped by entity, as in `EntityProblems`; a fixed effect is one entity.

    With E entities, N rows, C coefficients in all:

    Attributes:
        row_ptr: int64[E+1].
        indptr: int64[N+1].
        indices: int32[nnz], coefficient numbers inside the row's entity; never 0 when there is an intercept.
        values: float64[nnz].
        coefficient_ptr: int64[E+1].
        intercept: whether coefficient 0 of every entity is an intercept.
    """

    row_ptr: Int64Array
    indptr: Int64Array
    indices: Int32Array
    values: Float64Array
    coefficient_ptr: Int64Array
    intercept: bool

    @property
    def rows(self) -> int:
        """Return N."""
        return int(self.row_ptr[-1])

    @property
    def coefficients(self) -> int:
        """Return C."""
        return int(self.coefficient_ptr[-1])


def design_of(
    row_ptr: npt.NDArray[np.int64],
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    values: Float64Array,
    coefficient_ptr: npt.NDArray[np.int64],
    intercept: bool,
) -> Design:
    """Return a part's features for kernels, without copying where types fit."""
    return Design(
        kernel_array(row_ptr, np.int64),
        kernel_array(indptr, np.int64),
        kernel_array(indices, np.int32),
        kernel_array(values, np.float64),
        kernel_array(coefficient_ptr, np.int64),
        bool(intercept),
    )


@compiled(fastmath=_CONTRACT)
def _multiply(d: Design, vectors: Float32Array, order: Int64Array, out: Float32Array) -> None:
    columns = vectors.shape[1]
    last = order.size - 1
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        constant = d.intercept and d.coefficient_ptr[e + 1] > c0
        for i in range(d.row_ptr[e], d.row_ptr[e + 1]):
            if last >= 0:
                prefetch_row(out, order[min(i + AHEAD, last)])
            row = out[order[i] if last >= 0 else i]
            if constant:
                intercepts = vectors[c0]
                for k in range(columns):
                    row[k] += intercepts[k]
            for q in range(d.indptr[i], d.indptr[i + 1]):
                value = np.float32(d.values[q])
                vector = vectors[c0 + d.indices[q]]
                for k in range(columns):
                    row[k] += value * vector[k]


@compiled(fastmath=_CONTRACT)
def _multiply_transposed(d: Design, rows: Float32Array, order: Int64Array, out: Float64Array) -> None:
    columns = rows.shape[1]
    last = order.size - 1
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        constant = d.intercept and d.coefficient_ptr[e + 1] > c0
        for i in range(d.row_ptr[e], d.row_ptr[e + 1]):
            if last >= 0:
                prefetch_row(rows, order[min(i + AHEAD, last)])
            row = rows[order[i] if last >= 0 else i]
            if constant:
                sums = out[c0]
                for k in range(columns):
                    sums[k] += row[k]
            for q in range(d.indptr[i], d.indptr[i + 1]):
                value = d.values[q]
                sums = out[c0 + d.indices[q]]
                for k in range(columns):
                    sums[k] += value * row[k]


def add_products(
    design: Design, vectors: npt.NDArray[np.floating], total: Float32Array, order: Int64Array | None = None
) -> None:
    """Add X·V to `total`, float32[N, K], in place.

    Args:
        design: X.
        vectors: V, float[C, K], taken as float32.
        total: where row i's numbers are at `order[i]`, or at i without an order.
        order: int64[N].
    """
    _multiply(design, kernel_array(vectors, np.float32), _order(order), total)


def multiply_transposed(design: Design, rows: Float32Array, order: Int64Array | None = None) -> Float64Array:
    """Return Xᵀ·T, float64[C, K], of T float32[N, K], whose row i is at `order[i]`, or at i without an order."""
    out = np.zeros((design.coefficients, rows.shape[1]))
    _multiply_transposed(design, kernel_array(rows, np.float32), _order(order), out)
    return out


def _order(order: Int64Array | None) -> Int64Array:
    return np.empty(0, np.int64) if order is None else kernel_array(order, np.int64)


@compiled
def _squares(d: Design, weights: Float64Array, out: Float64Array) -> None:
    for e in range(d.row_ptr.size - 1):
        c0 = d.coefficient_ptr[e]
        constant = d.intercept and d.coefficient_ptr[e + 1] > c0
        for i in range(d.row_ptr[e], d.row_ptr[e + 1]):
            if constant:
                out[c0] += weights[i]
            for q in range(d.indptr[i], d.indptr[i + 1]):
                out[c0 + d.indices[q]] += weights[i] * d.values[q] * d.values[q]


def weighted_squares(design: Design, weights: Float64Array) -> Float64Array:
    """Return diag(Xᵀ·W·X), float64[C], with W float64[N]."""
    out = np.zeros(design.coefficients)
    _squares(design, kernel_array(weights, np.float64), out)
    return out


@compiled
def _square_sums(rows: Float32Array, weights: Float64Array, out: Float64Array) -> None:
    for i in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            number = np.float64(rows[i, k])
            out[k] += weights[i] * number * number


def weighted_square_sums(rows: Float32Array, weights: Float64Array) -> Float64Array:
    """Return Σ_i w_i·t_ik² of each column, float64[K]."""
    out = np.zeros(rows.shape[1])
    _square_sums(rows, kernel_array(weights, np.float64), out)
    return out
