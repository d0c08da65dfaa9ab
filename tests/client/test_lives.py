"""How clusters begin and end: `up` and `down`, Ctrl-C, SIGKILL, and no process left whatever happened."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from gdmix_client import Client, Connection, JobState, LocalCluster, StateChanged
from gdmix_core.errors import UsageError

PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))
PATIENCE_SECONDS = 60.0

Find = Callable[[Path], list[psutil.Process]]


@contextmanager
def program(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program as the leader of a process group of its own, as a shell does; both streams are one."""
    with subprocess.Popen(
        [str(argument) for argument in arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def read_until(stream: IO[str] | None, mark: str) -> str:
    """Read lines up to the first with a mark in it; return that line."""
    assert stream is not None
    seen = []
    for line in stream:
        if mark in line:
            return line
        seen.append(line)
    pytest.fail(f"{mark!r} did not come; what came: {''.join(seen)}")


def must_end(processes: list[psutil.Process]) -> None:
    """Wait for processes to end by themselves; they do at once, or never."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a program's end; return its exit code and what it said in the meantime."""
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# ---- up and down -----------------------------------------------------------------------------------------


def test_up_and_down(cli: Any, tmp_path: Path, processes_of: Find, job_file: Callable[..., Path]) -> None:
    state = tmp_path / "state"
    done = cli("up", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {
        *("coordinator", "scorer", "scorer_admin", "store", "token_file", "state_dir", "workers", "pids")
    }
    assert told["workers"] == 2
    assert told["state_dir"] == str(state)
    assert told["store"] == f"lmdb:{state}/store"
    assert set(told["pids"]) == {"supervisor", "coordinator", "worker-1", "worker-2", "scorer"}
    running = processes_of(state)
    assert {process.pid for process in running} == set(told["pids"].values())
    for name in ("token", "cluster.json"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    token = (state / "token").read_text(encoding="ascii").strip()
    assert not any(token in argument for process in running for argument in process.cmdline())

    # Commands find it without being told; another one in the same directory is refused.
    with Client(Connection(told["coordinator"], token)) as client:
        assert len(client.cluster().workers) == 2
    assert json.loads(cli("jobs", "list", "--json").stdout) == {"jobs": []}
    trained = cli("train", job_file(), "--quiet", "--json", GDMIX_COORDINATOR=told["coordinator"])
    assert json.loads(trained.stdout)["state"] == "succeeded"
    again = cli("up")
    assert again.returncode == 1
    assert f"running in {state} already" in again.stderr
    assert len(processes_of(state)) == 5

    ended = cli("down")
    assert ended.returncode == 0
    assert told["coordinator"] in ended.stdout
    assert processes_of(state) == []
    assert files(state) == {"journal.sqlite", "jobs", "lock", "supervisor.lock", "token", "logs", "store"}
    nothing = cli("down")
    assert nothing.returncode == 0
    assert "no local cluster" in nothing.stderr


def test_a_killed_supervisor_takes_its_cluster_along(cli: Any, tmp_path: Path, processes_of: Find) -> None:
    state = tmp_path / "elsewhere"
    done = cli("up", "--workers", "1", "--no-scorer", "--state-dir", state)
    assert done.returncode == 0, done.stderr
    address = re.search(r"GDMIX_COORDINATOR=(\S+)", done.stdout)
    assert address is not None
    running = processes_of(state)
    assert len(running) == 3
    findings = json.loads(cli("doctor", "--state-dir", state, "--json").stdout)["findings"]
    assert any(f["check"] == "coordinator" and f["found"].startswith(address[1]) for f in findings)
    supervisor = json.loads((state / "cluster.json").read_text(encoding="utf-8"))["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    must_end(running)
    # What it left behind deceives nobody, and the next one starts in the same place.
    assert "no local cluster" in cli("down", "--state-dir", state).stderr
    options = ("--workers", "1", "--no-scorer", "--state-dir", state, "--foreground")
    with program(PROGRAM, "up", *options, cwd=tmp_path) as up:
        read_until(up.stdout, "export GDMIX_COORDINATOR=")
        running = processes_of(state)
        os.killpg(up.pid, signal.SIGINT)
        exit_code, said = end(up)
    assert exit_code == 0
    assert "Traceback" not in said
    must_end(running)
    assert not (state / "cluster.json").exists()


def test_a_cluster_whose_directory_is_gone_ends(cli: Any, tmp_path: Path, processes_of: Find) -> None:
    """It could start none of its processes again, and would supervise nothing for ever."""
    state = tmp_path / "gone"
    done = cli("up", "--workers", "1", "--no-scorer", "--state-dir", state)
    assert done.returncode == 0, done.stderr
    running = processes_of(state)
    assert len(running) == 3
    coordinator = json.loads((state / "cluster.json").read_text(encoding="utf-8"))["pids"]["coordinator"]
    state.rename(tmp_path / "moved")
    with suppress(ProcessLookupError):  # it may have ended by itself
        os.kill(coordinator, signal.SIGKILL)
    must_end(running)


def test_up_says_why_it_cannot(cli: Any, tmp_path: Path, processes_of: Find) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = cli("up", "--state-dir", tmp_path / "file" / "state")
    assert done.returncode == 2
    assert "cannot be written to" in done.stderr
    done = cli("up", "--workers", "1", "--store", "mongo:here")
    assert done.returncode == 2
    assert "mongo:here" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "state" / "cluster.json").exists()


# ---- train on an ephemeral cluster -----------------------------------------------------------------------


def test_ctrl_c_and_resume(cli: Any, tmp_path: Path, processes_of: Find, long_job: Path) -> None:
    with program(PROGRAM, "train", long_job, "--workers", "1", cwd=tmp_path) as train:
        read_until(train.stdout, "global (pass 1): 400 rows")
        running = processes_of(tmp_path / "out")
        assert len(running) == 2
        os.killpg(train.pid, signal.SIGINT)
        exit_code, said = end(train)
    assert exit_code == 130
    assert "stopping at the next checkpoint" in said
    assert "Traceback" not in said
    must_end(running)
    assert "models" not in files(tmp_path / "out")
    told = re.search(r"Go on with: gdmix-cli (jobs resume \S+ --output \S+)$", said, re.MULTILINE)
    assert told is not None
    job_id = told[1].split()[2]
    done = cli(*told[1].split(), "--workers", "2", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["job_id"], document["state"]) == (job_id, "succeeded")
    assert "global (pass 1)" not in done.stderr  # that was finished before
    assert processes_of(tmp_path) == []


def test_a_killed_train_leaves_no_orphan_and_goes_on(
    cli: Any, tmp_path: Path, processes_of: Find, long_job: Path
) -> None:
    with program(PROGRAM, "train", long_job, "--workers", "1", cwd=tmp_path) as train:
        read_until(train.stdout, "global (pass 1): 400 rows")
        running = processes_of(tmp_path / "out")
        train.kill()
    must_end(running)
    job_id = next((tmp_path / "out" / ".gdmix" / "jobs").iterdir()).name
    done = cli("jobs", "resume", job_id, "--output", "out", "--workers", "1", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "succeeded"
    assert processes_of(tmp_path) == []


def test_termination_is_as_good_as_ctrl_c(tmp_path: Path, processes_of: Find, long_job: Path) -> None:
    with program(PROGRAM, "train", long_job, "--workers", "1", cwd=tmp_path) as train:
        read_until(train.stdout, "is running")
        train.terminate()
        exit_code, said = end(train)
    assert exit_code == 130
    assert "gdmix-cli jobs resume" in said
    assert processes_of(tmp_path) == []


def test_ctrl_c_on_a_coordinator_detaches(
    cluster: LocalCluster, on_cluster: list[str], tmp_path: Path, long_job: Path
) -> None:
    with program(PROGRAM, "train", long_job, *on_cluster, cwd=tmp_path) as train:
        job_id = read_until(train.stdout, "is running").split()[1]
        os.killpg(train.pid, signal.SIGINT)
        exit_code, said = end(train)
    assert exit_code == 130
    assert f"job {job_id} goes on" in said
    assert f"gdmix-cli jobs watch {job_id} --coordinator {cluster.address}" in said
    with cluster.client() as client:
        assert client.wait(job_id).state is JobState.SUCCEEDED


# ---- single roles ----------------------------------------------------------------------------------------


def test_roles_in_the_foreground(
    cli: Any, tmp_path: Path, processes_of: Find, job_file: Callable[..., Path]
) -> None:
    """A coordinator without workers gives up, in so many words; with one, the job goes on."""
    state = tmp_path / "state"
    options = ("--state-dir", state, "--workers-wait-seconds", "0.2")
    with program(PROGRAM, "coordinator", *options, cwd=tmp_path) as coordinator:
        line = read_until(coordinator.stdout, "listens on")
        address = re.search(r"127\.0\.0\.1:\d+", line)
        assert address is not None
        alone = cli("train", job_file(), "--coordinator", address[0])
        assert alone.returncode == 3
        assert "no worker was connected" in alone.stderr
        assert "start workers" in alone.stderr
        assert "Traceback" not in alone.stderr
        job_id = alone.stderr.splitlines()[-1].split("job ")[1].split()[0]
        with (
            program(PROGRAM, "worker", "--coordinator", address[0], "--threads", "1", cwd=tmp_path) as worker,
            Client(address[0]) as client,
        ):
            client.cluster()
            read_until(worker.stdout, "ready")
            client.resume(job_id)
            assert client.wait(job_id).state is JobState.SUCCEEDED
            os.killpg(worker.pid, signal.SIGINT)
            exit_code, said = end(worker)
            assert exit_code in {0, 130}
            assert "Traceback" not in said
        os.killpg(coordinator.pid, signal.SIGINT)
        exit_code, said = end(coordinator)
        assert exit_code in {0, 130}
        assert "Traceback" not in said
    assert processes_of(tmp_path) == []


# ---- from Python -----------------------------------------------------------------------------------------


def test_a_local_cluster_leaves_nothing(processes_of: Find) -> None:
    with LocalCluster(workers=1) as cluster:
        directory = cluster.state_dir
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert set(cluster.pids()) == {"coordinator", "worker-1"}
        assert len(processes_of(directory)) == 2
        with cluster.client() as client:
            assert client.list() == ()
    assert processes_of(directory) == []
    assert not directory.exists()
    with pytest.raises(UsageError, match="not running"):
        cluster.address  # noqa: B018


def test_a_killed_python_leaves_no_orphan(tmp_path: Path, processes_of: Find) -> None:
    source = (
        "import os\n"
        "from gdmix_client import LocalCluster\n"
        "with LocalCluster(workers=1, state_dir=os.environ['GDMIX_STATE_DIR']) as cluster:\n"
        "    cluster.wait_until_ready()\n"
        "    print('started', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as python:
        read_until(python.stdout, "started")
        running = processes_of(tmp_path / "state")
        assert len(running) == 2
        python.kill()
    must_end(running)


def test_a_dead_coordinator_comes_back_and_nobody_notices(tmp_path: Path, long_job: Path) -> None:
    with LocalCluster(workers=1, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        first = cluster.pids()["coordinator"]
        job_id = client.submit(long_job).job_id
        sequences = []
        for event in client.watch(job_id):
            if not sequences:
                os.kill(first, signal.SIGKILL)
            sequences.append(event.sequence)
        assert sequences == sorted(set(sequences))
        assert client.get(job_id).state is JobState.SUCCEEDED
        assert isinstance(event.detail, StateChanged)
        assert client.cluster().epoch == 2
        assert cluster.pids()["coordinator"] != first


def test_a_cluster_that_cannot_start_says_why(tmp_path: Path, processes_of: Find) -> None:
    with LocalCluster(workers=0, state_dir=tmp_path / "state"):
        second = LocalCluster(workers=0, state_dir=tmp_path / "state")
        with pytest.raises(Exception, match="coordinator") as caught:
            second.start()
        assert str(tmp_path / "state") in str(caught.value)
        assert len(processes_of(tmp_path)) == 1
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(("arguments", "says"), [({"workers": -1}, "workers"), ({"threads": 0}, "threads")])
def test_sizes_that_make_no_sense(arguments: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        LocalCluster(**arguments)
