"""Arrow types as the readers see them: what counts as text, a number or a list; strings as bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.data.byte_strings import ByteStrings


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a string, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")


def is_number(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is an integer, a float or a decimal (booleans apart)."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a list of any layout."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def decoded(array: pa.Array) -> pa.Array:
    """Return the array without dictionary encoding."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def byte_strings(array: pa.Array) -> ByteStrings:
    """Return the strings of an Arrow array; those of nulls are empty. Shares memory where it can."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = array.cast(pa.large_string())
    if array.null_count:
        array = pc.fill_null(array, "")
    count = len(array)
    if count == 0:
        return ByteStrings(np.empty(0, np.uint8), np.zeros(1, np.int64))
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    _, offsets, data = array.buffers()
    ptr = np.frombuffer(offsets, width, count + 1, array.offset * np.dtype(width).itemsize).astype(np.int64)
    base, end = int(ptr[0]), int(ptr[-1])
    if end == base:
        return ByteStrings(np.empty(0, np.uint8), np.zeros(count + 1, np.int64))
    ptr -= base
    return ByteStrings(np.frombuffer(data, np.uint8, end - base, base), ptr)
