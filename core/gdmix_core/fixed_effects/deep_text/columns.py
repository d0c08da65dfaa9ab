"""From Arrow columns, typed as the protocol says, to plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.arrow_strings import byte_strings
from gdmix_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from gdmix_core.data.byte_strings import ByteStrings

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]


def strings(columns: pa.RecordBatch, name: str) -> ByteStrings:
    """Return a column of strings; null is empty."""
    return byte_strings(columns.column(name))


def string_lists(columns: pa.RecordBatch, name: str) -> tuple[Int64Array, ByteStrings]:
    """Return where each row's strings begin, int64[rows + 1], and the strings; null is an empty list."""
    array = columns.column(name)
    return _starts(array), byte_strings(array.flatten())


def numbers(columns: pa.RecordBatch, name: str) -> Float64Array:
    """Return a column of numbers, float64[rows, 1], NaN where null.

    Raises:
        DataError: one is infinite or no number.
    """
    array = columns.column(name)
    values: Float64Array = array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    _check_finite(values if not array.null_count else values[array.is_valid().to_numpy(False)], name)
    return values[:, None]


def vectors(columns: pa.RecordBatch, name: str, dimension: int | None) -> Float64Array:
    """Return a column of vectors, float64[rows, dimension], NaN where null.

    Args:
        columns: rows.
        name: of the column.
        dimension: length of every vector; that of the first one when None.

    Raises:
        DataError: a vector has another length, or a value that is infinite or no number.
    """
    array = columns.column(name)
    values = array.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    _check_finite(values, name)
    lengths = np.diff(_starts(array))
    there = array.is_valid().to_numpy(False)
    if dimension is None:
        dimension = int(lengths[there][0]) if there.any() else 0
    odd = np.flatnonzero(there & (lengths != dimension))
    if len(odd):
        raise DataError(
            f"column {name!r}: found a vector of length {lengths[odd[0]]}; all must have length {dimension}"
        )
    out = np.full((len(array), dimension), np.nan)
    out[there] = values.reshape(-1, dimension)
    return out


def sparse_vectors(
    columns: pa.RecordBatch, name: str, dimension: int
) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Return where each row's entries begin, int64[rows + 1], their indices and their values.

    Raises:
        DataError: an index is not below `dimension`, or a value is infinite or no number.
    """
    indices, values = columns.column(name).flatten()
    index = indices.flatten().to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    value = values.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if len(index) != len(value):
        raise DataError(f"column {name!r}: found {len(index)} indices and {len(value)} values")
    odd = index[(index < 0) | (index >= dimension)]
    if len(odd):
        raise DataError(f"column {name!r}: found index {odd[0]}; allowed are 0 to {dimension - 1}")
    _check_finite(value, name)
    return _starts(indices), index, value


def _starts(array: pa.Array) -> Int64Array:
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def _check_finite(values: npt.NDArray[np.floating], name: str) -> None:
    odd = values[~np.isfinite(values)]
    if len(odd):
        raise DataError(f"column {name!r}: found {odd[0]}; allowed are finite numbers and null")
