"""The model's bytes do not depend on the number of workers, nor on who was killed and when."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdmix_client import Client, Job, JobState, LocalCluster, Progress

from .jobs import digests

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, str]]:
    """Digests of the undisturbed model by solver, filled by the first test that trains it."""
    return {}


def disturbed(make: Make, solver: str, output: Path, workers: int, kill: tuple[str, str] | None) -> Job:
    """Train; `kill` = (role, coordinate): SIGKILL that role while that coordinate is being trained."""
    config = make(output=str(output))
    config["coordinates"]["global"]["solver"] = solver
    with LocalCluster(workers=workers, state_dir=output / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.submit(config)
        killed = kill is None
        for event in client.watch(job.job_id):
            if not killed and kill is not None and in_the_middle(event.detail, kill[1]):
                os.kill(cluster.pids()[kill[0]], signal.SIGKILL)
                killed = True
        job = client.get(job.job_id)
        assert job.state is JobState.SUCCEEDED, job.error
        assert killed, "the job was over before the kill"
        if kill is not None and kill[0] == "coordinator":
            assert client.cluster().epoch == 2
    return job


def in_the_middle(detail: object, coordinate: str) -> bool:
    """Whether the coordinate's main stage runs and has begun to finish work."""
    if not isinstance(detail, Progress) or detail.coordinate != coordinate:
        return False
    return detail.round_number >= 3 or (detail.units_total == 96 and 1 <= detail.units_done < 96)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers(
    config: Make, tmp_path: Path, workers: int, expected: dict[str, dict[str, str]]
) -> None:
    if "newton" not in expected:
        expected["newton"] = digests(disturbed(config, "newton", tmp_path / "alone", 1, None))
    job = disturbed(config, "newton", tmp_path / "out", workers, None)
    assert digests(job) == expected["newton"]
    assert job.reproducible


@pytest.mark.parametrize(
    ("role", "coordinate"),
    [
        ("worker-1", "global"),
        ("worker-2", "per_user"),
        ("coordinator", "global"),
        ("coordinator", "per_user"),
    ],
)
def test_a_kill_in_the_middle(
    config: Make, tmp_path: Path, role: str, coordinate: str, expected: dict[str, dict[str, str]]
) -> None:
    # L-BFGS has rounds enough to be killed among, and the state that is hardest to resume.
    if "lbfgs" not in expected:
        expected["lbfgs"] = digests(disturbed(config, "lbfgs", tmp_path / "undisturbed", 2, None))
    job = disturbed(config, "lbfgs", tmp_path / "out", 2, (role, coordinate))
    assert digests(job) == expected["lbfgs"]


def test_finished_partitions_are_not_trained_again(config: Make, tmp_path: Path) -> None:
    """After the coordinator's death, the attempts that were accepted before are the ones that count."""
    state = tmp_path / "state"
    with LocalCluster(workers=1, state_dir=state) as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.submit(config(output=str(tmp_path / "out")))
        before: dict[int, str] = {}
        for event in client.watch(job.job_id):
            if not before and in_the_middle(event.detail, "per_user"):
                os.kill(cluster.pids()["coordinator"], signal.SIGKILL)
                before = accepted_directories(state, "per_user.1.train")
        assert client.get(job.job_id).state is JobState.SUCCEEDED
    after = accepted_directories(state, "per_user.1.train")
    assert before
    assert len(after) == 96
    assert before == {unit: after[unit] for unit in before}
    again = [directory for directory in after.values() if "-a1-" not in directory]
    # At most the one unit that ran while the coordinator died may have needed a second attempt.
    assert len(again) <= 1


def accepted_directories(state: Path, stage: str) -> dict[int, str]:
    """Directory of the accepted attempt of every finished unit of a stage, off the journal."""
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as journal:
        rows = journal.execute("SELECT unit, document FROM units WHERE stage = ?", (stage,)).fetchall()
    units = {unit: json.loads(document) for unit, document in rows}
    return {unit: str(row["directory"]) for unit, row in units.items() if row["done"]}


def test_a_cancelled_job_resumes_to_the_same_bytes(
    config: Make, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    if "newton" not in expected:
        expected["newton"] = digests(disturbed(config, "newton", tmp_path / "undisturbed", 2, None))
    document = config()
    document["coordinates"]["global"]["solver"] = "newton"
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.submit(document)
        cancel_when(client, job.job_id, "per_user")
        assert client.get(job.job_id).state is JobState.CANCELLED
        client.resume(job.job_id)
        job = client.wait(job.job_id)
        assert job.state is JobState.SUCCEEDED, job.error
    assert digests(job) == expected["newton"]


def cancel_when(client: Client, job_id: str, coordinate: str) -> None:
    """Cancel the job once the coordinate is being trained; return when it has ended."""
    asked = False
    for event in client.watch(job_id):
        if not asked and isinstance(event.detail, Progress) and event.detail.coordinate == coordinate:
            client.cancel(job_id)
            asked = True
    assert asked
