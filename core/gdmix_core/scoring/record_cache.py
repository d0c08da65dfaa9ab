"""Coefficients that a process has read from the store, in a bounded piece of memory.

Keyed by (scope, entity id), where a scope is one coordinate of one version: what it holds never changes, so
there is nothing to invalidate. An entity that the store does not have is kept too. When memory runs short,
what was not asked for lately goes first (`cache_kernels`). Ids and coefficients are bytes in arrays; a look-up
of a request's ids is one compiled call and makes no Python object. Not safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import StoreCorrupt
from gdmix_core.scoring import cache_kernels as kernels
from gdmix_core.store.record import fault_text, signed

Int64Array = npt.NDArray[np.int64]

MIN_BYTES: Final = 1 << 20
"""Of a cache; below it there is no room for segments that hold anything."""
_SEGMENT_WORDS: Final = 1 << 15
_MIN_SEGMENTS: Final = 16
_BYTES_PER_SLOT: Final = 128
_SLOTS_AT_ONCE: Final = 1 << 14
_scopes = count(1)


def new_scope() -> int:
    """Return a number that no coordinate of any version had before in this process."""
    return next(_scopes)


class RecordCache:
    """Memory for the records of entities.

    Attributes:
        words: int64, the memory that places point into.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Set `budget_bytes` (at least `MIN_BYTES`) aside; the kernel gives pages as they are filled."""
        slots = 1 << max(4, (budget_bytes // _BYTES_PER_SLOT).bit_length() - 1)
        words = max(budget_bytes - 8 * slots, 0) // 8
        self._segment_words = max(64, min(_SEGMENT_WORDS, words // _MIN_SEGMENTS))
        self._make(max(3, words // self._segment_words), slots)

    @classmethod
    def for_records(cls, ids: Sequence[bytes], records: Sequence[bytes | None]) -> Self:
        """Return a cache with room for exactly these, say for one request that is larger than the shared one."""
        cache = cls.__new__(cls)
        sizes = (
            kernels.HEAD_WORDS + (len(one) + 7) // 8 + (0 if record is None else len(record) // 4)
            for one, record in zip(ids, records, strict=True)
        )
        cache._segment_words = 64 + sum(sizes)
        cache._make(3, 1 << max(4, (2 * len(ids) + 2).bit_length()))
        return cache

    def _make(self, segments: int, slots: int) -> None:
        self.words = np.zeros(segments * self._segment_words, np.int64)
        self._slots = np.full(slots, -1, np.int64)
        self._state = np.zeros(kernels.STATE_SIZE, np.int64)

    def find(self, scope: int, ids: ByteStrings, places: Int64Array) -> tuple[int, int]:
        """Look ids up.

        Args:
            scope: version and coordinate.
            ids: the ids.
            places: int64[n], written: the entry of each, valid until something is inserted; negative where there
                is none: `NO_ENTITY` for an empty id, `MISS`, or `UNKNOWN` and below where the store has no such
                entity, the same number for the same id.

        Returns:
            Number of misses, and of ids that the store does not have.
        """
        return kernels.find(
            self.words,
            self._slots,
            self._state,
            scope,
            kernel_input(ids.data, np.uint8),
            kernel_input(ids.ptr, np.int64),
            places,
        )

    def insert(self, scope: int, schema: int, ids: Sequence[bytes], records: Sequence[bytes | None]) -> None:
        """Check and keep records as the store gave them; None: it has no such entity.

        Raises:
            StoreCorrupt: a record is damaged or of another schema; the message names its entity. Those before it
                are kept.
        """
        strings = ByteStrings.of(ids)
        stored = ByteStrings.of(b"" if record is None else record for record in records)
        fault, number = kernels.insert(
            self.words,
            self._slots,
            self._state,
            self._segment_words,
            scope,
            signed(schema),
            kernel_input(strings.data, np.uint8),
            kernel_input(strings.ptr, np.int64),
            kernel_input(stored.data, np.uint8),
            kernel_input(stored.ptr, np.int64),
        )
        if fault:
            name = ids[number].decode(errors="replace")
            raise StoreCorrupt(f"the record of entity {name!r} {fault_text(fault)}")

    def ids_of(self, scope: int, batch: int) -> Iterator[list[bytes]]:
        """Yield the ids of a scope that were asked for lately, up to `batch` at a time, perhaps none.

        It goes a bounded part of the table at each step, and the cache may be used between the steps.
        """
        out, ptr = np.empty(64 * batch, np.uint8), np.zeros(batch + 1, np.int64)
        slot = 0
        while slot < len(self._slots):
            end = min(slot + _SLOTS_AT_ONCE, len(self._slots))
            found, slot = kernels.collect(self.words, self._slots, scope, slot, end, out, ptr)
            yield ByteStrings(out, ptr[: found + 1]).to_list()

    @property
    def hits(self) -> int:
        """Ids found, those known to be absent from the store included."""
        return int(self._state[kernels.HITS])

    @property
    def misses(self) -> int:
        """Ids not found."""
        return int(self._state[kernels.MISSES])

    @property
    def evictions(self) -> int:
        """Entries thrown out."""
        return int(self._state[kernels.EVICTIONS])

    @property
    def entries(self) -> int:
        """Entries now."""
        return int(self._state[kernels.ENTRIES])

    @property
    def bytes_used(self) -> int:
        """Bytes that the entries take."""
        return 8 * int(self._state[kernels.USED_WORDS])


def missed(ids: ByteStrings, places: Int64Array) -> list[bytes]:
    """Return the distinct ids that were not found."""
    return _distinct(ids, np.flatnonzero(places == kernels.MISS))


def unknown(ids: ByteStrings, places: Int64Array) -> list[bytes]:
    """Return the distinct ids that the store is known not to have."""
    return _distinct(ids, np.flatnonzero(places <= kernels.UNKNOWN))


def _distinct(ids: ByteStrings, rows: Iterable[int]) -> list[bytes]:
    """Return the ids of some rows, each once."""
    return list(dict.fromkeys(ids[row] for row in rows))
