"""Scorers as processes of this machine: alone, in a cluster, behind `up`; none is left when it is over."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gdmix_client import Connection, LocalCluster, LocalScorer, Scorer
from gdmix_core.errors import NotPermitted, Unavailable, UsageError

from .conftest import publish_shop

PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def must_end(processes: list[psutil.Process]) -> None:
    """Wait for processes to end by themselves; they do at once, or never."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []


def own_scorers(token_file: Path) -> list[psutil.Process]:
    """The scorer that uses a token file, and its serving processes."""
    for process in psutil.Process().children(recursive=True):
        if str(token_file) in process.cmdline():
            return [process, *process.children()]
    return []


# ---- alone -----------------------------------------------------------------------------------------------


def test_a_local_scorer_leaves_nothing(store: str) -> None:
    with LocalScorer(store, processes=2) as running:
        directory = running.token_file.parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(running.token_file.stat().st_mode) == 0o600
        running.wait_until_ready()
        with running.client() as scorer:
            assert scorer.score({}, [{}], model="shop").version == 2
        with urllib.request.urlopen(f"http://{running.admin_address}/readyz", timeout=10) as page:
            assert page.status == 200
        processes = own_scorers(running.token_file)
        assert len(processes) == 3
        token = running.token_file.read_text(encoding="ascii").strip()
        assert not any(token in argument for process in processes for argument in process.cmdline())
    must_end(processes)
    assert not directory.exists()
    for use in (lambda: running.address, running.client, running.wait_until_ready):
        with pytest.raises(UsageError, match="not running"):
            use()


