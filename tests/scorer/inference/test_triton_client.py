"""The real tritonclient, unchanged, against a scorer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gdmix_proto.inference.v2 import inference_pb2 as wire
from gdmix_proto.v1 import scoring_pb2, scoring_pb2_grpc

PROGRAM = Path(__file__).with_name("triton_client.py")


@pytest.fixture(scope="module")
def heard(catalogue, catalogue_fingerprint):
    ended = subprocess.run(
        [sys.executable, "-P", PROGRAM, f"127.0.0.1:{catalogue.port}", catalogue_fingerprint],
        input=wire.DESCRIPTOR.serialized_pb,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    return json.loads(ended.stdout)


def test_both_speak_one_contract(heard):
    assert heard["unlike"] == []


def test_state_and_metadata(heard):
    assert heard["live"] is heard["ready"] is True
    assert heard["model_ready"] == [True, True, True, False]
    assert heard["server"]["name"] == "gdmix"
    assert heard["model"]["platform"] == "gdmix"
    assert heard["model"]["versions"] == ["1"]
    assert heard["model"]["outputs"][0] == {"name": "scores", "datatype": "FP64", "shape": ["-1"]}


def test_scores(heard, catalogue):
    request = scoring_pb2.ScoreRequest(readable=scoring_pb2.ReadableInput())
    Value = scoring_pb2.Value
    context = request.readable.context.values
    context["user_id"].text, context["age"].number, context["gender"].text = "450", 0.5, "F"
    for movie, year, genres, embedding in (
        (7, 1.0, ["War"], [1, 0, -1]),
        (50, -0.5, ["Drama", "Action"], [0.5, 0.5, 0]),
        (9, 0.25, ["Unheard"], [0, 0, 0]),
    ):
        row = request.readable.candidates.add().values
        row["movie_id"].integer, row["year"].number = movie, year
        row["genres"].CopyFrom(Value(texts=scoring_pb2.TextList(values=genres)))
        row["embedding"].CopyFrom(Value(numbers=scoring_pb2.NumberList(values=embedding)))
    with catalogue.channel() as channel:
        expected = scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=10)
    usual = heard["usual"]
    assert usual["outputs"] == {
        "scores": list(expected.scores),
        "predictions": list(expected.predictions),
    }
    assert (usual["version"], usual["id"], usual["degraded"]) == ("1", "", False)
    assert heard["asyncio"] == [usual] * 32
    assert heard["chosen"]["id"] == "page-7"
    assert heard["chosen"]["outputs"] == {
        "scores": list(expected.scores),
        "contribution:per_user": [1.5, 0.75, 0.5],
    }
    # Intercept, age and gender of 450's features; the second candidate has a genre and a year, and no known movie.
    scores = np.array(heard["encoded"]["outputs"]["scores"])
    base = -1.0 + 0.5 * (-1.0 + 0.25 * 8) + (-1.0 + 0.25 * 9)
    assert scores.tolist() == [base + 0.25 - 0.5, base + 0.0 - 0.5 * 0.75]


def test_refusals(heard):
    nan, nobody, config = heard["refused"]
    assert nan[0] == "StatusCode.INVALID_ARGUMENT"
    assert "column 'year' holds nan" in nan[1]
    assert nobody[0] == "StatusCode.NOT_FOUND"
    assert config[0] == "StatusCode.UNIMPLEMENTED"
