"""Requests that were damaged on their way: read, or refused by an error of the catalog."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import DataError, UsageError
from gdmix_core.scoring.request import Columns, EncodedCandidates
from gdmix_proto.inference.v2 import inference_pb2 as wire
from gdmix_scorer.convert import parse
from gdmix_scorer.inference.convert import call_from_proto
from gdmix_scorer.inference.tensors import Tensor, check_utf8, column_of
from gdmix_scorer.settings import MAX_CANDIDATES


def request(packed: bool) -> bytes:
    def raw(name, datatype, shape, data):
        made.inputs.add(name=name, datatype=datatype, shape=shape)
        made.raw_input_contents.append(data)

    made = wire.ModelInferRequest(model_name="m", model_version="canary", id="r1")
    made.parameters["candidates"].int64_param = 2
    raw("user_id", "BYTES", [2], b"\2\0\0\0\xc3\xa9\1\0\0\0b")
    if packed:
        made.parameters["schema_fingerprint"].string_param = "00"
        raw("movie:indices", "INT32", [2], np.array([0, 1], "<i4").tobytes())
        raw("movie:values", "FP32", [2], np.array([1, 2], "<f4").tobytes())
        raw("movie:offsets", "INT32", [3], np.array([0, 1, 2], "<i4").tobytes())
    else:
        raw("age", "FP64", [1], np.array([0.5]).tobytes())
        raw("taste", "FP16", [2, 2], np.arange(4, dtype="<f2").tobytes())
        raw("genres", "BYTES", [2, 1], b"\0\0\0\0\1\0\0\0b")
    made.outputs.add(name="scores")
    return made.SerializeToString()


WHOLE = {packed: request(packed) for packed in (False, True)}


@given(st.booleans(), st.data())
def test_damage_is_refused_or_means_something(packed, data):
    damaged = bytearray(WHOLE[packed])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    try:
        call = call_from_proto(parse(wire.ModelInferRequest, bytes(damaged[:cut])))
    except (UsageError, DataError):
        return
    found = call.candidates
    assert isinstance(found, Columns | EncodedCandidates)
    assert 1 <= found.candidates <= MAX_CANDIDATES
    if isinstance(found, Columns):
        for part, rows in ((found.context, 1), (found.per_candidate, found.candidates)):
            assert {len(array) for array in part.values()} <= {rows}
            for array in part.values():
                array.validate(full=True)
    else:
        for features in found.features:
            assert features.rows.rows == (1 if features.context else found.candidates)
            assert len(features.rows.indices) == len(features.rows.values) == features.rows.indptr[-1]
        for ids in found.entities.values():
            assert len(ids.ids) in (1, found.candidates)


def test_undamaged_requests_share_the_message_s_memory():
    message = wire.ModelInferRequest.FromString(WHOLE[True])
    call = call_from_proto(message)
    assert not call.candidates.features[0].rows.indices.flags.owndata
    assert call.candidates.entities["user_id"].ids.to_list() == ["é".encode(), b"b"]


def test_numbers_become_columns_without_a_copy():
    values = np.arange(3, dtype=np.float64)
    column = column_of(Tensor("age", "FP64", (3,), values))
    assert np.shares_memory(column.to_numpy(zero_copy_only=True), values)


@given(st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3).map(str.encode))))
def test_the_first_string_that_is_not_utf8_is_named(strings):
    broken = [number for number, string in enumerate(strings) if not is_utf8(string)]
    if not broken:
        check_utf8(ByteStrings.of(strings), "taste")
        return
    with pytest.raises(UsageError, match=rf"^input 'taste': string {broken[0]} is not UTF-8$"):
        check_utf8(ByteStrings.of(strings), "taste")


def is_utf8(string: bytes) -> bool:
    try:
        string.decode()
    except UnicodeDecodeError:
        return False
    return True
