"""Compiled steps of the record cache: looking ids up, decoding records into it, making room.

The cache is one array of 64-bit words, cut into segments of equal size, and a hash table of the entries'
places. An entry is, in words from its place p on:

    p      hash of id and scope
    p + 1  scope: which version's which coordinate
    p + 2  words of the whole entry
    p + 3  as two int32: bytes of the id, number of coefficients n (-1: the store has no such entity)
    p + 4  1 if it was asked for since it was last looked at by the eviction
    p + 5  the id, padded; then n coefficients as float64; then n indices as int32, padded

Everything about one entry lies side by side: a look-up and the score that follows touch one piece of memory.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input, register_warm_up
from gdmix_core.data.hashing import hash_bytes
from gdmix_core.store.byte_kernels import little_endian
from gdmix_core.store.kernels import DTYPE_FLOAT64, HEADER_BYTES, OK, check_record, values_start

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

HEAD_WORDS: Final = 5
NO_ENTITY: Final = -1
"""Place of an empty id: the row has no entity."""
MISS: Final = -2
"""Place of an id that the cache does not know."""
UNKNOWN: Final = -3
"""Places from here downwards, `UNKNOWN - p`: the entry at p says that the store has no such entity."""

# Numbers of the state, an int64 array.
SEGMENT: Final = 0
"""Segment that is being filled."""
FILL: Final = 1
"""Words used in it."""
ENTRIES: Final = 2
USED_WORDS: Final = 3
HITS: Final = 4
MISSES: Final = 5
EVICTIONS: Final = 6
STATE_SIZE: Final = 7

_SCOPE_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_KEPT_SHARE: Final = 0.75
"""Of a segment at most so much survives its eviction: room is always made."""


@compiled
def entry_words(id_bytes: int, count: int) -> int:
    """Return the size of an entry in words."""
    return HEAD_WORDS + (id_bytes + 7) // 8 + count + (count + 1) // 2


@compiled
def _same_id(
    narrow: Int32Array, entry: UInt8Array, place: int, ids: UInt8Array, start: int, end: int
) -> bool:
    """Tell whether the entry at `place` has an id; `narrow` and `entry` are the words seen as smaller ones."""
    if narrow[2 * place + 6] != end - start:
        return False
    at = 8 * (place + HEAD_WORDS)
    for i in range(end - start):  # noqa: SIM110 - compiled
        if entry[at + i] != ids[start + i]:
            return False
    return True


@compiled
def _hash_of(scope: int, ids: UInt8Array, start: int, end: int) -> int:
    mixed = hash_bytes(ids, start, end) ^ (np.uint64(scope) * _SCOPE_MIX)
    return np.int64(mixed)  # type: ignore[return-value]


@compiled
def _slot_of(
    words: Int64Array, slots: Int64Array, hashed: int, scope: int, ids: UInt8Array, start: int, end: int
) -> int:
    """Return the slot that holds an id, or the empty one where it belongs."""
    mask = slots.size - 1
    narrow = words.view(np.int32)
    entry = words.view(np.uint8)
    slot = hashed & mask
    while slots[slot] >= 0:
        place = slots[slot]
        same = words[place] == hashed and words[place + 1] == scope
        if same and _same_id(narrow, entry, place, ids, start, end):
            break
        slot = (slot + 1) & mask
    return slot


@compiled
def find(
    words: Int64Array,
    slots: Int64Array,
    state: Int64Array,
    scope: int,
    ids: UInt8Array,
    ptr: Int64Array,
    places: Int64Array,
) -> tuple[int, int]:
    """Look ids up and note that they were asked for.

    Args:
        words: the entries.
        slots: the hash table.
        state: counters.
        scope: version and coordinate.
        ids: the ids, one behind the other.
        ptr: int64[n + 1], their bounds.
        places: int64[n], where the places go.

    Returns:
        Number of misses, and of rows whose entity the store is known not to have.
    """
    misses = 0
    unknown = 0
    for i in range(ptr.size - 1):
        start = ptr[i]
        end = ptr[i + 1]
        if start == end:
            places[i] = NO_ENTITY
            continue
        place = slots[_slot_of(words, slots, _hash_of(scope, ids, start, end), scope, ids, start, end)]
        if place < 0:
            places[i] = MISS
            misses += 1
            continue
        words[place + 4] = 1
        if words.view(np.int32)[2 * place + 7] < 0:
            places[i] = UNKNOWN - place
            unknown += 1
        else:
            places[i] = place
        state[HITS] += 1
    state[MISSES] += misses
    return misses, unknown


@compiled
def insert(
    words: Int64Array,
    slots: Int64Array,
    state: Int64Array,
    segment_words: int,
    scope: int,
    schema: int,
    ids: UInt8Array,
    ptr: Int64Array,
    records: UInt8Array,
    record_ptr: Int64Array,
) -> tuple[int, int]:
    """Check, decode and keep records; an empty one says that the store has no such entity.

    An entry larger than a segment is not kept; one that is there already stays.

    Returns:
        Fault of the first bad record (`OK` if none) and its number; those before it are kept.
    """
    for i in range(ptr.size - 1):
        begin = record_ptr[i]
        end = record_ptr[i + 1]
        count = -1
        if end > begin:
            fault = check_record(records, begin, end, schema, False)
            if fault != OK:
                return fault, i
            count = np.int64(little_endian(records, begin + 8, 4))  # type: ignore[assignment]
        start = ptr[i]
        stop = ptr[i + 1]
        size = entry_words(stop - start, max(count, 0))
        if start == stop or size > segment_words:
            continue
        hashed = _hash_of(scope, ids, start, stop)
        if slots[_slot_of(words, slots, hashed, scope, ids, start, stop)] >= 0:
            continue
        place = _allocate(words, slots, state, segment_words, size)
        words[place] = hashed
        words[place + 1] = scope
        words[place + 2] = size
        narrow = words.view(np.int32)
        narrow[2 * place + 6] = stop - start
        narrow[2 * place + 7] = count
        words[place + 4] = 0
        # Whole words are cleared first: what pads an id or the indices is zero.
        for k in range(place + HEAD_WORDS, place + size):
            words[k] = 0
        target = words.view(np.uint8)
        at = 8 * (place + HEAD_WORDS)
        for k in range(stop - start):
            target[at + k] = ids[start + k]
        if count > 0:
            _decode(words, place, count, records, begin)
        slots[_slot_of(words, slots, hashed, scope, ids, start, stop)] = place
        state[ENTRIES] += 1
    return OK, -1


@compiled
def coefficients_at(words: Int64Array, place: int) -> int:
    """Return where an entry's coefficients begin, in words."""
    return place + HEAD_WORDS + (words.view(np.int32)[2 * place + 6] + 7) // 8  # type: ignore[no-any-return]


