"""The record cache against a plain dictionary: what it finds is right, whatever was thrown out meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import StoreCorrupt
from gdmix_core.scoring import cache_kernels as kernels
from gdmix_core.scoring.record_cache import MIN_BYTES, RecordCache, missed, new_scope, unknown
from gdmix_core.store import CoefficientBlock
from gdmix_core.store.record import encode_block

SCHEMA = 0x8123456789ABCDEF


def record(numbers: dict[int, float], element_type="float64", variances=False, schema=SCHEMA) -> bytes:
    indices = np.array(sorted(numbers), np.int32)
    coefficients = np.array([numbers[int(i)] for i in indices], np.float64)
    block = CoefficientBlock(
        ids_bytes=np.frombuffer(b"x", np.uint8),
        ids_ptr=np.array([0, 1], np.int64),
        coefficient_ptr=np.array([0, len(indices)], np.int64),
        indices=indices,
        coefficients=coefficients,
        variances=np.ones(len(indices)) if variances else None,
    )
    (batch,) = encode_block(block, b"", schema=schema, element_type=element_type)
    return bytes(batch.data[1:])


def look_up(cache: RecordCache, scope: int, ids: list[bytes]):
    strings, places = ByteStrings.of(ids), np.empty(len(ids), np.int64)
    return strings, places, cache.find(scope, strings, places)


def contents(cache: RecordCache, place: int) -> dict[int, float]:
    """Read an entry as the scoring kernel does."""
    at = int(kernels.coefficients_at(cache.words, place))
    count = int(cache.words.view(np.int32)[2 * place + 7])
    indices = cache.words.view(np.int32)[2 * (at + count) : 2 * (at + count) + count]
    return dict(zip(indices.tolist(), cache.words.view(np.float64)[at : at + count].tolist(), strict=True))


def test_what_was_kept_is_found_and_absence_is_kept_too():
    cache, scope = RecordCache(MIN_BYTES), new_scope()
    first, second = {0: 1.5, 7: -2.0, 9: 3.0}, {}
    cache.insert(scope, SCHEMA, [b"ann", b"bob", "zoë".encode()], [record(first), None, record(second)])
    strings, places, (misses, absent) = look_up(
        cache, scope, [b"ann", b"", b"bob", b"eve", "zoë".encode(), b"bob"]
    )
    assert (misses, absent) == (1, 2)
    assert contents(cache, places[0]) == first
    assert places[1] == kernels.NO_ENTITY
    assert places[2] == places[5] <= kernels.UNKNOWN
    assert contents(cache, places[4]) == {}
    assert missed(strings, places) == [b"eve"]
    assert unknown(strings, places) == [b"bob"]
    assert (cache.hits, cache.misses, cache.entries, cache.evictions) == (4, 1, 3, 0)


def test_scopes_do_not_see_each_other():
    cache, one, other = RecordCache(MIN_BYTES), new_scope(), new_scope()
    cache.insert(one, SCHEMA, [b"ann"], [record({0: 1.0})])
    cache.insert(other, SCHEMA, [b"ann"], [record({0: 2.0})])
    for scope, value in ((one, 1.0), (other, 2.0)):
        _, places, _ = look_up(cache, scope, [b"ann"])
        assert contents(cache, places[0]) == {0: value}
    assert [ids for ids in cache.ids_of(one, 10) if ids] == [[b"ann"]]
    assert not any(cache.ids_of(new_scope(), 10))


def test_ids_come_in_batches_and_only_those_asked_for():
    cache, scope = RecordCache(4 * MIN_BYTES), new_scope()
    ids = [b"user-%d" % i for i in range(2000)]
    for one in ids:
        cache.insert(scope, SCHEMA, [one], [record({0: 1.0}) if one != ids[7] else None])
    assert not any(cache.ids_of(scope, 100))
    look_up(cache, scope, ids[:1000])
    batches = list(cache.ids_of(scope, 100))
    assert max(map(len, batches)) <= 100
    assert sorted(one for batch in batches for one in batch) == sorted(set(ids[:1000]) - {ids[7]})


@pytest.mark.parametrize("variances", [False, True])
def test_float32_and_variances(variances):
    cache, scope = RecordCache(MIN_BYTES), new_scope()
    numbers = {1: 0.1, 2: -7.25, 5: 1e-3}
    cache.insert(scope, SCHEMA, [b"a"], [record(numbers, "float32", variances)])
    _, places, _ = look_up(cache, scope, [b"a"])
    assert contents(cache, places[0]) == {i: float(np.float32(x)) for i, x in numbers.items()}


def test_a_damaged_record_is_refused_by_name_and_not_kept():
    cache, scope = RecordCache(MIN_BYTES), new_scope()
    good, bad = record({0: 1.0}), bytearray(record({0: 1.0}))
    bad[-1] ^= 1
    with pytest.raises(StoreCorrupt, match="entity 'b' fails its checksum"):
        cache.insert(scope, SCHEMA, [b"a", b"b"], [good, bytes(bad)])
    with pytest.raises(StoreCorrupt, match="another feature index"):
        cache.insert(scope, SCHEMA, [b"c"], [record({0: 1.0}, schema=1)])
    _, places, (misses, _) = look_up(cache, scope, [b"a", b"b", b"c"])
    assert misses == 2
    assert places[0] >= 0


def test_what_is_asked_for_outlives_what_is_not():
    cache, scope = RecordCache(MIN_BYTES), new_scope()
    loved = [b"loved-%d" % i for i in range(50)]
    for one in loved:
        cache.insert(scope, SCHEMA, [one], [record({0: float(one[6:])})])
    ordinary = record(dict.fromkeys(range(16), 1.0))
    for i in range(40_000):  # some eight times what fits
        cache.insert(scope, SCHEMA, [b"passing-%d" % i], [ordinary])
        if i % 100 == 0:
            _, places, (misses, _) = look_up(cache, scope, loved)
            assert misses == 0
    assert [contents(cache, place) for place in places] == [{0: float(one[6:])} for one in loved]
    assert cache.evictions > 30_000
    assert cache.bytes_used <= MIN_BYTES
    assert cache.words.nbytes <= MIN_BYTES


def test_an_entity_larger_than_a_segment_is_served_but_not_kept():
    cache, scope = RecordCache(MIN_BYTES), new_scope()
    huge = record({i: float(i) for i in range(20_000)})
    cache.insert(scope, SCHEMA, [b"huge", b"small"], [huge, record({3: 1.0})])
    strings, places, (misses, _) = look_up(cache, scope, [b"huge", b"small"])
    assert misses == 1
    assert missed(strings, places) == [b"huge"]
    own = RecordCache.for_records([b"huge"], [huge])
    own.insert(scope, SCHEMA, [b"huge"], [huge])
    _, places, (misses, _) = look_up(own, scope, [b"huge"])
    assert misses == 0
    assert contents(own, places[0])[19_999] == 19_999.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_never_gives_a_wrong_answer(data):
    """Any sequence of insertions and look-ups, in a cache that is far too small."""
    cache, truth = RecordCache.__new__(RecordCache), {}
    cache._segment_words = data.draw(st.integers(40, 120), "segment words")
    cache._make(data.draw(st.integers(3, 6), "segments"), 16)
    scopes = [new_scope(), new_scope()]
    for _ in range(data.draw(st.integers(1, 60), "steps")):
        scope = data.draw(st.sampled_from(scopes))
        ids = data.draw(st.lists(st.sampled_from([b"%d" % i * (i % 5 + 1) for i in range(25)]), max_size=6))
        if data.draw(st.booleans(), "insert"):
            for one in ids:
                truth.setdefault(
                    (scope, one),
                    data.draw(st.none() | st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=8)),
                )
            stored = [truth[scope, one] for one in ids]
            cache.insert(scope, SCHEMA, ids, [None if one is None else record(one) for one in stored])
        else:
            _, places, _ = look_up(cache, scope, ids)
            for one, place in zip(ids, places.tolist(), strict=True):
                if place >= 0:
                    assert contents(cache, place) == truth[scope, one]
                elif place <= kernels.UNKNOWN:
                    assert truth[scope, one] is None
    assert cache.bytes_used <= cache.words.nbytes
    assert 2 * cache.entries <= 16
