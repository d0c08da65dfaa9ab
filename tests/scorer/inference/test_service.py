"""`inference.GRPCInferenceService` on the wire: every method, both contents, both forms, refusals."""

from __future__ import annotations

import signal
from importlib.metadata import version as installed_version
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gdmix_proto.inference.v2 import inference_pb2 as wire
from gdmix_proto.inference.v2 import inference_pb2_grpc
from gdmix_proto.v1 import scoring_pb2, scoring_pb2_grpc

Code = grpc.StatusCode
SERVICE = "inference.GRPCInferenceService"
TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT16": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents", "FP16": "fp32_contents", "BF16": "fp32_contents",
}  # fmt: skip
RAW = {"BOOL": "?", "INT8": "<i1", "INT32": "<i4", "INT64": "<i8", "UINT16": "<u2", "UINT64": "<u8",
       "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}  # fmt: skip


@pytest.fixture
def channel(catalogue):
    with catalogue.channel() as own:
        yield own


@pytest.fixture
def stub(channel):
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def flat(values):
    return [one for value in values for one in (flat(value) if isinstance(value, list) else [value])]


def packed(datatype, values) -> bytes:
    if datatype != "BYTES":
        return np.array(flat(values), RAW[datatype]).tobytes()
    encoded = [one if isinstance(one, bytes) else one.encode() for one in flat(values)]
    return b"".join(len(one).to_bytes(4, "little") + one for one in encoded)


def infer(*tensors, raw=True, parameters=None, outputs=(), **fields) -> wire.ModelInferRequest:
    """A request; a tensor is (name, datatype, nested values[, shape])."""
    request = wire.ModelInferRequest(model_name="catalogue", **fields)
    for name, datatype, values, *own_shape in tensors:
        shape = own_shape[0] if own_shape else np.shape(np.array(values, object))
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            request.raw_input_contents.append(packed(datatype, values))
        else:
            elements = [one.encode() if isinstance(one, str) else one for one in flat(values)]
            getattr(tensor.contents, TYPED[datatype]).extend(elements)
    for name, value in (parameters or {}).items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def numbers(response) -> dict[str, list[float]]:
    """The outputs by name, whichever way they came."""
    if response.raw_output_contents:
        found = [np.frombuffer(data, "<f8").tolist() for data in response.raw_output_contents]
    else:
        found = [list(tensor.contents.fp64_contents) for tensor in response.outputs]
    assert {tensor.datatype for tensor in response.outputs} == {"FP64"}
    for tensor, values in zip(response.outputs, found, strict=True):
        assert list(tensor.shape) == [len(values)]
    return {tensor.name: values for tensor, values in zip(response.outputs, found, strict=True)}


def parameter(response, name):
    value = response.parameters[name]
    return getattr(value, value.WhichOneof("parameter_choice"))


# ---- what it says of itself ------------------------------------------------------------------------------


def test_it_is_live_and_ready(stub, channel):
    assert stub.ServerLive(wire.ServerLiveRequest(), timeout=10).live
    assert stub.ServerReady(wire.ServerReadyRequest(), timeout=10).ready
    for version, ready in (("", True), ("1", True), ("canary", True), ("2", False)):
        request = wire.ModelReadyRequest(name="catalogue", version=version)
        assert stub.ModelReady(request, timeout=10).ready is ready
    health = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=SERVICE), timeout=10
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_metadata(stub):
    server = stub.ServerMetadata(wire.ServerMetadataRequest(), timeout=10)
    assert (server.name, server.version) == ("gdmix", installed_version("gdmix"))
    assert server.extensions == ["parameters"]
    for version in ("", "1", "canary"):
        found = stub.ModelMetadata(wire.ModelMetadataRequest(name="catalogue", version=version), timeout=10)
        assert (found.name, list(found.versions), found.platform) == ("catalogue", ["1"], "gdmix")
        assert {t.name: (t.datatype, list(t.shape)) for t in found.inputs} == {
            "embedding": ("FP64", [-1, 3]),
            "genres": ("BYTES", [-1, -1]),
            "year": ("FP64", [-1]),
            "age": ("FP64", [-1]),
            "gender": ("BYTES", [-1]),
            "user_id": ("BYTES", [-1]),
            "movie_id": ("BYTES", [-1]),
        }
        assert {(t.datatype, *t.shape) for t in found.outputs} == {("FP64", -1)}
        assert [t.name for t in found.outputs] == [
            "scores", "predictions", "contribution:global", "contribution:per_user", "contribution:per_movie",
        ]  # fmt: skip


