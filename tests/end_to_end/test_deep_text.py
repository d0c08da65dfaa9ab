"""Deep text as the fixed effect of a job, on real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gdmix_client import Client
from gdmix_core.model import open_model

from .jobs import directory_of, told

pytest.importorskip("tensorflow", reason="needs TensorFlow (pip install 'gdmix[tensorflow]')")

WORDS = ("alien", "dance", "detective", "love", "robot", "war")
LIKED = {"alien": 1.5, "robot": 1.0, "love": -1.0, "dance": -1.5}


def make_rows(rows: int, first_uid: int, seed: int) -> pl.DataFrame:
    """Rows whose titles decide most, and whose users have levels of their own."""
    rng = np.random.default_rng(seed)
    level = np.random.default_rng(7).normal(0, 1.0, 30)
    titles = rng.choice(WORDS, size=(rows, 2))
    user = rng.integers(0, 30, rows)
    z = np.array([sum(LIKED.get(word, 0.0) for word in title) for title in titles]) + level[user]
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "label": (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int64),
            "user_id": user,
            "title": [" ".join(title) for title in titles],
        }
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_titles_then_users(workers: int, client: Client, tmp_path: Path) -> None:
    make_rows(3_000, 0, 1).write_parquet(tmp_path / "train.parquet", row_group_size=1_000)
    make_rows(1_000, 100_000, 2).write_parquet(tmp_path / "validation.parquet")
    job, notices = told(
        client,
        {
            "model": "titles",
            "task": "logistic_regression",
            "data": {
                "train": str(tmp_path / "train.parquet"),
                "validation": str(tmp_path / "validation.parquet"),
                "shards": 3,
            },
            "features": {},
            "coordinates": {
                "global": {
                    "fixed_effect": "deep_text",
                    "text": ["title"],
                    "hidden": [8],
                    "epochs": 4,
                    "workers": workers,
                },
                "per_user": {"random_effect": "user_id", "partitions": 2, "l2": 1},
            },
            "metrics": ["auc"],
            "output": str(tmp_path / "out"),
        },
    )
    found = {report.name: report.validation[0].value for report in job.coordinates}
    assert found["global"] is not None
    assert found["global"] > 0.75
    assert found["per_user"] is not None
    assert found["per_user"] > found["global"] + 0.02
    plugin = open_model(directory_of(job)).manifest.coordinate("global").plugin
    assert plugin is not None
    assert [(column.name, column.kind) for column in plugin.columns] == [("title", "string")]
    assert any(notice.startswith("global: ") for notice in notices)
