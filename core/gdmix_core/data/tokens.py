"""Tokens of a text: its runs of letters, marks and numbers, in lower case.

Arrow's Unicode functions define what a token is. Rows of pure ASCII, where the definition is plain, go
through a compiled kernel instead, some ten times as fast; a test holds the two together.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.data.arrow_strings import byte_strings
from gdmix_core.data.byte_strings import ByteStrings

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]

WORD_BREAK: Final = r"[^\p{L}\p{M}\p{N}]+"

# Byte by byte: 0 ends a token, else the byte to write. No ASCII mark or number but the digits.
_ASCII_WORD: Final = np.zeros(128, np.uint8)
_ASCII_WORD[[*b"abcdefghijklmnopqrstuvwxyz0123456789"]] = [*b"abcdefghijklmnopqrstuvwxyz0123456789"]
_ASCII_WORD[[*b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]] = [*b"abcdefghijklmnopqrstuvwxyz"]


def tokens(texts: ByteStrings) -> tuple[Int64Array, ByteStrings, Int32Array | None]:
    """Return where each text's tokens begin (int64[n + 1]), token strings, and which string each token is.

    The last is None when token k is string k.
    """
    wide = texts.data >= 0x80
    if not wide.any():
        ptr, strings = _ascii_tokens(texts)
        return ptr, strings, None
    before = np.append(0, np.cumsum(wide))
    other = before[texts.ptr[1:]] > before[texts.ptr[:-1]]
    parts = [
        (rows, *cut(texts.take(rows)))
        for rows, cut in (
            (np.flatnonzero(~other), _ascii_tokens),
            (np.flatnonzero(other), _unicode_tokens),
        )
    ]
    ptr = np.zeros(len(texts) + 1, np.int64)
    for rows, part_ptr, _ in parts:
        ptr[rows + 1] = part_ptr[1:] - part_ptr[:-1]
    np.cumsum(ptr, out=ptr)
    codes = np.empty(ptr[-1], np.int32)
    first = 0
    for rows, part_ptr, strings in parts:
        shift = np.repeat(ptr[rows] - part_ptr[:-1], part_ptr[1:] - part_ptr[:-1])
        codes[np.arange(len(strings)) + shift] = np.arange(first, first + len(strings))
        first += len(strings)
    return ptr, ByteStrings.concatenate([strings for _, _, strings in parts]), codes


def _ascii_tokens(texts: ByteStrings) -> tuple[Int64Array, ByteStrings]:
    # A token takes at least one byte and a break after it, so both bounds are safe.
    size = len(texts.data)
    data = np.empty(size, np.uint8)
    ends = np.empty(size // 2 + len(texts) + 1, np.int64)
    ptr = np.zeros(len(texts) + 1, np.int64)
    count, length = _split_ascii(texts.data, texts.ptr, _ASCII_WORD, data, ends, ptr)
    return ptr, ByteStrings(data[:length], np.append(0, ends[:count]))


def _unicode_tokens(texts: ByteStrings) -> tuple[Int64Array, ByteStrings]:
    offsets, data = pa.py_buffer(texts.ptr), pa.py_buffer(texts.data)
    array = pa.LargeStringArray.from_buffers(len(texts), offsets, data)
    split = pc.split_pattern_regex(pc.utf8_lower(array), pattern=WORD_BREAK)
    pieces, rows = pc.list_flatten(split), pc.list_parent_indices(split).to_numpy()
    kept = pc.not_equal(pc.binary_length(pieces), 0)
    strings = pieces.filter(kept).cast(pa.large_string())
    counts = np.bincount(rows[kept.to_numpy(zero_copy_only=False)], minlength=len(texts))
    ptr = np.append(0, np.cumsum(counts)).astype(np.int64)
    return ptr, byte_strings(strings)


@compiled
def _split_ascii(
    data: UInt8Array,
    ptr: Int64Array,
    word: UInt8Array,
    out: UInt8Array,
    ends: Int64Array,
    out_ptr: Int64Array,
) -> tuple[int, int]:
    count = 0
    length = 0
    for i in range(ptr.size - 1):
        begin = length
        for k in range(ptr[i], ptr[i + 1]):
            letter = word[data[k]]
            if letter != 0:
                out[length] = letter
                length += 1
            elif length > begin:
                ends[count] = length
                count += 1
                begin = length
        if length > begin:
            ends[count] = length
            count += 1
        out_ptr[i + 1] = count
    return count, length


def _warm_up() -> None:
    tokens(ByteStrings.of([b"a b"]))


register_warm_up("tokens", _warm_up)