def test_a_client_made_from_reflection_alone(channel):
    """What a client sees that has no contract of ours: classes from the server's own descriptors."""
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([asked]), timeout=10
    )
    pool = descriptor_pool.DescriptorPool()
    for data in next(answers).file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    service = pool.FindServiceByName(SERVICE)
    assert len(service.methods) == 6
    method = service.methods_by_name["ModelReady"]
    ask, answer = (message_factory.GetMessageClass(d) for d in (method.input_type, method.output_type))
    call = channel.unary_unary(f"/{SERVICE}/ModelReady", ask.SerializeToString, answer.FromString)
    assert call(ask(name="catalogue"), timeout=10).ready


# ---- scores ----------------------------------------------------------------------------------------------

COLUMNS = (
    ("user_id", "BYTES", ["450"]),
    ("age", "FP64", [0.5]),
    ("gender", "BYTES", ["F"]),
    ("movie_id", "INT64", [7, 50, 9]),
    ("year", "FP32", [1.0, -0.5, 0.25]),
    ("genres", "BYTES", [["War", ""], ["Drama", "Action"], ["", "Unheard"]]),
    ("embedding", "FP32", [[1.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]),
)


def readable_scores(channel) -> scoring_pb2.ScoreResponse:
    """The same candidates in the readable form of the scorer's own service."""
    Value = scoring_pb2.Value
    by_name = {name: values for name, _, values in COLUMNS}
    rows = [
        scoring_pb2.Row(
            values={
                "movie_id": Value(integer=by_name["movie_id"][i]),
                "year": Value(number=by_name["year"][i]),
                "genres": Value(texts=scoring_pb2.TextList(values=[g for g in by_name["genres"][i] if g])),
                "embedding": Value(numbers=scoring_pb2.NumberList(values=by_name["embedding"][i])),
            }
        )
        for i in range(3)
    ]
    context = scoring_pb2.Row(
        values={"user_id": Value(text="450"), "age": Value(number=0.5), "gender": Value(text="F")}
    )
    request = scoring_pb2.ScoreRequest(
        contributions=True, readable=scoring_pb2.ReadableInput(context=context, candidates=rows)
    )
    return scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=10)


@pytest.mark.parametrize("raw", [True, False])
def test_columns_score_as_the_readable_form_does(stub, channel, raw):
    expected = readable_scores(channel)
    names = [
        "contribution:per_movie",
        "predictions",
        "scores",
        "contribution:global",
        "contribution:per_user",
    ]
    answer = stub.ModelInfer(infer(*COLUMNS, raw=raw, outputs=names, id="page-7"), timeout=10)
    found = numbers(answer)
    assert list(found) == names
    assert len(answer.raw_output_contents) == (5 if raw else 0)
    assert found["scores"] == list(expected.scores)
    assert found["predictions"] == list(expected.predictions)
    for coordinate in expected.coordinates:
        assert found[f"contribution:{coordinate.name}"] == list(coordinate.contributions)
    assert found["contribution:per_user"] == [0.5 + 1.0, 0.5 + 0.5 - 0.25, 0.5]
    assert (answer.model_name, answer.model_version, answer.id) == ("catalogue", "1", "page-7")
    assert parameter(answer, "instance").endswith("/0")
    assert parameter(answer, "degraded") is False
    assert parameter(answer, "unknown_entities:per_movie") == 1
    assert parameter(answer, "unknown_features:movie.genres") == 1
    assert set(answer.parameters) == {
        "instance", "degraded", "unknown_entities:per_movie", "unknown_features:movie.genres",
    }  # fmt: skip


