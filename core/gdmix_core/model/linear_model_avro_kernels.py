"""Compiled steps on Avro's binary encoding of `BayesianLinearModelAvro` records.

A *key* is a feature's name and term as they lie in a record, `length name length term`: two features are the same
exactly if their keys are, because only lengths in their shortest form are accepted. Kernels are compiled at their
first use: they belong to commands, and no worker waits for them.

Source: Apache Avro specification 1.11, "Binary Encoding", https://avro.apache.org/docs/1.11.1/specification/.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.store.byte_kernels import copy_bytes

Bytes: TypeAlias = npt.NDArray[np.uint8]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

LONGEST_NUMBER = 10
"""Most bytes that a number of 64 bits takes."""


@compiled
def put_long(out: Bytes, at: int, number: int) -> int:
    """Write a number (zigzag, seven bits a byte) and return where it ends."""
    rest = np.uint64((number << 1) ^ (number >> 63))
    while rest >= np.uint64(128):
        out[at] = (rest & np.uint64(127)) | np.uint64(128)
        rest >>= np.uint64(7)
        at += 1
    out[at] = rest
    return at + 1


@compiled
def _get_long(data: Bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and where it ends; an end of -1 when it is cut off or not in its shortest form."""
    number = np.uint64(0)
    shift = 0
    while 0 <= at < data.size and shift < 70:
        byte = np.uint64(data[at])
        at += 1
        number |= (byte & np.uint64(127)) << np.uint64(shift)
        if byte < np.uint64(128):
            if byte == np.uint64(0) and shift:
                break
            magnitude = np.int64(number >> np.uint64(1))
            return (-magnitude - 1 if number & np.uint64(1) else magnitude), at  # type: ignore[return-value]
        shift += 7
    return 0, -1


@compiled
def _get_string(data: Bytes, at: int) -> tuple[int, int]:
    """Return where the string at `at` begins and ends; an end of -1 when it does not lie inside the data."""
    length, start = _get_long(data, at)
    if start < 0 or length < 0 or length > data.size - start:
        return 0, -1
    return start, start + length


@compiled
def _skip_optional_string(data: Bytes, at: int) -> tuple[int, int]:
    """Return where the string of a union [null, string] begins and ends; both the same for null."""
    branch, at = _get_long(data, at)
    if at < 0 or branch not in (0, 1):
        return 0, -1
    if branch == 0:
        return at, at
    return _get_string(data, at)


# ---- keys ------------------------------------------------------------------------------------------------


@compiled
def encode_keys(
    names: Bytes, names_ptr: Int64Array, terms: Bytes, terms_ptr: Int64Array, out: Bytes, ptr: Int64Array
) -> None:
    """Write the key of every feature and its bounds; `out` must have room for the longest numbers."""
    at = 0
    for i in range(names_ptr.size - 1):
        ptr[i] = at
        length = names_ptr[i + 1] - names_ptr[i]
        at = put_long(out, at, length)
        copy_bytes(names, names_ptr[i], out, at, length)
        at += length
        length = terms_ptr[i + 1] - terms_ptr[i]
        at = put_long(out, at, length)
        copy_bytes(terms, terms_ptr[i], out, at, length)
        at += length
    ptr[names_ptr.size - 1] = at


@compiled
def decode_keys(data: Bytes, ptr: Int64Array, names: Int64Array, terms: Int64Array) -> None:
    """Write where the name and the term of each (checked) key begin and end, two numbers each."""
    for i in range(ptr.size - 1):
        names[2 * i], names[2 * i + 1] = _get_string(data, ptr[i])
        terms[2 * i], terms[2 * i + 1] = _get_string(data, names[2 * i + 1])


@compiled
def gather(data: Bytes, bounds: Int64Array, ptr: Int64Array, out: Bytes) -> None:
    """Copy data[bounds[2i]:bounds[2i+1]] to out[ptr[i]:ptr[i+1]] for every i."""
    for i in range(ptr.size - 1):
        copy_bytes(data, bounds[2 * i], out, ptr[i], ptr[i + 1] - ptr[i])


@compiled
def first_repetition(ptr: Int64Array, features: Int32Array, seen: Int64Array) -> int:
    """Return the first number in `features` whose feature its model has already, -1 for none.

    `seen` has -1 for every feature.
    """
    for model in range(ptr.size - 1):
        for c in range(ptr[model], ptr[model + 1]):
            if seen[features[c]] == model:
                return c
            seen[features[c]] = model
    return -1


# ---- records ---------------------------------------------------------------------------------------------