@compiled
def _decode(words: Int64Array, place: int, count: int, records: UInt8Array, begin: int) -> None:
    """Copy a checked record's coefficients and indices into its entry; float32 becomes float64."""
    at = coefficients_at(words, place)
    wide = records[begin + 5] == DTYPE_FLOAT64
    source = begin + values_start(count)
    if wide:
        for k in range(count):
            words[at + k] = np.int64(little_endian(records, source + 8 * k, 8))
    else:
        narrow = np.empty(1, np.int32)
        for k in range(count):
            narrow[0] = np.int32(little_endian(records, source + 4 * k, 4))
            words.view(np.float64)[at + k] = np.float64(narrow.view(np.float32)[0])
    indices = words.view(np.int32)
    for k in range(count):
        indices[2 * (at + count) + k] = np.int32(little_endian(records, begin + HEADER_BYTES + 4 * k, 4))


@compiled
def _allocate(words: Int64Array, slots: Int64Array, state: Int64Array, segment_words: int, size: int) -> int:
    """Return the place of a new entry of `size` words; makes room where there is none."""
    # At most half of the slots are taken: probes stay short.
    while state[FILL] + size > segment_words or 2 * (state[ENTRIES] + 1) > slots.size:
        _next_segment(words, slots, state, segment_words)
    place = state[SEGMENT] * segment_words + state[FILL]
    state[FILL] += size
    state[USED_WORDS] += size
    return place  # type: ignore[no-any-return]


