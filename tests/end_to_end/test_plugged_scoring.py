"""A plugged-in fixed effect online: trees and users score requests as they scored the job's validation rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from gdmix_client import Client, ColumnarRequest, Job, LocalScorer, Scorer
from gdmix_core.errors import GdmixError

from .jobs import succeeded

pytest.importorskip("lightgbm", reason="needs LightGBM (pip install 'gdmix[lightgbm]')")

USERS, COLORS = 40, ("blue", "green", "red")


def make_rows(rows: int, first_uid: int, seed: int) -> pl.DataFrame:
    """Rows with an interaction and users' levels; some numbers are absent."""
    rng = np.random.default_rng(seed)
    level = np.random.default_rng(7).normal(0, 1.0, USERS)
    user, color = rng.integers(0, USERS, rows), rng.integers(0, 3, rows)
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    z = 2.0 * np.sign(x) * np.sign(y) + (color - 1) + level[user]
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "label": (rng.random(rows) < expit(z)).astype(np.int64),
            "user_id": user,
            "x": x,
            "y": pl.Series(y).scatter(np.flatnonzero(rng.random(rows) < 0.05), None),
            "color": np.array(COLORS)[color],
        }
    )


@pytest.fixture
def served(client: Client, tmp_path: Path) -> Iterator[tuple[Job, pl.DataFrame, Scorer]]:
    make_rows(3_000, 0, 1).write_parquet(tmp_path / "train.parquet")
    held_out = make_rows(1_000, 100_000, 2)
    held_out.write_parquet(tmp_path / "validation.parquet")
    store = f"lmdb:{tmp_path / 'store'}"
    job = succeeded(
        client,
        {
            "model": "trees",
            "task": "logistic_regression",
            "data": {
                "train": str(tmp_path / "train.parquet"),
                "validation": str(tmp_path / "validation.parquet"),
            },
            "features": {},
            "coordinates": {
                "global": {
                    "fixed_effect": "lightgbm",
                    "numeric": ["x", "y"],
                    "categorical": ["color"],
                    "rounds": 30,
                },
                "per_user": {"random_effect": "user_id", "l2": 1},
            },
            "metrics": ["auc", "logloss"],
            "output": str(tmp_path / "out"),
            "store": store,
        },
    )
    with LocalScorer(store) as local, local.client() as scorer:
        local.wait_until_ready()
        yield job, held_out, scorer


def test_requests_are_scored_as_the_jobs_rows_were(served: tuple[Job, pl.DataFrame, Scorer]) -> None:
    job, rows, scorer = served
    columns = ["user_id", "x", "y", "color"]
    answer = scorer.score({}, rows.select(columns).to_dict(as_series=False))
    scores = np.asarray(answer.scores)
    label = rows["label"].to_numpy()
    found = {metric.name: metric.value for metric in job.coordinates[-1].validation}
    assert roc_auc_score(label, scores) == pytest.approx(found["auc"], rel=1e-12)
    assert log_loss(label, expit(scores)) == pytest.approx(found["logloss"], rel=1e-9)
    assert not answer.unknown_features

    # What all candidates share comes once.
    context, candidates = {"user_id": 3, "color": "red"}, {"x": [0.5, -0.5, None], "y": [1.0, 1.0, 1.0]}
    shared = scorer.score(context, candidates, contributions=True)
    each = scorer.score({}, {**{name: [value] * 3 for name, value in context.items()}, **candidates})
    np.testing.assert_array_equal(shared.scores, each.scores)
    trees, users = shared.contributions["global"], shared.contributions["per_user"]
    np.testing.assert_allclose(np.add(trees, users), shared.scores, rtol=1e-12)
    assert len(set(users)) == 1
    assert len(set(trees)) == 3
    # Columns that are not there are null.
    assert np.isfinite(scorer.score({"user_id": 3}, {"x": [0.5]}).scores).all()


def test_values_that_trees_cannot_take_are_named(served: tuple[Job, pl.DataFrame, Scorer]) -> None:
    _, _, scorer = served
    with pytest.raises(GdmixError, match=r"column 'x'"):
        scorer.score({"color": "red"}, {"x": ["much"], "y": [1.0]})
    with pytest.raises(GdmixError, match=r"candidates\[1\]: column 'x' holds inf"):
        scorer.score({"color": "red"}, {"x": [1.0, float("inf")], "y": [1.0, 1.0]})
    with pytest.raises(GdmixError, match="send these instead of encoded features"):
        scorer.score_columnar(ColumnarRequest(candidates=1, entities={"user_id": ["3"]}))
