"""Compiled passes over one shard's CSR arrays: one thread, sequential float64 sums.

Rows go through in blocks of 64: the linear predictors of a block, then its losses (one vectorised loop), then
its share of the sums while the block's features are still in the first-level cache. Indices are taken as
unsigned, which spares the test for negative ones: they MUST be within 0 … D−1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input, register_warm_up
from gdmix_core.solvers.loss_kernels import loss_mean_and_curvature, loss_terms_block

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

_BLOCK = 64
_U = np.uint64


@compiled(fastmath=True)
def accumulate(
    indptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    labels: Float64Array,
    weights: Float64Array,
    offsets: Float64Array,
    theta: Float64Array,
    intercept: bool,
    loss: int,
    sums: Float64Array,
    hessian: Float64Array,
) -> tuple[float, float]:
    """Return (Σ w ℓ, Σ w); add the other sums to `sums` and, unless it is empty, to `hessian`.

    `sums` is float64[4·D]: gradient, scale, curvature and one unused number, side by side for each
    coefficient, so that a feature touches one cache line. `hessian` is the packed upper triangle.
    """
    rows = labels.size
    dimension = theta.size
    with_hessian = hessian.size > 0
    z = np.empty(_BLOCK)
    value = np.empty(_BLOCK)
    mean = np.empty(_BLOCK)
    second = np.empty(_BLOCK)
    total = 0.0
    weight_sum = 0.0
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        for i in range(count):
            predictor = offsets[start + i]
            if intercept:
                predictor += theta[0]
            for q in range(_U(indptr[start + i]), _U(indptr[start + i + 1])):
                predictor += values[q] * theta[_U(indices[q])]
            z[i] = predictor
        loss_terms_block(loss, count, labels[start : start + count], z, value, mean, second)
        block_total = 0.0
        block_weight = 0.0
        for i in range(count):
            block_total += weights[start + i] * value[i]
            block_weight += weights[start + i]
        total += block_total
        weight_sum += block_weight
        for i in range(count):
            weight = weights[start + i]
            slope = weight * (mean[i] - labels[start + i])
            scale = weight * (abs(mean[i]) + abs(labels[start + i]))
            curvature = weight * second[i]
            first = _U(indptr[start + i])
            end = _U(indptr[start + i + 1])
            if intercept:
                sums[0] += slope
                sums[1] += scale
                sums[2] += curvature
            for q in range(first, end):
                j = _U(4) * _U(indices[q])
                x = values[q]
                sums[j] += slope * x
                sums[j + _U(1)] += scale * abs(x)
                sums[j + _U(2)] += curvature * x * x
            if with_hessian:
                _add_outer_product(first, end, indices, values, curvature, intercept, dimension, hessian)
    return total, weight_sum


@compiled(fastmath=True)
def _add_outer_product(
    first: np.uint64,
    end: np.uint64,
    indices: Int32Array,
    values: Float64Array,
    curvature: float,
    intercept: bool,
    dimension: int,
    hessian: Float64Array,
) -> None:
    """Add curvature·x·xᵀ of one row to the packed upper triangle."""
    if curvature == 0.0:
        return
    if intercept:
        hessian[0] += curvature
    if end == first:
        return
    lowest = _U(indices[first])
    dense = _U(indices[end - _U(1)]) - lowest + _U(1) == end - first
    if intercept:
        for q in range(first, end):
            hessian[_U(indices[q])] += curvature * values[q]
    for p in range(first, end):
        row = _U(indices[p])
        # Entry (a, b) of the triangle lies at a·D − a(a+1)/2 + b.
        base = row * _U(dimension) - row * (row + _U(1)) // _U(2)
        scaled = curvature * values[p]
        if dense:
            shift = base + lowest
            for t in range(p - first, end - first):
                hessian[shift + t] += scaled * values[first + t]
        else:
            for q in range(p, end):
                hessian[base + _U(indices[q])] += scaled * values[q]


@compiled(fastmath=True)
def linear_predictor(
    indptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    theta: Float64Array,
    intercept: bool,
    out: Float64Array,
) -> None:
    """Fill out[i] = x_i·θ, without offset."""
    for i in range(out.size):
        predictor = theta[0] if intercept else 0.0
        for q in range(_U(indptr[i]), _U(indptr[i + 1])):
            predictor += values[q] * theta[_U(indices[q])]
        out[i] = predictor


@compiled(fastmath=True)
def add_hessian_vector_product(
    indptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    weights: Float64Array,
    offsets: Float64Array,
    theta: Float64Array,
    vector: Float64Array,
    intercept: bool,
    loss: int,
    out: Float64Array,
) -> None:
    """Add Σ w ℓ'' x (x·v) to `out`."""
    for i in range(offsets.size):
        predictor = offsets[i]
        along = 0.0
        if intercept:
            predictor += theta[0]
            along += vector[0]
        first = _U(indptr[i])
        end = _U(indptr[i + 1])
        for q in range(first, end):
            j = _U(indices[q])
            predictor += values[q] * theta[j]
            along += values[q] * vector[j]
        _, second = loss_mean_and_curvature(loss, predictor)
        along *= weights[i] * second
        if intercept:
            out[0] += along
        for q in range(first, end):
            out[_U(indices[q])] += along * values[q]


def _warm_up() -> None:
    indptr = kernel_input([0, 1, 3], np.int64)
    indices = kernel_input([1, 1, 2], np.int32)
    values = kernel_input([1.0, 0.5, 2.0], np.float64)
    rows = kernel_input([1.0, 1.0], np.float64)
    theta = kernel_input(np.zeros(3), np.float64)
    accumulate(indptr, indices, values, rows, rows, rows, theta, True, 0, np.zeros(12), np.zeros(6))
    linear_predictor(indptr, indices, values, theta, True, np.empty(2))
    add_hessian_vector_product(indptr, indices, values, rows, rows, theta, theta, True, 0, np.zeros(3))


register_warm_up("fixed-effect derivatives", _warm_up)
