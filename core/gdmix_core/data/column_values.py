"""From Arrow arrays to plain arrays of numbers, terms and ids: one function for each kind of column.

Ingestion and serving use the same functions, so a value means the same in both. A null is told from a value
everywhere: a null number is 0, a null (or empty) term or entity id is nothing. Values that cannot be taken
come back as `Fault`s, with 0 in their place, so that all mistakes of a batch can be named together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.data.arrow_strings import byte_strings, decoded, is_list, is_number, is_text
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.row_checks import Fault, fault_of, shown
from gdmix_core.data.spill import EntityColumn
from gdmix_core.data.tokens import tokens
from gdmix_core.errors import DataError

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

MAX_ENTITY_BYTES: Final = 256
"""Longest entity id, in bytes after escaping as in store keys (`docs/specs/store.md`)."""

# Bytes that an escape adds: `{ } : %` and control bytes become three bytes each.
_ESCAPE_EXTRA: Final = np.zeros(256, np.int64)
_ESCAPE_EXTRA[[*range(0x20), 0x7F, *b"{}:%"]] = 2
_INT64_BOUND: Final = 2**63
_BOOLEAN_WORDS: Final = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of numbers.

    Attributes:
        values: float64[n], 0 where null or faulty.
        null: bool[n], or None when there is no null.
        faults: Values that are no numbers.
    """

    values: Float64Array
    null: BoolArray | None
    faults: list[Fault]


@dataclass(frozen=True, slots=True)
class Terms:
    """m terms: values of a categorical column, or the items of all lists of a list column.

    Attributes:
        strings: The distinct terms, or one for each value: repetitions are allowed.
        codes: int32[m], the place in `strings` of each value, -1 for null and empty ones; None when value i
            is string i and none is null or empty.
    """

    strings: ByteStrings
    codes: Int32Array | None

    def __len__(self) -> int:
        return len(self.strings) if self.codes is None else len(self.codes)

    @property
    def missing(self) -> int:
        """Number of null or empty values."""
        return 0 if self.codes is None else int(np.count_nonzero(self.codes < 0))

    def translate(self, numbers: Int32Array) -> Int32Array:
        """Return int32[m]: for each value the number of its string, -1 where it is missing."""
        return numbers if self.codes is None else np.append(numbers, np.int32(-1))[self.codes]


@dataclass(frozen=True, slots=True)
class TermLists:
    """A list of terms for each of n rows; row i has items ptr[i] ≤ k < ptr[i + 1] of `items`."""

    ptr: Int64Array
    items: Terms
    null_rows: int


@dataclass(frozen=True, slots=True)
class Vectors:
    """A vector for each of n rows, as entries in any order, repetitions adding up.

    Attributes:
        ptr: int64[n + 1].
        indices: int32, positions in the vector; inside a faulty row they are clipped.
        values: float64.
        nulls: Null vectors and null elements (which count as 0).
        sorted: Whether the indices increase strictly inside every row.
        faults: Rows that are no such vector.
    """

    ptr: Int64Array
    indices: Int32Array
    values: Float64Array
    nulls: int
    sorted: bool
    faults: list[Fault]


