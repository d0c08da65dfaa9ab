"""Codes of known strings: tokens of a vocabulary, values of a category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.hashing import hash_byte_strings

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]

ABSENT: Final = 0
"""Code of nothing: padding of a text, a row without a category. Its vector is 0."""
UNKNOWN: Final = 1
"""Code of everything that is not known."""
FIRST: Final = 2
"""Code of the first known string."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Known strings; string i has the code `FIRST + i`.

    Strings are found by their xxh64: two that share it (once in 10¹⁰ vocabularies of 50,000) would share a code.

    Attributes:
        strings: without repetition.
        hashes: uint64[strings], ascending.
        codes: int32[strings], the code of each hash.
    """

    strings: ByteStrings
    hashes: UInt64Array
    codes: Int32Array

    @classmethod
    def of(cls, strings: ByteStrings) -> Lookup:
        """Make the lookup of some distinct strings."""
        hashes = hash_byte_strings(strings.data, strings.ptr)
        order = np.argsort(hashes, kind="stable")
        return cls(strings, hashes[order], (order + FIRST).astype(np.int32))

    def __len__(self) -> int:
        return len(self.strings)

    @property
    def size(self) -> int:
        """Number of codes."""
        return FIRST + len(self.strings)

    def find(self, strings: ByteStrings) -> Int32Array:
        """Return the code of each string, `ABSENT` for an empty one."""
        codes = np.full(len(strings), UNKNOWN, np.int32)
        if len(self):
            hashes = hash_byte_strings(strings.data, strings.ptr)
            place = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
            codes = np.where(self.hashes[place] == hashes, self.codes[place], codes)
        codes[strings.ptr[1:] == strings.ptr[:-1]] = ABSENT
        return codes


class FrequencyCount:
    """Counts in how many rows each string occurs; memory goes with the number of distinct strings."""

    def __init__(self) -> None:
        self._strings = ByteStrings.of([])
        self._counts: Int64Array = np.empty(0, np.int64)

    def add(self, strings: ByteStrings, row: Int64Array) -> None:
        """Count strings; a string that a row repeats counts once.

        Args:
            strings: any number of them.
            row: int64[strings], the row of each, ascending.
        """
        distinct, code = strings.group()
        if not len(distinct):
            return
        pairs = np.unique(row * len(distinct) + code)
        counts = np.bincount(pairs % len(distinct), minlength=len(distinct))
        merged, place = ByteStrings.concatenate([self._strings, distinct]).group()
        totals = np.zeros(len(merged), np.int64)
        np.add.at(totals, place, np.concatenate([self._counts, counts]))
        self._strings, self._counts = merged, totals

    def known(self, min_df: int, size: int | None = None) -> Lookup:
        """Return the strings in at least `min_df` rows, the most frequent first (then by bytes), `size` at most."""
        filled = self._strings.ptr[1:] > self._strings.ptr[:-1]
        kept = np.flatnonzero((self._counts >= min_df) & filled)
        kept = kept[np.argsort(-self._counts[kept], kind="stable")][:size]
        return Lookup.of(self._strings.take(kept))
