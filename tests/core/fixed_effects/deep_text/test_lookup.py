"""Codes of known strings."""

from __future__ import annotations

import numpy as np

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.fixed_effects.deep_text.lookup import ABSENT, FIRST, UNKNOWN, FrequencyCount, Lookup


def test_known_strings_have_codes_in_their_order() -> None:
    lookup = Lookup.of(ByteStrings.of(["b", "a", "ünï"]))
    found = lookup.find(ByteStrings.of(["a", "ünï", "b", "c", "", "a"]))
    assert found.tolist() == [FIRST + 1, FIRST + 2, FIRST, UNKNOWN, ABSENT, FIRST + 1]
    assert lookup.size == FIRST + 3


def test_nothing_is_known_of_no_strings() -> None:
    lookup = Lookup.of(ByteStrings.of([]))
    assert lookup.find(ByteStrings.of(["a", ""])).tolist() == [UNKNOWN, ABSENT]


def test_a_string_counts_once_a_row_and_the_most_frequent_come_first() -> None:
    count = FrequencyCount()
    count.add(ByteStrings.of(["a", "a", "b", "c", "a"]), np.array([0, 0, 0, 1, 2]))
    count.add(ByteStrings.of(["c", "b", "c"]), np.array([0, 1, 2]))
    count.add(ByteStrings.of([]), np.empty(0, np.int64))
    # a in 2 rows, b in 2, c in 3
    assert count.known(1).strings.to_list() == [b"c", b"a", b"b"]
    assert count.known(3).strings.to_list() == [b"c"]
    assert count.known(1, size=2).strings.to_list() == [b"c", b"a"]


def test_the_empty_string_is_never_known() -> None:
    count = FrequencyCount()
    count.add(ByteStrings.of(["", ""]), np.array([0, 1]))
    assert len(count.known(1)) == 0
