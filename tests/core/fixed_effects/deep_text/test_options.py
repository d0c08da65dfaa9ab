"""What a config may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions
from gdmix_core.fixed_effects.plugin import InputColumn


def test_every_column_is_declared_with_its_kind() -> None:
    options = DeepTextOptions.model_validate(
        {
            "text": ["title", {"column": "body", "source": "docs"}],
            "query": "query",
            "user_text": ["about"],
            "numbers": ["age", {"column": "v", "vector": True, "dimension": 3}],
            "categories": ["color", {"column": "tags", "list": True}],
            "sparse": [{"column": "s", "dimension": 10}],
        }
    )
    assert DeepText().columns(options) == (
        InputColumn("title", "string"),
        InputColumn("body", "string", source="docs"),
        InputColumn("query", "string"),
        InputColumn("about", "string"),
        InputColumn("age", "number"),
        InputColumn("v", "vector", 3),
        InputColumn("color", "string"),
        InputColumn("tags", "strings"),
        InputColumn("s", "sparse", 10),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to learn from"),
        ({"text": ["t"], "interactions": ["cosine"]}, "need text and one of query and user_text"),
        ({"query": "q", "interactions": ["hadamard"]}, "need text and one of query and user_text"),
        ({"text": ["t"], "min_len": 5, "max_len": 4}, "min_len 5 is above max_len 4"),
        ({"text": ["t"], "encoder": {"kind": "transformer", "hidden": 30}}, "30 is no multiple of heads 4"),
        ({"text": ["t"], "encoder": {"kind": "perceptron"}}, "'cnn'"),
        ({"text": ["t"], "vocabulary": {"file": "v.txt", "size": 3}}, "size means nothing with file"),
        ({"text": ["t"], "word_embedding": {"trainable": False}}, "needs a file"),
        (
            {"text": ["t"], "encoder": {"kind": "bert", "directory": "b"}, "vocabulary": {"size": 9}},
            "vocabulary means nothing with encoder bert",
        ),
        ({"numbers": [{"column": "v", "dimension": 3}]}, "dimension goes with vector: true"),
        ({"text": ["t"], "early_stopping": {"on": "validation", "refit": True}}, "goes with on: holdout"),
        ({"text": ["t"], "epoch": 3}, "Extra inputs"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepTextOptions.model_validate(options)


def test_a_metric_of_another_task_is_refused() -> None:
    options = DeepTextOptions.model_validate({"text": ["t"], "early_stopping": {"metric": "auc"}})
    DeepText().check(options, "logistic_regression")
    with pytest.raises(ValueError, match="found auc with poisson_regression; allowed are poisson_loss"):
        DeepText().check(options, "poisson_regression")


def test_a_gang_has_as_many_members_as_workers() -> None:
    assert DeepText().members(DeepTextOptions.model_validate({"text": ["t"], "workers": 3})) == 3


@pytest.mark.parametrize(
    "given",
    [
        {"text": ["t"], "encoder": {"kind": "gru", "bidirectional": True}, "early_stopping": None},
        {"text": ["t"], "vocabulary": {"file": "v.txt"}, "word_embedding": {"file": "w.txt"}},
        {"text": ["t"], "encoder": {"kind": "bert", "directory": "b"}},
    ],
)
def test_options_survive_their_json(given: dict[str, Any]) -> None:
    options = DeepTextOptions.model_validate(given)
    assert DeepTextOptions.model_validate_json(options.model_dump_json()) == options
