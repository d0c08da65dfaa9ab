"""One feature column as sparse rows, whose indices count inside the column: what a bag is made of."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.data.csr import SparseRows

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]


def numeric_rows(values: Float64Array) -> SparseRows:
    """Return a column of one feature; zeros are not stored."""
    present = values != 0.0
    indptr = _pointers(present)
    if indptr[-1] < len(values):
        values = values[present]
    return SparseRows(indptr, _constants(len(values)).zeros[: len(values)], values)


def one_hot_rows(indices: Int32Array) -> SparseRows:
    """Return a column with a 1 at each row's index, and nothing where the index is -1."""
    present = indices >= 0
    indptr = _pointers(present)
    if indptr[-1] < len(indices):
        indices = indices[present]
    return SparseRows(indptr, indices, _constants(len(indices)).ones[: len(indices)])


class _Constants(NamedTuple):
    """Arrays that columns share, so that a batch of many columns does not hold them many times."""

    numbers: Int64Array
    zeros: Int32Array
    ones: Float64Array


def _constants(length: int) -> _Constants:
    """Return arrays of at least `length` (+ 1 for `numbers`) elements; nobody may write to them."""
    return _constants_of(1 << max(10, (length - 1).bit_length()))


@functools.lru_cache(maxsize=4)
def _constants_of(length: int) -> _Constants:
    return _Constants(np.arange(length + 1), np.zeros(length, np.int32), np.ones(length))


def _pointers(present: npt.NDArray[np.bool_]) -> Int64Array:
    """Return the row pointers of rows that hold one entry where `present`, else none."""
    rows = len(present)
    if present.all():
        return _constants(rows).numbers[: rows + 1]
    indptr = np.zeros(rows + 1, np.int64)
    np.cumsum(present, out=indptr[1:])
    return indptr


def summed_rows(ptr: Int64Array, indices: Int32Array, values: Float64Array) -> SparseRows:
    """Return rows of entries in any order as sparse rows: sorted, equal indices added up, -1 left out.

    Equal indices are added in their order of appearance; entries that are 0 stay.

    Args:
        ptr: int64[n + 1]; row i has entries ptr[i] ≤ k < ptr[i + 1].
        indices: int32, -1 for entries to leave out.
        values: float64.
    """
    out_ptr = np.empty_like(ptr)
    out_indices, out_values = np.empty_like(indices), np.empty_like(values)
    longest = int((ptr[1:] - ptr[:-1]).max(initial=0))
    scratch, scratch_values = np.empty(longest, np.int32), np.empty(longest)
    stop = _sum_rows(ptr, indices, values, scratch, scratch_values, out_ptr, out_indices, out_values)
    # Copies, so that a few entries of a row with many do not hold the memory of all.
    return SparseRows(out_ptr, out_indices[:stop].copy(), out_values[:stop].copy())


def add_moments(moments: Float64Array, values: Float64Array) -> None:
    """Add values, one after another, to `moments` = [count, mean, sum of squared deviations] in place.

    Welford's recurrence (B. P. Welford, Technometrics 4, 1962): batches of any size give the same bits.
    """
    _add_moments(moments, values)


@compiled
def _sum_rows(
    ptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    scratch: Int32Array,
    scratch_values: Float64Array,
    out_ptr: Int64Array,
    out_indices: Int32Array,
    out_values: Float64Array,
) -> int:
    end = 0
    out_ptr[0] = 0
    for i in range(ptr.size - 1):
        start = end
        ordered = True
        last = -1
        for k in range(ptr[i], ptr[i + 1]):
            index = indices[k]
            if index >= 0:
                out_indices[end] = index
                out_values[end] = values[k]
                end += 1
                if index < last:
                    ordered = False
                last = index
        if not ordered:
            _merge_sort(out_indices[start:end], out_values[start:end], scratch, scratch_values)
        target = start
        for k in range(start, end):
            if target > start and out_indices[target - 1] == out_indices[k]:
                out_values[target - 1] += out_values[k]
            else:
                out_indices[target] = out_indices[k]
                out_values[target] = out_values[k]
                target += 1
        end = target
        out_ptr[i + 1] = end
    return end


@compiled
def _merge_sort(
    keys: Int32Array, values: Float64Array, scratch: Int32Array, scratch_values: Float64Array
) -> None:
    """Sort stably: runs of 16 by insertion, then merged bottom-up."""
    n = keys.size
    run = 16
    for start in range(0, n, run):
        for k in range(start + 1, min(start + run, n)):
            key = keys[k]
            value = values[k]
            j = k
            while j > start and keys[j - 1] > key:
                keys[j] = keys[j - 1]
                values[j] = values[j - 1]
                j -= 1
            keys[j] = key
            values[j] = value
    while run < n:
        for left in range(0, n - run, 2 * run):
            middle = left + run
            right = min(middle + run, n)
            for k in range(left, middle):
                scratch[k] = keys[k]
                scratch_values[k] = values[k]
            a = left
            b = middle
            for k in range(left, right):
                if a < middle and (b >= right or scratch[a] <= keys[b]):
                    keys[k] = scratch[a]
                    values[k] = scratch_values[a]
                    a += 1
                else:
                    keys[k] = keys[b]
                    values[k] = values[b]
                    b += 1
        run *= 2


@compiled
def _add_moments(moments: Float64Array, values: Float64Array) -> None:
    count = moments[0]
    mean = moments[1]
    squares = moments[2]
    for i in range(values.size):
        count += 1.0
        delta = values[i] - mean
        mean += delta / count
        squares += delta * (values[i] - mean)
    moments[0] = count
    moments[1] = mean
    moments[2] = squares


def _warm_up() -> None:
    ptr = np.array([0, 2], np.int64)
    summed_rows(ptr, np.array([1, 0], np.int32), np.ones(2))
    add_moments(np.zeros(3), np.ones(2))


register_warm_up("feature columns", _warm_up)
