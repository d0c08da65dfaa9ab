"""`gdmix-cli train`: one job, on a coordinator or on a cluster of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import (
    CoordinatorOption,
    JsonOption,
    QuietOption,
    StoreOption,
    TlsCaOption,
    TokenFileOption,
    WorkersOption,
)
from gdmix_client.cli.printing import note, result, result_document
from gdmix_client.cli.target import Target, ephemeral_state_dir
from gdmix_core.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from gdmix_client.client import Client
    from gdmix_client.types import Job
    from gdmix_core.config import JobConfig

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="Job config, a YAML file.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return once the job is queued.")]
TrainOutputOption = Annotated[
    str | None, typer.Option("--output", metavar="DIRECTORY", help="Instead of the config's output.")
]


def train(
    config: ConfigArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    output: TrainOutputOption = None,
    store: StoreOption = None,
    workers: WorkersOption = None,
    detach: DetachOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train a model and publish it.

    Without a coordinator the job runs on a cluster of its own: processes of this machine that end with it.
    """
    if coordinator is None and detach:
        raise UsageError(
            "--detach needs a coordinator that goes on without this command: give --coordinator; "
            "gdmix-cli up starts one on this machine"
        )
    if coordinator is not None and workers is not None:
        raise UsageError("--workers is for jobs without a coordinator; this one's workers are what they are")
    job_config = read_config(config, output=output, store=store)
    if coordinator is None:
        report_end(run_to_the_end(job_config, workers=workers, quiet=quiet), json=json)
    else:
        target = Target(coordinator, token_file, tls_ca)
        with target.client() as client:
            job = client.submit(job_config)
            if detach:
                _report_queued(job, target, json=json)
            else:
                watch_to_the_end(client, job, target, quiet=quiet, json=json)


def read_config(path: Path, *, output: str | None = None, store: str | None = None) -> JobConfig:
    """Read a job config, or one of LinkedIn GDMix, with what the command line says instead.

    What its author should know about how it was read goes to stderr.

    Raises:
        ConfigError: it has mistakes.
    """
    from gdmix_core.config.load import load_with_notes

    said = {"output": output, "store": store}
    config, notes = load_with_notes(path, {key: value for key, value in said.items() if value is not None})
    for line in notes:
        note(f"{path}: {line}")
    return config


def run_to_the_end(config: JobConfig, *, workers: int | None, quiet: bool) -> Job:
    """Train on a cluster of this job's own, however it ends; Ctrl-C brings the job to a checkpoint.

    Raises:
        GdmixError: the cluster broke down, or somebody pressed Ctrl-C.
    """
    from gdmix_client.cli.following import termination_as_interrupt
    from gdmix_client.cli.local_job import run_locally

    with termination_as_interrupt():
        return run_locally(
            state_dir=ephemeral_state_dir(config.output),
            workers=workers,
            quiet=quiet,
            begin=lambda client: client.submit(config),
            output=config.output,
        )


def watch_to_the_end(
    client: Client, job: Job, target: Target, *, quiet: bool, json: bool, after_sequence: int = 0
) -> None:
    """Follow a job of a real coordinator; Ctrl-C leaves it running.

    Raises:
        Cancelled: this command was interrupted.
        GdmixError: the job did not succeed.
    """
    from gdmix_client.cli.following import follow
    from gdmix_client.cli.progress import progress_view

    try:
        ended = follow(client, job.job_id, progress_view(quiet=quiet), after_sequence=after_sequence)
    except KeyboardInterrupt:
        raise Cancelled(
            f"detached; job {job.job_id} goes on. Watch it with: "
            f"gdmix-cli jobs watch {job.job_id}{target.options}"
        ) from None
    report_end(ended, json=json)


def report_end(job: Job, *, json: bool, try_next: bool = True) -> None:
    """Print what a job amounts to.

    Raises:
        GdmixError: it did not succeed.
    """
    from gdmix_client.cli.following import raise_if_unsuccessful
    from gdmix_client.cli.report import next_steps, summary, train_document
    from gdmix_client.types import JobState

    if json:
        result_document(train_document(job).model_dump(mode="json", exclude_unset=True))
    elif job.state is JobState.SUCCEEDED:
        result("\n" + summary(job))
        if try_next:
            result("\n" + next_steps(job))
    raise_if_unsuccessful(job)


def _report_queued(job: Job, target: Target, *, json: bool) -> None:
    if json:
        from gdmix_client.cli.report import train_document

        result_document(train_document(job).model_dump(mode="json", exclude_unset=True))
    else:
        result(job.job_id)
    note(f"Watch it with: gdmix-cli jobs watch {job.job_id}{target.options}")
