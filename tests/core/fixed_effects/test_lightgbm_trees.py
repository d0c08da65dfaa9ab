"""Trees by LightGBM: offsets, the three losses, early stopping, files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.lightgbm_trees import LightgbmOptions, LightgbmTrees
from gdmix_core.fixed_effects.lightgbm_trees.features import learn_features
from gdmix_core.fixed_effects.lightgbm_trees.intercept import fit_intercept
from gdmix_core.fixed_effects.plugin import FitData, FitProgress, FixedEffectModel, Gang, Rows, Task

pytest.importorskip("lightgbm", reason="needs LightGBM (pip install 'gdmix[lightgbm]')")
TASKS: tuple[Task, ...] = ("logistic_regression", "linear_regression", "poisson_regression")


@dataclass
class Shard:
    whole: Rows

    @property
    def rows(self) -> int:
        return len(self.whole)

    def read(self) -> Rows:
        return self.whole


@dataclass
class Context:
    task: Task
    checkpoints: Path = Path("unused")
    logs: Path = Path("unused")
    seed: int = 5
    threads: int = 1
    gang: Gang | None = None
    reports: list[FitProgress] = field(default_factory=list)

    def report(self, progress: FitProgress) -> None:
        self.reports.append(progress)

    def notice(self, text: str, *, warning: bool = False) -> None:
        raise AssertionError(text)


def make_rows(task: Task, rows: int, seed: int = 1, offset_scale: float = 1.0) -> Rows:
    """Rows whose predictor is the offset, a step of x and the level of a color."""
    rng = np.random.default_rng(seed)
    x, color = rng.normal(size=rows), rng.integers(0, 3, rows)
    offset = offset_scale * rng.normal(size=rows)
    z = offset + truth(x, color)
    label = {
        "logistic_regression": lambda: (rng.random(rows) < expit(z)).astype(float),
        "linear_regression": lambda: z + 0.1 * rng.normal(size=rows),
        "poisson_regression": lambda: rng.poisson(np.exp(z)).astype(float),
    }[task]()
    columns = pa.record_batch(
        [pa.array(x), pa.array(np.array(["b", "g", "r"])[color].tolist())], names=["x", "color"]
    )
    return Rows(columns, label, np.ones(rows), offset, np.arange(rows))


def truth(x: Any, color: Any) -> Any:
    return np.where(x > 0, 0.8, -0.4) + 0.5 * (color - 1)


def fitted(rows: Rows, context: Context, **options: Any) -> FixedEffectModel:
    half = len(rows) // 2
    parts = [
        Shard(
            Rows(
                rows.columns.slice(begin, half),
                *(of[begin : begin + half] for of in (rows.label, rows.weight, rows.offset)),
                rows.uid[begin : begin + half] if rows.uid is not None else None,
            )
        )
        for begin in (0, half)
    ]
    wanted = LightgbmOptions.model_validate({"numeric": ["x"], "categorical": ["color"], **options})
    return LightgbmTrees().fit(wanted, FitData(parts, []), context)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("early", [None, {"rounds": 5, "fraction": 0.25}])
def test_scores_are_what_offsets_leave(task: Task, early: Any) -> None:
    rows = make_rows(task, 16_000, offset_scale=1.5)
    model = fitted(rows, Context(task), rounds=40, learning_rate=0.2, num_leaves=4, early_stopping=early)
    x, color = (
        rows.columns.column("x").to_numpy(),
        rows.columns.column("color").to_numpy(zero_copy_only=False),
    )
    error = model.score(rows.columns) - truth(x, np.searchsorted(["b", "g", "r"], color))
    assert np.sqrt(np.mean(error**2)) < 0.2


@pytest.mark.parametrize("task", TASKS)
def test_the_constant_is_the_best_one(task: Task) -> None:
    rows = make_rows(task, 500)
    weight = np.random.default_rng(2).random(500)

    def loss(constant: float) -> float:
        z = rows.offset + constant
        each = {
            "logistic_regression": lambda: np.logaddexp(0, z) - rows.label * z,
            "linear_regression": lambda: 0.5 * (rows.label - z) ** 2,
            "poisson_regression": lambda: np.exp(z) - rows.label * z,
        }[task]()
        return float(weight @ each)

    found = fit_intercept(task, rows.label, weight, rows.offset)
    assert found == pytest.approx(minimize_scalar(loss).x, abs=1e-6)


def test_labels_that_are_all_alike_end() -> None:
    ones = np.ones(4)
    assert fit_intercept("logistic_regression", ones, ones, 0 * ones) == 20.0
    assert fit_intercept("poisson_regression", 0 * ones, ones, 0 * ones) == -20.0
    assert fit_intercept("logistic_regression", ones, 0 * ones, ones) == 0.0


def test_early_stopping_ends_on_rows_held_out() -> None:
    rows = make_rows("logistic_regression", 2_000)
    context = Context("logistic_regression")
    model = fitted(rows, context, rounds=500, learning_rate=0.3, early_stopping={"rounds": 3})
    trees = int(model.describe()["trees"])
    assert [report.step for report in context.reports] == list(range(1, trees + 4))
    losses = [report.loss for report in context.reports]
    assert trees == 1 + int(np.argmin([np.inf if loss is None else loss for loss in losses]))
    assert context.reports[-1].rows == 2_000 * (trees + 3)


def test_without_early_stopping_all_rounds_are_made_and_the_bytes_are_those_of_the_seed(
    tmp_path: Path,
) -> None:
    rows = make_rows("linear_regression", 600)
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        directory = tmp_path / name
        directory.mkdir()
        model = fitted(rows, Context("linear_regression", seed=seed), rounds=7, row_fraction=0.5)
        assert model.describe()["trees"] == 7
        model.save(directory)
        files.append((directory / "trees.txt").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_loaded_model_scores_alike_nulls_and_unknown_categories_included(tmp_path: Path) -> None:
    rows = make_rows("logistic_regression", 2_000)
    model = fitted(rows, Context("logistic_regression"), rounds=20)
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.json", "trees.txt"]
    loaded = LightgbmTrees().load(tmp_path)
    np.testing.assert_array_equal(loaded.score(rows.columns), model.score(rows.columns))
    odd = pa.record_batch(
        [pa.array([None, 1.0, 1.0], pa.float64()), pa.array(["r", None, "violet"])], names=["x", "color"]
    )
    scores = loaded.score(odd)
    assert np.isfinite(scores).all()
    assert scores[1] == scores[2]
    assert loaded.score(odd.slice(0, 0)).shape == (0,)


def test_terms_of_lists_are_features_of_their_own() -> None:
    lists = [["a", "b"], None, ["b", "a", "b"], [], ["rare"]] * 40
    batch = pa.record_batch([pa.array(lists)], names=["genres"])
    rows = Rows(batch, np.zeros(200), np.ones(200), np.zeros(200))
    features = learn_features([Shard(rows)], [], [], ["genres"], max_categories=9, max_terms=2)
    assert features.terms == {"genres": ("a", "b")}
    expected = [[float("a" in (row or ())), float("b" in (row or ()))] for row in lists]
    assert features.matrix(batch).tolist() == expected


def test_files_that_hold_no_model_are_named(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text("[]")
    with pytest.raises(DataError, match=f"{tmp_path}: holds no model of trees"):
        LightgbmTrees().load(tmp_path)
