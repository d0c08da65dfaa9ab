"""A coordinator, its workers and, if wanted, a scorer as processes of this machine.

    with LocalCluster(workers=2) as cluster, cluster.client() as client:
        job = client.wait(client.submit("movielens.yaml").job_id)

They listen on the loopback interface, ask for a random token that only this user can read, and end with this
process, however it ends. A role that dies is started again, later each time; the coordinator comes back on
the same port and state, so that jobs and watchers go on.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gdmix_client.connection import Connection
from gdmix_client.local_scorer import SCORER, SCORER_SECONDS, ScorerPorts, ports_of, scorer_command
from gdmix_client.role_process import RoleProcess, role_command
from gdmix_client.token_file import write_token
from gdmix_core.errors import GdmixError, NotPermitted, Unavailable, UsageError

if TYPE_CHECKING:
    from gdmix_client.client import Client
    from gdmix_client.scoring.scorer import Scorer

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())

MAX_DEFAULT_WORKERS = 8
LISTENING_SECONDS = 30.0
READY_SECONDS = 300.0
"""The first worker on a machine compiles the kernels before it is ready."""
SHORT_LIFE_SECONDS = 10.0
MAX_SHORT_LIVES = 5
COORDINATOR = "coordinator"
_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Place:
    """A role's place in the cluster: what runs there now and how often it died young."""

    name: str
    process: RoleProcess | None = None
    short_lives: int = 0
    given_up: GdmixError | None = None

    @property
    def is_coordinator(self) -> bool:
        """Whether this is the coordinator's place."""
        return self.name == COORDINATOR

    @property
    def is_worker(self) -> bool:
        """Whether this is a worker's place."""
        return self.name not in {COORDINATOR, SCORER}


@dataclass(slots=True)
class _Directory:
    """The state directory, removed at the end when it was made for this cluster only."""

    path: Path
    temporary: bool
    logs: Path = field(init=False)
    token_file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.logs = self.path / "logs"
        self.token_file = self.path / "token"


