"""`gdmix.v1.ScoringService` on the wire: forms, streams, refusals, tokens, deadlines, draining."""

from __future__ import annotations

import os
import signal

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gdmix_proto.v1 import scoring_pb2 as wire

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def running(store, scorer):
    with scorer(store) as process:
        yield process


@pytest.fixture
def stub(running):
    with running.stub() as own:
        yield own


def text(value: str) -> wire.Value:
    return wire.Value(text=value)


def readable(context=None, candidates=(), **fields) -> wire.ScoreRequest:
    def row(values):
        return wire.Row(values={name: value for name, value in values.items() if name})

    return wire.ScoreRequest(
        readable=wire.ReadableInput(context=row(context or {}), candidates=[row(c) for c in candidates]),
        **fields,
    )


def columnar(**fields) -> wire.ScoreRequest:
    return wire.ScoreRequest(columnar=wire.ColumnarInput(**fields))


def int32(*numbers: int) -> bytes:
    return np.array(numbers, "<i4").tobytes()


def test_readable_requests(stub):
    request = readable(
        {"user_id": text("ann")},
        [{"age": wire.Value(number=1.0)}, {"age": wire.Value(integer=2)}, {"shoe": wire.Value(number=41)}],
        contributions=True,
        request_id="page-7",
    )
    answer = stub.Score(request, timeout=10)
    assert answer.scores == [2.625, 4.625, 0.625]
    assert np.allclose(answer.predictions, 1 / (1 + np.exp(-np.array(answer.scores))))
    assert [c.name for c in answer.coordinates] == ["global", "per_user"]
    assert list(answer.coordinates[0].contributions) == [2.125, 4.125, 0.125]
    assert list(answer.coordinates[1].contributions) == [0.5] * 3
    assert (answer.request_id, answer.model, answer.version) == ("page-7", "movies", 1)
    assert answer.instance.endswith("/0")
    assert answer.unknown_features == {"shoe": 3}
    assert not answer.degraded
    assert not answer.packed_scores

    strangers = readable({}, [{"user_id": text(who)} for who in ("eve", "ann", "eve", "zoë", "")])
    answer = stub.Score(strangers, timeout=10)
    assert answer.scores == [0.125, 0.625, 0.125, 0.125, 0.125]
    assert answer.coordinates[1].unknown_entities == 2
    assert sorted(answer.coordinates[1].unknown_ids) == ["eve", "zoë"]


def test_columnar_requests(stub, running):
    schema = stub.GetModelStatus(wire.GetModelStatusRequest(), timeout=10).versions[0].schema_fingerprint
    ids = ["ann", "", "bob", "zoë"]
    request = columnar(
        candidates=4,
        schema_fingerprint=schema,
        features=[
            wire.SparseRows(
                bag="user",
                row_offsets=int32(0, 1, 1, 2, 2),
                indices=int32(0, 0),
                values=np.array([1.0, -1.0], "<f4").tobytes(),
                element_type=wire.ELEMENT_TYPE_FLOAT32,
            ),
            wire.SparseRows(bag="user", context=True, indices=int32(0), values=np.array([0.5]).tobytes()),
        ],
        entities=[wire.EntityIds(column="user_id", ids="".join(ids).encode(), offsets=int32(0, 3, 3, 6, 10))],
    )
    request.contributions = True
    answer = stub.Score(request, timeout=10)
    assert np.frombuffer(answer.packed_scores, "<f8").tolist() == [3.625, 1.125, -2.125, 1.125]
    assert np.frombuffer(answer.coordinates[1].packed_contributions, "<f8").tolist() == [0.5, 0.0, -1.25, 0.0]
    assert answer.coordinates[1].unknown_entities == 1
    assert not answer.scores
    assert not answer.coordinates[1].unknown_ids
    assert not answer.unknown_features

    misspelt = columnar(candidates=2, entities=[wire.EntityIds(column="user", context=True, ids=b"ann")])
    answer = stub.Score(misspelt, timeout=10)
    assert np.frombuffer(answer.packed_scores, "<f8").tolist() == [0.125, 0.125]
    assert answer.unknown_features == {"user": 1}