def test_a_killed_python_leaves_no_orphan(store: str) -> None:
    source = (
        "import sys\n"
        "from gdmix_client import LocalScorer\n"
        "with LocalScorer(sys.argv[1]) as running:\n"
        "    print(running.token_file, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as python:
        assert python.stdout is not None
        token_file = Path(python.stdout.readline().strip())
        processes = own_scorers(token_file)
        assert len(processes) == 2
        python.kill()
    must_end(processes)
    token_file.unlink()
    for left in token_file.parent.iterdir():
        left.unlink()
    token_file.parent.rmdir()


@pytest.mark.parametrize(
    ("given", "says"),
    [(("mongo:here",), "mongo:here"), (("lmdb:",), "lmdb:DIRECTORY")],
)
def test_a_scorer_that_cannot_start_says_why(given: tuple[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        LocalScorer(*given).start()
    assert says in str(caught.value)
    assert str(caught.value).startswith("scorer did not start: ")
    with pytest.raises(UsageError, match="processes"):
        LocalScorer("lmdb:x", processes=0)


def test_a_store_without_a_version(tmp_path: Path) -> None:
    """The scorer listens, and is ready as soon as there is a version; until then it says what is missing."""
    url = f"lmdb:{tmp_path / 'store'}"
    with LocalScorer(url) as running, running.client() as scorer:
        with pytest.raises(Unavailable):
            running.wait_until_ready(0.0)
        with pytest.raises((Unavailable, UsageError)):
            scorer.score({}, [{}])
        assert scorer.status().versions == ()
        publish_shop(tmp_path / "model", url, 1)
        running.wait_until_ready()
        assert scorer.score({}, [{}]).version == 1


def test_the_scorer_command(store: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text("score a-token-for-scoring-only\n", encoding="ascii")
    command = [PROGRAM, "scorer", "--store", store, "--processes", "1", "--token-file", str(token_file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = (
            next(line for line in process.stderr if "listens on" in line).split("listens on ")[1].split()[0]
        )
        next(line for line in process.stderr if "scorer is ready" in line)
        with Scorer(Connection(address, "a-token-for-scoring-only")) as scorer:
            assert scorer.score({}, [{}], model="shop").version == 2
        with Scorer(address) as scorer, pytest.raises(NotPermitted, match="role score"):
            scorer.score({}, [{}], model="shop")
        serving = children(process.pid)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said
    must_end(serving)


# ---- in a cluster ----------------------------------------------------------------------------------------


def test_a_cluster_with_a_scorer(tmp_path: Path, job_file: Callable[..., Path]) -> None:
    """Trained, published, scored; a scorer that is killed comes back at the same address."""
    with LocalCluster(workers=1, state_dir=tmp_path / "state", scorer=True) as cluster:
        assert cluster.store == f"lmdb:{tmp_path}/state/store"
        cluster.wait_until_ready()
        assert set(cluster.pids()) == {"coordinator", "worker-1", "scorer"}
        with cluster.client() as client:
            job = client.wait(client.submit(job_file()).job_id)
            assert job.published is not None, job.error
            assert job.published.store == cluster.store
        cluster.wait_until_scoring()
        ports = cluster.scorer_ports
        with cluster.scorer_client() as scorer:
            before = scorer.score({"user_id": 3, "x": 0.5}, [{"color": "red"}, {"color": "blue"}])
            assert (before.model, before.version) == ("shop", 1)
            first = cluster.pids()["scorer"]
            killed = [psutil.Process(first), *children(first)]
            os.kill(first, signal.SIGKILL)
            must_end(killed)
            while cluster.pids()["scorer"] == first:
                time.sleep(0.01)
            cluster.wait_until_scoring()
            assert cluster.scorer_ports == ports
            again = scorer.score({"user_id": 3, "x": 0.5}, [{"color": "red"}, {"color": "blue"}])
            assert again.scores.tobytes() == before.scores.tobytes()
        assert cluster.failure is None
        processes = [psutil.Process(pid) for pid in cluster.pids().values()]
        processes += children(cluster.pids()["scorer"])
    must_end(processes)


def test_a_cluster_without_a_scorer(cluster: LocalCluster) -> None:
    for use in (lambda: cluster.scorer_ports, cluster.scorer_client, cluster.wait_until_scoring):
        with pytest.raises(UsageError, match=r"scorer=True"):
            use()
    assert not cluster.scorer_listens()
    assert cluster.store == ""


def test_up_and_score(cli: Any, tmp_path: Path, job_file: Callable[..., Path]) -> None:
    """From nothing to scores with commands alone; none has to be told where the scorer is."""
    done = cli("up", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    try:
        trained = cli("train", job_file(), "--quiet", "--json", GDMIX_COORDINATOR=told["coordinator"])
        assert trained.returncode == 0, trained.stderr
        # The scorer watches the store: the first version is served about as soon as it is published.
        for _ in range(100):
            scored = cli("score", "validation.parquet", "--output", "scores.csv", "--json")
            if scored.returncode == 0:
                break
            assert "shop" in scored.stderr or "model" in scored.stderr
        document = json.loads(scored.stdout)
        assert (document["rows"], document["model"], document["version"]) == (100, "shop", 1)
        assert document["unused_columns"] == ["response", "weight"]
        assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == 101
        named = cli("score", "validation.parquet", "--quiet", GDMIX_SCORER=told["scorer"])
        assert named.returncode == 0, named.stderr
        assert len(named.stdout.splitlines()) == 100
        with urllib.request.urlopen(f"http://{told['scorer_admin']}/healthz", timeout=10) as page:
            assert page.status == 200
        serving = children(told["pids"]["scorer"])
        assert len(serving) == 1
    finally:
        ended = cli("down")
    assert ended.returncode == 0
    must_end(serving)
    gone = cli("score", "validation.parquet", "--quiet")
    assert gone.returncode == 2
    assert "no scorer: give --scorer or GDMIX_SCORER" in gone.stderr


def test_up_without_a_scorer(cli: Any, tmp_path: Path) -> None:
    done = cli("up", "--workers", "1", "--no-scorer", "--store", "lmdb:own", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    try:
        assert (told["scorer"], told["scorer_admin"]) == (None, None)
        assert told["store"] == f"lmdb:{tmp_path}/own"
        assert "scorer" not in told["pids"]
        refused = cli("score")
        assert refused.returncode == 2
        assert "no scorer" in refused.stderr
    finally:
        assert cli("down").returncode == 0