def test_without_outputs_there_are_scores_and_predictions(stub):
    assert list(numbers(stub.ModelInfer(infer(*COLUMNS), timeout=10))) == ["scores", "predictions"]


@pytest.mark.parametrize("version", ["", "1", "canary"])
def test_versions_and_aliases(stub, version):
    assert stub.ModelInfer(infer(*COLUMNS, model_version=version), timeout=10).model_version == "1"


@pytest.mark.parametrize("raw", [True, False])
def test_a_second_dimension_of_one_changes_nothing(stub, raw):
    tall = [
        (name, datatype, values if isinstance(values[0], list) else [[value] for value in values])
        for name, datatype, values in COLUMNS
    ]
    found = numbers(stub.ModelInfer(infer(*tall, raw=raw), timeout=10))
    assert found == numbers(stub.ModelInfer(infer(*COLUMNS), timeout=10))
    single = [(name, datatype, values[:1]) for name, datatype, values in tall]
    narrow = [(n, d, [["War"]] if n == "genres" else v) for n, d, v in single]
    alone = numbers(stub.ModelInfer(infer(*narrow, raw=raw), timeout=10))
    assert alone["scores"] == pytest.approx(found["scores"][:1], rel=1e-12)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", ["INT8", "INT64", "UINT16", "UINT64", "FP32", "FP64"])
def test_numbers_of_every_datatype(stub, datatype, raw):
    found = numbers(stub.ModelInfer(infer(("year", datatype, [1, 0]), raw=raw), timeout=10))["scores"]
    assert found[0] - found[1] == pytest.approx(1.0 * (-1.0 + 0.25 * 7))


def test_halves_and_booleans(stub):
    by_float = numbers(stub.ModelInfer(infer(("year", "FP64", [1.0, 0.0])), timeout=10))
    assert numbers(stub.ModelInfer(infer(("year", "FP16", [1.0, 0.0])), timeout=10)) == by_float
    for raw in (True, False):
        request = infer(("year", "BOOL", [True, False]), raw=raw)
        assert numbers(stub.ModelInfer(request, timeout=10)) == by_float


def test_the_number_of_candidates_may_be_said(stub):
    answer = stub.ModelInfer(infer(("age", "FP64", [1.0]), parameters={"candidates": 4}), timeout=10)
    assert len(set(numbers(answer)["scores"])) == 1
    assert list(answer.outputs[0].shape) == [4]
    bare = stub.ModelInfer(infer(parameters={"candidates": 2}), timeout=10)
    assert numbers(bare)["scores"] == [-1.0, -1.0]


def encoded(fingerprint, *more, **fields) -> wire.ModelInferRequest:
    """`COLUMNS` with features that are encoded already."""
    tensors = (
        ("user:context:indices", "INT32", [0, 1]),
        ("user:context:values", "FP64", [0.5, 1.0]),
        ("movie:offsets", "INT32", [0, 4, 9, 10]),
        ("movie:indices", "INT32", [0, 2, 5, 6, 0, 1, 3, 4, 6, 6]),
        ("movie:values", "FP32", [1.0, -1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, -0.5, 0.25]),
        ("user_id", "BYTES", ["450"]),
        ("movie_id", "BYTES", ["7", "50", "9"]),
    )
    fields.setdefault("parameters", {"schema_fingerprint": fingerprint})
    return infer(*tensors, *more, **fields)


@pytest.mark.parametrize("raw", [True, False])
def test_encoded_features_score_as_columns_do(stub, catalogue_fingerprint, raw):
    expected = numbers(stub.ModelInfer(infer(*COLUMNS), timeout=10))["scores"]
    answer = stub.ModelInfer(encoded(catalogue_fingerprint, raw=raw), timeout=10)
    assert numbers(answer)["scores"] == pytest.approx(expected, rel=1e-12)
    assert parameter(answer, "unknown_entities:per_movie") == 1


def test_encoded_features_of_a_context_alone(stub, catalogue_fingerprint):
    request = infer(
        ("user:context:indices", "INT32", [], [0]),
        ("user:context:values", "FP64", [], [0]),
        ("movie_id", "INT64", [7, 50]),
        parameters={"schema_fingerprint": catalogue_fingerprint},
        outputs=["contribution:per_movie"],
    )
    assert numbers(stub.ModelInfer(request, timeout=10)) == {"contribution:per_movie": [0.25, -0.75]}


