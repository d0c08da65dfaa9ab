"""The command line as a real program, small jobs to give it, and one real cluster that the tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gdmix_client import LocalCluster
from gdmix_client.cli.app import app

PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))
USERS = 10
TRAIN_ROWS, VALIDATION_ROWS = 400, 100
PATIENCE_SECONDS = 60.0

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the person who runs the tests counts; an own `up` cluster of theirs is out of sight."""
    for name in [name for name in os.environ if name.startswith("GDMIX_") and name != "GDMIX_CACHE_DIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GDMIX_STATE_DIR", str(tmp_path / "state"))
    # A shell that runs the tests in the background has SIGINT ignored, which the programs would inherit.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return a function that runs gdmix-cli to its end."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that does the same inside this process, in a fraction of the time."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        texts = [str(argument) for argument in arguments]
        done = CliRunner().invoke(app, texts)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return subprocess.CompletedProcess(texts, done.exit_code, done.stdout, done.stderr)

    return run


def make_rows(rows: int, seed: int, first_uid: int) -> pa.Table:
    """Rows with a real effect of `x` and of the user; the last user has one row of training only."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, USERS, rows)
    user[-1] = USERS
    x = rng.normal(size=rows)
    label = rng.random(rows) < 1 / (1 + np.exp(-x - 0.4 * (user - USERS / 2)))
    return pa.table(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "response": label.astype(np.int64),
            "weight": np.ones(rows),
            "user_id": user,
            "x": x,
            "color": np.array(["red", "green", "blue"])[rng.integers(0, 3, rows)],
        }
    )


@pytest.fixture(scope="session")
def train_rows() -> pa.Table:
    """Training rows without a fault."""
    return make_rows(TRAIN_ROWS, 1, 0)


@pytest.fixture(scope="session")
def validation_rows() -> pa.Table:
    """Validation rows without a fault."""
    return make_rows(VALIDATION_ROWS, 2, 10_000)


@pytest.fixture
def job_file(tmp_path: Path, train_rows: pa.Table, validation_rows: pa.Table) -> Callable[..., Path]:
    """Return a function that writes a job's config and data into the test's directory.

    `train` and `validation` replace the rows, `data` keys of the config's `data`, other keywords top-level
    keys. Relative paths are left in the config: the client resolves them against the file.
    """

    def write(
        *,
        train: pa.Table = train_rows,
        validation: pa.Table = validation_rows,
        data: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        pq.write_table(train, tmp_path / "train.parquet")
        pq.write_table(validation, tmp_path / "validation.parquet")
        config = {
            "model": "shop",
            "task": "logistic_regression",
            "data": {
                "train": "train.parquet",
                "validation": "validation.parquet",
                "columns": {"uid": "uid", "label": "response", "weight": "weight"},
                **(data or {}),
            },
            "features": {"all": [{"column": "x", "kind": "numeric"}, "color"]},
            "coordinates": {
                "global": {"fixed_effect": "logistic_regression", "features": ["all"]},
                "per_user": {"random_effect": "user_id", "features": ["all"], "partitions": 3, "l2": 1},
            },
            "metrics": ["auc", "logloss", "auc:user_id"],
            "output": "out",
            **changes,
        }
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return path

    return write


@pytest.fixture
def long_job(job_file: Callable[..., Path]) -> Path:
    """Return the config of a job of so many small pieces that it can be stopped in the middle."""
    return job_file(
        data={"shards": 4},
        coordinates={
            "global": {"fixed_effect": "logistic_regression", "features": ["all"]},
            "per_user": {"random_effect": "user_id", "features": ["all"], "partitions": 40, "l2": 1},
        },
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A coordinator and one worker, ready, for all tests that do not harm them."""
    with LocalCluster(workers=1, state_dir=tmp_path_factory.mktemp("cluster")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def on_cluster(cluster: LocalCluster) -> list[str]:
    """The options that lead a command to the shared cluster."""
    return ["--coordinator", cluster.address, "--token-file", str(cluster.token_file)]


@pytest.fixture
def processes_of() -> Callable[[Path], list[psutil.Process]]:
    """Return a function that finds the processes started with a path below a directory."""

    def find(directory: Path) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = process.info["cmdline"] or []
            named = any(str(directory) in argument for argument in command)
            if named and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
        return found

    return find
