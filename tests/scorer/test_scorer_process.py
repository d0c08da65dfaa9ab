"""The scorer as a whole: `python -m gdmix_scorer` on an LMDB store with a small hand-made model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gdmix_core.config import FeatureColumn
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelManifest, assemble_model, publish_model
from gdmix_core.model.coefficients import (
    INTERCEPT_NAME,
    RandomEffectCoefficients,
    write_fixed_effect,
    write_random_effect,
)
from gdmix_core.store import CoefficientBlock, open_store
from gdmix_proto.v1 import scoring_pb2, scoring_pb2_grpc

PATIENCE_SECONDS = 60.0
BIAS = {b"ann": 0.5, b"bob": -1.25}
GLOBAL = 0.125


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """An LMDB store with one active version: an intercept for everybody, and one for each of two users."""
    work = tmp_path_factory.mktemp("model")
    age = IndexedColumn(
        "user", FeatureColumn(column="age", kind="numeric"), None, 0, 1, mean=0.0, standard_deviation=1.0
    )
    index = FeatureIndex((age,), 10, fingerprint([age]))
    index.save(work / "index.parquet")
    write_fixed_effect(
        work / "global.parquet",
        np.array([GLOBAL, 2.0]),
        bags=["", "user"],
        names=[INTERCEPT_NAME, "age"],
        terms=["", ""],
    )
    ids = sorted(BIAS)
    block = CoefficientBlock(
        ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
        ids_ptr=np.array([0, 3, 6], np.int64),
        coefficient_ptr=np.array([0, 1, 2], np.int64),
        indices=np.zeros(2, np.int32),
        coefficients=np.array([BIAS[each] for each in ids]),
        variances=None,
    )
    write_random_effect(
        work / "per-user.parquet",
        RandomEffectCoefficients(
            block=block,
            rows=np.array([5, 5], np.int64),
            status=np.zeros(2, np.uint8),
            iterations=np.ones(2, np.int32),
            gradient_norm=np.zeros(2),
        ),
    )
    fixed = CoordinateManifest(
        "global", "fixed_effect", ("user",), True, 2, model="logistic_regression", rows=10
    )
    per_user = CoordinateManifest(
        "per_user", "random_effect", ("user",), True, 2, entity_column="user_id", entities=2, rows=10
    )
    manifest = ModelManifest(
        model="movies",
        version=1,
        task="logistic_regression",
        coordinates=(fixed, per_user),
        bag_sizes={"user": 1},
        schema_fingerprint=index.schema_fingerprint,
        features={"user": [{"column": "age", "kind": "numeric"}]},
    )
    directory = assemble_model(
        work / "models" / "1",
        manifest,
        feature_index=work / "index.parquet",
        coefficients={"global": [work / "global.parquet"], "per_user": [work / "per-user.parquet"]},
        run={"job_id": "j1"},
    )
    url = f"lmdb:{work / 'store'}"
    publish_model(directory, open_store(url))
    return url


class Running:
    """A scorer that runs, and how to talk to it."""

    def __init__(self, process, port, admin_port):
        self.process, self.port, self.admin_port = process, port, admin_port

    def page(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def children(self):
        return json.loads(self.page("/status"))["children"]

    def count(self, name, **labels):
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.page("/metrics"))
            for sample in family.samples
            if sample.name == f"gdmix_scorer_{name}" and labels.items() <= sample.labels.items()
        )

    @contextmanager
    def stub(self):
        # A channel of its own: another one may be connected to another process of the port.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options) as channel:
            yield scoring_pb2_grpc.ScoringServiceStub(channel)

    def score(self, user: bytes, stub=None):
        request = scoring_pb2.ScoreRequest(
            request_id="r1",
            columnar=scoring_pb2.ColumnarInput(
                candidates=3,
                entities=[
                    scoring_pb2.EntityIds(
                        column="user_id",
                        context=True,
                        ids=user,
                        offsets=np.array([0, len(user)], "<i4").tobytes(),
                    )
                ],
            ),
        )
        if stub is not None:
            return stub.Score(request, timeout=10, wait_for_ready=True)
        with self.stub() as own:
            return own.Score(request, timeout=10, wait_for_ready=True)


@contextmanager
def scorer(store, *arguments, processes=2):
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [sys.executable, "-P", "-m", "gdmix_scorer", "--store", store, "--model", "movies"]
    command += ["--processes", str(processes), *map(str, arguments), "--parent-fd", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    try:
        with ours, ours.makefile("r") as reports:
            listening = json.loads(next(reports))
            assert listening["event"] == "listening", listening
            assert json.loads(next(reports)) == {"event": "ready"}
            yield Running(process, listening["port"], listening["admin_port"])
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children():
                each.kill()
        if process.poll() is None:
            process.kill()
        process.wait()


def until(condition):
    """Ask again and again until the answer is a truth."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def scores(response):
    return np.frombuffer(response.packed_scores, "<f8").tolist()


def test_requests_are_answered_counted_and_logged(store, tmp_path):
    log = tmp_path / "access.jsonl"
    with scorer(store, "--access-log", log, "--access-log-sample", "1") as running:
        answers = [running.score(b"ann") for _ in range(6)]
        assert {tuple(scores(answer)) for answer in answers} == {(GLOBAL + BIAS[b"ann"],) * 3}
        unknown = running.score(b"nobody")
        assert scores(unknown) == [GLOBAL] * 3
        assert running.count("requests_total", model="movies", outcome="OK", form="columnar") == 7
        assert running.count("candidates_sum") == 21
        assert running.count("phase_seconds_count", phase="total") == 7
        assert running.count("unknown_entities_total", coordinate="per_user") == 1
        assert running.count("active_version", model="movies") == 2  # version 1, in two processes
        assert running.count("in_flight") == 0
        assert {child["versions"][0]["state"] for child in running.children()} == {"AVAILABLE"}
        assert running.page("/readyz") == "ready\n"
        running.process.terminate()
        assert running.process.wait(PATIENCE_SECONDS) == 0
    lines = [
        json.loads(line) for path in tmp_path.glob("access.*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(lines) == 7
    assert {line["outcome"] for line in lines} == {"OK"}
    assert sorted(line["entities"]["user_id"] for line in lines) == ["ann"] * 6 + ["nobody"]
    assert {line["request_id"] for line in lines} == {"r1"}
    assert all(line["seconds"]["total"] > 0 for line in lines)


def test_a_killed_serving_process_is_started_again_and_requests_go_on(store):
    with scorer(store) as running:
        running.score(b"bob")
        before = running.count("requests_total")
        victim = running.children()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        for _ in range(3):
            assert scores(until(lambda: answered(running, b"bob"))) == [GLOBAL + BIAS[b"bob"]] * 3
        until(lambda: running.children()[0]["serving"] and running.children()[0]["pid"] != victim)
        assert running.children()[0]["restarts"] == 1
        assert running.count("requests_total", outcome="OK") >= before + 3
        assert running.page("/readyz") == "ready\n"


def answered(running, user):
    """Return the answer; None where the connection was one of the process that died."""
    try:
        return running.score(user)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def test_a_killed_parent_leaves_no_orphans(store):
    with scorer(store) as running:
        children = psutil.Process(running.process.pid).children()
        assert len(children) == 2
        running.process.kill()
        running.process.wait()
        _, alive = psutil.wait_procs(children, PATIENCE_SECONDS)
        assert not alive


def test_a_store_that_cannot_be_is_one_clear_line():
    command = [sys.executable, "-P", "-m", "gdmix_scorer", "--store", "ftp://x"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("scorer: --store: found 'ftp://x'")
