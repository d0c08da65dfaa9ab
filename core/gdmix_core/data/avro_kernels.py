"""The compiled kernels behind `avro_decoder`: one runs an Avro program over rows, one gathers strings.

A word that stands for a string is its place in the data, shifted by 32 bits, and its length.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.data.avro_operations import (
    BAD_BOOLEAN,
    BAD_BRANCH,
    BAD_LENGTH,
    BAD_SYMBOL,
    BOOLEAN,
    BRANCH,
    BYTES,
    CALL,
    DONE,
    DOUBLE,
    END,
    ENUM,
    FLOAT,
    ITEM,
    KEY,
    LEFT_OVER,
    LONG_AS_FLOAT,
    LOOP,
    MISMATCHED,
    NULL,
    OVERFLOW,
    PUT,
    RETURN,
    SKIP,
    SKIP_BYTES,
    SKIP_ITEM,
    SKIP_LONG,
    TOO_DEEP,
    TRUNCATED,
)

Integer: TypeAlias = int | np.int64
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]


@compiled
def _long(data: UInt8Array, start: Integer, end: Integer) -> tuple[np.int64, np.int64]:
    """Read a zigzag varint: its value, and the position behind it; -1 when it is cut off, -2 when too long."""
    if start < end and data[start] < 128:
        low = np.int64(data[start])
        return (low >> 1) ^ -(low & 1), np.int64(start + 1)
    value = np.uint64(0)
    shift = np.uint64(0)
    for position in range(start, min(end, start + 10)):
        byte = np.uint64(data[position])
        if shift == np.uint64(63) and byte > np.uint64(1):
            return np.int64(0), np.int64(-2)
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            number = np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))
            return number, np.int64(position + 1)
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@compiled
def _little_endian(data: UInt8Array, start: Integer, width: int) -> np.int64:
    word = np.uint64(0)
    for k in range(width):
        word |= np.uint64(data[start + k]) << np.uint64(8 * k)
    return np.int64(word)


@compiled
def _same(data: UInt8Array, a: Integer, b: Integer, length: Integer) -> bool:
    k = 0
    while k < length and data[a + k] == data[b + k]:
        k += 1
    return k == length


@compiled
def copy_strings(data: UInt8Array, words: Int64Array, out: UInt8Array) -> None:
    """Copy the strings that words stand for to `out`, one after another."""
    target = 0
    for i in range(words.size):
        source = words[i] >> 32
        length = words[i] & 0xFFFFFFFF
        for k in range(length):
            out[target + k] = data[source + k]
        target += length


@compiled
def decode_rows(
    code: Int64Array,
    table: Int64Array,
    entry: int,
    data: UInt8Array,
    ends: Int64Array,
    row_ends: Int64Array,
    bounds: Int64Array,
    state: Int64Array,
    frames: Int64Array,
    capacities: Int64Array,
    starts: Int64Array,
    counts: Int64Array,
    words: Int64Array,
    null: UInt8Array,
) -> int:
    """Decode rows from `state` = [row, position, block, ...] until `bounds` = [row, position].

    Returns 0, or what is wrong; `state` then says where, with the slot and a detail.
    """
    row = state[0]
    at = state[1]
    block = state[2]
    first = row
    while row < bounds[0] and (at < bounds[1] or row == first):
        while row == row_ends[block]:
            block += 1
        state[0] = row
        state[2] = block
        end = ends[block]
        top = 0
        pc = entry
        while True:
            operation = code[pc, 0]
            a = code[pc, 1]
            b = code[pc, 2]
            pc = code[pc, 3]
            if operation <= PUT:
                word = np.int64(0)
                if operation <= LONG_AS_FLOAT:
                    word, at = _long(data, at, end)
                    if at < 0:
                        return TRUNCATED if at == -1 else OVERFLOW
                    if operation == LONG_AS_FLOAT:
                        word = np.float64(word).view(np.int64)
                elif operation == BYTES:
                    length, at = _long(data, at, end)
                    if at < 0:
                        return TRUNCATED if at == -1 else OVERFLOW
                    if length < 0 or length > end - at:
                        return BAD_LENGTH
                    word = at << 32 | length
                    at += length
                elif operation == DOUBLE:
                    if end - at < 8:
                        return TRUNCATED
                    word = _little_endian(data, at, 8)
                    at += 8
                elif operation == FLOAT:
                    if end - at < 4:
                        return TRUNCATED
                    word = np.float64(np.int32(_little_endian(data, at, 4)).view(np.float32)).view(np.int64)
                    at += 4
                elif operation == BOOLEAN:
                    if at >= end:
                        return TRUNCATED
                    word = np.int64(data[at])
                    if word > 1:
                        state[4] = word
                        return BAD_BOOLEAN
                    at += 1
                elif operation == ENUM:
                    symbol, at = _long(data, at, end)
                    if at < 0:
                        return TRUNCATED if at == -1 else OVERFLOW
                    if symbol < 0 or symbol >= table[b]:
                        state[4] = symbol
                        return BAD_SYMBOL
                    word = table[b + 1 + symbol]
                else:
                    word = b
                count = counts[0, a]
                if count < capacities[a]:
                    words[starts[a] + count] = word
                counts[0, a] = count + 1
            elif ITEM <= operation <= SKIP_ITEM:
                remaining = frames[top - 1, 0]
                while remaining == 0:
                    count, at = _long(data, at, end)
                    if at < 0:
                        return TRUNCATED if at == -1 else OVERFLOW
                    if count == 0:
                        break
                    if count < 0:
                        count = -count
                        size, at = _long(data, at, end)
                        if at < 0:
                            return TRUNCATED if at == -1 else OVERFLOW
                        if size < 0 or size > end - at:
                            return BAD_LENGTH
                        if operation == SKIP_ITEM:
                            at += size
                            continue
                    if operation == SKIP_ITEM and b == 1:
                        continue
                    if count < 0 or count > end - at:
                        return BAD_LENGTH
                    remaining = count
                    frames[top - 1, 1] += count
                if remaining > 0:
                    frames[top - 1, 0] = remaining - 1
                else:
                    top -= 1
                    pc = a
                    if operation == ITEM and b >= 0:
                        count = counts[0, b]
                        if count < capacities[b]:
                            words[starts[b] + count] = frames[top, 1]
                        counts[0, b] = count + 1
            elif operation == BRANCH:
                branch, at = _long(data, at, end)
                if at < 0:
                    return TRUNCATED if at == -1 else OVERFLOW
                if branch < 0 or branch >= b:
                    state[4] = branch
                    return BAD_BRANCH
                pc = table[a + branch]
            elif operation == NULL:
                count = counts[0, a]
                if count < capacities[a]:
                    words[starts[a] + count] = 0
                    null[starts[a] + count] = 1
                counts[0, a] = count + 1
                counts[1, a] += 1
            elif operation == SKIP:
                if a > end - at:
                    return TRUNCATED
                at += a
            elif operation == SKIP_LONG:
                _, at = _long(data, at, end)
                if at < 0:
                    return TRUNCATED if at == -1 else OVERFLOW
            elif operation == SKIP_BYTES:
                length, at = _long(data, at, end)
                if at < 0:
                    return TRUNCATED if at == -1 else OVERFLOW
                if length < 0 or length > end - at:
                    return BAD_LENGTH
                at += length
            elif LOOP <= operation <= CALL:
                if top == frames.shape[0]:
                    return TOO_DEEP
                frames[top, 0] = 0
                frames[top, 1] = 0
                if operation == CALL:
                    frames[top, 0] = pc
                    pc = a
                top += 1
            elif operation == RETURN:
                top -= 1
                pc = frames[top, 0]
            elif operation == KEY:
                length, at = _long(data, at, end)
                if at < 0:
                    return TRUNCATED if at == -1 else OVERFLOW
                if length < 0 or length > end - at:
                    return BAD_LENGTH
                for entry_at in range(a, a + 3 * b, 3):
                    key = table[entry_at]
                    if key & 0xFFFFFFFF == length and _same(data, key >> 32, at, length):
                        # The null that stands there, or the value of the same key before, is taken back.
                        slot = table[entry_at + 1]
                        count = counts[0, slot] - 1
                        counts[0, slot] = count
                        if count < capacities[slot] and null[starts[slot] + count]:
                            null[starts[slot] + count] = 0
                            counts[1, slot] -= 1
                        pc = table[entry_at + 2]
                        break
                at += length
            elif operation == END:
                break
            else:
                state[3] = a
                return MISMATCHED
        row += 1
        if row == row_ends[block] and at != end:
            state[0] = row
            state[4] = end - at
            return LEFT_OVER
    state[0] = row
    state[1] = at
    state[2] = block
    return DONE
