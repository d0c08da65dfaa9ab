"""`gdmix-cli jobs`: what became of jobs, and what is to become of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import (
    CoordinatorOption,
    JsonOption,
    OutputOption,
    QuietOption,
    TlsCaOption,
    TokenFileOption,
    WorkersOption,
)
from gdmix_client.cli.printing import duration, note, result, result_document, table
from gdmix_client.cli.target import Target
from gdmix_core.errors import UsageError

if TYPE_CHECKING:
    from gdmix_client.client import Client
    from gdmix_client.types import Job

commands = typer.Typer(
    help="Look at jobs, watch, stop and resume them. Without --coordinator: those of the local cluster that "
    "runs here, or with --output those that were trained without one.",
    no_args_is_help=True,
)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


@commands.command("list")
def list_jobs(
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: OutputOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Newest jobs only.")] = 100,
    json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with Target(coordinator, token_file, tls_ca, output, workers=0).open() as client:
        jobs = client.list(limit)
    if json:
        result_document({"jobs": [job_document(job) for job in jobs]})
        return
    rows = [
        [
            job.job_id,
            job.model,
            str(job.state),
            _when(job.submitted),
            "" if job.seconds is None else duration(job.seconds),
            "" if job.published is None else str(job.published.version),
            job.error.partition("\n")[0][:60],
        ]
        for job in jobs
    ]
    headers = ["job", "model", "state", "submitted", "time", "version", "error"]
    result(table(headers, rows, numbers=(4, 5)) if rows else "no jobs")


@commands.command()
def show(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Show one job."""
    with Target(coordinator, token_file, tls_ca, output, workers=0).open() as client:
        job = client.get(job_id)
    if json:
        result_document({**job_document(job), "config": _config_of(job)})
        return
    from gdmix_client.cli.progress import member_lines, stage_line
    from gdmix_client.cli.report import summary

    lines = [f"job        {job.job_id}", f"state      {job.state}", f"submitted  {_when(job.submitted)}"]
    if job.error:
        lines.append(f"error      {job.error}")
    if job.progress is not None and job.progress.stage:
        lines.append(f"now        {stage_line(job.progress)}")
        for place, line in enumerate(member_lines(job.progress)):
            lines.append(f"{'' if place else 'members':<11}{line}")
    lines.append(f"output     {job.output}")
    result("\n".join(lines) + (f"\n\n{summary(job)}" if job.coordinates else ""))


@commands.command()
def watch(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Follow a job to its end; Ctrl-C leaves it running."""
    from gdmix_client.cli.train import watch_to_the_end

    target = Target(coordinator, token_file, tls_ca)
    with target.client() as client:
        job = client.get(job_id)
        watch_to_the_end(client, job, target, quiet=quiet, json=json)


@commands.command()
def logs(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: OutputOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Print a job's story: changes of state, coordinates, notices."""
    from gdmix_client.cli.progress import story_line

    if follow and output is not None:
        raise UsageError("--follow needs a coordinator that runs the job: leave --output out")
    with Target(coordinator, token_file, tls_ca, output, workers=0).open() as client:
        job = client.get(job_id)
        if not job.last_sequence:
            return
        for event in client.watch(job_id):
            if text := story_line(event):
                result(f"{_when(event.time)}  {text}")
            if not follow and event.sequence >= job.last_sequence:
                return


@commands.command()
def cancel(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
) -> None:
    """Stop a job; what is finished is kept, and `resume` goes on from there."""
    with Target(coordinator, token_file, tls_ca).open() as client:
        job = client.cancel(job_id)
    result(f"job {job.job_id} is {job.state}")


@commands.command()
def resume(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is queued.")] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Take a failed, cancelled or interrupted job up again where its finished work ends."""
    from gdmix_client.cli.train import watch_to_the_end

    if output is not None:
        if detach:
            raise UsageError(
                "--detach needs a coordinator that goes on without this command: leave --output out"
            )
        _resume_locally(job_id, output, workers=workers, quiet=quiet, json=json)
        return
    if workers is not None:
        raise UsageError("--workers is for jobs without a coordinator: give their --output")
    target = Target(coordinator, token_file, tls_ca)
    with target.client() as client:
        job = client.resume(job_id)
        if detach:
            result(job.job_id)
            note(f"Watch it with: gdmix-cli jobs watch {job.job_id}{target.options}")
        else:
            watch_to_the_end(
                client, job, target, quiet=quiet, json=json, after_sequence=max(0, job.last_sequence - 1)
            )


@commands.command()
def delete(
    job_id: JobArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: OutputOption = None,
) -> None:
    """Forget an ended job and remove its working files; the model it made stays."""
    with Target(coordinator, token_file, tls_ca, output, workers=0).open() as client:
        client.delete(job_id)
    result(f"job {job_id} is deleted")


def job_document(job: Job) -> dict[str, object]:
    """Return a job as `list --json` and `show --json` print it: that of `train --json` and more."""
    from gdmix_client.cli.report import train_document

    document: dict[str, object] = train_document(job).model_dump(mode="json", exclude_unset=True)
    return document | {
        "submitted": job.submitted,
        "started": job.started,
        "ended": job.ended,
        "error": job.error or None,
        "error_code": job.error_code or None,
        "reproducible": job.reproducible,
        "job_output": job.output,
    }


def _resume_locally(job_id: str, output: str, *, workers: int | None, quiet: bool, json: bool) -> None:
    from gdmix_client.cli.following import termination_as_interrupt
    from gdmix_client.cli.local_job import run_locally
    from gdmix_client.cli.train import report_end

    def begin(client: Client) -> Job:
        job = client.get(job_id)  # one whose command was killed goes on by itself
        return client.resume(job_id) if job.state.ended else job

    state_dir = Target(output=output).require_state()
    with termination_as_interrupt():
        job = run_locally(state_dir=state_dir, workers=workers, quiet=quiet, begin=begin, output=output)
    report_end(job, json=json)


def _config_of(job: Job) -> object:
    from json import loads

    return loads(job.config_json) if job.config_json else None


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
