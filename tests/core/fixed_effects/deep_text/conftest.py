"""A fit outside of a job: rows in memory as shards, a context that remembers what it was told, a small world."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gdmix_core.fixed_effects.plugin import FitData, FitProgress, Gang, Rows, Task


@dataclass(frozen=True)
class Shard:
    data: Rows

    @property
    def rows(self) -> int:
        return len(self.data)

    def read(self) -> Rows:
        return self.data


@dataclass
class Context:
    checkpoints: Path
    logs: Path
    task: Task = "logistic_regression"
    seed: int = 1
    threads: int = 1
    gang: Gang | None = None
    on_report: Callable[[FitProgress], None] | None = None
    reports: list[FitProgress] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def report(self, progress: FitProgress) -> None:
        self.reports.append(progress)
        if self.on_report is not None:
            self.on_report(progress)

    def notice(self, text: str, *, warning: bool = False) -> None:
        self.notices.append(text)


@dataclass(frozen=True)
class World:
    """Made-up rows, with labels that depend on all of their columns."""

    rows: Rows
    truth: np.ndarray

    def shards(self, sizes: Sequence[int]) -> list[Shard]:
        cuts = np.cumsum([0, *sizes])
        assert cuts[-1] <= len(self.rows)
        return [self._shard(a, b) for a, b in itertools.pairwise(cuts)]

    def _shard(self, start: int, stop: int) -> Shard:
        part = slice(start, stop)
        rows = self.rows
        columns = rows.columns.slice(start, stop - start)
        return Shard(Rows(columns, rows.label[part], rows.weight[part], rows.offset[part]))


WORDS = [f"word{i}" for i in range(12)]
COLORS = ["red", "green", "blue", "grey"]


def make_world(rows: int, task: Task = "logistic_regression", seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    word_value = rng.normal(0, 1.0, len(WORDS))
    words = [rng.integers(0, len(WORDS), rng.integers(0, 6)) for _ in range(rows)]
    query = rng.integers(0, len(WORDS), rows)
    age = rng.normal(40, 10, rows)
    vector = rng.normal(0, 1, (rows, 3)).astype(np.float32)
    color = rng.integers(0, len(COLORS), rows)
    tags = [rng.choice(len(COLORS), rng.integers(0, 3), replace=False) for _ in range(rows)]
    index = [rng.choice(30, rng.integers(0, 4), replace=False) for _ in range(rows)]
    truth = np.array([word_value[w].sum() for w in words])
    truth += 0.5 * (age - 40) / 10 + vector @ [0.3, -0.3, 0.1] + 0.7 * (color == 1) - 0.7 * (color == 2)
    truth += np.array([1.0 * (i < 10).sum() for i in index]) + np.array([0.3 * (t == 0).sum() for t in tags])
    offset = rng.normal(0, 0.3, rows)
    score = 1.5 * truth + offset
    if task == "logistic_regression":
        label = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.float64)
    elif task == "linear_regression":
        label = 100 + 20 * truth + offset + rng.normal(0, 5, rows)
    else:
        label = rng.poisson(np.exp(0.4 * truth + offset)).astype(np.float64)
    texts = [" ".join(WORDS[i] for i in w) or None for w in words]
    columns: Mapping[str, Any] = {
        "title": pa.array(texts, pa.string()),
        "query": pa.array([WORDS[i].upper() for i in query], pa.string()),
        "age": pa.array([None if i % 17 == 0 else a for i, a in enumerate(age)], pa.float64()),
        "vector": pa.array(vector.tolist(), pa.list_(pa.float32())),
        "color": pa.array([None if i % 13 == 0 else COLORS[c] for i, c in enumerate(color)], pa.string()),
        "tags": pa.array([[COLORS[t] for t in ts] for ts in tags], pa.list_(pa.string())),
        "sparse": pa.array(
            [{"indices": i.tolist(), "values": [1.0] * len(i)} for i in index],
            pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))]),
        ),
    }
    return World(Rows(pa.RecordBatch.from_pydict(columns), label, rng.uniform(0.5, 1.5, rows), offset), truth)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(3000)


@pytest.fixture(scope="session")
def make() -> Callable[..., World]:
    return make_world


@pytest.fixture
def new_context(tmp_path: Path) -> Callable[..., Context]:
    """Make contexts; those of one test share the directory of checkpoints unless they are told otherwise."""

    def new(name: str = "fit", **changes: Any) -> Context:
        directory = tmp_path / name
        for part in ("checkpoints", "logs"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        return Context(directory / "checkpoints", directory / "logs", **changes)

    return new


@pytest.fixture
def data(world: World) -> FitData:
    shards = world.shards([700, 0, 900, 800, 600])
    return FitData(shards[:4], shards[4:])