WHOLE = {"user_id": text("ann")}
ROWS = {"bag": "user", "row_offsets": int32(0, 0), "indices": b"", "values": b""}
REFUSED = {
    "nothing": (wire.ScoreRequest(), "input: neither readable nor columnar is set"),
    "no candidates": (readable(WHOLE), "candidates: found 0; allowed are 1 to 10000"),
    "too many": (columnar(candidates=10_001), "columnar.candidates: found 10001; allowed are 1 to 10000"),
    "negative": (columnar(candidates=-1), "columnar.candidates: found -1"),
    "a huge count": (
        columnar(candidates=2_000_000_000, features=[wire.SparseRows(**ROWS)]),
        "columnar.candidates: found 2000000000",
    ),
    "a long id": (readable(WHOLE, [{}], request_id="x" * 129), "request_id: has 129 characters"),
    "a version": (readable(WHOLE, [{}], model=wire.ModelChoice(version=-4)), "model.version: found -4"),
    "offsets": (
        columnar(candidates=2, features=[wire.SparseRows(**ROWS)]),
        "columnar.features[0].row_offsets: has 8 bytes; allowed are 12, int32[3]",
    ),
    "cut numbers": (
        columnar(candidates=1, features=[wire.SparseRows(**{**ROWS, "values": b"1234567"})]),
        "columnar.features[0].values: has 7 bytes, not a multiple of 8 (float64)",
    ),
    "unlike lengths": (
        columnar(candidates=1, features=[wire.SparseRows(**{**ROWS, "indices": int32(1)})]),
        "columnar.features[0]: found 1 indices and 0 values",
    ),
    "an element type": (
        columnar(candidates=1, features=[wire.SparseRows(**ROWS, element_type=9)]),
        "columnar.features[0].element_type: found 9; allowed are float64 and float32",
    ),
    "a fingerprint": (
        columnar(candidates=1, features=[wire.SparseRows(**ROWS)], schema_fingerprint="00"),
        "schema_fingerprint: found '00'; version 1 of model 'movies' has '",
    ),
    "a long name": (
        readable({"x" * 300: text("y")}, [{}]),
        "readable: a column name has 300 characters; allowed are 256",
    ),
    "a long column": (
        columnar(candidates=1, entities=[wire.EntityIds(column="x" * 300, context=True)]),
        "columnar.entities[0].column: is longer than 256 characters",
    ),
    "a column twice": (
        columnar(candidates=1, entities=[wire.EntityIds(column="user_id", context=True)] * 2),
        "columnar.entities[1].column: 'user_id' comes twice",
    ),
    "ids that fall": (
        columnar(
            candidates=2, entities=[wire.EntityIds(column="user_id", ids=b"ab", offsets=int32(0, 3, 2))]
        ),
        "columnar.entities[0].offsets: must begin with 0, never fall and end with the length of ids, 2",
    ),
    "negative offsets": (
        columnar(
            candidates=1, entities=[wire.EntityIds(column="user_id", ids=b"", offsets=int32(0, -(2**31)))]
        ),
        "columnar.entities[0].offsets: must begin with 0, never fall",
    ),
    "not UTF-8": (
        columnar(
            candidates=2, entities=[wire.EntityIds(column="user_id", ids=b"a\xff", offsets=int32(0, 1, 2))]
        ),
        "columnar.entities[0].ids: id 1 is not UTF-8",
    ),
    "a cut character": (
        columnar(
            candidates=2,
            entities=[wire.EntityIds(column="user_id", ids="é".encode(), offsets=int32(0, 1, 2))],
        ),
        "columnar.entities[0].ids: id 1 is not UTF-8: offsets cut a character",
    ),
    "NaN": (readable(WHOLE, [{"age": wire.Value(number=np.nan)}]), "candidates[0]: column 'age' holds nan"),
    "mixed kinds": (
        readable({}, [{"age": text("old")}, {"age": wire.Value(number=1)}]),
        "readable.candidates[1]: column 'age' holds a float, and others a str; allowed: one kind",
    ),
    "a text for a number": (readable({"age": text("old")}, [{}]), "context: column 'age' holds 'old'"),
    "given twice": (
        readable({"age": wire.Value(number=1)}, [{"age": wire.Value(number=1)}]),
        "column 'age' is given in the context and in candidates",
    ),
    "a float for an id": (
        readable({"user_id": wire.Value(number=1.5)}, [{}]),
        "column 'user_id' is of type double; allowed for an entity id",
    ),
    "outside scores": (
        columnar(candidates=1, fixed_effect_scores=np.zeros(1).tobytes()),
        "computes its fixed effect itself; leave the scores out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(stub, running, name):
    request, message = REFUSED[name]
    with pytest.raises(grpc.RpcError) as raised:
        stub.Score(request, timeout=10)
    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert message in raised.value.details()
    assert running.count("in_flight") == 0


def test_bytes_that_are_no_request(running):
    with running.channel() as channel:
        not_utf8 = readable({"user_id": text("##")}, [{}]).SerializeToString().replace(b"##", b"\xff\xfe")
        for data in (b"\xff\xff\xff", not_utf8):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/gdmix.v1.ScoringService/Score")(data, timeout=10)
            assert raised.value.code() is Code.INVALID_ARGUMENT
            assert raised.value.details().startswith("the request is no gdmix.v1.ScoreRequest")
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/gdmix.v1.ScoringService/Score")(bytes(9 << 20), timeout=10)
        assert raised.value.code() is Code.RESOURCE_EXHAUSTED


def test_a_stream_answers_in_order_and_goes_on_after_a_failure(stub):
    requests = [
        readable({"user_id": text("ann")}, [{}], request_id="a"),
        readable({}, [], request_id="b"),
        readable({}, [{}], request_id="c", model=wire.ModelChoice(version=77)),
        readable({"user_id": text("bob")}, [{}], request_id="d"),
    ]
    answers = list(stub.ScoreStream(iter(requests), timeout=10))
    assert [answer.request_id for answer in answers] == ["a", "b", "c", "d"]
    assert [list(answer.scores) for answer in answers] == [[0.625], [], [], [-1.125]]
    assert [answer.error.code for answer in answers] == ["", "usage", "not_found", ""]


def test_a_request_that_waited_too_long_is_refused(stub, running):
    before = running.count("requests_total", outcome="RESOURCE_EXHAUSTED")
    with pytest.raises(grpc.RpcError) as raised:  # 10 s were given, and half a second is left
        stub.Score(readable(WHOLE, [{}]), timeout=0.5, metadata=(("gdmix-timeout-ms", "10000"),))
    assert raised.value.code() is Code.RESOURCE_EXHAUSTED
    assert "of its 10000 ms" in raised.value.details()
    assert dict(raised.value.trailing_metadata())["gdmix-error-code"] == "overloaded"
    assert running.count("requests_total", outcome="RESOURCE_EXHAUSTED") == before + 1
    answer = stub.Score(readable(WHOLE, [{}]), timeout=10, metadata=(("gdmix-timeout-ms", "10000"),))
    assert answer.scores == [0.625]


def test_a_model_with_an_outside_fixed_effect(publish, scorer, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    publish(url, external=True)
    with scorer(url) as running, running.stub() as stub:
        with pytest.raises(grpc.RpcError) as raised:
            stub.Score(readable(WHOLE, [{}, {}]), timeout=10)
        assert raised.value.code() is Code.INVALID_ARGUMENT
        assert "trained on the scores of an outside model" in raised.value.details()
        request = readable(WHOLE, [{}, {}])
        request.readable.candidates[0].fixed_effect_score = 2.0
        with pytest.raises(grpc.RpcError) as raised:
            stub.Score(request, timeout=10)
        assert "readable.candidates[1].fixed_effect_score: is missing" in raised.value.details()
        request.readable.candidates[1].fixed_effect_score = -1.0
        assert stub.Score(request, timeout=10).scores == [2.5, -0.5]
        shared = readable(WHOLE, [{}, {}])
        shared.readable.context.fixed_effect_score = 1.0
        assert stub.Score(shared, timeout=10).scores == [1.5, 1.5]
        packed = columnar(
            candidates=2,
            entities=[wire.EntityIds(column="user_id", context=True, ids=b"bob")],
            fixed_effect_scores=np.array([1.25, 0.0]).tobytes(),
        )
        assert np.frombuffer(stub.Score(packed, timeout=10).packed_scores).tolist() == [0.0, -1.25]


def test_who_may_score(store, scorer, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("score a-token-that-may-score\ntrain a-token-that-may-train\n")
    tokens.chmod(0o600)
    with scorer(store, "--token-file", tokens) as running, running.channel() as channel:
        own = channel.unary_unary(
            "/gdmix.v1.ScoringService/Score",
            wire.ScoreRequest.SerializeToString,
            wire.ScoreResponse.FromString,
        )
        stream = channel.stream_stream("/gdmix.v1.ScoringService/ScoreStream")
        for token in ("", "a-token-that-may-train", "a-token-of-nobody-here"):
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            with pytest.raises(grpc.RpcError) as raised:
                own(readable(WHOLE, [{}]), timeout=10, metadata=metadata)
            assert raised.value.code() is Code.PERMISSION_DENIED
            with pytest.raises(grpc.RpcError) as raised:
                list(stream(iter([b""]), timeout=10, metadata=metadata))
            assert raised.value.code() is Code.PERMISSION_DENIED
        answer = own(
            readable(WHOLE, [{}]), timeout=10, metadata=(("authorization", "Bearer a-token-that-may-score"),)
        )
        assert answer.scores == [0.625]
        health = health_pb2_grpc.HealthStub(channel)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
            == health_pb2.HealthCheckResponse.SERVING
        )


def test_draining_finishes_what_is_under_way(store, scorer):
    with scorer(store) as running, running.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="gdmix.v1.ScoringService"), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        pipe_out, pipe_in = os.pipe()

        def requests():
            yield readable({"user_id": text("ann")}, [{}], request_id="before").SerializeToString()
            os.read(pipe_out, 1)
            yield readable({"user_id": text("bob")}, [{}], request_id="while").SerializeToString()

        answers = channel.stream_stream("/gdmix.v1.ScoringService/ScoreStream")(requests(), timeout=30)
        assert wire.ScoreResponse.FromString(next(answers)).request_id == "before"
        running.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        os.write(pipe_in, b".")
        assert wire.ScoreResponse.FromString(next(answers)).scores == [-1.125]
        assert list(answers) == []
        assert running.process.wait(60) == 0
        os.close(pipe_out)
        os.close(pipe_in)


def test_every_method_is_called_here():
    """A method that no test calls does not count as there."""
    from pathlib import Path

    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for method in wire.DESCRIPTOR.services_by_name["ScoringService"].methods:
        assert f".{method.name}(" in tests, method.name
