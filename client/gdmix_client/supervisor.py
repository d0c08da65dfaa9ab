"""The process behind `gdmix-cli up`: it holds the links of a local cluster's processes.

`python -m gdmix_client.supervisor --state-dir DIRECTORY …`; SIGTERM (what `gdmix-cli down` sends) and SIGINT
end it, and with it, however it ends, all of its processes.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gdmix_client.local_cluster import LocalCluster
from gdmix_client.running_cluster import (
    RunningCluster,
    remove_record,
    supervision,
    write_record,
)
from gdmix_core.errors import GdmixError
from gdmix_core.logs import configure_logging
from gdmix_core.parent_link import ParentLink

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a local cluster until told to end; return the exit code."""
    options = parse(arguments)
    configure_logging("supervisor")
    link = ParentLink(options.parent_fd)
    try:
        supervise(
            cluster_of(options),
            options.state_dir,
            lambda record: link.report("ready", address=record.address),
        )
    except GdmixError as error:
        _log.error("%s", error)
        link.report("failed", message=str(error), exit_code=error.exit_code)
        return error.exit_code
    return 0


def supervise(cluster: LocalCluster, state_dir: Path, when_ready: Callable[[RunningCluster], None]) -> None:
    """Run a cluster in this process until SIGTERM or SIGINT.

    Args:
        cluster: not started yet.
        state_dir: its state directory.
        when_ready: called once everything is.

    Raises:
        Conflict: a cluster runs in this directory already.
        GdmixError: the cluster did not start, or broke down for good.
    """
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    with supervision(state_dir):
        try:
            with cluster:
                record = _written(cluster, state_dir)
                ready = threading.Thread(
                    target=_announce,
                    args=(cluster, told_to_end, lambda: when_ready(_written(cluster, state_dir))),
                    daemon=True,
                )
                ready.start()
                while not told_to_end.wait(_LOOK_SECONDS) and cluster.failure is None:
                    record = _written(cluster, state_dir, record)
        finally:
            remove_record(state_dir)
        if cluster.failure is not None:
            raise cluster.failure


def _written(cluster: LocalCluster, state_dir: Path, before: RunningCluster | None = None) -> RunningCluster:
    """Return the cluster's record; write it when it has changed: a process was started again, the scorer listens."""
    ports = cluster.scorer_ports if cluster.scorer_listens() else None
    record = RunningCluster(
        address=cluster.address,
        token_file=str(cluster.token_file),
        supervisor=os.getpid(),
        pids=cluster.pids(),
        store=cluster.store,
        scorer="" if ports is None else ports.address,
        scorer_admin="" if ports is None else ports.admin_address,
    )
    if record != before:
        write_record(state_dir, record)
    return record


def _announce(cluster: LocalCluster, told_to_end: threading.Event, ready: Callable[[], None]) -> None:
    try:
        cluster.wait_until_ready()
    except GdmixError as error:
        if not told_to_end.is_set():
            cluster.failure = cluster.failure or error
    else:
        ready()


def cluster_of(options: argparse.Namespace) -> LocalCluster:
    """Return the cluster that the options describe."""
    return LocalCluster(
        options.workers,
        options.threads,
        state_dir=options.state_dir,
        store=options.store,
        port=options.port,
        scorer=options.scorer,
        scorer_port=options.scorer_port,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; argparse ends the process when they make no sense."""
    parser = argparse.ArgumentParser("gdmix_client.supervisor", description="Keeps a local cluster running.")
    add = parser.add_argument
    add("--state-dir", required=True, type=Path, help="state of the cluster")
    add("--workers", type=int, help="worker processes (default: the cores)")
    add("--threads", type=int, default=1, help="units that each worker runs side by side")
    add("--port", type=int, default=0, help="of the coordinator (default: any free one)")
    add("--store", help="store of jobs that name none")
    add("--scorer", action="store_true", help="have a scorer too")
    add("--scorer-port", type=int, default=0, help="of the scorer (default: any free one)")
    add("--parent-fd", type=int, help="inherited descriptor on which to report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
