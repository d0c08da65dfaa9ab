"""Rows as codes and numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text import DeepTextOptions
from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.learning import learn_inputs
from gdmix_core.fixed_effects.plugin import FitData, Rows

OPTIONS: dict[str, Any] = {
    "text": ["title"],
    "query": "query",
    "numbers": ["age", {"column": "vector", "vector": True}],
    "categories": ["color", {"column": "tags", "list": True}],
    "sparse": [{"column": "sparse", "dimension": 30}],
}


class OneShard:
    def __init__(self, columns: dict[str, pa.Array]) -> None:
        self._batch = pa.RecordBatch.from_pydict(columns)
        self.rows = self._batch.num_rows

    def read(self) -> Rows:
        zeros = np.zeros(self.rows)
        return Rows(self._batch, zeros, zeros + 1, zeros)


def learn(columns: dict[str, pa.Array], **options: Any) -> tuple[Inputs, pa.RecordBatch]:
    shard = OneShard(columns)
    inputs, _ = learn_inputs(DeepTextOptions.model_validate(options), [shard], "logistic_regression")
    return inputs, shard.read().columns


def test_texts_are_padded_and_each_distinct_one_stands_once() -> None:
    texts = pa.array(["a B", "b", None, "a b", "a, c! c", "b"])
    inputs, rows = learn({"t": texts}, text=["t"], vocabulary={"min_df": 2})
    batch = inputs.encode(rows).batch(np.arange(6))
    codes = batch["text_0"][batch["text_0_row"]]
    # b in 4 texts, a in 3; c in one only, so it is unknown
    a, b, unknown = 3, 2, 1
    assert codes[:, :3].tolist() == [
        [a, b, 0],
        [b, 0, 0],
        [0, 0, 0],
        [a, b, 0],
        [a, unknown, unknown],
        [b, 0, 0],
    ]
    assert codes.shape[1] == 4
    assert not codes[:, 3].any()
    # "a B" and "a b" differ as texts
    assert len(batch["text_0"]) == 5


def test_long_texts_are_cut_and_short_ones_padded() -> None:
    inputs, rows = learn({"t": pa.array(["a b c d e f g"])}, text=["t"], vocabulary={"min_df": 1}, max_len=5)
    assert inputs.encode(rows).batch(np.array([0]))["text_0"].tolist() == [[2, 3, 4, 5, 6, 0, 0, 0]]
    inputs, rows = learn({"t": pa.array(["a"])}, text=["t"], vocabulary={"min_df": 1}, min_len=9)
    assert inputs.encode(rows).batch(np.array([0]))["text_0"].shape == (1, 12)


def test_numbers_are_normalised_and_null_is_their_mean() -> None:
    numbers = pa.array([1.0, 3.0, None, 5.0])
    vectors = pa.array([[1.0, 7.0], None, [3.0, 7.0], [5.0, 7.0]], pa.list_(pa.float32()))
    inputs, rows = learn({"x": numbers, "v": vectors}, numbers=["x", {"column": "v", "vector": True}])
    deviation = np.std([1, 3, 5])
    expected = np.array([-2, 0, 0, 2]) / deviation
    found = inputs.encode(rows).numbers
    assert found[:, 0] == pytest.approx(expected)
    assert found[:, 1] == pytest.approx(np.array([-2, 0, 0, 2]) / deviation)
    assert not found[:, 2].any(), "a constant becomes 0"
    inputs, rows = learn({"x": numbers}, numbers=["x"], normalize=False)
    assert inputs.encode(rows).numbers[:, 0].tolist() == [1, 3, 0, 5]


def test_moments_over_shards_are_those_of_all_rows(data: FitData) -> None:
    inputs, labels = learn_inputs(DeepTextOptions.model_validate(OPTIONS), data.train, "logistic_regression")
    age = pa.chunked_array([shard.read().columns["age"] for shard in data.train]).drop_null().to_numpy()
    assert inputs.mean[0] == pytest.approx(age.mean(), rel=1e-12)
    assert inputs.scale[0] == pytest.approx(age.std(), rel=1e-12)
    label = np.concatenate([shard.read().label for shard in data.train])
    weight = np.concatenate([shard.read().weight for shard in data.train])
    assert labels.label == pytest.approx(label @ weight)
    assert labels.rows == len(label)


def test_categories_are_codes_and_what_is_rare_is_unknown() -> None:
    tags = pa.array([["x", "y"], [], None, ["x", "", "z"]], pa.list_(pa.string()))
    inputs, rows = learn({"t": tags}, categories=[{"column": "t", "list": True, "min_df": 2}])
    batch = inputs.encode(rows).batch(np.array([3, 0, 1]))
    assert batch["bag_0"].tolist() == [2, 1, 2, 1]
    assert batch["bag_0_row"].tolist() == [0, 0, 1, 1]
    assert batch["bag_0_value"].tolist() == [1, 1, 1, 1]


def test_sparse_vectors_keep_index_and_value() -> None:
    kind = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))])
    sparse = pa.array(
        [{"indices": [4, 1], "values": [0.5, 2.0]}, None, {"indices": [0], "values": [1.5]}], kind
    )
    inputs, rows = learn({"s": sparse}, sparse=[{"column": "s", "dimension": 5}])
    batch = inputs.encode(rows.slice(1)).batch(np.array([1, 0]))
    assert (batch["bag_0"].tolist(), batch["bag_0_value"].tolist(), batch["bag_0_row"].tolist()) == (
        [0],
        [1.5],
        [0],
    )
    batch = inputs.encode(rows).batch(np.array([0, 1, 2]))
    assert batch["bag_0"].tolist() == [4, 1, 0]
    assert batch["bag_0_row"].tolist() == [0, 0, 2]


def test_any_cut_of_the_rows_gives_the_same(data: FitData) -> None:
    inputs, _ = learn_inputs(DeepTextOptions.model_validate(OPTIONS), data.train, "logistic_regression")
    columns = data.train[0].read().columns
    whole = inputs.encode(columns).batch(np.arange(100, 130))
    part = inputs.encode(columns.slice(100, 30)).batch(np.arange(30))
    for name, values in whole.items():
        if name.startswith("text") and not name.endswith("_row"):
            row = f"{name}_row"
            assert np.array_equal(values[whole[row]], part[name][part[row]]), name
        elif not name.startswith("text"):
            assert np.array_equal(values, part[name]), name


def test_what_was_learned_is_saved(data: FitData, tmp_path: Path) -> None:
    inputs, _ = learn_inputs(DeepTextOptions.model_validate(OPTIONS), data.train, "logistic_regression")
    inputs.save(tmp_path / "inputs.arrow")
    loaded = Inputs.load(tmp_path / "inputs.arrow")
    columns = data.validation[0].read().columns
    expected = inputs.encode(columns).batch(np.arange(columns.num_rows))
    found = loaded.encode(columns).batch(np.arange(columns.num_rows))
    assert loaded.options == inputs.options
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": pa.array([1.0, np.inf])}, {"numbers": ["x"]}, "column 'x': found inf; allowed are finite"),
        (
            {"x": pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))},
            {"numbers": [{"column": "x", "vector": True}]},
            "column 'x': found a vector of length 2; all must have length 1",
        ),
        (
            {
                "x": pa.array(
                    [{"indices": [3], "values": [1.0]}],
                    pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))]),
                )
            },
            {"sparse": [{"column": "x", "dimension": 3}]},
            "column 'x': found index 3; allowed are 0 to 2",
        ),
    ],
)
def test_values_that_cannot_be_taken_are_named(
    columns: dict[str, pa.Array], options: dict[str, Any], message: str
) -> None:
    def learn_and_encode() -> None:
        inputs, rows = learn(columns, **options)
        inputs.encode(rows)

    with pytest.raises(DataError, match=message):
        learn_and_encode()


def test_a_vocabulary_file_says_what_is_known(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.txt"
    file.write_text("[PAD]\n[UNK]\nB\na\nb\n", encoding="utf-8")
    inputs, rows = learn({"t": pa.array(["a b c"])}, text=["t"], vocabulary={"file": str(file)})
    assert inputs.encode(rows).batch(np.array([0]))["text_0"].tolist() == [[3, 2, 1, 0]]
    file.write_text("[PAD]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocabulary.txt: found no token"):
        learn({"t": pa.array(["a"])}, text=["t"], vocabulary={"file": str(file)})
    with pytest.raises(DataError, match=r"absent.txt: cannot be read"):
        learn({"t": pa.array(["a"])}, text=["t"], vocabulary={"file": str(tmp_path / "absent.txt")})


@pytest.mark.parametrize("task", ["logistic_regression", "linear_regression", "poisson_regression"])
def test_a_fresh_network_begins_near_the_labels(make: Callable[..., Any], task: Any) -> None:
    shards = make(2000, task).shards([2000])
    inputs, _ = learn_inputs(DeepTextOptions(text=["title"]), shards, task)  # type: ignore[arg-type]
    rows = shards[0].read()
    score = inputs.start + rows.offset
    mean = {"linear_regression": score, "poisson_regression": np.exp(score)}.get(
        task, 1 / (1 + np.exp(-score))
    )
    assert np.average(mean, weights=rows.weight) == pytest.approx(
        np.average(rows.label, weights=rows.weight), rel=0.06
    )
    assert (inputs.spread == 1.0) == (task != "linear_regression")
