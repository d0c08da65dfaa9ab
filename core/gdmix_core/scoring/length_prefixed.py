"""Byte strings as inference protocols pack them: every string behind its length."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input, register_warm_up
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import UsageError

Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

PREFIX_BYTES: Final = 4
"""Of a length: uint32, little-endian."""


def from_length_prefixed(packed: bytes, count: int, where: str) -> ByteStrings:
    """Unpack strings; nothing is allocated before their number is known to be possible.

    Args:
        packed: lengths and strings in turn.
        count: number of strings; the shape of the tensor says it.
        where: what the error messages begin with.

    Raises:
        UsageError: the bytes do not hold so many strings, or more.
    """
    size = len(packed) - PREFIX_BYTES * count
    if size < 0:
        raise UsageError(
            f"{where}: has {len(packed)} bytes; {count} strings need {PREFIX_BYTES * count} for their lengths alone"
        )
    ptr, data = np.zeros(count + 1, np.int64), np.empty(size, np.uint8)
    read = _unpack(kernel_input(np.frombuffer(packed, np.uint8), np.uint8), ptr, data)
    if read < count:
        raise UsageError(f"{where}: string {read} is longer than what is left of the {len(packed)} bytes")
    if ptr[-1] != size:
        raise UsageError(
            f"{where}: has {len(packed)} bytes; its {count} strings and their lengths take "
            f"{PREFIX_BYTES * count + int(ptr[-1])}"
        )
    return ByteStrings(data, ptr)


@compiled
def _unpack(packed: UInt8Array, ptr: Int64Array, data: UInt8Array) -> int:
    """Fill `data` and `ptr`; return how many strings there was room for.

    `data` MUST be as long as `packed` without all lengths: then no string that fits into it, and no length, can
    lie beyond the end of `packed`.
    """
    count = ptr.size - 1
    at = np.int64(0)
    for i in range(count):
        length = (
            np.int64(packed[at])
            | np.int64(packed[at + 1]) << 8
            | np.int64(packed[at + 2]) << 16
            | np.int64(packed[at + 3]) << 24
        )
        begin = ptr[i]
        if length > data.size - begin:
            return i
        at += PREFIX_BYTES
        for k in range(length):
            data[begin + k] = packed[at + k]
        at += length
        ptr[i + 1] = begin + length
    return count


def _warm_up() -> None:
    from_length_prefixed(b"\1\0\0\0a", 1, "warm-up")


register_warm_up("length-prefixed strings", _warm_up)
