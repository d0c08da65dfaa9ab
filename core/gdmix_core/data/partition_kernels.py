"""Compiled kernels of partitions: features numbered inside each entity, and scores by such coefficients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


def local_features(
    row_ptr: Int64Array, indptr: Int64Array, indices: Int32Array, dimension: int, first: int
) -> tuple[Int64Array, Int32Array]:
    """List each entity's features in ascending order, after `first` (0 or 1) intercepts of feature 0.

    Returns:
        int64[E + 1] where each entity's coefficients begin, int32[C] their features.
    """
    coefficient_ptr = np.zeros(len(row_ptr), np.int64)
    stamp = np.full(dimension, -1, np.int32)
    _count(row_ptr, indptr, indices, first, stamp, coefficient_ptr)
    features = np.zeros(coefficient_ptr[-1], np.int32)
    stamp.fill(-1)
    _collect(row_ptr, indptr, indices, first, stamp, coefficient_ptr, features)
    return coefficient_ptr, features


def local_numbers(
    row_ptr: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    dimension: int,
    first: int,
    coefficient_ptr: Int64Array,
    features: Int32Array,
) -> Int32Array:
    """Translate feature numbers to local ones: the place among the entity's coefficients."""
    local = np.empty(len(indices), np.int32)
    number = np.empty(dimension, np.int32)
    _translate(row_ptr, indptr, indices, first, coefficient_ptr, features, number, local)
    return local


@compiled
def _count(
    row_ptr: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    first: int,
    stamp: Int32Array,
    coefficient_ptr: Int64Array,
) -> None:
    for e in range(row_ptr.size - 1):
        count = first
        for k in range(indptr[row_ptr[e]], indptr[row_ptr[e + 1]]):
            if stamp[indices[k]] != e:
                stamp[indices[k]] = e
                count += 1
        coefficient_ptr[e + 1] = coefficient_ptr[e] + count


@compiled
def _collect(
    row_ptr: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    first: int,
    stamp: Int32Array,
    coefficient_ptr: Int64Array,
    features: Int32Array,
) -> None:
    for e in range(row_ptr.size - 1):
        target = coefficient_ptr[e] + first
        ascending = True
        for k in range(indptr[row_ptr[e]], indptr[row_ptr[e + 1]]):
            feature = indices[k]
            if stamp[feature] != e:
                stamp[feature] = e
                if target > coefficient_ptr[e] + first and features[target - 1] > feature:
                    ascending = False
                features[target] = feature
                target += 1
        if not ascending:
            _shell_sort(features[coefficient_ptr[e] + first : target])


@compiled
def _shell_sort(values: Int32Array) -> None:
    # np.sort costs more than a second to compile; Knuth's gaps are fast enough for an entity's few features.
    gap = 1
    while gap < values.size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, values.size):
            value = values[i]
            j = i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value
        gap //= 3


@compiled
def _translate(
    row_ptr: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    first: int,
    coefficient_ptr: Int64Array,
    features: Int32Array,
    number: Int32Array,
    local: Int32Array,
) -> None:
    for e in range(row_ptr.size - 1):
        start = coefficient_ptr[e]
        for c in range(start + first, coefficient_ptr[e + 1]):
            number[features[c]] = c - start
        for k in range(indptr[row_ptr[e]], indptr[row_ptr[e + 1]]):
            local[k] = number[indices[k]]


@compiled
def score_rows(
    row_ptr: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    trained: Int64Array,
    coefficient_ptr: Int64Array,
    features: Int32Array,
    coefficients: Float64Array,
    intercept: bool,
    scores: Float64Array,
) -> int:
    """Fill scores = x·θ of each row, adding in feature order; return how many entries have no coefficient.

    Entity e of the rows is entity trained[e] of the coefficients; rows of -1 keep their score. An entity's
    features ascend, as a row's do, so each row is one walk with binary searches that only move forward.
    """
    unseen = 0
    for e in range(row_ptr.size - 1):
        t = trained[e]
        if t < 0:
            continue
        start = coefficient_ptr[t]
        stop = coefficient_ptr[t + 1]
        bias = 0.0
        if intercept and start < stop and features[start] == 0:
            bias = coefficients[start]
            start += 1
        for i in range(row_ptr[e], row_ptr[e + 1]):
            score = bias
            low = start
            for k in range(indptr[i], indptr[i + 1]):
                high = stop
                while low < high:
                    middle = (low + high) // 2
                    if features[middle] < indices[k]:
                        low = middle + 1
                    else:
                        high = middle
                if low < stop and features[low] == indices[k]:
                    score += coefficients[low] * values[k]
                else:
                    unseen += 1
            scores[i] = score
    return unseen


def _warm_up() -> None:
    row_ptr, indptr = np.array([0, 1], np.int64), np.array([0, 2], np.int64)
    indices, values = np.array([1, 2], np.int32), np.ones(2)
    ptr, features = local_features(row_ptr, indptr, indices, 3, 1)
    local_numbers(row_ptr, indptr, indices, 3, 1, ptr, features)
    trained = np.zeros(1, np.int64)
    score_rows(row_ptr, indptr, indices, values, trained, ptr, features, np.ones(3), True, np.zeros(1))


register_warm_up("partitions", _warm_up)
