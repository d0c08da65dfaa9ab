"""Length-prefixed strings: unpacked as they were packed, and refused when they cannot be."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.errors import UsageError
from gdmix_core.scoring.length_prefixed import from_length_prefixed

STRINGS = st.lists(st.binary(max_size=300), max_size=40)


def packed(strings) -> bytes:
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


@settings(deadline=None)  # the first call compiles
@given(STRINGS)
def test_strings_come_back(strings):
    found = from_length_prefixed(packed(strings), len(strings), "it")
    assert found.to_list() == strings
    assert found.ptr.dtype == np.int64


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(data, count):
    """What is accepted is exactly what packing gives; nothing is read beyond the end."""
    try:
        found = from_length_prefixed(data, count, "it")
    except UsageError:
        return
    assert len(found) == count
    assert packed(found.to_list()) == data


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\0\0\0", 1, "it: has 3 bytes; 1 strings need 4 for their lengths alone"),
        (b"", 2**62, f"it: has 0 bytes; {2**62} strings need {2**64} for their lengths alone"),
        (packed([b"ab"])[:-1], 1, "it: string 0 is longer than what is left of the 5 bytes"),
        (packed([b"a", b"b"]), 1, "it: has 10 bytes; its 1 strings and their lengths take 5"),
        (struct.pack("<I", 2**32 - 1) + b"a", 1, "it: string 0 is longer than what is left of the 5 bytes"),
        (packed([b"abcd"]), 2, "it: string 0 is longer than what is left of the 8 bytes"),
    ],
)
def test_what_cannot_be(data, count, message):
    with pytest.raises(UsageError) as raised:
        from_length_prefixed(data, count, "it")
    assert str(raised.value) == message