@compiled
def _next_segment(words: Int64Array, slots: Int64Array, state: Int64Array, segment_words: int) -> None:
    """Go on with the next segment, and empty the one behind it: what was asked for lately moves on.

    The segment behind the one being filled is always empty, so that survivors have somewhere to go: second
    chance (CLOCK; Corbató, 1968) over segments, as in Segcache (Yang et al., NSDI 2021).
    """
    segments = words.size // segment_words
    first = state[SEGMENT] * segment_words
    if state[FILL] + HEAD_WORDS <= segment_words:
        words[first + state[FILL] + 2] = 0  # where the entries of the segment end
    state[SEGMENT] = (state[SEGMENT] + 1) % segments
    state[FILL] = 0
    doomed = (state[SEGMENT] + 1) % segments
    base = doomed * segment_words
    room = np.int64(segment_words * _KEPT_SHARE)
    at = base
    while at + HEAD_WORDS <= base + segment_words and words[at + 2] > 0:
        size = words[at + 2]
        slot = _slot_holding(words, slots, at)
        if words[at + 4] != 0 and state[FILL] + size <= room:
            target = state[SEGMENT] * segment_words + state[FILL]
            for k in range(size):
                words[target + k] = words[at + k]
            words[target + 4] = 0
            slots[slot] = target
            state[FILL] += size
        else:
            _empty_slot(words, slots, slot)
            state[ENTRIES] -= 1
            state[USED_WORDS] -= size
            state[EVICTIONS] += 1
        at += size
    words[base + 2] = 0


@compiled
def _slot_holding(words: Int64Array, slots: Int64Array, place: int) -> int:
    mask = slots.size - 1
    slot = words[place] & mask
    while slots[slot] != place:
        slot = (slot + 1) & mask
    return slot  # type: ignore[no-any-return]


@compiled
def _empty_slot(words: Int64Array, slots: Int64Array, slot: int) -> None:
    """Take an entry out of the table and close the gap (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = slots.size - 1
    gap = slot
    slots[gap] = -1
    at = (gap + 1) & mask
    while slots[at] >= 0:
        home = words[slots[at]] & mask
        # The entry may move to the gap unless its home lies cyclically in (gap, at].
        stays = (gap < home <= at) if gap <= at else (home > gap or home <= at)
        if not stays:
            slots[gap] = slots[at]
            slots[at] = -1
            gap = at
        at = (at + 1) & mask


@compiled
def collect(
    words: Int64Array,
    slots: Int64Array,
    scope: int,
    first_slot: int,
    end_slot: int,
    out: UInt8Array,
    ptr: Int64Array,
) -> tuple[int, int]:
    """Copy the ids of a scope that were asked for lately and that the store has.

    Args:
        words: the entries.
        slots: the hash table.
        scope: version and coordinate.
        first_slot: slot to begin with.
        end_slot: slot to end before.
        out: where the ids go, one behind the other.
        ptr: int64[n + 1], their bounds; at most n ids are copied, and as many as fit into `out`.

    Returns:
        Number of ids, and the slot to go on with.
    """
    found = 0
    ptr[0] = 0
    data = words.view(np.uint8)
    narrow = words.view(np.int32)
    for slot in range(first_slot, end_slot):
        place = slots[slot]
        if place < 0 or words[place + 1] != scope or words[place + 4] == 0 or narrow[2 * place + 7] < 0:
            continue
        length = narrow[2 * place + 6]
        if found + 1 == ptr.size or ptr[found] + length > out.size:
            return found, slot
        for k in range(length):
            out[ptr[found] + k] = data[8 * (place + HEAD_WORDS) + k]
        ptr[found + 1] = ptr[found] + length
        found += 1
    return found, end_slot


def _warm_up() -> None:
    words, slots = np.zeros(256, np.int64), np.full(16, -1, np.int64)
    state = np.zeros(STATE_SIZE, np.int64)
    ids, ptr = kernel_input([97, 98], np.uint8), kernel_input([0, 1, 2], np.int64)
    empty, none = kernel_input([], np.uint8), kernel_input([0, 0, 0], np.int64)
    insert(words, slots, state, 64, 1, 0, ids, ptr, empty, none)
    find(words, slots, state, 1, ids, ptr, np.empty(2, np.int64))
    collect(words, slots, 1, 0, 2, np.empty(8, np.uint8), np.empty(3, np.int64))


register_warm_up("record cache", _warm_up)