# ---- refusals --------------------------------------------------------------------------------------------


def changed(request, **how):
    change = how.pop("change")
    change(request)
    return request


def refused_requests(fingerprint) -> dict[str, tuple[wire.ModelInferRequest, str]]:
    year = ("year", "FP64", [1.0, 0.0])
    return {
        "nothing": (infer(), "inputs: there are none, and no parameter 'candidates'"),
        "both contents": (
            changed(infer(year), change=lambda r: r.inputs[0].contents.fp64_contents.append(1.0)),
            "input 'year': has contents, and the request has raw_input_contents",
        ),
        "raw for one of two": (
            changed(infer(year, ("age", "FP64", [1.0])), change=lambda r: r.raw_input_contents.pop()),
            "raw_input_contents: found 1; allowed are 2",
        ),
        "raw for one, typed for the other": (
            changed(
                infer(year, ("age", "FP64", [1.0], [1]), raw=False),
                change=lambda r: (r.inputs[0].ClearField("contents"), r.raw_input_contents.append(b"")),
            ),
            "input 'age': has contents, and the request has raw_input_contents",
        ),
        "an endless name": (
            infer(("x" * 257, "FP64", [1.0])),
            f"input '{'x' * 32}…': its name has 257 characters; allowed are 256",
        ),
        "a name twice": (infer(year, year), "input 'year': comes twice"),
        "an unknown datatype": (
            changed(infer(year), change=lambda r: setattr(r.inputs[0], "datatype", "TEXT")),
            "input 'year': datatype 'TEXT' is not supported; allowed are BOOL,",
        ),
        "BF16": (
            changed(infer(year), change=lambda r: setattr(r.inputs[0], "datatype", "BF16")),
            "input 'year': datatype 'BF16' is not supported: send FP32;",
        ),
        "typed FP16": (
            infer(("year", "FP16", [1.0]), raw=False),
            "input 'year': FP16 has no typed contents; send raw_input_contents",
        ),
        "another typed field": (
            changed(
                infer(("year", "FP32", [1.0]), raw=False),
                change=lambda r: setattr(r.inputs[0], "datatype", "FP64"),
            ),
            "input 'year': contents.fp32_contents is given; FP64 goes into contents.fp64_contents",
        ),
        "too large for INT8": (
            infer(("year", "INT8", [1, 200]), raw=False),
            "input 'year': holds numbers beyond INT8, which is from -128 to 127",
        ),
        "no shape": (infer(("year", "FP64", [1.0], [])), "input 'year': has 0 dimensions"),
        "three dimensions": (infer(("year", "FP64", [1.0], [1, 1, 1])), "input 'year': has 3 dimensions"),
        "zero": (infer(("year", "FP64", [], [0])), "input 'year': shape [0]; every size must be at least 1"),
        "negative": (infer(("year", "FP64", [1.0], [-1])), "input 'year': shape [-1]"),
        "two negatives": (infer(("year", "FP64", [1.0], [-1, -1])), "input 'year': shape [-1, -1]"),
        "huge": (
            infer(("genres", "FP64", [1.0], [4, 2**62])),
            f"input 'genres': has 8 bytes; its shape and FP64 need {2**67}",
        ),
        "huge BYTES": (
            infer(("genres", "BYTES", ["F"], [1, 2**62])),
            f"input 'genres': has 5 bytes; {2**62} strings need {2**64} for their lengths alone",
        ),
        "huge, typed": (
            infer(("year", "FP64", [1.0], [8, 2**62]), raw=False),
            f"input 'year': has 1 elements; its shape needs {2**65}",
        ),
        "short": (infer(("year", "FP64", [1.0], [3])), "input 'year': has 8 bytes; its shape and FP64 need 24"),
        "long": (infer(("year", "INT64", [1, 2], [1])), "input 'year': has 16 bytes; its shape and INT64 need 8"),
        "a length beyond the end": (
            changed(
                infer(("gender", "BYTES", ["F"])),
                change=lambda r: r.raw_input_contents.__setitem__(0, b"\xff\xff\xff\xffF"),
            ),
            "input 'gender': string 0 is longer than what is left of the 5 bytes",
        ),
        "strings with a rest": (
            changed(
                infer(("gender", "BYTES", ["F"])),
                change=lambda r: r.raw_input_contents.__setitem__(0, b"\1\0\0\0FM"),
            ),
            "input 'gender': has 6 bytes; its 1 strings and their lengths take 5",
        ),
        "not UTF-8": (
            infer(("gender", "BYTES", ["F", b"\xff"])),
            "input 'gender': string 1 is not UTF-8",
        ),
        "not UTF-8, typed": (
            infer(("gender", "BYTES", ["F", b"\xff"]), raw=False),
            "input 'gender': string 1 is not UTF-8",
        ),
        "half a character": (
            infer(("user_id", "BYTES", [b"\xc3", b"\xa9"])),
            "input 'user_id': string 0 is not UTF-8",
        ),
        "NaN": (infer(("year", "FP64", [1.0, np.nan])), "column 'year' holds nan"),
        "infinity in a vector": (infer(("embedding", "FP32", [[1.0, np.inf, 0.0]])), "column 'embedding' holds"),
        "a vector of another size": (
            infer(("embedding", "FP64", [[1.0, 2.0]])),
            "column 'embedding' holds 2 numbers; allowed: vectors of 3 numbers",
        ),
        "text for a number": (infer(("year", "BYTES", ["old"])), "column 'year' holds 'old'"),
        "floats for an id": (infer(("user_id", "FP64", [1.5])), "column 'user_id' is of type double"),
        "unlike rows": (
            infer(year, ("age", "FP64", [1.0, 2.0, 3.0])),
            "input 'year': has 2 rows; allowed are 3, one for each candidate, and 1 for all",
        ),
        "other rows than said": (
            infer(year, parameters={"candidates": 3}),
            "input 'year': has 2 rows; allowed are 3",
        ),
        "too many": (
            infer(("year", "INT8", [0] * 10_001)),
            "input 'year': shape [10001]; allowed are at most 10000 rows",
        ),
        "huge indices": (
            infer(("user:context:indices", "INT32", [0], [2**62])),
            f"input 'user:context:indices': has 4 bytes; its shape and INT32 need {2**64}",
        ),
        "too many said": (infer(year, parameters={"candidates": 2**40}), "parameter 'candidates': says"),
        "a text for the number": (
            infer(year, parameters={"candidates": "3"}),
            "parameter 'candidates': found string_param; allowed: int64_param and uint64_param",
        ),
        "an unknown output": (
            infer(year, outputs=["scores", "logits"]),
            "output 'logits': version 1 of model 'catalogue' has 'scores', 'predictions', 'contribution:global'",
        ),
        "an unknown coordinate": (
            infer(year, outputs=["contribution:per_shop"]),
            "output 'contribution:per_shop': version 1 of model 'catalogue' has",
        ),
        "an output twice": (infer(year, outputs=["scores", "scores"]), "output 'scores': comes twice"),
        "classes": (
            changed(
                infer(year, outputs=["scores"]),
                change=lambda r: setattr(r.outputs[0].parameters["classification"], "int64_param", 3),
            ),
            "output 'scores': parameter 'classification' is not supported",
        ),
        "shared memory": (
            changed(
                infer(year),
                change=lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "x"),
            ),
            "input 'year': parameter 'shared_memory_region' is not supported",
        ),
        "shared memory beside raw contents": (
            changed(
                infer(("age", "FP64", [1.0]), year),
                change=lambda r: (
                    setattr(r.inputs[1].parameters["shared_memory_region"], "string_param", "x"),
                    r.raw_input_contents.pop(),
                ),
            ),
            "input 'year': parameter 'shared_memory_region' is not supported",
        ),
        "version 0": (infer(year, model_version="0"), "model_version: found '0'"),
        "a long version": (infer(year, model_version="9" * 30), "model_version: found '999"),
        "a long id": (infer(year, id="x" * 129), "request_id: has 129 characters"),
        "outside scores": (
            infer(("fixed_effect_score", "FP64", [1.0, 2.0])),
            "computes its fixed effect itself; leave the scores out",
        ),
        "outside scores that are NaN": (
            infer(("fixed_effect_score", "FP32", [1.0, np.nan])),
            "input 'fixed_effect_score': element 1 is nan; allowed: finite numbers",
        ),
        "outside scores that are whole": (
            infer(("fixed_effect_score", "INT64", [1])),
            "input 'fixed_effect_score': found INT64 of shape [1]; allowed: FP64 and FP32 with one number",
        ),
        "no fingerprint": (
            encoded("", parameters={}),
            f"schema_fingerprint: found ''; version 1 of model 'catalogue' has '{fingerprint}'",
        ),
        "another fingerprint": (encoded("00"), "schema_fingerprint: found '00'"),
        "an unknown bag": (
            encoded(fingerprint, ("shop:context:indices", "INT32", [0]), ("shop:context:values", "FP32", [1.0])),
            "found 'shop'; version 1 of model 'catalogue' has 'movie', 'user'",
        ),
        "indices without values": (
            encoded(fingerprint, ("user:indices", "INT32", [0])),
            "input 'user:values': is missing; 'user:indices' is there",
        ),
        "features without offsets": (
            encoded(fingerprint, ("user:indices", "INT32", [0]), ("user:values", "FP64", [1.0])),
            "input 'user:offsets': is missing; 'user:indices' is there",
        ),
        "INT64 indices": (
            infer(("user:context:indices", "INT64", [0]), ("user:context:values", "FP64", [1.0])),
            "input 'user:context:indices': found INT64 of shape [1]; allowed: INT32",
        ),
        "NaN values": (
            infer(("user:context:indices", "INT32", [0]), ("user:context:values", "FP32", [np.nan])),
            "input 'user:context:values': element 0 is nan",
        ),
        "unlike lengths": (
            infer(("user:context:indices", "INT32", [0, 1]), ("user:context:values", "FP64", [1.0])),
            "input 'user:context:values': has 1 elements; 'user:context:indices' has 2",
        ),
        "offsets that fall": (
            infer(
                ("user:indices", "INT32", [0, 1]), ("user:values", "FP64", [1.0, 1.0]),
                ("user:offsets", "INT32", [0, 3, 2]),
            ),
            "input 'user:offsets': must begin with 0, never fall and end with the number of indices, 2",
        ),
        "offsets for other rows": (
            infer(
                ("user:indices", "INT32", [0]), ("user:values", "FP64", [1.0]),
                ("user:offsets", "INT32", [0, 1]), ("user_id", "BYTES", ["a", "b"]),
            ),
            "input 'user:offsets': has 2 elements; allowed are 3, one more than rows",
        ),
        "one offset": (
            infer(
                ("user:indices", "INT32", [], [0]), ("user:values", "FP64", [], [0]),
                ("user:offsets", "INT32", [0]),
            ),
            "input 'user:offsets': says 0 candidates",
        ),
        "an index beyond the bag": (
            infer(
                ("user:context:indices", "INT32", [3]), ("user:context:values", "FP64", [1.0]),
                parameters={"schema_fingerprint": fingerprint},
            ),
            "(bag 'user'), row 0: indices must be from 0 to 2",
        ),
        "floats for encoded ids": (
            encoded(fingerprint, ("shop_id", "FP64", [1.0])),
            "input 'shop_id': datatype FP64; allowed for entity ids: BYTES and integers",
        ),
        "two ids in a row": (
            encoded(fingerprint, ("shop_id", "BYTES", [["a", "b"]])),
            "input 'shop_id': shape [1, 2]; allowed: one id in each row",
        ),
        "encoded ids that are not UTF-8": (
            encoded(fingerprint, ("shop_id", "BYTES", [b"\xff"])),
            "input 'shop_id': string 0 is not UTF-8",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused_requests(""))
