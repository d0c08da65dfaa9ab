"""Whose rows are whose, and in which order they come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gdmix_core.fixed_effects.deep_text import DeepTextOptions, stream
from gdmix_core.fixed_effects.deep_text.learning import learn_inputs
from gdmix_core.fixed_effects.deep_text.split import Selection, parts_of
from gdmix_core.fixed_effects.deep_text.stream import TrainingStream, evaluation_batches
from gdmix_core.fixed_effects.plugin import Rows

SIZES = [50, 0, 70, 31, 49]
EVERYTHING = Selection(0, 0.0, drawn=False)


class NumberedShard:
    """Rows whose labels are their numbers."""

    def __init__(self, first: int, rows: int) -> None:
        self.rows = rows
        self._label = np.arange(first, first + rows, dtype=np.float64)

    def read(self) -> Rows:
        columns = pa.RecordBatch.from_pydict({"x": pa.array(self._label)})
        return Rows(columns, self._label, np.ones(self.rows), np.zeros(self.rows))


def shards() -> list[NumberedShard]:
    starts = np.cumsum([0, *SIZES[:-1]])
    return [NumberedShard(int(start), size) for start, size in zip(starts, SIZES, strict=True)]


def make_stream(
    rank: int = 0, size: int = 1, selection: Selection = EVERYTHING, seed: int = 0
) -> TrainingStream:
    options = DeepTextOptions.model_validate({"numbers": ["x"], "normalize": False})
    inputs, _ = learn_inputs(options, shards(), "linear_regression")
    return TrainingStream(inputs, parts_of(shards(), rank, size), selection, seed, rank, 16)


def labels(batches: Any) -> list[list[int]]:
    return [batch["label"].astype(int).tolist() for batch in batches]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_members_share_the_rows(size: int) -> None:
    owned: Sequence[int] = [
        row
        for rank in range(size)
        for batch in evaluation_batches(make_stream().inputs, parts_of(shards(), rank, size), EVERYTHING)
        for row in batch["label"].astype(int)
    ]
    assert sorted(owned) == list(range(200))


def test_held_out_rows_are_the_others_whoever_asks() -> None:
    drawn, rest = Selection(5, 0.3, drawn=True), Selection(5, 0.3, drawn=False)
    whole = parts_of(shards(), 0, 1)
    assert drawn.count(whole) + rest.count(whole) == 200
    assert 35 <= drawn.count(whole) <= 85
    assert drawn.count(whole) == sum(drawn.count(parts_of(shards(), rank, 8)) for rank in range(8))
    other = Selection(6, 0.3, drawn=True)
    assert [part.tolist() for part in map(drawn.positions, whole)] != [
        part.tolist() for part in map(other.positions, whole)
    ]


@pytest.mark.parametrize("buffer_rows", [1, 100, 1 << 16])
def test_every_row_comes_once_an_epoch(buffer_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BUFFER_ROWS", buffer_rows)
    found = labels(itertools.islice(make_stream().batches(0), 40))
    rows = list(itertools.chain.from_iterable(found))
    assert sorted(rows[:200]) == sorted(rows[200:400]) == list(range(200))
    assert rows[:200] != rows[200:400]
    assert all(12 <= len(batch) <= 20 for batch in found)


@pytest.mark.parametrize("buffer_rows", [60, 1 << 16])
def test_any_batch_can_be_the_first(buffer_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BUFFER_ROWS", buffer_rows)
    selection = Selection(1, 0.2, drawn=False)
    whole = labels(itertools.islice(make_stream(selection=selection).batches(0), 40))
    for first in (1, 9, 10, 11, 25):
        assert (
            labels(itertools.islice(make_stream(selection=selection).batches(first), 5))
            == (whole[first : first + 5])
        )


def test_seed_and_rank_decide_the_order() -> None:
    def first(**changes: Any) -> list[list[int]]:
        return labels(itertools.islice(make_stream(**changes).batches(0), 3))

    assert first() == first()
    assert first() != first(seed=1)
    assert not set(itertools.chain(*first(rank=0, size=2))) & set(itertools.chain(*first(rank=1, size=2)))
