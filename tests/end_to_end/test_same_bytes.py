"""The model's bytes do not depend on the number of workers, nor on who was killed and when."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdmix_client import Client, Job, JobState, LocalCluster, Progress

Make = Callable[..., dict[str, Any]]


def files_of_model(job: Job) -> dict[str, str]:
    """Digest of every file that decides scores, by its path in the model directory."""
    assert job.published is not None, job.error
    root = Path(job.published.directory)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of the undisturbed model by solver, filled by the first test that trains it."""
    del tmp_path_factory
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
    return detail.round_number >= 3 or (detail.units_total == 24 and 1 <= detail.units_done < 24)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers(
    config: Make, tmp_path: Path, workers: int, expected: dict[str, dict[str, str]]
) -> None:
    job = disturbed(config, "newton", tmp_path / "out", workers, None)
    assert files_of_model(job) == expected.setdefault("newton", files_of_model(job))
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
        expected["lbfgs"] = files_of_model(disturbed(config, "lbfgs", tmp_path / "undisturbed", 2, None))
    job = disturbed(config, "lbfgs", tmp_path / "out", 2, (role, coordinate))
    assert files_of_model(job) == expected["lbfgs"]


def test_finished_partitions_are_not_trained_again(config: Make, tmp_path: Path) -> None:
    """After the coordinator's death, what was accepted before stays where it was."""
    work = tmp_path / "out" / ".gdmix" / "jobs"
    with LocalCluster(workers=1, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.submit(config(output=str(tmp_path / "out")))
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        for event in client.watch(job.job_id):
            if not before and in_the_middle(event.detail, "per_user"):
                os.kill(cluster.pids()["coordinator"], signal.SIGKILL)
                before = modification_times(work)
            elif before and isinstance(event.detail, Progress) and event.detail.coordinate == "per_item":
                after = after or modification_times(work)
        assert client.get(job.job_id).state is JobState.SUCCEEDED
    finished = {path: time for path, time in before.items() if "per_user.1.train" in path}
    assert finished
    assert all(after.get(path) == time for path, time in finished.items())
    units = [Path(path).name.split("-")[0] for path in after if "per_user.1.train" in path]
    # At most the one unit that ran while the coordinator died may have a second attempt.
    assert len(units) - len(set(units)) <= 1


def modification_times(work: Path) -> dict[str, float]:
    """Times of the finished coefficient files of all attempts, by directory."""
    return {str(path.parent): path.stat().st_mtime for path in work.rglob("coefficients.parquet")}


def test_a_cancelled_job_resumes_to_the_same_bytes(
    config: Make, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.submit(config())
        cancel_when(client, job.job_id, "per_user")
        assert client.get(job.job_id).state is JobState.CANCELLED
        client.resume(job.job_id)
        job = client.wait(job.job_id)
        assert job.state is JobState.SUCCEEDED, job.error
    files = files_of_model(job)
    assert files == expected.setdefault("auto", files)


def cancel_when(client: Client, job_id: str, coordinate: str) -> None:
    """Cancel the job once the coordinate is being trained; return when it has ended."""
    asked = False
    for event in client.watch(job_id):
        if not asked and isinstance(event.detail, Progress) and event.detail.coordinate == coordinate:
            client.cancel(job_id)
            asked = True
    assert asked
