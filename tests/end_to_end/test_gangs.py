"""Gangs of real processes that talk to each other over TCP, and what becomes of them when one is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gdmix_client import Client, Job, JobEvent, JobState, MemberState, Notice, Progress
from gdmix_client.cli.app import app
from gdmix_client.role_process import RoleProcess

RING = Path(__file__).with_name("ring.py")
SIZE = 3
SUM = "[(0, 111), (1, 111), (2, 111)]"
PATIENCE_SECONDS = 120.0
OTHER_HOST = "127.0.0.2"


class RingCluster:
    """A coordinator of gangs of three, and workers of one thread each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workers: dict[str, RoleProcess] = {}
        self.port = 0
        self.begin()
        self.client = Client(self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def begin(self) -> None:
        """Start the coordinator, at the port of the one before."""
        arguments = ["coordinator", str(self.directory / "state"), str(self.port), str(SIZE)]
        self.coordinator = self._process("coordinator", *arguments)
        self.port = self.coordinator.wait_for("ready", PATIENCE_SECONDS)["port"]

    def add(self, *names: str) -> None:
        """Start workers; `c` is reached at another address of this machine."""
        for name in names:
            arguments = ["worker", "--coordinator", self.address, "--threads", "1", "--name", name]
            arguments += ["--advertise-host", OTHER_HOST] if name == "c" else []
            self.workers[name] = self._process(name, *arguments)
        for name in names:
            self.workers[name].wait_for("ready", PATIENCE_SECONDS)

    def kill(self, process: RoleProcess) -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.stop()

    def stop(self) -> None:
        self.client.close()
        for process in (*self.workers.values(), self.coordinator):
            process.stop()

    def _process(self, name: str, *arguments: str) -> RoleProcess:
        return RoleProcess(name, [sys.executable, str(RING), *arguments], self.directory / f"{name}.log")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RingCluster]:
    cluster = RingCluster(tmp_path_factory.mktemp("ring"))
    try:
        cluster.add("a", "b", "c")
        yield cluster
    finally:
        cluster.stop()


class RunningJob:
    """A job and its story so far."""

    def __init__(self, cluster: RingCluster, output: Path) -> None:
        output.mkdir()
        document: dict[str, Any] = {
            "model": "ring",
            "task": "linear_regression",
            "data": {"train": "/data/train.parquet"},
            "features": {"all": ["x"]},
            "coordinates": {"global": {"fixed_effect": "linear_regression", "features": ["all"]}},
            "output": str(output),
        }
        self.output = output
        self.client = cluster.client
        self.job_id = self.client.submit(document).job_id
        self.notices: list[str] = []
        self._events = iter(self.client.watch(self.job_id))

    def until_members_run(self) -> Progress:
        """Wait until all members know each other."""
        for event in self._read():
            detail = event.detail
            states = {member.state for member in detail.members} if isinstance(detail, Progress) else set()
            if isinstance(detail, Progress) and states == {MemberState.RUNNING}:
                return detail
        raise AssertionError(self.client.get(self.job_id))

    def until_told(self, text: str) -> None:
        """Wait for a notice."""
        assert any(isinstance(event.detail, Notice) and text in event.detail.text for event in self._read())

    def end(self) -> Job:
        """Let the members sum, and wait for the job's end."""
        (self.output / "go").touch()
        for _ in self._read():
            pass
        return self.client.get(self.job_id)

    def _read(self) -> Iterator[JobEvent]:
        for event in self._events:
            if isinstance(event.detail, Notice):
                self.notices.append(event.detail.text)
            yield event


def test_members_find_each_other_and_are_shown(ring: RingCluster, tmp_path: Path) -> None:
    job = RunningJob(ring, tmp_path / "out")
    progress = job.until_members_run()
    assert {member.worker_id for member in progress.members} == {"a", "b", "c"}
    assert len({member.address for member in progress.members}) == SIZE
    hosts = {member.worker_id: member.address.rpartition(":")[0] for member in progress.members}
    assert hosts == {"a": "127.0.0.1", "b": "127.0.0.1", "c": OTHER_HOST}
    shown = CliRunner().invoke(app, ["jobs", "show", job.job_id, "--coordinator", ring.address])
    assert "sum in a ring: 0/3 members finished" in shown.stdout
    lines = [line[11:].split() for line in shown.stdout.splitlines() if "running   127" in line]
    assert lines == [
        [str(rank), member.worker_id, "running", member.address]
        for rank, member in enumerate(progress.members)
    ]
    assert job.end().state is JobState.SUCCEEDED
    assert job.notices == [f"{SUM} ['a1']"]


def test_a_killed_member_calls_all_back_and_the_gang_begins_again(ring: RingCluster, tmp_path: Path) -> None:
    job = RunningJob(ring, tmp_path / "out")
    killed = job.until_members_run().members[1].worker_id
    ring.kill(ring.workers[killed])
    job.until_told("the gang of 3 of stage 'ring' begins again (failure 1 of at most 3)")
    ring.add("d")
    members = job.until_members_run().members
    assert killed not in {member.worker_id for member in members}
    assert job.end().state is JobState.SUCCEEDED, job.notices
    assert job.notices[-1] == f"{SUM} ['a2']"


def test_a_gang_goes_on_when_the_coordinator_is_killed(ring: RingCluster, tmp_path: Path) -> None:
    job = RunningJob(ring, tmp_path / "out")
    before = job.until_members_run()
    ring.kill(ring.coordinator)
    ring.begin()
    assert job.until_members_run().members == before.members
    assert job.end().state is JobState.SUCCEEDED, job.notices
    assert job.notices == [f"{SUM} ['a1']"]


def test_a_cancelled_gang_leaves_its_workers_free(ring: RingCluster, tmp_path: Path) -> None:
    job = RunningJob(ring, tmp_path / "out")
    job.until_members_run()
    assert ring.client.cancel(job.job_id).state is JobState.CANCELLED
    other = RunningJob(ring, tmp_path / "other")
    assert other.end().state is JobState.SUCCEEDED
    assert other.notices == [f"{SUM} ['a1']"]


def test_a_worker_that_leaves_is_waited_for_without_blame(ring: RingCluster, tmp_path: Path) -> None:
    job = RunningJob(ring, tmp_path / "out")
    leaving = job.until_members_run().members[0].worker_id
    ring.workers.pop(leaving).stop()
    job.until_told("needs 3 free slots; 2 are connected")
    ring.add("e")
    job.until_members_run()
    assert job.end().state is JobState.SUCCEEDED, job.notices
    assert not any("failure" in notice for notice in job.notices)
