"""Running a job, and reading off what it left."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gdmix_client import Client, Job, JobState, Notice


def succeeded(client: Client, document: dict[str, Any]) -> Job:
    """Run a job that must succeed."""
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    return job


def told(client: Client, document: dict[str, Any]) -> tuple[Job, list[str]]:
    """Run a job that must succeed; return it and its notices."""
    events = list(client.watch(client.submit(document).job_id))
    job = client.get(events[-1].job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    return job, [event.detail.text for event in events if isinstance(event.detail, Notice)]


def directory_of(job: Job) -> Path:
    """The directory of the published version."""
    assert job.published is not None, job.error
    return Path(job.published.directory)


def digests(job: Job) -> dict[str, str]:
    """Digest of every file that decides scores, by its path in the model directory."""
    root = directory_of(job)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.parquet"))
    }
