"""Columns that plug-ins read, as Arrow arrays of the type that their kind promises.

Unlike features they keep their values: text stays text, and an absent number is null. Training and serving use
the same functions. Values that cannot be taken come back as `Fault`s, with null or 0 in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.data.arrow_strings import decoded, is_list, is_number, is_text
from gdmix_core.data.column_values import number_values, vector_values
from gdmix_core.data.layout import InputSpec
from gdmix_core.data.row_checks import Fault, fault_of, finite_faults, shown
from gdmix_core.data.sparse_columns import summed_rows
from gdmix_core.errors import DataError

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_STRINGS: Final = pa.list_(pa.string())
INPUT_TYPES: Final[dict[str, pa.DataType]] = {
    "number": pa.float64(),
    "string": pa.string(),
    "strings": _STRINGS,
    "vector": pa.list_(pa.float32()),
    "sparse": pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))]),
}
"""Arrow type of each kind of column."""
_LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class InputValues:
    """A column.

    Attributes:
        array: of the type in `INPUT_TYPES`.
        nulls: values that are absent; of a vector, also elements.
        faults: values that are not allowed.
    """

    array: pa.Array
    nulls: int
    faults: list[Fault]


def input_values(array: pa.Array, spec: InputSpec) -> InputValues:
    """Return a data column as the plug-in wants it.

    - number: finite; null stays null.
    - string: integers in decimal, booleans as `true` and `false`; null and empty are null.
    - strings: null and empty items are left out; null stays null.
    - vector: of `spec.dimension` finite numbers; null is 0, be it an element or the whole vector.
    - sparse: indices ascending, repetitions added up; null stays null.

    Raises:
        DataError: the column is of a type that the kind cannot take.
    """
    if spec.kind == "number":
        return _number(array, spec.name)
    if spec.kind == "string":
        return _string(array, spec.name)
    if spec.kind == "strings":
        return _strings(array, spec.name)
    if spec.dimension is None:
        raise DataError(f"column {spec.name!r}: the dimension of the {spec.kind} is not known")
    if spec.kind == "vector":
        return _vector(array, spec.name, spec.dimension)
    return _sparse(array, spec.name, spec.dimension)


def _number(array: pa.Array, column: str) -> InputValues:
    numbers = number_values(array, column)
    faults = numbers.faults or finite_faults(column, numbers.values)
    values = pa.array(numbers.values, pa.float64(), mask=numbers.null)
    return InputValues(values, values.null_count, faults)


def _string(array: pa.Array, column: str) -> InputValues:
    text = _text(decoded(array), column)
    text = pc.if_else(pc.equal(pc.binary_length(text), 0), pa.scalar(None, pa.string()), text)
    return InputValues(text, text.null_count, [])


def _strings(array: pa.Array, column: str) -> InputValues:
    array = decoded(array)
    if pa.types.is_null(array.type):
        array = array.cast(_STRINGS)
    if not is_list(array.type):
        raise DataError(f"column {column!r} is of type {array.type}; allowed for strings: lists of strings")
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    items = _text(decoded(array.flatten()), column)
    kept = pc.fill_null(pc.greater(pc.binary_length(items), 0), False).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(kept)])
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    lists = _lists(ends[ptr], items.filter(pa.array(kept)), _absent(array))
    return InputValues(lists, array.null_count, [])


def _vector(array: pa.Array, column: str, dimension: int) -> InputValues:
    if is_list(array.type) and is_number(array.type.value_type) and not array.null_count:
        items = array.flatten()
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        if not items.null_count and (lengths == dimension).all():
            values, faults = _float32(items.cast(pa.float32(), safe=False).to_numpy(), column, dimension)
            return InputValues(_lists(dimension * np.arange(len(array) + 1), values, None), 0, faults)
    found = vector_values(array, column, dimension)
    dense = np.zeros((len(array), dimension), np.float32)
    rows = np.repeat(np.arange(len(array)), np.diff(found.ptr))
    with np.errstate(over="ignore"):
        np.add.at(dense, (rows, found.indices), found.values.astype(np.float32))
    values, faults = _float32(dense.reshape(-1), column, dimension)
    lists = _lists(dimension * np.arange(len(array) + 1), values, None)
    return InputValues(lists, found.nulls, found.faults or faults)


def _sparse(array: pa.Array, column: str, dimension: int) -> InputValues:
    found = vector_values(array, column, dimension)
    rows = summed_rows(found.ptr, found.indices, found.values)
    ptr = np.asarray(rows.indptr, np.int64)
    absent = _absent(array)
    faults = found.faults
    if not faults:
        too_large = np.abs(rows.values) > _LARGEST_FLOAT32
        ends = np.concatenate([[0], np.cumsum(too_large)])
        faults = _too_large(column, ends[ptr[1:]] > ends[ptr[:-1]])
    with np.errstate(over="ignore"):
        values = rows.values.astype(np.float32)
    children = [_lists(ptr, rows.indices.astype(np.int64), None), _lists(ptr, values, None)]
    mask = None if absent is None else pa.array(absent)
    kind = INPUT_TYPES["sparse"]
    return InputValues(
        pa.StructArray.from_arrays(children, fields=list(kind), mask=mask), found.nulls, list(faults)
    )


def _text(array: pa.Array, column: str) -> pa.Array:
    """Return strings, integers and booleans as utf8.

    Raises:
        DataError: the array is of another type.
    """
    kind = array.type
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_text(kind):
        return array if pa.types.is_string(kind) else array.cast(pa.string())
    raise DataError(f"column {column!r} is of type {kind}; allowed for text: strings, integers and booleans")


def _lists(ptr: Int64Array, items: pa.Array | npt.NDArray[np.generic], absent: BoolArray | None) -> pa.Array:
    """Return a list array; absent rows, which must be empty, are null.

    Raises:
        DataError: there are more items than 32-bit offsets can tell apart.
    """
    if ptr[-1] >= 2**31:
        raise DataError(
            f"{ptr[-1]:,} items in one piece of the data; allowed are {2**31 - 1:,}: use more shards"
        )
    values = items if isinstance(items, pa.Array) else pa.array(items)
    mask = None if absent is None else pa.array(absent)
    return pa.ListArray.from_arrays(pa.array(ptr.astype(np.int32)), values, mask=mask)


def _absent(array: pa.Array) -> BoolArray | None:
    if not array.null_count:
        return None
    nulls: BoolArray = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _float32(values: Float32Array, column: str, dimension: int) -> tuple[Float32Array, list[Fault]]:
    bad = ~np.isfinite(values)
    if not bad.any():
        return values, []
    rows = bad.reshape(-1, dimension)
    first = np.argmax(rows, axis=1)
    table = values.reshape(-1, dimension)
    allowed = "finite numbers that fit into 32 bits"
    return values, fault_of(
        column, allowed, np.asarray(rows.any(axis=1)), lambda row: shown(float(table[row, first[row]]))
    )


def _too_large(column: str, bad: BoolArray) -> list[Fault]:
    return fault_of(column, "finite numbers that fit into 32 bits", bad, lambda _: "a number beyond")
