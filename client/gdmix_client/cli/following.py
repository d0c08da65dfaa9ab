"""Staying with a job until it ends, and turning how it ended into an exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from gdmix_client.types import Job, JobState
from gdmix_core.errors import Cancelled, Conflict, JobFailed, catalog

if TYPE_CHECKING:
    from gdmix_client.cli.progress import ProgressView
    from gdmix_client.client import Client


def follow(client: Client, job_id: str, view: ProgressView, *, after_sequence: int = 0) -> Job:
    """Show a job's events until it has ended; return it then."""
    try:
        for event in client.watch(job_id, after_sequence=after_sequence):
            view.show(event)
    finally:
        view.close()
    return client.get(job_id)


def stop_at_checkpoint(client: Client, job: Job, view: ProgressView) -> Job:
    """Cancel a job and wait for its end; interrupted again, wait no longer. Finished work stays on disk."""
    try:
        client.cancel(job.job_id)
        return follow(client, job.job_id, view, after_sequence=client.get(job.job_id).last_sequence)
    except Conflict:
        return client.get(job.job_id)  # it ended just now
    except KeyboardInterrupt:
        return job


def raise_if_unsuccessful(job: Job) -> None:
    """Return when a job succeeded.

    Raises:
        GdmixError: it did not; the class says why, and with it the exit code.
    """
    if job.state is JobState.FAILED:
        kind = catalog().get(job.error_code, JobFailed)
        raise kind(f"job {job.job_id} failed: {job.error or 'no reason is known'}")
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"job {job.job_id} was cancelled")


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that a job of an ephemeral cluster is brought to a checkpoint as well."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
