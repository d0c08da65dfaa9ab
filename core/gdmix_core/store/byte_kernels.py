"""Compiled steps on byte buffers: checksums, escaping, little-endian numbers, RESP headers."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled

Bytes: TypeAlias = npt.NDArray[np.uint8]

_HEX = np.frombuffer(b"0123456789ABCDEF", np.uint8)


def _crc_tables() -> tuple[tuple[int, ...], ...]:
    """Tables of CRC-32 (reflected polynomial 0xEDB88320, the one of zlib), eight bytes at a step."""
    tables = [[0] * 256 for _ in range(8)]
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
        tables[0][byte] = remainder
    for step in range(1, 8):
        for byte in range(256):
            before = tables[step - 1][byte]
            tables[step][byte] = (before >> 8) ^ tables[0][before & 0xFF]
    return tuple(tuple(table) for table in tables)


_CRC = np.array(_crc_tables(), np.uint32)


@compiled
def crc32(crc: int, data: Bytes, start: int, end: int) -> int:
    """Continue zlib's crc32 over data[start:end]; slicing by eight (Intel, Kounavis & Berry 2005)."""
    state = np.uint32(crc) ^ np.uint32(0xFFFFFFFF)
    i = start
    while i + 8 <= end:
        low = state ^ (
            np.uint32(data[i])
            | (np.uint32(data[i + 1]) << np.uint32(8))
            | (np.uint32(data[i + 2]) << np.uint32(16))
            | (np.uint32(data[i + 3]) << np.uint32(24))
        )
        state = (
            _CRC[7, low & np.uint32(0xFF)]
            ^ _CRC[6, (low >> np.uint32(8)) & np.uint32(0xFF)]
            ^ _CRC[5, (low >> np.uint32(16)) & np.uint32(0xFF)]
            ^ _CRC[4, low >> np.uint32(24)]
            ^ _CRC[3, data[i + 4]]
            ^ _CRC[2, data[i + 5]]
            ^ _CRC[1, data[i + 6]]
            ^ _CRC[0, data[i + 7]]
        )
        i += 8
    while i < end:
        state = (state >> np.uint32(8)) ^ _CRC[0, (state ^ np.uint32(data[i])) & np.uint32(0xFF)]
        i += 1
    return state ^ np.uint32(0xFFFFFFFF)  # type: ignore[return-value]


@compiled
def entity_digest(key_crc: int, record_crc: int) -> int:
    """Mix both checksums into 64 bits (finaliser of splitmix64), so that swapped records change the sum."""
    z = (np.uint64(key_crc) << np.uint64(32)) | np.uint64(record_crc)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))  # type: ignore[return-value]


@compiled
def _is_escaped(byte: int) -> bool:
    """Tell whether a byte of an entity id is %-escaped: control bytes and `% : { }`."""
    return byte < 0x20 or byte in (0x25, 0x3A, 0x7B, 0x7D, 0x7F)


@compiled
def escaped_length(data: Bytes, start: int, end: int) -> int:
    """Return the length of data[start:end] after escaping."""
    length = end - start
    for i in range(start, end):
        if _is_escaped(data[i]):
            length += 2
    return length


@compiled
def put_escaped(data: Bytes, start: int, end: int, out: Bytes, at: int) -> int:
    """Write data[start:end] to `out` at `at`, escaped, and return where it ends."""
    for i in range(start, end):
        byte = data[i]
        if _is_escaped(byte):
            out[at] = 0x25
            out[at + 1] = _HEX[byte >> 4]
            out[at + 2] = _HEX[byte & 15]
            at += 3
        else:
            out[at] = byte
            at += 1
    return at


@compiled
def put_header(out: Bytes, at: int, kind: int, number: int) -> int:
    """Write a RESP header, say `$123` and the end of the line."""
    out[at] = kind
    at += 1
    digits = 1
    bound = 10
    while number >= bound:
        bound *= 10
        digits += 1
    for i in range(digits):
        out[at + digits - 1 - i] = 0x30 + number % 10
        number //= 10
    at += digits
    out[at] = 0x0D
    out[at + 1] = 0x0A
    return at + 2


@compiled
def put_little_endian(out: Bytes, at: int, value: int, width: int) -> None:
    """Write the low `width` bytes of a number."""
    rest = np.uint64(value)
    for i in range(width):
        out[at + i] = np.uint8(rest & np.uint64(0xFF))
        rest >>= np.uint64(8)


@compiled
def little_endian(data: Bytes, at: int, width: int) -> int:
    """Read an unsigned number of `width` bytes."""
    value = np.uint64(0)
    for i in range(width):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value  # type: ignore[return-value]


@compiled
def copy_bytes(source: Bytes, start: int, out: Bytes, at: int, length: int) -> None:
    """Copy `length` bytes; the compiler makes a memory copy of the loop."""
    for i in range(length):
        out[at + i] = source[start + i]
