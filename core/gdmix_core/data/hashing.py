"""xxh64 with seed 0: which home shard a row, and which partition an entity belongs to.

Every engine uses these functions, so that rows meet wherever they are read. Source: xxHash specification,
version 0.1.1 (XXH64), https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.errors import InternalError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]

_PRIME_1: Final = np.uint64(11400714785074694791)
_PRIME_2: Final = np.uint64(14029467366897019727)
_PRIME_3: Final = np.uint64(1609587929392839161)
_PRIME_4: Final = np.uint64(9650029242287828579)
_PRIME_5: Final = np.uint64(2870177450012600261)
_LARGEST_COUNT: Final = 2**31 - 1


def hash_integers(values: Int64Array) -> UInt64Array:
    """Return xxh64 of each int64 as its 8 little-endian bytes."""
    out = np.empty(len(values), np.uint64)
    _hash_integers(np.ascontiguousarray(values, np.int64), out)
    return out


def hash_byte_strings(data: UInt8Array, ptr: Int64Array) -> UInt64Array:
    """Return xxh64 of each byte string data[ptr[i]:ptr[i+1]]."""
    out = np.empty(len(ptr) - 1, np.uint64)
    _hash_byte_strings(np.ascontiguousarray(data), np.ascontiguousarray(ptr), out)
    return out


def home_shards(uids: Int64Array, shards: int) -> Int32Array:
    """Return the home shard, 0 ≤ shard < shards, of each row's uid."""
    return _modulo(hash_integers(uids), shards)


def entity_partitions(data: UInt8Array, ptr: Int64Array, partitions: int) -> Int32Array:
    """Return the partition, 0 ≤ partition < partitions, of each entity id data[ptr[i]:ptr[i+1]]."""
    return _modulo(hash_byte_strings(data, ptr), partitions)


def _modulo(hashes: UInt64Array, count: int) -> Int32Array:
    if not 0 < count <= _LARGEST_COUNT:
        raise InternalError(f"the number of shards or partitions is {count}; allowed: 1 to {_LARGEST_COUNT}")
    return (hashes % np.uint64(count)).astype(np.int32)


@compiled
def _rotate(x: np.uint64, bits: int) -> np.uint64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@compiled
def _round(accumulator: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(accumulator + lane * _PRIME_2, 31) * _PRIME_1


@compiled
def _merge(h: np.uint64, accumulator: np.uint64) -> np.uint64:
    return (h ^ _round(np.uint64(0), accumulator)) * _PRIME_1 + _PRIME_4


@compiled
def _avalanche(h: np.uint64) -> np.uint64:
    h = (h ^ (h >> np.uint64(33))) * _PRIME_2
    h = (h ^ (h >> np.uint64(29))) * _PRIME_3
    return h ^ (h >> np.uint64(32))


@compiled
def _hash_integers(values: Int64Array, out: UInt64Array) -> None:
    start = _PRIME_5 + np.uint64(8)
    for i in range(values.size):
        lane = np.uint64(values[i])
        h = start ^ _round(np.uint64(0), lane)
        out[i] = _avalanche(_rotate(h, 27) * _PRIME_1 + _PRIME_4)


@compiled
def _little_endian(data: UInt8Array, start: int, length: int) -> np.uint64:
    word = np.uint64(0)
    for k in range(length):
        word |= np.uint64(data[start + k]) << np.uint64(8 * k)
    return word


@compiled
def hash_bytes(data: UInt8Array, start: int, end: int) -> np.uint64:
    """Return xxh64 of data[start:end]; for kernels."""
    position = start
    length = end - start
    if length >= 32:
        a = _PRIME_1 + _PRIME_2
        b = _PRIME_2
        c = np.uint64(0)
        d = np.uint64(0) - _PRIME_1
        while position + 32 <= end:
            a = _round(a, _little_endian(data, position, 8))
            b = _round(b, _little_endian(data, position + 8, 8))
            c = _round(c, _little_endian(data, position + 16, 8))
            d = _round(d, _little_endian(data, position + 24, 8))
            position += 32
        h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        h = _merge(_merge(_merge(_merge(h, a), b), c), d)
    else:
        h = _PRIME_5
    h += np.uint64(length)
    while position + 8 <= end:
        h ^= _round(np.uint64(0), _little_endian(data, position, 8))
        h = _rotate(h, 27) * _PRIME_1 + _PRIME_4
        position += 8
    if position + 4 <= end:
        h ^= _little_endian(data, position, 4) * _PRIME_1
        h = _rotate(h, 23) * _PRIME_2 + _PRIME_3
        position += 4
    while position < end:
        h ^= np.uint64(data[position]) * _PRIME_5
        h = _rotate(h, 11) * _PRIME_1
        position += 1
    return _avalanche(h)


@compiled
def _hash_byte_strings(data: UInt8Array, ptr: Int64Array, out: UInt64Array) -> None:
    for i in range(ptr.size - 1):
        out[i] = hash_bytes(data, ptr[i], ptr[i + 1])


def _warm_up() -> None:
    home_shards(np.zeros(1, np.int64), 2)
    entity_partitions(np.zeros(40, np.uint8), np.array([0, 40], np.int64), 2)


register_warm_up("hashing", _warm_up)
