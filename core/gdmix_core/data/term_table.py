"""A hash table from terms (byte strings) to their numbers, built once and probed by a compiled kernel.

Open addressing with linear probing over xxh64; at most half full. A probe of a batch of terms makes no Python
object, so the table serves encoding at ingestion and a single request alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.hashing import hash_byte_strings

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TermTable:
    """Distinct terms and the table that finds them.

    Attributes:
        terms: The terms; term i has number i.
        slots: int32, a power of two long, the number of the term in each slot or -1.
    """

    terms: ByteStrings
    slots: Int32Array

    @classmethod
    def of(cls, terms: ByteStrings) -> Self:
        """Build the table of distinct terms."""
        size = 1 << max(3, (2 * len(terms)).bit_length())
        slots = np.full(size, -1, np.int32)
        _insert(hash_byte_strings(terms.data, terms.ptr), slots)
        return cls(terms, slots)

    def find(self, wanted: ByteStrings) -> Int32Array:
        """Return int32[n], the number of each wanted string, or -1 where the table does not hold it."""
        found = np.empty(len(wanted), np.int32)
        data, ptr = np.ascontiguousarray(wanted.data), np.ascontiguousarray(wanted.ptr)
        hashes = hash_byte_strings(data, ptr)
        _find(hashes, data, ptr, self.slots, self.terms.data, self.terms.ptr, found)
        return found


@compiled
def _insert(hashes: UInt64Array, slots: Int32Array) -> None:
    mask = np.uint64(slots.size - 1)
    for i in range(hashes.size):
        slot = hashes[i] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = i


@compiled
def _find(
    hashes: UInt64Array,
    data: UInt8Array,
    ptr: Int64Array,
    slots: Int32Array,
    term_data: UInt8Array,
    term_ptr: Int64Array,
    found: Int32Array,
) -> None:
    mask = np.uint64(slots.size - 1)
    for i in range(hashes.size):
        start = ptr[i]
        length = ptr[i + 1] - start
        slot = hashes[i] & mask
        match = -1
        while match < 0 and slots[slot] >= 0:
            term = slots[slot]
            other = term_ptr[term]
            if term_ptr[term + 1] - other == length:
                match = term
                for k in range(length):
                    if data[start + k] != term_data[other + k]:
                        match = -1
                        break
            slot = (slot + np.uint64(1)) & mask
        found[i] = match


def _warm_up() -> None:
    strings = ByteStrings.of([b"a", b"b"])
    TermTable.of(strings).find(strings)


register_warm_up("term table", _warm_up)
