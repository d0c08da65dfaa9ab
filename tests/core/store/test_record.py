"""The record: its bytes, its checks, and the compiled kernels against plain Python."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdmix_core.errors import StoreCorrupt
from gdmix_core.store import CoefficientBlock, decode, decode_many
from gdmix_core.store.byte_kernels import crc32
from gdmix_core.store.keys import escape
from gdmix_core.store.record import encode_block

SCHEMA = 0x0123_4567_89AB_CDEF


def _plain_record(indices: list[int], values: list[float], variances: list[float] | None, code: str) -> bytes:
    """The specification, written down a second time."""
    head = struct.pack("<4sBBBBI", b"GDMX", 1, {"d": 1, "f": 2}[code], variances is not None, 0, len(indices))
    body = struct.pack("<Q", SCHEMA) + struct.pack(f"<{len(indices)}i", *indices)
    body += b"\0" * (-(16 + len(body)) % 8)
    body += struct.pack(f"<{len(values)}{code}", *values)
    if variances is not None:
        body += struct.pack(f"<{len(variances)}{code}", *variances)
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def _block(
    entities: list[tuple[bytes, list[int], list[float]]], variances: list[float] | None = None
) -> CoefficientBlock:
    def ptr(sizes: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    return CoefficientBlock(
        ids_bytes=np.frombuffer(b"".join(e[0] for e in entities), np.uint8),
        ids_ptr=ptr([len(e[0]) for e in entities]),
        coefficient_ptr=ptr([len(e[1]) for e in entities]),
        indices=np.array([i for e in entities for i in e[1]], np.int32),
        coefficients=np.array([v for e in entities for v in e[2]], np.float64),
        variances=None if variances is None else np.array(variances),
    )


def _pairs(block: CoefficientBlock, prefix: bytes, **options: object) -> list[tuple[bytes, bytes]]:
    found = []
    for batch in encode_block(block, prefix, schema=SCHEMA, **options):  # type: ignore[arg-type]
        assert batch.bounds is not None
        cut = [bytes(batch.data[a:b]) for a, b in zip(batch.bounds[:-1], batch.bounds[1:], strict=True)]
        found += list(zip(cut[::2], cut[1::2], strict=True))
    return found


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
entity = st.tuples(
    st.binary(min_size=1, max_size=60),
    st.dictionaries(st.integers(0, 2**31 - 1), finite, max_size=9),
)


def test_golden_bytes() -> None:
    """The format is a promise: these bytes never change under version 1."""
    (pair,) = _pairs(_block([(b"u1", [0, 3, 7], [1.0, -2.5, 0.0])], [0.5, 0.25, 1.0]), b"")
    assert pair[0] == b"u1"
    assert pair[1].hex() == (
        "47444d58010101000300000037e65488efcdab8967452301000000000300000007000000"
        "00000000000000000000f03f00000000000004c00000000000000000000000000000e03f"
        "000000000000d03f000000000000f03f"
    )


@given(st.lists(entity, max_size=6), st.booleans(), st.sampled_from(["float64", "float32"]))
def test_kernels_write_what_the_specification_says(
    entities: list[tuple[bytes, dict[int, float]]], variances: bool, element_type: str
) -> None:
    given_entities = [
        (name, sorted(values), [values[index] for index in sorted(values)]) for name, values in entities
    ]
    total = sum(len(values) for _, _, values in given_entities)
    spread = [i / 8 for i in range(total)] if variances else None
    block = _block(given_entities, spread)
    pairs = _pairs(block, b"p:", element_type=element_type, batch_bytes=200)
    code = "d" if element_type == "float64" else "f"
    start = 0
    assert len(pairs) == len(given_entities)
    for (name, indices, values), (key, record) in zip(given_entities, pairs, strict=True):
        own = None if spread is None else spread[start : start + len(values)]
        start += len(values)
        assert key == b"p:" + escape(name)
        assert record == _plain_record(indices, values, own, code)
        decoded = decode(record, SCHEMA)
        assert decoded.indices.tolist() == indices
        assert decoded.coefficients.tolist() == values
        assert (None if decoded.variances is None else decoded.variances.tolist()) == own
    together = decode_many([record for _, record in pairs], SCHEMA)
    np.testing.assert_array_equal(together.coefficients, block.coefficients)
    np.testing.assert_array_equal(together.indices, block.indices)


@given(st.lists(entity, min_size=1, max_size=300), st.integers(100, 5000))
def test_resp_frames_are_what_redis_reads(
    entities: list[tuple[bytes, dict[int, float]]], batch_bytes: int
) -> None:
    block = _block([(name, sorted(v), [v[i] for i in sorted(v)]) for name, v in entities])
    wanted = _pairs(block, b"gdmix:")
    found: list[bytes] = []
    plain = framed = 0
    for batch in encode_block(block, b"gdmix:", schema=SCHEMA, resp=True, batch_bytes=batch_bytes):
        commands = _parse_resp(bytes(batch.data))
        assert len(commands) == batch.commands
        framed += batch.digest
        for name, *arguments in commands:
            assert name == b"MSET"
            found += arguments
    plain = sum(batch.digest for batch in encode_block(block, b"gdmix:", schema=SCHEMA))
    assert list(zip(found[::2], found[1::2], strict=True)) == wanted
    assert framed % 2**64 == plain % 2**64


def _parse_resp(data: bytes) -> list[list[bytes]]:
    commands, at = [], 0

    def header(kind: bytes) -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        assert data[at : at + 1] == kind
        number = int(data[at + 1 : end])
        at = end + 2
        return number

    while at < len(data):
        command = []
        for _ in range(header(b"*")):
            length = header(b"$")
            command.append(data[at : at + length])
            assert data[at + length : at + length + 2] == b"\r\n"
            at += length + 2
        commands.append(command)
    return commands


@given(st.binary(max_size=100), st.integers(0, 20))
def test_crc32_is_zlibs(data: bytes, start: int) -> None:
    array = np.frombuffer(bytearray(data), np.uint8)
    start = min(start, len(data))
    assert crc32(zlib.crc32(b"before"), array, start, len(data)) == zlib.crc32(
        data[start:], zlib.crc32(b"before")
    )


@given(st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(data: st.DataObject) -> None:
    record = _plain_record([1, 5, 6], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], "d")
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    for broken in (bytes(flipped), cut, record + b"\0"):
        with pytest.raises(StoreCorrupt):
            decode(broken)
        if broken:
            with pytest.raises(StoreCorrupt):
                decode_many([record, broken])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:10], "shorter than its header"),
        (lambda r: b"X" + r[1:], "magic"),
        (lambda r: r[:4] + b"\2" + r[5:], "unknown format version"),
        (lambda r: r + b"\0" * 8, "does not have the length"),
        (lambda r: r[:-1] + b"\7", "fails its checksum"),
    ],
)
def test_both_readers_name_the_fault(change: Callable[[bytes], bytes], message: str) -> None:
    broken = change(_plain_record([1], [2.0], None, "d"))
    for read in (lambda: decode(broken), lambda: decode_many([None, broken])):
        with pytest.raises(StoreCorrupt, match=message):
            read()


def test_another_schema_and_unsorted_indices_are_refused() -> None:
    good, unsorted = _plain_record([1], [2.0], None, "d"), _plain_record([2, 1], [2.0, 1.0], None, "d")
    for read in (lambda: decode(good, 5), lambda: decode_many([good], 5)):
        with pytest.raises(StoreCorrupt, match="another feature index"):
            read()
    for read in (lambda: decode(unsorted), lambda: decode_many([unsorted])):
        with pytest.raises(StoreCorrupt, match="strictly increasing"):
            read()


def test_element_types_do_not_mix() -> None:
    double, single = _plain_record([1], [2.0], None, "d"), _plain_record([1], [2.0], None, "f")
    assert decode_many([None, single, single]).coefficients.tolist() == [2.0, 2.0]
    with pytest.raises(StoreCorrupt, match="record number 2 has another element type"):
        decode_many([double, None, single])


def test_nothing_stored_decodes_to_nothing() -> None:
    empty = decode_many([None, None])
    assert empty.found.tolist() == [False, False]
    assert empty.coefficient_ptr.tolist() == [0, 0, 0]
    assert decode_many([]).coefficient_ptr.tolist() == [0]


def test_read_only_and_strided_arrays_are_taken() -> None:
    block = _block([(b"a", [0, 1], [1.0, 2.0])])
    strided = np.repeat(block.coefficients, 2)[::2]
    strided.flags.writeable = False
    other = CoefficientBlock(block.ids_bytes, block.ids_ptr, block.coefficient_ptr, block.indices, strided)
    assert _pairs(other, b"") == _pairs(block, b"")
