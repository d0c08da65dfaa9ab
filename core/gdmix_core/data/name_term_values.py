"""Bags of name-term-values, as Photon-ML writes features: each becomes a key, `name`, byte 1, `term`, and a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.compiled import compiled, kernel_input, register_warm_up
from gdmix_core.data.arrow_strings import byte_strings, decoded, is_list, is_number, is_text
from gdmix_core.data.avro_columns import NAME_TERM_VALUE
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import Terms
from gdmix_core.data.row_checks import Fault, fault_of, shown
from gdmix_core.errors import DataError

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]

_PARTS: Final = ("name", "term", "value")
_ALLOWED: Final = "lists of structs of name (string), term (string) and value (number)"


@dataclass(frozen=True, slots=True)
class NameTermValues:
    """The features of n rows; row i has features ptr[i] ≤ k < ptr[i + 1].

    Attributes:
        ptr: int64[n + 1].
        keys: Name, byte 1 and term of each feature; a null term is empty.
        values: float64, 0 where null.
        null_rows: Rows that are null; they have no features.
        faults: Rows with a name that is null or empty, or a value that is no finite number.
    """

    ptr: Int64Array
    keys: Terms
    values: Float64Array
    null_rows: int
    faults: list[Fault]


def name_term_values(array: pa.Array, column: str) -> NameTermValues:
    """Return a column of lists of structs of name, term and value.

    Raises:
        DataError: The column is of another type.
    """
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(NAME_TERM_VALUE))
    names, terms, values, ptr = _parts(array, column)
    missing = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
    numbers = pc.fill_null(values.cast(pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False)
    name_strings = byte_strings(names)
    faults = _faults(
        column,
        "names that are not empty",
        name_strings.ptr[1:] == name_strings.ptr[:-1],
        ptr,
        lambda item: f"a name {shown(names[item].as_py())}",
    )
    bad = ~np.isfinite(numbers)
    faults += _faults(
        column,
        "finite numbers",
        bad if missing is None else bad | missing,
        ptr,
        lambda item: shown(values[item].as_py()),
    )
    keys = Terms(_joined(name_strings, byte_strings(terms)), None)
    return NameTermValues(ptr, keys, numbers, array.null_count, faults)


def _parts(array: pa.Array, column: str) -> tuple[pa.Array, pa.Array, pa.Array, Int64Array]:
    """Return the names, terms and values of all features, and where each row's begin."""
    if is_list(array.type) and pa.types.is_null(array.type.value_type):
        array = array.cast(pa.list_(NAME_TERM_VALUE))
    kind = array.type.value_type if is_list(array.type) else array.type
    places = [kind.get_field_index(part) for part in _PARTS] if pa.types.is_struct(kind) else [-1]
    if not is_list(array.type) or min(places) < 0:
        raise DataError(f"column {column!r} is of type {array.type}; allowed: {_ALLOWED}")
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    ptr = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=ptr[1:])
    children = array.flatten().flatten()  # of the lists, then of the structs, whose nulls go to their parts
    names, terms, values = (decoded(children[place]) for place in places)
    text = [part.cast(pa.string()) if pa.types.is_null(part.type) else part for part in (names, terms)]
    if not (is_text(text[0].type) and is_text(text[1].type) and _is_value(values.type)):
        raise DataError(f"column {column!r} is of type {array.type}; allowed: {_ALLOWED}")
    return text[0], text[1], values, ptr


def _is_value(kind: pa.DataType) -> bool:
    return is_number(kind) or pa.types.is_null(kind)


def _faults(
    column: str, allowed: str, bad: BoolArray, ptr: Int64Array, found: Callable[[int], str]
) -> list[Fault]:
    """Return a fault for the rows that hold bad features; `found` tells what feature k holds."""
    if not bad.any():
        return []
    ends = np.append(0, np.cumsum(bad))

    def first(row: int) -> str:
        return found(int(ptr[row]) + int(np.argmax(bad[ptr[row] : ptr[row + 1]])))

    return fault_of(column, allowed, np.asarray(ends[ptr[1:]] > ends[ptr[:-1]]), first)


def _joined(names: ByteStrings, terms: ByteStrings) -> ByteStrings:
    """Return name, byte 1 and term of each feature."""
    ptr = names.ptr + terms.ptr
    ptr += np.arange(len(ptr))
    data = np.empty(ptr[-1], np.uint8)
    _join(
        kernel_input(names.data, np.uint8),
        kernel_input(names.ptr, np.int64),
        kernel_input(terms.data, np.uint8),
        kernel_input(terms.ptr, np.int64),
        data,
    )
    return ByteStrings(data, ptr)


@compiled
def _join(
    names: UInt8Array, name_ptr: Int64Array, terms: UInt8Array, term_ptr: Int64Array, out: UInt8Array
) -> None:
    target = 0
    for i in range(name_ptr.size - 1):
        for k in range(name_ptr[i], name_ptr[i + 1]):
            out[target] = names[k]
            target += 1
        out[target] = 1
        target += 1
        for k in range(term_ptr[i], term_ptr[i + 1]):
            out[target] = terms[k]
            target += 1


def _warm_up() -> None:
    strings = ByteStrings.of([b"a"])
    _joined(strings, strings)


register_warm_up("name-term-values", _warm_up)