def number_values(array: pa.Array, column: str) -> Numbers:
    """Return a column of numbers, booleans or (from text files) text as float64.

    Raises:
        DataError: The column is of another type.
    """
    array = decoded(array)
    kind = array.type
    null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if pa.types.is_null(kind):
        return Numbers(np.zeros(len(array)), null, [])
    if is_text(kind):
        values, bad = _parsed(array)
        faults = fault_of(column, "numbers", bad, lambda row: shown(array[row].as_py()))
        return Numbers(values, null, faults)
    if not (is_number(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {column!r} is of type {kind}; allowed: numbers and booleans")
    floats = array if pa.types.is_float64(kind) else array.cast(pa.float64(), safe=False)
    if null is not None:
        floats = pc.fill_null(floats, 0.0)
    return Numbers(floats.to_numpy(zero_copy_only=False), null, [])


def uid_values(array: pa.Array, column: str) -> tuple[Int64Array, BoolArray, list[Fault]]:
    """Return a column of row ids as int64[n], which of them are usable, and the faults of the others.

    Raises:
        DataError: The column is neither of integers nor of text.
    """
    allowed = "integers from -2^63 to 2^63 - 1, in every row"
    array = decoded(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.int64())
    if not (pa.types.is_integer(array.type) or is_text(array.type)):
        raise DataError(f"column {column!r} is of type {array.type}; allowed for a uid: integers")
    try:
        integers = array.cast(pa.int64())
    except pa.ArrowInvalid:
        integers = pa.array([_integer(value) for value in array.to_pylist()], pa.int64())
    if not integers.null_count:
        return integers.to_numpy(), np.ones(len(array), np.bool_), []
    bad = integers.is_null().to_numpy(zero_copy_only=False)
    faults = fault_of(column, allowed, bad, lambda row: shown(array[row].as_py()))
    return pc.fill_null(integers, 0).to_numpy(), ~bad, faults


def entity_ids(array: pa.Array, column: str) -> tuple[EntityColumn, list[Fault]]:
    """Return entity ids as UTF-8 bytes, integers in decimal; null or empty means that a row has no entity.

    Raises:
        DataError: The column is neither of strings nor of integers.
    """
    array = decoded(array)
    if pa.types.is_null(array.type) or pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if not is_text(array.type):
        raise DataError(
            f"column {column!r} is of type {array.type}; allowed for an entity id: strings and integers"
        )
    ids = byte_strings(array)
    lengths = ids.ptr[1:] - ids.ptr[:-1]
    faults: list[Fault] = []
    longest = int(lengths.max(initial=0))
    if 3 * longest > MAX_ENTITY_BYTES:
        extra = np.append(0, np.cumsum(_ESCAPE_EXTRA[ids.data]))
        bad = lengths + extra[ids.ptr[1:]] - extra[ids.ptr[:-1]] > MAX_ENTITY_BYTES
        faults = fault_of(
            column,
            f"entity ids of at most {MAX_ENTITY_BYTES} bytes, "
            "where each of { } : % and each control byte counts as three",
            bad,
            lambda row: shown(array[row].as_py()),
        )
    return EntityColumn(ids, (lengths == 0).astype(np.uint8)), faults


def term_values(array: pa.Array, column: str) -> Terms:
    """Return a column of strings, integers (in decimal) or booleans (`true`, `false`) as terms.

    Raises:
        DataError: The column is of another type.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        codes = array.indices.cast(pa.int32())
        codes = (pc.fill_null(codes, -1) if codes.null_count else codes).to_numpy()
        terms = term_values(array.dictionary, column)
        if terms.codes is not None:
            codes = np.append(terms.codes, np.int32(-1))[codes]
        return Terms(terms.strings, codes)
    if pa.types.is_null(kind):
        return Terms(ByteStrings.of([]), np.full(len(array), -1, np.int32))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        encoded = array.dictionary_encode()
        names = encoded.dictionary.cast(pa.string())
        return term_values(pa.DictionaryArray.from_arrays(encoded.indices, names), column)
    if not is_text(kind):
        raise DataError(
            f"column {column!r} is of type {kind}; allowed for terms: strings, integers and booleans"
        )
    strings = byte_strings(array)
    blank = strings.ptr[1:] == strings.ptr[:-1]
    if not blank.any():
        return Terms(strings, None)
    return Terms(strings, np.where(blank, -1, np.arange(len(strings))).astype(np.int32))


def list_values(array: pa.Array, column: str, separator: str | None = None) -> TermLists:
    """Return a column of lists of terms; with a separator, a column of strings that it splits.

    Items of split strings are stripped of surrounding white space.

    Raises:
        DataError: The column is of another type.
    """
    array = decoded(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(pa.string()))
    elif separator is not None and is_text(array.type):
        # An empty string has no items, like a null; splitting it would give one empty item.
        array = pc.if_else(pc.equal(pc.binary_length(array), 0), pa.scalar(None, array.type), array)
        array = pc.split_pattern(array, separator)
        ptr, items = _flattened(array)
        return TermLists(ptr, term_values(pc.utf8_trim_whitespace(items), column), array.null_count)
    if not is_list(array.type):
        raise DataError(
            f"column {column!r} is of type {array.type}; allowed: lists, or strings with a separator"
        )
    ptr, items = _flattened(array)
    return TermLists(ptr, term_values(items, column), array.null_count)


def text_values(array: pa.Array, column: str) -> TermLists:
    """Return the tokens of a column of text: lower case, cut at everything but letters, marks and numbers.

    Raises:
        DataError: The column is not of strings.
    """
    array = decoded(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    if not is_text(array.type):
        raise DataError(f"column {column!r} is of type {array.type}; allowed for text: strings")
    ptr, strings, codes = tokens(byte_strings(array))
    return TermLists(ptr, Terms(strings, codes), array.null_count)


def vector_values(array: pa.Array, column: str, dimension: int) -> Vectors:
    """Return a column of dense (list) or sparse (struct of `indices`, `values`) vectors.

    Raises:
        DataError: The column is of another type.
    """
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(pa.float64()))
    if is_list(array.type):
        return _dense_vectors(array, column, dimension)
    if pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        if {"indices", "values"} <= set(names):
            children = array.flatten()
            indices, values = children[names.index("indices")], children[names.index("values")]
            return _sparse_vectors(indices, values, array, column, dimension)
    raise DataError(
        f"column {column!r} is of type {array.type}; allowed for vectors: lists of numbers and "
        "structs of indices and values"
    )


def _dense_vectors(array: pa.Array, column: str, dimension: int) -> Vectors:
    ptr, items = _flattened(array)
    lengths = ptr[1:] - ptr[:-1]
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    numbers = number_values(items, column)
    faults = fault_of(
        column,
        f"vectors of {dimension} numbers",
        valid & (lengths != dimension),
        lambda row: f"{lengths[row]} numbers",
    )
    faults += _finite_faults(numbers.values, ptr, column)
    kept = numbers.values != 0.0
    places = (np.arange(len(items)) - np.repeat(ptr[:-1], lengths))[kept].astype(np.int32)
    ends = np.append(0, np.cumsum(kept))
    nulls = array.null_count + items.null_count
    return Vectors(ends[ptr], np.minimum(places, dimension - 1), numbers.values[kept], nulls, True, faults)


def _sparse_vectors(
    index_lists: pa.Array, value_lists: pa.Array, array: pa.Array, column: str, dimension: int
) -> Vectors:
    ptr, index_items = _flattened(index_lists)
    value_ptr, value_items = _flattened(value_lists)
    numbers = number_values(value_items, column)
    if not (pa.types.is_integer(index_items.type) or pa.types.is_null(index_items.type)):
        raise DataError(f"column {column!r}: indices are of type {index_items.type}; allowed: integers")
    indices = pc.fill_null(index_items.cast(pa.int64(), safe=False), -1).to_numpy()
    lengths, value_lengths = ptr[1:] - ptr[:-1], value_ptr[1:] - value_ptr[:-1]
    faults = fault_of(
        column,
        "as many indices as values",
        lengths != value_lengths,
        lambda row: f"{lengths[row]} indices and {value_lengths[row]} values",
    )
    nulls = array.null_count + value_items.null_count
    if faults:
        empty = np.zeros(len(array) + 1, np.int64)
        return Vectors(empty, np.empty(0, np.int32), np.empty(0), nulls, True, faults)
    outside = (indices < 0) | (indices >= dimension)
    faults = fault_of(
        column,
        f"indices from 0 to {dimension - 1}",
        _any_in_row(outside, ptr),
        lambda row: f"index {next(i for i, bad in _items(indices, outside, ptr, row) if bad)}",
    )
    faults += _finite_faults(numbers.values, ptr, column)
    clipped = np.clip(indices, 0, dimension - 1).astype(np.int32)
    return Vectors(ptr, clipped, numbers.values, nulls, False, faults)


def _finite_faults(values: Float64Array, ptr: Int64Array, column: str) -> list[Fault]:
    bad = ~np.isfinite(values)
    if not bad.any():
        return []
    return fault_of(
        column,
        "finite numbers",
        _any_in_row(bad, ptr),
        lambda row: shown(float(next(x for x, wrong in _items(values, bad, ptr, row) if wrong))),
    )


def _items(values: npt.NDArray[Any], bad: BoolArray, ptr: Int64Array, row: int) -> list[tuple[Any, Any]]:
    span = slice(ptr[row], ptr[row + 1])
    return list(zip(values[span].tolist(), bad[span].tolist(), strict=True))


def _any_in_row(flags: BoolArray, ptr: Int64Array) -> BoolArray:
    ends = np.append(0, np.cumsum(flags))
    return np.asarray(ends[ptr[1:]] > ends[ptr[:-1]])


def _flattened(array: pa.Array) -> tuple[Int64Array, pa.Array]:
    """Return where each row's items begin (int64[n + 1]) and all items; null rows have none."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    ptr = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=ptr[1:])
    return ptr, array.flatten()


def _parsed(array: pa.Array) -> tuple[Float64Array, BoolArray]:
    """Parse text as numbers; where there is none, 0 and a mark."""
    try:
        floats = array.cast(pa.float64())
    except pa.ArrowInvalid:
        # Off the fast path: white space around numbers, words for booleans, and mistakes.
        encoded = array.dictionary_encode()
        parsed = pa.array([_number(text) for text in encoded.dictionary.to_pylist()], pa.float64())
        floats = parsed.take(encoded.indices)
    bad = np.zeros(len(array), np.bool_)
    if floats.null_count:
        if floats.null_count > array.null_count:
            bad = pc.and_(floats.is_null(), array.is_valid()).to_numpy(zero_copy_only=False)
        floats = pc.fill_null(floats, 0.0)
    return floats.to_numpy(), bad


def _number(text: str) -> float | None:
    word = text.strip().lower()
    if "_" in word:  # Python's own spelling of large numbers
        return None
    try:
        return float(word)
    except ValueError:
        return _BOOLEAN_WORDS.get(word)


def _integer(value: str | int | None) -> int | None:
    if value is None or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if -_INT64_BOUND <= number < _INT64_BOUND else None
