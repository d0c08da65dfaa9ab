"""Fitting, scoring, saving: the whole plug-in on made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("tensorflow", reason="deep_text trains with TensorFlow: pip install 'gdmix[tensorflow]'")

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions
from gdmix_core.fixed_effects.deep_text.evaluation import auc
from gdmix_core.fixed_effects.plugin import FitData, FitProgress, FixedEffectModel

ALL_INPUTS: dict[str, Any] = {
    "text": ["title"],
    "query": "query",
    "numbers": ["age", {"column": "vector", "vector": True}],
    "categories": ["color", {"column": "tags", "list": True}],
    "sparse": [{"column": "sparse", "dimension": 30, "embedding": 2}],
    "interactions": ["concatenation", "cosine", "hadamard", "difference"],
    "encoder": {"kind": "cnn", "filters": 8, "windows": [1, 2]},
    "word_embedding": {"size": 8},
    "hidden": [16],
    "batch_size": 128,
    "optimizer": {"learning_rate": 0.02},
    "epochs": 4,
}


FEW_INPUTS: dict[str, Any] = {
    "text": ["title"],
    "categories": ["color"],
    "encoder": {"kind": "cnn", "filters": 8, "windows": [1]},
    "word_embedding": {"size": 8},
    "hidden": [8],
    "batch_size": 128,
    "optimizer": {"learning_rate": 0.03},
    "epochs": 4,
}


def options(**changes: Any) -> DeepTextOptions:
    return DeepTextOptions.model_validate({**FEW_INPUTS, **changes})


def fit(chosen: DeepTextOptions, data: FitData, context: Any) -> FixedEffectModel:
    return DeepText().fit(chosen, data, context)


def tags(logs: Path) -> set[str]:
    """What TensorBoard would show."""
    import tensorflow as tf

    events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for file in logs.rglob("events.out.tfevents.*")
        for record in tf.data.TFRecordDataset(str(file))
    ]
    return {value.tag for event in events for value in event.summary.value}


def scores(model: FixedEffectModel, data: FitData) -> np.ndarray:
    return np.concatenate([model.score(shard.read().columns) for shard in data.validation])


def test_it_learns_and_is_the_same_after_saving_and_loading(
    data: FitData, new_context: Callable[..., Any], tmp_path: Path
) -> None:
    context = new_context()
    model = fit(DeepTextOptions.model_validate(ALL_INPUTS), data, context)
    rows = data.validation[0].read()
    found = model.score(rows.columns)
    assert auc(found + rows.offset, rows.label, np.ones(len(rows))) > 0.8
    saved = tmp_path / "saved"
    saved.mkdir()
    model.save(saved)
    loaded = DeepText().load(saved)
    loaded.warm_up()
    assert np.abs(loaded.score(rows.columns) - found).max() < 1e-6
    # One row at a time, and none.
    assert loaded.score(rows.columns.slice(7, 1)) == pytest.approx(found[7:8], abs=1e-5)
    assert loaded.score(rows.columns.slice(0, 0)).shape == (0,)
    assert found.dtype == np.float64
    # No pickle among the files.
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} <= {
        ".arrow",
        ".pb",
        ".index",
        ".data-00000-of-00001",
    }
    assert model.describe()["weights"] > 100
    last = context.reports[-1]
    assert last.step == last.steps == 68
    assert any("auc" in report.metrics for report in context.reports)
    assert tags(context.logs) == {"loss", "examples_per_second", "auc", "logloss"}


def test_the_offset_is_added_before_the_loss(
    world: Any, data: FitData, new_context: Callable[..., Any]
) -> None:
    """With the truth as offset nothing is left to learn."""
    rows = world.rows
    told = type(world)(
        type(rows)(rows.columns, rows.label, rows.weight, rows.offset + 1.5 * world.truth), world.truth
    ).shards([1200, 1200])
    chosen = options(epochs=3, early_stopping=None)
    truth = world.truth[2400:]
    plain = scores(fit(chosen, data, new_context("plain")), data)
    assert np.corrcoef(plain, truth)[0, 1] > 0.6
    rest = scores(fit(chosen, FitData(told, data.validation), new_context("told")), data)
    assert abs(np.corrcoef(rest, truth)[0, 1]) < 0.3
    assert np.std(rest) < 0.5 * np.std(plain)


def test_rows_of_weight_0_do_not_count(data: FitData, new_context: Callable[..., Any]) -> None:
    class Halved:
        """Half the rows have the wrong label and weight 0."""

        def __init__(self, shard: Any, weight: float) -> None:
            rows = shard.read()
            wrong = np.arange(len(rows)) % 2 == 0
            label = np.where(wrong, 1 - rows.label, rows.label)
            self._rows = type(rows)(rows.columns, label, np.where(wrong, weight, 1.0), rows.offset)
            self.rows = len(rows)

        def read(self) -> Any:
            return self._rows

    rows = data.validation[0].read()
    found = []
    for weight in (0.0, 1.0):
        train = [Halved(shard, weight) for shard in data.train]
        model = fit(options(epochs=3, early_stopping=None), FitData(train, []), new_context(f"w{weight}"))
        found.append(auc(model.score(rows.columns), rows.label, rows.weight))
    assert found[0] > 0.7
    assert found[1] < 0.6


@pytest.mark.parametrize("task", ["linear_regression", "poisson_regression"])
def test_other_tasks(make: Callable[..., Any], task: Any, new_context: Callable[..., Any]) -> None:
    shards = make(2500, task).shards([1000, 1000, 500])
    model = fit(options(epochs=5), FitData(shards[:2], []), new_context(task=task))
    rows = shards[2].read()
    score = model.score(rows.columns) + rows.offset
    mean = score if task == "linear_regression" else np.exp(score)
    explained = 1 - np.square(rows.label - mean).sum() / np.square(rows.label - rows.label.mean()).sum()
    assert explained > (0.3 if task == "linear_regression" else 0.12)


@pytest.mark.parametrize(
    "encoder",
    [{"kind": "gru", "units": 6}, {"kind": "transformer", "layers": 1, "heads": 2, "hidden": 12}],
    ids=["gru", "transformer"],
)
def test_other_encoders_learn(
    encoder: dict[str, Any], data: FitData, new_context: Callable[..., Any]
) -> None:
    model = fit(options(categories=[], epochs=3, encoder=encoder), data, new_context())
    rows = data.validation[0].read()
    found = model.score(rows.columns)
    assert auc(found + rows.offset, rows.label, rows.weight) > 0.65
    short = [i for i, text in enumerate(rows.columns["title"].to_pylist()) if text and len(text) < 8][:5]
    alone = np.concatenate([model.score(rows.columns.slice(i, 1)) for i in short])
    assert alone == pytest.approx(found[short], abs=1e-5)


def test_wide_alone(data: FitData, new_context: Callable[..., Any]) -> None:
    chosen = DeepTextOptions.model_validate(
        {
            "sparse": [{"column": "sparse", "dimension": 30}],
            "hidden": [],
            "epochs": 3,
            "batch_size": 64,
            "optimizer": {"learning_rate": 0.02},
        }
    )
    rows = data.validation[0].read()
    assert auc(fit(chosen, data, new_context()).score(rows.columns), rows.label, rows.weight) > 0.55


def test_unknown_words_and_values_are_scored(data: FitData, new_context: Callable[..., Any]) -> None:
    model = fit(options(epochs=1), data, new_context())
    rows = data.validation[0].read().columns.slice(0, 4).to_pydict()
    columns = {
        **rows,
        "title": pa.array(["never seen", "", None, "日本語 word1"]),
        "color": pa.array(["violet", None, "", "red"]),
        "age": pa.array([None] * 4, pa.float64()),
    }
    schema = data.validation[0].read().columns.schema
    assert np.isfinite(model.score(pa.RecordBatch.from_pydict(columns, schema=schema))).all()


def test_the_epoch_is_chosen_on_rows_that_are_not_trained_on(
    data: FitData, new_context: Callable[..., Any]
) -> None:
    stopping = {"share": 0.2, "patience": 2, "refit": True, "every_steps": 5}
    chosen = options(epochs=30, hidden=[64], optimizer={"learning_rate": 0.05}, early_stopping=stopping)
    context = new_context()
    model = fit(chosen, FitData(data.train, []), context)
    facts = model.describe()
    assert facts["steps"] < 30 * 19 * 0.8
    assert facts["best step"] == facts["steps"] - 10
    # All training rows make more steps of the same number of epochs.
    assert facts["refit steps"] == pytest.approx(facts["best step"] * 1.25, rel=0.1)
    measured = [report for report in context.reports if report.metrics]
    best = max(report.metrics["auc"] for report in measured)
    assert facts["early stopping auc"] == pytest.approx(best)


def test_validation_rows_are_looked_at_only_when_asked_for(
    data: FitData, new_context: Callable[..., Any]
) -> None:
    class Forbidden:
        rows = 100

        def read(self) -> Any:
            raise AssertionError("validation rows were read")

    hidden = FitData(data.train, [Forbidden()])
    fit(options(steps=3), hidden, new_context("holdout"))
    with pytest.raises(AssertionError, match="were read"):
        fit(options(steps=3, early_stopping={"on": "validation"}), hidden, new_context("validation"))


class Killed(Exception):
    pass


def test_a_killed_fit_goes_on_to_the_same_model(data: FitData, new_context: Callable[..., Any]) -> None:
    chosen = options(
        epochs=3, checkpoint_steps=10, early_stopping={"every_steps": 7, "patience": 50, "refit": True}
    )
    expected = scores(fit(chosen, data, new_context("whole")), data)

    def kill(progress: FitProgress) -> None:
        if progress.step >= 28:
            raise Killed

    with pytest.raises(Killed):
        fit(chosen, data, new_context("killed", on_report=kill))
    again = new_context("killed")
    found = scores(fit(chosen, data, again), data)
    assert again.notices == ["training goes on from its checkpoint of step 20"]
    assert np.array_equal(found, expected)


def test_checkpoints_of_other_options_are_passed_over(data: FitData, new_context: Callable[..., Any]) -> None:
    fit(options(steps=2), data, new_context())
    context = new_context()
    fit(options(steps=2, dropout=0.5), data, context)
    assert context.notices == []


def test_the_seed_decides(data: FitData, new_context: Callable[..., Any]) -> None:
    found = [
        scores(fit(options(steps=10), data, new_context(name, seed=seed)), data)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_divergence_is_an_error(make: Callable[..., Any], new_context: Callable[..., Any]) -> None:
    shards = make(500, "poisson_regression").shards([500])
    chosen = options(steps=60, optimizer={"learning_rate": 1e6, "clip_norm": None}, early_stopping=None)
    with pytest.raises(DataError, match="training diverged: the loss is"):
        fit(chosen, FitData(shards, []), new_context(task="poisson_regression"))


def test_a_metric_that_is_undefined_is_named(
    make: Callable[..., Any], new_context: Callable[..., Any]
) -> None:
    (shard,) = make(300).shards([300])
    rows = shard.read()

    class OneClass:
        rows = 300

        def read(self) -> Any:
            return type(rows)(rows.columns, np.ones(300), rows.weight, rows.offset)

    context = new_context()
    model = fit(options(epochs=2), FitData([OneClass()], []), context)
    assert context.notices[0].startswith("early stopping: auc is undefined on the rows to evaluate on")
    assert (model.score(rows.columns) > 2).all()


def test_no_rows_is_an_error(make: Callable[..., Any], new_context: Callable[..., Any]) -> None:
    shards = make(10).shards([0])
    with pytest.raises(DataError, match="there are no training rows"):
        fit(options(early_stopping=None), FitData(shards, []), new_context())


def test_word_vectors_of_a_file(data: FitData, new_context: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    lines = [f"Word{i} {i} 1.5 -2" for i in range(9)]
    file.write_text("\n".join(["9 3", *lines]), encoding="utf-8")
    context = new_context()
    given = {"file": str(file), "trainable": False}
    model = fit(options(steps=5, word_embedding=given), data, context)
    assert context.notices == [f"{file} has vectors of 9 of the vocabulary's 12 words"]
    assert np.isfinite(scores(model, data)).all()
    file.write_text("other 1 2 3\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a vector of none of the 12 words"):
        fit(options(steps=5, word_embedding=given), data, new_context())
    file.write_text("word1 1 2 3\nword2 1 x 3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vectors.txt, line 2: could not convert"):
        fit(options(steps=5, word_embedding=given), data, new_context())


def test_regularisation_makes_weights_small(data: FitData, new_context: Callable[..., Any]) -> None:
    spread = {
        name: np.std(scores(fit(options(epochs=2, **changes), data, new_context(name)), data))
        for name, changes in (("free", {}), ("both", {"l2": 0.1, "l1": 0.01}))
    }
    assert spread["both"] < 0.5 * spread["free"]
