"""The scorer as a whole: `python -m gdmix_scorer` on an LMDB store with a small hand-made model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import grpc
import numpy as np
import psutil

PATIENCE_SECONDS = 60.0
BIAS = {"ann": 0.5, "bob": -1.25}
LEVEL = 0.125


def scores(response):
    return np.frombuffer(response.packed_scores, "<f8").tolist()


def test_requests_are_answered_counted_and_logged(store, scorer, tmp_path):
    log = tmp_path / "access.jsonl"
    with scorer(store, "--access-log", log, "--access-log-sample", "1", processes=2) as running:
        answers = [running.score("ann") for _ in range(6)]
        assert {tuple(scores(answer)) for answer in answers} == {(LEVEL + BIAS["ann"],) * 3}
        unknown = running.score("nobody")
        assert scores(unknown) == [LEVEL] * 3
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


def test_a_killed_serving_process_is_started_again_and_requests_go_on(store, scorer, until):
    with scorer(store, processes=2) as running:
        running.score("bob")
        before = running.count("requests_total")
        victim = running.children()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        for _ in range(3):
            assert scores(until(lambda: answered(running, "bob"))) == [LEVEL + BIAS["bob"]] * 3
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


def test_a_killed_parent_leaves_no_orphans(store, scorer):
    with scorer(store, processes=2) as running:
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