def test_what_makes_no_sense_is_refused_by_name(stub, catalogue, catalogue_fingerprint, name):
    request, message = refused_requests(catalogue_fingerprint)[name]
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request, timeout=10)
    assert message in raised.value.details()
    assert raised.value.code() is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"model_name": "nobody"}, Code.NOT_FOUND, "'nobody' is not served here; served: 'catalogue'"),
        ({"model_version": "7"}, Code.NOT_FOUND, "version 7 of model 'catalogue' is not in the store"),
        ({"model_version": "blue"}, Code.NOT_FOUND, "model 'catalogue' has no alias 'blue'"),
    ],
)
def test_what_is_not_there_is_not_found(stub, fields, code, message):
    request = infer(*COLUMNS)
    for name, value in fields.items():
        setattr(request, name, value)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request, timeout=10)
    assert raised.value.code() is code
    assert message in raised.value.details()
    metadata = wire.ModelMetadataRequest(name=request.model_name, version=request.model_version)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelMetadata(metadata, timeout=10)
    assert raised.value.code() is code


@pytest.mark.parametrize("method", wire.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)
def test_bytes_that_are_no_request(channel, method):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/{method}")(b"\xff\xff\xff", timeout=10)
    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"the request is no inference.{method}Request")


def test_requests_are_counted_under_their_form(stub, catalogue):
    def count(outcome):
        return catalogue.count("requests_total", form="inference", outcome=outcome)

    before, refused = count("OK"), count("INVALID_ARGUMENT")
    stub.ModelInfer(infer(*COLUMNS), timeout=10)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(infer(), timeout=10)
    assert (count("OK"), count("INVALID_ARGUMENT")) == (before + 1, refused + 1)
    assert catalogue.count("in_flight") == 0


# ---- a life ----------------------------------------------------------------------------------------------


def test_ready_when_there_is_a_version_and_only_for_those_who_may(publish, scorer, until, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    tokens = tmp_path / "tokens"
    tokens.write_text("score a-token-that-may-score\n")
    tokens.chmod(0o600)
    allowed = {"metadata": (("authorization", "Bearer a-token-that-may-score"),), "timeout": 10}
    with scorer(url, "--token-file", tokens, ready=False) as running, running.channel() as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        live = stub.ServerLive(wire.ServerLiveRequest(), timeout=10, wait_for_ready=True)
        assert live.live
        assert not stub.ServerReady(wire.ServerReadyRequest(), timeout=10).ready
        assert not stub.ModelReady(wire.ModelReadyRequest(), **allowed).ready
        publish(url, external=True)
        until(lambda: stub.ServerReady(wire.ServerReadyRequest(), timeout=10).ready)
        ready = wire.ModelReadyRequest(name="movies")
        until(lambda: stub.ModelReady(ready, **allowed).ready)
        request = infer(("user_id", "BYTES", ["ann"]), ("fixed_effect_score", "FP32", [2.0, -1.0]))
        request.model_name = "movies"
        for method, asked in (
            (stub.ModelInfer, request),
            (stub.ModelReady, ready),
            (stub.ModelMetadata, wire.ModelMetadataRequest(name="movies")),
            (stub.ServerMetadata, wire.ServerMetadataRequest()),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                method(asked, timeout=10)
            assert raised.value.code() is Code.PERMISSION_DENIED
        assert numbers(stub.ModelInfer(request, **allowed))["scores"] == [2.5, -0.5]
        request.inputs[1].shape[:] = [2, 1]
        assert numbers(stub.ModelInfer(request, **allowed))["scores"] == [2.5, -0.5]
        del request.inputs[1], request.raw_input_contents[1]
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(request, **allowed)
        assert "fixed_effect_score: version 1 of model 'movies' was trained on" in raised.value.details()
        found = stub.ModelMetadata(wire.ModelMetadataRequest(), **allowed)
        assert [t.name for t in found.inputs] == ["age", "user_id", "fixed_effect_score"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0


def test_every_method_is_called_here():
    """A method that no test calls does not count as there."""
    tests = Path(__file__).read_text()
    for method in wire.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert f"stub.{method.name}(" in tests, method.name
