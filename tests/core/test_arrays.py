"""Arrays in chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdmix_core.arrays import CHUNK_BYTES, WIRE_DTYPES, ArrayAssembler, iter_chunks, wire_dtype
from gdmix_core.errors import UsageError


@given(
    hnp.arrays(
        dtype=st.sampled_from([np.dtype(name) for name in WIRE_DTYPES]),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    st.integers(1, 64),
)
def test_an_array_arrives_with_the_same_bytes(array, size):
    assembler = ArrayAssembler(wire_dtype(array), array.shape)
    for chunk in iter_chunks(array, size):
        assert len(chunk) <= size
        assembler.append(chunk)
    arrived = assembler.finish()
    assert (arrived.shape, arrived.dtype, arrived.tobytes()) == (array.shape, array.dtype, array.tobytes())


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.arange(6, dtype=">i8"), np.arange(8.0)[::2]]
)
def test_any_memory_layout_is_sent_in_c_order(array):
    assembler = ArrayAssembler(wire_dtype(array), array.shape)
    for chunk in iter_chunks(array, 8):
        assembler.append(chunk)
    np.testing.assert_array_equal(assembler.finish(), array)


def test_large_arrays_go_in_chunks_of_half_a_mebibyte():
    sizes = [len(chunk) for chunk in iter_chunks(np.zeros(CHUNK_BYTES // 8 * 2 + 1))]
    assert sizes == [CHUNK_BYTES, CHUNK_BYTES, 8]


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("|O", [1], "dtype"),
        (">f8", [1], "dtype"),
        ("<U4", [1], "dtype"),
        ("", [], "dtype"),
        ("<f8", [-1], "negative"),
        ("<f8", [1] * 5, "up to 4"),
        ("<f8", [1 << 40, 1 << 40], "at most"),
    ],
)
def test_claims_are_checked_before_memory_is_taken(dtype, shape, message):
    with pytest.raises(UsageError, match=message):
        ArrayAssembler(dtype, shape)


def test_too_few_and_too_many_bytes_are_refused():
    assembler = ArrayAssembler("<f8", [2])
    assembler.append(b"x" * 8)
    with pytest.raises(UsageError, match="only 8 were sent"):
        assembler.finish()
    with pytest.raises(UsageError, match="has 16 bytes; at least 17"):
        assembler.append(b"x" * 9)
    with pytest.raises(UsageError, match="a chunk of"):
        ArrayAssembler("|u1", [64 << 20]).append(bytes(5 << 20))


def test_objects_cannot_be_sent():
    with pytest.raises(UsageError, match="object"):
        list(iter_chunks(np.array([object()])))
