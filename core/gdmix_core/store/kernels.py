"""Compiled kernels of the coefficient store: keys, records and RESP frames of many entities at once.

Everything works on byte buffers, so that one specialisation serves float64 and float32, with and without
variances. The layout of a record is `docs/specs/record.md`, of a key `docs/specs/store.md`.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.errors import InternalError
from gdmix_core.store.byte_kernels import (
    copy_bytes,
    crc32,
    entity_digest,
    escaped_length,
    little_endian,
    put_escaped,
    put_header,
    put_little_endian,
)

Bytes: TypeAlias = npt.NDArray[np.uint8]
Int64Array: TypeAlias = npt.NDArray[np.int64]

if sys.byteorder != "little":  # records are copied from memory as they are
    raise InternalError("GDMix stores little-endian records and needs a little-endian processor")

HEADER_BYTES = 24
MAX_ENTITY_BYTES = 256
FORMAT_VERSION = 1
FLAG_VARIANCES = 1
DTYPE_FLOAT64 = 1
DTYPE_FLOAT32 = 2

KEYS_PER_COMMAND = 128
"""Keys in one MSET: few replies to read, and never a long stop for other clients of the server."""

OK = 0
SHORT = 1
BAD_MAGIC = 2
BAD_FORMAT = 3
BAD_LENGTH = 4
BAD_CHECKSUM = 5
BAD_SCHEMA = 6
BAD_INDICES = 7
ID_EMPTY = 8
ID_TOO_LONG = 9
MIXED = 10

_MAGIC = np.frombuffer(b"GDMX", np.uint8)
_MSET = np.frombuffer(b"$4\r\nMSET\r\n", np.uint8)


@compiled
def values_start(count: int) -> int:
    """Offset of the coefficients in a record: behind the indices, on a multiple of 8."""
    return (HEADER_BYTES + 4 * count + 7) // 8 * 8


@compiled
def encode(
    ids_bytes: Bytes,
    ids_ptr: Int64Array,
    coefficient_ptr: Int64Array,
    indices: Bytes,
    values: Bytes,
    variances: Bytes,
    has_variances: bool,
    value_bytes: int,
    dtype: int,
    schema: int,
    prefix: Bytes,
    resp: bool,
    begin: int,
    end: int,
    out: Bytes,
    ptr: Int64Array,
) -> tuple[int, int, int, int]:
    """Write key and record of entities begin:end into `out`, as RESP commands or one behind the other.

    Args:
        ids_bytes: entity ids, one behind the other, unescaped.
        ids_ptr: int64[E+1], bounds of the ids.
        coefficient_ptr: int64[E+1], bounds of the entities' coefficients.
        indices: int32[C] seen as bytes, strictly increasing inside an entity.
        values: coefficients[C] seen as bytes, `value_bytes` each.
        variances: the same for variances; empty if the records carry none.
        has_variances: whether they do.
        value_bytes: 8 or 4.
        dtype: code of the element type, for the header.
        schema: schema fingerprint, 64 bits in two's complement.
        prefix: what every key begins with.
        resp: frame them as MSET commands of `KEYS_PER_COMMAND` keys; `ptr` is not used.
        begin: first entity.
        end: one past the last entity.
        out: large enough by `BatchEncoder`'s bound.
        ptr: int64[2(end-begin)+1]: key i lies at ptr[2i]:ptr[2i+1], its record at ptr[2i+1]:ptr[2i+2].

    Returns:
        bytes written, sum of the entities' digests as int64, fault (`OK` if none) and its entity.
    """
    at = 0
    total = np.uint64(0)
    for e in range(begin, end):
        id_start = ids_ptr[e]
        id_end = ids_ptr[e + 1]
        if id_end == id_start:
            return at, 0, ID_EMPTY, e
        escaped = escaped_length(ids_bytes, id_start, id_end)
        if escaped > MAX_ENTITY_BYTES:
            return at, 0, ID_TOO_LONG, e
        first = coefficient_ptr[e]
        count = coefficient_ptr[e + 1] - first
        values_at = values_start(count)
        length = values_at + count * value_bytes * (2 if has_variances else 1)
        if resp:
            if (e - begin) % KEYS_PER_COMMAND == 0:
                at = put_header(out, at, 0x2A, 1 + 2 * min(KEYS_PER_COMMAND, end - e))
                copy_bytes(_MSET, 0, out, at, _MSET.size)
                at += _MSET.size
            at = put_header(out, at, 0x24, prefix.size + escaped)
        else:
            ptr[2 * (e - begin)] = at
        copy_bytes(prefix, 0, out, at, prefix.size)
        key_at = at + prefix.size
        at = put_escaped(ids_bytes, id_start, id_end, out, key_at)
        key_crc = crc32(0, out, key_at, at)
        if resp:
            out[at] = 0x0D
            out[at + 1] = 0x0A
            at = put_header(out, at + 2, 0x24, length)
        else:
            ptr[2 * (e - begin) + 1] = at

        copy_bytes(_MAGIC, 0, out, at, 4)
        out[at + 4] = FORMAT_VERSION
        out[at + 5] = dtype
        out[at + 6] = FLAG_VARIANCES if has_variances else 0
        out[at + 7] = 0
        put_little_endian(out, at + 8, count, 4)
        put_little_endian(out, at + 16, schema, 8)
        copy_bytes(indices, 4 * first, out, at + HEADER_BYTES, 4 * count)
        for i in range(HEADER_BYTES + 4 * count, values_at):
            out[at + i] = 0
        copy_bytes(values, value_bytes * first, out, at + values_at, value_bytes * count)
        if has_variances:
            copy_bytes(
                variances, value_bytes * first, out, at + values_at + value_bytes * count, value_bytes * count
            )
        crc = crc32(crc32(0, out, at, at + 12), out, at + 16, at + length)
        put_little_endian(out, at + 12, crc, 4)
        if not _increasing(out, at + HEADER_BYTES, count):
            return at, 0, BAD_INDICES, e
        total += np.uint64(entity_digest(key_crc, crc))
        at += length
        if resp:
            out[at] = 0x0D
            out[at + 1] = 0x0A
            at += 2
        else:
            ptr[2 * (e - begin) + 2] = at
    return at, np.int64(total), OK, -1  # type: ignore[return-value]


@compiled
def _increasing(data: Bytes, at: int, count: int) -> bool:
    """Tell whether `count` int32 at `at` are non-negative and strictly increasing."""
    before = np.int64(-1)
    for i in range(count):
        index = np.int64(little_endian(data, at + 4 * i, 4))
        if index <= before or index > 0x7FFFFFFF:
            return False
        before = index
    return True


@compiled
def check_record(data: Bytes, start: int, end: int, schema: int, any_schema: bool) -> int:
    """Return the fault of the record data[start:end], `OK` when it is sound."""
    if end - start < HEADER_BYTES:
        return SHORT
    for i in range(4):
        if data[start + i] != _MAGIC[i]:
            return BAD_MAGIC
    dtype = data[start + 5]
    flags = data[start + 6]
    if (
        data[start + 4] != FORMAT_VERSION
        or dtype not in (DTYPE_FLOAT64, DTYPE_FLOAT32)
        or flags > FLAG_VARIANCES
        or data[start + 7] != 0
    ):
        return BAD_FORMAT
    count: int = np.int64(little_endian(data, start + 8, 4))  # type: ignore[assignment]
    value_bytes = 8 if dtype == DTYPE_FLOAT64 else 4
    if end - start != values_start(count) + count * value_bytes * (1 + flags):
        return BAD_LENGTH
    crc = crc32(crc32(0, data, start, start + 12), data, start + 16, end)
    if np.uint64(crc) != np.uint64(little_endian(data, start + 12, 4)):
        return BAD_CHECKSUM
    if not any_schema and np.uint64(little_endian(data, start + 16, 8)) != np.uint64(schema):
        return BAD_SCHEMA
    if not _increasing(data, start + HEADER_BYTES, count):
        return BAD_INDICES
    return OK


@compiled
def verify(data: Bytes, ptr: Int64Array, prefix_bytes: int, schema: int) -> tuple[int, int, int]:
    """Check pairs of key and record laid out as `encode` does without RESP.

    Returns:
        sum of the entities' digests as int64, fault of the first bad record (`OK` if none) and its number.
    """
    total = np.uint64(0)
    for e in range((ptr.size - 1) // 2):
        start = ptr[2 * e + 1]
        fault = check_record(data, start, ptr[2 * e + 2], schema, False)
        if fault != OK:
            return 0, fault, e
        key_crc = crc32(0, data, ptr[2 * e] + prefix_bytes, start)
        total += np.uint64(entity_digest(key_crc, little_endian(data, start + 12, 4)))
    return np.int64(total), OK, -1  # type: ignore[return-value]


@compiled
def measure(
    data: Bytes, ptr: Int64Array, schema: int, any_schema: bool, coefficient_ptr: Int64Array
) -> tuple[int, int, int, int]:
    """Check records data[ptr[e]:ptr[e+1]] and lay out where their coefficients go; empty means "not stored".

    Returns:
        fault of the first bad record (`OK` if none), its number, 1 when every record carries variances, and
        the element type that all have in common (0 if there is none).
    """
    coefficient_ptr[0] = 0
    flags = FLAG_VARIANCES
    dtype = 0
    for e in range(ptr.size - 1):
        start = ptr[e]
        count = np.int64(0)
        if ptr[e + 1] > start:
            fault = check_record(data, start, ptr[e + 1], schema, any_schema)
            if fault != OK:
                return fault, e, 0, 0
            own: int = np.int64(data[start + 5])  # type: ignore[assignment]
            if dtype not in (np.int64(0), own):
                return MIXED, e, 0, 0
            dtype = own
            count = np.int64(little_endian(data, start + 8, 4))
            flags &= data[start + 6]
        coefficient_ptr[e + 1] = coefficient_ptr[e] + count
    return OK, -1, flags, dtype


@compiled
def unpack(
    data: Bytes,
    ptr: Int64Array,
    coefficient_ptr: Int64Array,
    value_bytes: int,
    indices: Bytes,
    coefficients: Bytes,
    variances: Bytes,
) -> None:
    """Copy indices, coefficients and, unless `variances` is empty, variances out of measured records."""
    for e in range(ptr.size - 1):
        start = ptr[e]
        if ptr[e + 1] == start:
            continue
        first = coefficient_ptr[e]
        count = coefficient_ptr[e + 1] - first
        copy_bytes(data, start + HEADER_BYTES, indices, 4 * first, 4 * count)
        length = value_bytes * count
        at = start + values_start(count)
        copy_bytes(data, at, coefficients, value_bytes * first, length)
        if variances.size:
            copy_bytes(data, at + length, variances, value_bytes * first, length)


def _warm_up() -> None:
    ids, ids_ptr, bounds = np.frombuffer(b"ab", np.uint8).copy(), np.array([0, 1, 2]), np.array([0, 1, 3])
    indices, values = np.array([0, 0, 1], np.int32), np.ones(3)
    out, ptr = np.empty(1024, np.uint8), np.zeros(5, np.int64)
    prefix, none = np.zeros(2, np.uint8), np.empty(0, np.uint8)
    encode(
        ids, ids_ptr, bounds, indices.view(np.uint8), values.view(np.uint8), none, False,
        8, DTYPE_FLOAT64, 0, prefix, False, 0, 2, out, ptr,
    )  # fmt: skip
    verify(out, ptr, 2, 0)
    record_ptr = ptr[1:3].copy()
    measure(out, record_ptr, 0, False, np.empty(2, np.int64))
    unpack(out, record_ptr, np.array([0, 1]), 8, np.empty(4, np.uint8), np.empty(8, np.uint8), none)


register_warm_up("coefficient store", _warm_up)
