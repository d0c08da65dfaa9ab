"""Many byte strings (entity ids) as two arrays: the bytes one after another, and where each begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.errors import InternalError

Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ByteStrings:
    """n byte strings; string i is `data[ptr[i]:ptr[i + 1]]`.

    Attributes:
        data: uint8, the strings concatenated.
        ptr: int64[n + 1], ascending, ptr[0] = 0 and ptr[n] = len(data).
    """

    data: UInt8Array
    ptr: Int64Array

    @classmethod
    def of(cls, strings: Iterable[bytes | str]) -> Self:
        """Make them from Python strings, text as UTF-8; for small numbers of strings."""
        encoded = [string.encode() if isinstance(string, str) else string for string in strings]
        ptr = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(string) for string in encoded], out=ptr[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8).copy(), ptr)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Self:
        """Take them from a segment of an array file: its arrays `<name>_bytes` and `<name>_ptr`."""
        return cls(arrays[f"{name}_bytes"], arrays[f"{name}_ptr"])

    @classmethod
    def concatenate(cls, parts: Sequence[ByteStrings]) -> Self:
        """Return the strings of all parts, in order."""
        starts = np.cumsum([0, *(len(part.data) for part in parts)])
        pointers = [part.ptr[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
        data = np.concatenate([np.empty(0, np.uint8), *(part.data for part in parts)])
        return cls(data, np.concatenate([*pointers, starts[-1:]]).astype(np.int64, copy=False))

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Return the pair of arrays under which an array file keeps them."""
        return {f"{name}_bytes": self.data, f"{name}_ptr": self.ptr}

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.ptr[i] : self.ptr[i + 1]].tobytes()

    def to_list(self) -> list[bytes]:
        """Return Python byte strings; for small numbers of strings."""
        return [self[i] for i in range(len(self))]

    def slice(self, start: int, stop: int) -> ByteStrings:
        """Return strings start ≤ i < stop; the bytes are a view."""
        ptr = self.ptr[start : stop + 1]
        return ByteStrings(self.data[ptr[0] : ptr[-1]], ptr - ptr[0])

    def take(self, order: Int64Array) -> ByteStrings:
        """Return the strings of these numbers, in this order."""
        ptr = np.zeros(len(order) + 1, np.int64)
        np.cumsum((self.ptr[1:] - self.ptr[:-1])[order], out=ptr[1:])
        data = np.empty(ptr[-1], np.uint8)
        _gather(self.data, self.ptr, order, ptr, data)
        return ByteStrings(data, ptr)

    def group(self) -> tuple[ByteStrings, Int64Array]:
        """Return the distinct strings, sorted by their (unsigned) bytes, and each string's place there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if len(self) == 0:
            return self, np.empty(0, np.int64)
        buffers = [None, pa.py_buffer(self.ptr), pa.py_buffer(self.data)]
        encoded = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers).dictionary_encode()
        distinct = encoded.dictionary
        order = pc.sort_indices(distinct).to_numpy().astype(np.int64)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        _, ptr, data = distinct.buffers()
        unsorted = ByteStrings(
            np.frombuffer(data, np.uint8),
            np.frombuffer(ptr, np.int64, len(distinct) + 1, 8 * distinct.offset),
        )
        return unsorted.take(order), rank[encoded.indices.to_numpy()]


def find_sorted(needles: ByteStrings, haystack: ByteStrings) -> Int64Array:
    """Return for each needle its place in the haystack, or -1; both sorted by bytes without repetition.

    One merge of both lists: linear in their lengths.
    """
    places = np.empty(len(needles), np.int64)
    _merge(needles.data, needles.ptr, haystack.data, haystack.ptr, places)
    return places


def check_byte_strings(strings: ByteStrings, rows: int, where: str) -> None:
    """Raise InternalError unless there is one string for each of `rows` and the pointers make sense."""
    ptr = strings.ptr
    if len(ptr) != rows + 1 or ptr[0] != 0 or ptr[-1] != len(strings.data) or np.any(ptr[1:] < ptr[:-1]):
        raise InternalError(f"{where}: the byte strings' pointers do not fit {rows} rows")


@compiled
def _gather(
    data: UInt8Array, ptr: Int64Array, order: Int64Array, out_ptr: Int64Array, out: UInt8Array
) -> None:
    for i in range(order.size):
        source = ptr[order[i]]
        target = out_ptr[i]
        for k in range(out_ptr[i + 1] - target):
            out[target + k] = data[source + k]


@compiled
def _merge(
    data: UInt8Array, ptr: Int64Array, other: UInt8Array, other_ptr: Int64Array, places: Int64Array
) -> None:
    j = 0
    count = other_ptr.size - 1
    for i in range(ptr.size - 1):
        places[i] = -1
        length = ptr[i + 1] - ptr[i]
        while j < count:
            other_length = other_ptr[j + 1] - other_ptr[j]
            order = 0
            for k in range(min(length, other_length)):
                a = data[ptr[i] + k]
                b = other[other_ptr[j] + k]
                if a != b:
                    order = -1 if a < b else 1
                    break
            if order == 0:
                order = length - other_length
            if order < 0:
                break
            j += 1
            if order == 0:
                places[i] = j - 1
                break


def _warm_up() -> None:
    strings = ByteStrings.of([b"a"])
    find_sorted(strings.take(np.zeros(1, np.int64)), strings)


register_warm_up("byte strings", _warm_up)
