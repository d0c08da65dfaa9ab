from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.data.byte_strings import ByteStrings, find_sorted
from gdmix_core.data.hashing import entity_partitions, hash_byte_strings, hash_integers, home_shards
from gdmix_core.errors import InternalError

INT64 = st.integers(-(2**63), 2**63 - 1)


def hashes(strings: list[bytes]) -> list[int]:
    packed = ByteStrings.of(strings)
    return hash_byte_strings(packed.data, packed.ptr).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Known values for seed 0 that take the algorithm's branches for short and for long input.
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_published_vectors(text: bytes, expected: int) -> None:
    assert hashes([text]) == [expected]


def test_every_length_agrees_with_the_reference() -> None:
    strings = [bytes((7 * i + length) % 256 for i in range(length)) for length in range(140)]
    assert hashes(strings) == [xxhash.xxh64_intdigest(text) for text in strings]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=20))
def test_byte_strings_agree_with_the_reference(strings: list[bytes]) -> None:
    assert hashes(strings) == [xxhash.xxh64_intdigest(text) for text in strings]


@settings(max_examples=60, deadline=None)
@given(st.lists(INT64, max_size=20), st.integers(1, 1000))
def test_home_shards_hash_eight_little_endian_bytes(uids: list[int], shards: int) -> None:
    expected = [xxhash.xxh64_intdigest(uid.to_bytes(8, "little", signed=True)) for uid in uids]
    array = np.array(uids, np.int64)
    assert hash_integers(array).tolist() == expected
    assert home_shards(array, shards).tolist() == [value % shards for value in expected]


def test_partitions_are_the_hash_modulo_their_number() -> None:
    ids = ByteStrings.of([f"user-{i}" for i in range(1000)])
    found = entity_partitions(ids.data, ids.ptr, 7)
    assert found.tolist() == [xxhash.xxh64_intdigest(text) % 7 for text in ids.to_list()]
    assert np.bincount(found).min() > 100


def test_refuses_a_number_of_shards_that_is_not_one() -> None:
    with pytest.raises(InternalError, match="is 0; allowed: 1 to"):
        home_shards(np.zeros(1, np.int64), 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=6), max_size=30), st.data())
def test_byte_strings_group_take_and_find(strings: list[bytes], data: st.DataObject) -> None:
    packed = ByteStrings.of(strings)
    assert packed.to_list() == strings
    distinct, codes = packed.group()
    assert distinct.to_list() == sorted(set(strings))
    assert [distinct[code] for code in codes] == strings
    assert distinct.take(codes).to_list() == strings
    cut = data.draw(st.integers(0, len(strings)))
    parts = [packed.slice(0, cut), packed.slice(cut, len(strings))]
    assert ByteStrings.concatenate(parts).to_list() == strings
    others = sorted(set(data.draw(st.lists(st.binary(max_size=6), max_size=30))) | set(strings[::2]))
    places = find_sorted(distinct, ByteStrings.of(others)).tolist()
    assert places == [others.index(text) if text in others else -1 for text in distinct.to_list()]


def test_nul_bytes_are_part_of_an_id() -> None:
    distinct, codes = ByteStrings.of([b"a\0", b"a", b"", b"\xff", b"a"]).group()
    assert distinct.to_list() == [b"", b"a", b"a\0", b"\xff"]
    assert codes.tolist() == [2, 1, 0, 3, 1]