class LocalCluster:
    """A coordinator with workers, and a scorer if wanted, on this machine; a context manager."""

    def __init__(
        self,
        workers: int | None = None,
        threads: int = 1,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        store: str | None = None,
        port: int = 0,
        scorer: bool = False,
        scorer_port: int = 0,
        when_failed: Callable[[GdmixError], None] | None = None,
    ) -> None:
        """Prepare a cluster; `start`, or entering it, starts the processes.

        Args:
            workers: number of worker processes; the cores, at most 8, when None; 0 for none at all.
            threads: units that each worker runs side by side.
            state_dir: the coordinator's journal, logs and token; a temporary directory when None.
            store: default coefficient store of jobs that name none; with a scorer, also the one that it
                serves, then `lmdb:<state_dir>/store` when None.
            port: of the coordinator; 0 for any free one.
            scorer: whether to have a scorer too.
            scorer_port: of the scorer; 0 for any free one.
            when_failed: called once, from a thread, when the cluster has broken down for good.
        """
        if workers is not None and workers < 0:
            raise UsageError(f"workers: found {workers}; allowed are 0 or more")
        if threads < 1:
            raise UsageError(f"threads: found {threads}; allowed are 1 or more")
        self.workers = default_workers() if workers is None else workers
        self._threads = threads
        self._given_store = store or ""
        self._store = ""
        self._port = port
        self._with_scorer = scorer
        self._scorer_ports = ScorerPorts(port=scorer_port)
        self._when_failed = when_failed
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._directory: _Directory | None = None
        self._places: list[_Place] = []
        self._changed = threading.Condition()
        self._serving = False
        self._stopping = threading.Event()
        self.failure: GdmixError | None = None
        self.last_death: GdmixError | None = None

    # ---- what it is --------------------------------------------------------------------------------------

    @property
    def state_dir(self) -> Path:
        """The state directory; known once started."""
        return self._started().path

    @property
    def token_file(self) -> Path:
        """The file with the cluster's token."""
        return self._started().token_file

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator."""
        self._started()
        return f"127.0.0.1:{self._port}"

    @property
    def connection(self) -> Connection:
        """How to reach the coordinator."""
        return Connection(self.address, self.token_file.read_text(encoding="ascii").strip())

    def client(self) -> Client:
        """Return a client of this cluster."""
        from gdmix_client.client import Client

        return Client(self.connection)

    @property
    def store(self) -> str:
        """URL of the default store; "" when each job uses its own."""
        self._started()
        return self._store

    @property
    def scorer_ports(self) -> ScorerPorts:
        """Where the scorer listens; waits until it does.

        Raises:
            UsageError: the cluster was not asked to have one.
            GdmixError: it did not start; the message says why.
        """
        self._scorer_ports = ports_of(self._wait_for_scorer("listening", SCORER_SECONDS))
        return self._scorer_ports

    @property
    def scorer_connection(self) -> Connection:
        """How to reach the scorer; waits and raises as `scorer_ports`."""
        return Connection(self.scorer_ports.address, self.connection.token)

    def scorer_listens(self) -> bool:
        """Return whether there is a scorer that listens by now."""
        with self._changed:
            process = next((place.process for place in self._places if place.name == SCORER), None)
        return process is not None and process.has_reported("listening")

    def scorer_client(self) -> Scorer:
        """Return a client of the scorer; waits and raises as `scorer_ports`."""
        from gdmix_client.scoring.scorer import Scorer

        return Scorer(self.scorer_connection)

    def pids(self) -> dict[str, int]:
        """Return the process ids by role, say `worker-1`."""
        with self._changed:
            return {place.name: place.process.pid for place in self._places if place.process is not None}

    # ---- its life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the processes and wait until the coordinator listens; workers get ready meanwhile.

        Raises:
            GdmixError: the coordinator did not start; the message says why.
        """
        self._stopping.clear()
        self._directory = _prepare_directory(self._state_dir)
        own_store = f"lmdb:{self._directory.path / 'store'}" if self._with_scorer else ""
        self._store = self._given_store or own_store
        coordinator = _Place(COORDINATOR)
        self._places = [coordinator]
        try:
            coordinator.process = self._start_role(coordinator)
            self._port = int(coordinator.process.wait_for("listening", LISTENING_SECONDS)["port"])
            self._serving = True
            names = [f"worker-{number}" for number in range(1, self.workers + 1)]
            for name in [*names, SCORER] if self._with_scorer else names:
                place = _Place(name)
                self._places.append(place)
                place.process = self._start_role(place)
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the coordinator and every worker are ready, those included that had to start again.

        Of a scorer, wait until it listens: it is ready once there is a model, see `wait_until_scoring`.

        Raises:
            GdmixError: one of them is not.
        """
        deadline = time.monotonic() + timeout_seconds
        for place in list(self._places):
            self._wait_for(place, "listening" if place.name == SCORER else "ready", deadline)

    def wait_until_scoring(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the scorer has loaded the store's active versions; without any, it never has.

        Raises:
            UsageError: the cluster was not asked to have a scorer.
            GdmixError: it is not ready in time.
        """
        self._wait_for_scorer("ready", timeout_seconds)

    def _wait_for_scorer(self, event: str, timeout_seconds: float) -> RoleProcess:
        self._started()
        place = next((place for place in self._places if place.name == SCORER), None)
        if place is None:
            raise UsageError("this cluster has no scorer: say LocalCluster(scorer=True)")
        self._wait_for(place, event, time.monotonic() + timeout_seconds)
        assert place.process is not None
        return place.process

    def _wait_for(self, place: _Place, event: str, deadline: float) -> None:
        """Wait until the process in a place has said something, or the one that replaces it has."""
        while (process := place.process) is not None:
            try:
                process.wait_for(event, max(0.0, deadline - time.monotonic()))
            except GdmixError:
                if not self._replaced(place, process, deadline):
                    raise
            else:
                return

    def _replaced(self, place: _Place, process: RoleProcess, deadline: float) -> bool:
        """Wait until another process has taken a dead one's place, or none will."""

        def decided() -> bool:
            return place.given_up is not None or place.process is not process

        with self._changed:
            self._changed.wait_for(decided, max(0.0, deadline - time.monotonic()))
            return place.process is not process

    def stop(self) -> None:
        """End all processes, workers first; nothing is left of them."""
        self._stopping.set()
        self._serving = False
        with self._changed:
            processes = [place.process for place in reversed(self._places) if place.process is not None]
            self._places = []
        workers, rest = processes[:-1], processes[-1:]
        for worker in workers:
            worker.close_link()
        for process in [*workers, *rest]:
            process.stop()
        if self._directory is not None and self._directory.temporary:
            shutil.rmtree(self._directory.path, ignore_errors=True)
        self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- its processes -----------------------------------------------------------------------------------

    def _started(self) -> _Directory:
        if self._directory is None:
            raise UsageError("the cluster is not running: enter it, or call start()")
        return self._directory

    def _start_role(self, place: _Place) -> RoleProcess:
        directory = self._started()
        if place.name == SCORER:
            return self._start_scorer(place, directory)
        if place.is_coordinator:
            role = "server"
            arguments = ["--state-dir", str(directory.path), "--port", str(self._port)]
            arguments += ["--store", self._store] if self._store else []
        else:
            role = "trainer"
            arguments = ["--coordinator", self.address, "--threads", str(self._threads)]
            arguments += ["--name", f"{place.name}-{secrets.token_hex(3)}"]
        arguments += ["--token-file", str(directory.token_file)]
        return self._run(place, role_command(role, *arguments), directory)

    def _start_scorer(self, place: _Place, directory: _Directory) -> RoleProcess:
        before = place.process
        if before is not None and before.has_reported("listening"):
            self._scorer_ports = ports_of(before)  # the next one takes the same ports
        return self._run(
            place, scorer_command(self._store, directory.token_file, self._scorer_ports), directory
        )

    def _run(self, place: _Place, command: list[str], directory: _Directory) -> RoleProcess:
        log = directory.logs / f"{place.name}.log"
        return RoleProcess(place.name, command, log, when_ended=functools.partial(self._ended, place))

    def _ended(self, place: _Place, process: RoleProcess) -> None:
        """Start a dead role again after a while, on the thread that noticed its death."""
        if self._stopping.is_set() or not self._serving:
            return
        young = time.monotonic() - process.started < SHORT_LIFE_SECONDS
        place.short_lives = place.short_lives + 1 if young else 0
        self.last_death = failure = process.failure()
        hopeless = isinstance(failure, (UsageError, NotPermitted)) or place.short_lives > MAX_SHORT_LIVES
        if hopeless:
            self._give_up(place, failure)
            return
        delay = min(_FIRST_DELAY_SECONDS * 2**place.short_lives, _LONGEST_DELAY_SECONDS)
        _log.warning("%s; starting it again in %.1f s", failure, delay)
        if self._stopping.wait(delay):
            return
        try:
            with self._changed:
                if not self._stopping.is_set():
                    process.stop()
                    place.process = self._start_role(place)
                    self._changed.notify_all()
        except OSError as error:  # say, its directory has been removed: nobody would start it ever again
            self._give_up(place, Unavailable(f"{place.name} cannot be started again: {error}"))

    def _give_up(self, place: _Place, failure: GdmixError) -> None:
        """Leave a role dead; without its coordinator, or all of its workers, the cluster has failed."""
        _log.error("%s", failure)
        with self._changed:
            place.given_up = failure
            self._changed.notify_all()
            workers = [other for other in self._places if other.is_worker]
            no_worker_left = place.is_worker and all(worker.given_up for worker in workers)
            fatal = place.is_coordinator or no_worker_left
            if not fatal or self.failure is not None:
                return
            self.failure = failure
        if self._when_failed is not None:
            self._when_failed(failure)


def default_workers() -> int:
    """Return the number of worker processes that suits this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_WORKERS)


def _prepare_directory(state_dir: Path | None) -> _Directory:
    """Make the state directory with logs and a fresh token.

    Raises:
        UsageError: it cannot be written to.
    """
    temporary = state_dir is None
    path = Path(tempfile.mkdtemp(prefix="gdmix-cluster-")) if state_dir is None else state_dir.absolute()
    directory = _Directory(path, temporary)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.logs.mkdir(mode=0o700, exist_ok=True)
        write_token(directory.token_file)
    except OSError as error:
        raise UsageError(f"state directory {path}: cannot be written to: {error.strerror}") from error
    return directory
