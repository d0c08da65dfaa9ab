"""Arrays as they cross the wire: raw little-endian bytes in C order, cut into chunks, beside dtype and shape.

Pure bytes, no gRPC: the coordinator and its workers wrap the chunks into messages of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import UsageError

CHUNK_BYTES: Final = 512 << 10
"""Size of a chunk; streams of 256 KiB to 1 MiB are several times faster than one large message."""
MAX_CHUNK_BYTES: Final = 4 << 20
"""Largest chunk that is taken."""
MAX_ARRAY_BYTES: Final = 2 << 30
"""Largest array that is taken, unless a smaller bound is given."""
MAX_DIMENSIONS: Final = 4
WIRE_DTYPES: Final = ("<f8", "<f4", "<i8", "<i4", "|u1")
"""The only element types; nothing that could hold an object crosses a trust boundary."""


def wire_dtype(array: npt.NDArray[Any]) -> str:
    """Return the dtype string under which an array crosses the wire.

    Raises:
        UsageError: its elements are of another kind.
    """
    name = array.dtype.newbyteorder("<").str
    if name not in WIRE_DTYPES:
        raise UsageError(f"an array of {array.dtype} cannot be sent; allowed are {', '.join(WIRE_DTYPES)}")
    return name


def iter_chunks(array: npt.NDArray[Any], size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield an array's bytes, at most `size` at a time; an empty array yields one empty chunk.

    Raises:
        UsageError: its elements are of a kind that cannot be sent.
    """
    little = np.ascontiguousarray(array, dtype=wire_dtype(array))
    if little.size == 0:
        yield b""
        return
    data = little.reshape(-1).data.cast("B")
    for start in range(0, len(data), size):
        yield bytes(data[start : start + size])


class ArrayAssembler:
    """Puts an array together from its chunks; what a sender claims is checked before any memory is taken."""

    def __init__(self, dtype: str, shape: Sequence[int], *, max_bytes: int = MAX_ARRAY_BYTES) -> None:
        """Prepare for an array of `dtype` and `shape`.

        Raises:
            UsageError: the dtype is not one of `WIRE_DTYPES`, or the shape is negative or too large.
        """
        self.dtype = dtype
        self.shape = tuple(int(extent) for extent in shape)
        self.size = array_bytes(dtype, self.shape, max_bytes=max_bytes)
        self._array = np.empty(self.shape, dtype=np.dtype(dtype))
        self._data = self._array.reshape(-1).data.cast("B") if self.size else memoryview(bytearray())
        self.received = 0

    def append(self, data: bytes | memoryview) -> None:
        """Take the next chunk.

        Raises:
            UsageError: it is too large, or more than the array has room for.
        """
        end = self.received + len(data)
        if len(data) > MAX_CHUNK_BYTES:
            raise UsageError(f"a chunk of {len(data)} bytes; allowed are at most {MAX_CHUNK_BYTES}")
        if end > self.size:
            raise UsageError(
                f"an array of dtype {self.dtype} and shape {list(self.shape)} has {self.size} bytes; "
                f"at least {end} were sent"
            )
        self._data[self.received : end] = data
        self.received = end

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.received == self.size

    def finish(self) -> npt.NDArray[Any]:
        """Return the array.

        Raises:
            UsageError: bytes are missing.
        """
        if not self.complete:
            raise UsageError(
                f"an array of dtype {self.dtype} and shape {list(self.shape)} has {self.size} bytes; "
                f"only {self.received} were sent"
            )
        return self._array


def array_bytes(dtype: str, shape: Sequence[int], *, max_bytes: int = MAX_ARRAY_BYTES) -> int:
    """Return the size of an array that a sender announces.

    Raises:
        UsageError: the dtype is not one of `WIRE_DTYPES`, or the shape is negative or too large.
    """
    if dtype not in WIRE_DTYPES:
        raise UsageError(f"an array of dtype {dtype!r}; allowed are {', '.join(WIRE_DTYPES)}")
    if len(shape) > MAX_DIMENSIONS or any(extent < 0 for extent in shape):
        raise UsageError(
            f"an array of shape {list(shape)}; allowed are up to {MAX_DIMENSIONS} extents, none negative"
        )
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > max_bytes:
        raise UsageError(f"an array of shape {list(shape)} has {size} bytes; allowed are at most {max_bytes}")
    return size