@compiled
def encode_records(
    ids: Bytes,
    ids_ptr: Int64Array,
    coefficient_ptr: Int64Array,
    indices: Int32Array,
    coefficients: Float64Array,
    variances: Float64Array,
    keys: Bytes,
    keys_ptr: Int64Array,
    model_class: Bytes,
    loss_function: Bytes,
    threshold: float,
    intercept: int,
    begin: int,
    end: int,
    out: Bytes,
) -> tuple[int, int]:
    """Write entities begin:end as records; return the bytes used and the number of coefficients kept.

    `model_class` and `loss_function` are the encoded unions. A NaN in `variances` (which may be empty) is no variance;
    a record without any has null.
    """
    coefficient_bytes = coefficients.view(np.uint8)
    variance_bytes = variances.view(np.uint8)
    at = 0
    kept_in_all = 0
    for e in range(begin, end):
        length = ids_ptr[e + 1] - ids_ptr[e]
        at = put_long(out, at, length)
        copy_bytes(ids, ids_ptr[e], out, at, length)
        at += length
        copy_bytes(model_class, 0, out, at, model_class.size)
        at += model_class.size
        kept = 0
        varying = 0
        for c in range(coefficient_ptr[e], coefficient_ptr[e + 1]):
            if _is_kept(coefficients[c], threshold, indices[c] == intercept):
                kept += 1
                varying += variances.size > 0 and not np.isnan(variances[c])
        kept_in_all += kept
        if kept:
            at = put_long(out, at, kept)
            for c in range(coefficient_ptr[e], coefficient_ptr[e + 1]):
                if _is_kept(coefficients[c], threshold, indices[c] == intercept):
                    at = _put_item(keys, keys_ptr, indices[c], coefficient_bytes, c, out, at)
        out[at] = 0
        at += 1
        if varying:
            out[at] = 2
            at = put_long(out, at + 1, varying)
            for c in range(coefficient_ptr[e], coefficient_ptr[e + 1]):
                if _is_kept(coefficients[c], threshold, indices[c] == intercept) and not np.isnan(
                    variances[c]
                ):
                    at = _put_item(keys, keys_ptr, indices[c], variance_bytes, c, out, at)
        out[at] = 0
        at += 1
        copy_bytes(loss_function, 0, out, at, loss_function.size)
        at += loss_function.size
    return at, kept_in_all


@compiled
def _is_kept(value: float, threshold: float, is_intercept: bool) -> bool:
    return is_intercept or threshold == 0.0 or not abs(value) <= threshold  # a NaN is kept


@compiled
def _put_item(
    keys: Bytes, keys_ptr: Int64Array, feature: int, values: Bytes, number: int, out: Bytes, at: int
) -> int:
    length: int = keys_ptr[feature + 1] - keys_ptr[feature]
    copy_bytes(keys, keys_ptr[feature], out, at, length)
    copy_bytes(values, 8 * number, out, at + length, 8)
    return at + length + 8


@compiled
def decode_records(
    data: Bytes,
    records: int,
    fill: bool,
    ids: Int64Array,
    classes: Int64Array,
    mean_ptr: Int64Array,
    mean_keys: Int64Array,
    means: Bytes,
    variance_ptr: Int64Array,
    variance_keys: Int64Array,
    variances: Bytes,
) -> tuple[int, int, int]:
    """Find ids, classes (bounds, two numbers each), keys and values in a block of records.

    Returns:
        The record that is damaged, -1 for none and `records` when bytes are left over; numbers of means and variances.
        Without `fill` only these are found, and no array is written to.
    """
    at = 0
    mean_count = 0
    variance_count = 0
    for r in range(records):
        start, at = _get_string(data, at)
        class_start, class_end = _skip_optional_string(data, at)
        if at < 0 or class_end < 0:
            return r, 0, 0
        if fill:
            ids[2 * r], ids[2 * r + 1] = start, at
            classes[2 * r], classes[2 * r + 1] = class_start, class_end
        at, mean_count = _get_items(data, class_end, fill, mean_keys, means, mean_count)
        branch, at = _get_long(data, at)
        if at < 0 or branch not in (0, 1):
            return r, 0, 0
        if branch == 1:
            at, variance_count = _get_items(data, at, fill, variance_keys, variances, variance_count)
        _, at = _skip_optional_string(data, at)
        if at < 0:
            return r, 0, 0
        if fill:
            mean_ptr[r + 1] = mean_count
            variance_ptr[r + 1] = variance_count
    return (-1 if at == data.size else records), mean_count, variance_count


@compiled
def _get_items(
    data: Bytes, at: int, fill: bool, keys: Int64Array, values: Bytes, found: int
) -> tuple[int, int]:
    """Read an array of name, term and value, in any number of pieces; return where it ends (-1: damaged)."""
    while True:
        count, at = _get_long(data, at)
        if at < 0 or count == 0:
            return at, found
        if count < 0:
            _, at = _get_long(data, at)
            count = -count
        for _ in range(count):
            start = at
            _, at = _get_string(data, at)
            _, at = _get_string(data, at)
            if at < 0 or at + 8 > data.size:
                return -1, found
            if fill:
                keys[2 * found] = start
                keys[2 * found + 1] = at
                copy_bytes(data, at, values, 8 * found, 8)
            at += 8
            found += 1
