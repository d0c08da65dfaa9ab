"""A job on a cluster of its own, from its start or from where it was stopped, to its end or a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gdmix_client.cli.following import follow, stop_at_checkpoint
from gdmix_client.cli.printing import note
from gdmix_client.cli.progress import progress_view
from gdmix_client.cli.report import shortened
from gdmix_client.local_cluster import LocalCluster
from gdmix_core.errors import Cancelled, Conflict, GdmixError, Unavailable

if TYPE_CHECKING:
    from gdmix_client.client import Client
    from gdmix_client.types import Job


def run_locally(
    *,
    state_dir: Path,
    workers: int | None,
    quiet: bool,
    begin: Callable[[Client], Job],
    output: str,
) -> Job:
    """Start a cluster, begin a job on it and stay with it until it has ended.

    Args:
        state_dir: the cluster's state.
        workers: number of worker processes; the cores when None.
        quiet: show no progress.
        begin: submits or resumes the job.
        output: of the job, for the command that resumes it.

    Raises:
        Cancelled: somebody pressed Ctrl-C; the job can be resumed.
        GdmixError: the cluster broke down.
    """
    clients: list[Client] = []

    def give_up(_: GdmixError) -> None:
        for client in clients:
            client.close()

    with (
        LocalCluster(workers, state_dir=state_dir, when_failed=give_up) as cluster,
        cluster.client() as client,
    ):
        clients.append(client)
        job: Job | None = None
        if not quiet:
            plural = "" if cluster.workers == 1 else "s"
            note(f"local cluster: coordinator at {cluster.address}, {cluster.workers} worker{plural}")
        view = progress_view(quiet=quiet)
        try:
            job = begin(client)
            _stop_others(client, job, output)
            return follow(client, job.job_id, view, after_sequence=job.last_sequence)
        except KeyboardInterrupt:
            if job is None:
                raise
            note("\nstopping at the next checkpoint; Ctrl-C again to stop at once")
            job = stop_at_checkpoint(client, job, view)
            if job.published is not None:
                return job
            raise Cancelled(
                f"interrupted; what is finished is kept. Go on with: {_resume_command(job.job_id, output)}"
            ) from None
        except (Unavailable, ValueError):  # gRPC raises ValueError on the channel that give_up closed
            why = cluster.failure or cluster.last_death
            if why is None:
                raise
            raise why from None


def _stop_others(client: Client, job: Job, output: str) -> None:
    """Stop jobs that an earlier, killed command left unfinished in the same state directory."""
    for other in client.list():
        if other.job_id != job.job_id and not other.state.ended:
            with suppress(Conflict):
                client.cancel(other.job_id)
            note(
                f"job {other.job_id} was left unfinished here; take it up again with: "
                f"{_resume_command(other.job_id, shortened(output))}"
            )


def _resume_command(job_id: str, output: str) -> str:
    """Return the command that takes a job without a coordinator up again."""
    return f"gdmix-cli jobs resume {job_id} --output {shlex.quote(output)}"
