"""`gdmix-cli up`, `down`, and one role in the foreground: `coordinator`, `worker`, `scorer`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from gdmix_client.cli.options import JsonOption, StateDirOption, WorkersOption
from gdmix_client.cli.printing import note, result, result_document
from gdmix_client.running_cluster import RunningCluster, default_state_dir, end_cluster, find_cluster
from gdmix_core.errors import Conflict, Unavailable, UsageError

READY_SECONDS = 300.0
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def up(
    workers: WorkersOption = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, metavar="N", help="Units that each worker runs side by side.")
    ] = 1,
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, metavar="PORT", help="Of the coordinator; 0: any free one."),
    ] = 0,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="Of jobs that name none, and of the scorer: lmdb:DIRECTORY or redis://HOST:PORT/DB "
            "(default: lmdb:<state directory>/store).",
        ),
    ] = None,
    scorer: Annotated[
        bool, typer.Option("--scorer/--no-scorer", help="Start a scorer of that store too.")
    ] = True,
    scorer_port: Annotated[
        int,
        typer.Option(
            "--scorer-port", min=0, max=65535, metavar="PORT", help="Of the scorer; 0: any free one."
        ),
    ] = 0,
    state_dir: StateDirOption = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; Ctrl-C ends the cluster.")] = False,
    json: JsonOption = False,
) -> None:
    """Start a local cluster that stays: a coordinator, workers and a scorer on this machine."""
    directory = _directory(state_dir)
    running = find_cluster(directory)
    if running is not None:
        raise Conflict(
            f"a local cluster is running in {directory} already, at {running.address}; gdmix-cli down ends it"
        )
    arguments = ["--state-dir", str(directory), "--threads", str(threads), "--port", str(port)]
    arguments += [] if workers is None else ["--workers", str(workers)]
    arguments += ["--store", _absolute_store(f"lmdb:{directory / 'store'}" if store is None else store)]
    arguments += ["--scorer", "--scorer-port", str(scorer_port)] if scorer else []
    if foreground:
        _stay(arguments, directory, json=json)
    else:
        note("starting; the first time on a machine, kernels are compiled, which takes a while")
        _report(_start_in_background(arguments, directory), directory, json=json)


def down(state_dir: StateDirOption = None) -> None:
    """End the local cluster that `up` started; jobs that run go on when it is started again."""
    directory = _directory(state_dir)
    running = find_cluster(directory)
    if running is None:
        note(f"no local cluster runs in {directory}")
        return
    end_cluster(directory, running)
    result(f"ended the local cluster at {running.address}")


def coordinator(context: typer.Context) -> None:
    """Run a coordinator in the foreground; see `coordinator --help` for its options."""
    _become("gdmix_server", context.args)


def worker(context: typer.Context) -> None:
    """Run a worker in the foreground; see `worker --help` for its options."""
    _become("gdmix_trainer", context.args)


def scorer(context: typer.Context) -> None:
    """Run a scorer in the foreground; see `scorer --help` for its options."""
    _become("gdmix_scorer", context.args)


def _directory(state_dir: Path | None) -> Path:
    return default_state_dir() if state_dir is None else state_dir.expanduser().absolute()


def _absolute_store(store: str) -> str:
    if not store.startswith("lmdb:"):
        return store
    return "lmdb:" + str(Path(store.removeprefix("lmdb:")).expanduser().absolute())


def _start_in_background(arguments: list[str], directory: Path) -> RunningCluster:
    """Start a supervisor that outlives this command and wait until its cluster is ready."""
    from gdmix_client.role_process import RoleProcess

    logs = directory / "logs"
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"state directory {directory}: cannot be written to: {error.strerror}") from error
    command = [sys.executable, "-P", "-m", "gdmix_client.supervisor", *arguments]
    supervisor = RoleProcess("the cluster's supervisor", command, logs / "supervisor.log")
    try:
        supervisor.wait_for("ready", READY_SECONDS)
    except BaseException:
        supervisor.stop()
        raise
    supervisor.release()
    running = find_cluster(directory)
    if running is None:
        raise Unavailable(f"the cluster in {directory} ended as soon as it was ready{supervisor.log_tail()}")
    return running


def _stay(arguments: list[str], directory: Path, *, json: bool) -> None:
    from gdmix_client import supervisor

    options = supervisor.parse(arguments)
    supervisor.supervise(
        supervisor.cluster_of(options), directory, lambda record: _report(record, directory, json=json)
    )


def _report(running: RunningCluster, directory: Path, *, json: bool) -> None:
    workers = sum(name.startswith("worker-") for name in running.pids)
    if json:
        result_document(
            {
                "coordinator": running.address,
                "scorer": running.scorer or None,
                "scorer_admin": running.scorer_admin or None,
                "store": running.store,
                "token_file": running.token_file,
                "state_dir": str(directory),
                "workers": workers,
                "pids": {"supervisor": running.supervisor, **running.pids},
            }
        )
        return
    plural = "" if workers == 1 else "s"
    result(f"coordinator at {running.address}, {workers} worker{plural}; logs in {directory / 'logs'}")
    if running.scorer:
        result(f"scorer at {running.scorer}, metrics and status at http://{running.scorer_admin}/")
    result(f"store {running.store}")
    result(f"export GDMIX_COORDINATOR={running.address}")
    if running.scorer:
        result(f"export GDMIX_SCORER={running.scorer}")
    result(f"export GDMIX_TOKEN=$(cat {shlex.quote(running.token_file)})")
    note("gdmix-cli finds the token of this cluster by itself; gdmix-cli down ends it")


def _become(module: str, arguments: list[str]) -> None:
    """Turn this process into a role's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell
