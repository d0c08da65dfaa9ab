"""Answers, and names of versions, without a scorer."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.errors import UsageError
from gdmix_core.scoring.request import EncodedCandidates, Scores
from gdmix_scorer.calls import ModelChoice, ScoreAnswer
from gdmix_scorer.inference.convert import InferenceCall, answer_to_proto, choice_from_proto

SCORES = np.array([0.5, -1.0])
DEGRADED = ScoreAnswer(
    model="movies",
    version=3,
    coordinates=("global", "per_user"),
    scores=Scores(
        SCORES, 1.0 / (1.0 + np.exp(-SCORES)), np.stack([SCORES, np.zeros(2)]), {"per_user": [b"ann"]}
    ),
    unknown_features={"movie.genres": 4},
    degraded_reason="the store did not answer within 0.10 s",
)


@pytest.mark.parametrize("raw", [True, False])
def test_a_degraded_answer_says_so(raw):
    call = InferenceCall("inference", ModelChoice(), EncodedCandidates(2), request_id="page-7", raw=raw)
    found = answer_to_proto(DEGRADED, call, "host/0")
    assert (found.model_name, found.model_version, found.id) == ("movies", "3", "page-7")
    parameters = {name: value.WhichOneof("parameter_choice") for name, value in found.parameters.items()}
    assert parameters == {
        "instance": "string_param",
        "degraded": "bool_param",
        "degraded_reason": "string_param",
        "unknown_entities:per_user": "int64_param",
        "unknown_features:movie.genres": "int64_param",
    }
    assert found.parameters["degraded"].bool_param
    assert found.parameters["degraded_reason"].string_param == DEGRADED.degraded_reason
    assert found.parameters["unknown_features:movie.genres"].int64_param == 4
    assert [(one.name, one.datatype, list(one.shape)) for one in found.outputs] == [
        ("scores", "FP64", [2]),
        ("predictions", "FP64", [2]),
    ]
    if raw:
        assert found.raw_output_contents[0] == SCORES.astype("<f8").tobytes()
        assert not any(one.HasField("contents") for one in found.outputs)
    else:
        assert list(found.outputs[0].contents.fp64_contents) == SCORES.tolist()
        assert not found.raw_output_contents


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("", ModelChoice("m")),
        ("1", ModelChoice("m", version=1)),
        ("007", ModelChoice("m", version=7)),
        ("canary", ModelChoice("m", alias="canary")),
        ("-1", ModelChoice("m", alias="-1")),
        ("١", ModelChoice("m", alias="١")),
    ],
)
def test_versions_are_numbers_and_other_texts_aliases(text, choice):
    assert choice_from_proto("m", text) == choice


@pytest.mark.parametrize("text", ["0", "000", "9" * 19, "1" * 5_000])
def test_numbers_that_no_version_has(text):
    with pytest.raises(UsageError, match=r"^model_version: found"):
        choice_from_proto("m", text)
