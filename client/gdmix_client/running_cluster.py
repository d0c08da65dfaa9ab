"""The cluster that `gdmix-cli up` left running: how others find it, and how it is told to end.

`<state dir>/cluster.json` (mode 0600) says where it is; a lock held by its supervisor says whether that is
still true, whatever became of the processes' numbers.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gdmix_client.connection import Connection
from gdmix_core.errors import Conflict, Unavailable, UsageError
from gdmix_core.security import Role, load_token

STATE_VARIABLE = "GDMIX_STATE_DIR"
RECORD_FILE = "cluster.json"
LOCK_FILE = "supervisor.lock"
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A cluster that stays.

    Attributes:
        address: HOST:PORT of its coordinator.
        token_file: file with its token.
        supervisor: process id of its supervisor.
        pids: process ids by role.
        store: URL of the coordinator's default store; "" without one.
        scorer: HOST:PORT of its scorer; "" without one.
        scorer_admin: HOST:PORT of that scorer's metrics and status, over HTTP.
    """

    address: str
    token_file: str
    supervisor: int
    pids: dict[str, int]
    store: str = ""
    scorer: str = ""
    scorer_admin: str = ""

    @property
    def connection(self) -> Connection:
        """How to reach the coordinator."""
        return Connection(self.address, load_token(self.token_file, role=Role.TRAIN))

    @property
    def scorer_connection(self) -> Connection:
        """How to reach the scorer."""
        return Connection(self.scorer, load_token(self.token_file, role=Role.SCORE))


def default_state_dir() -> Path:
    """Return `$GDMIX_STATE_DIR`, else `$XDG_STATE_HOME/gdmix`, else `~/.local/state/gdmix`."""
    named = os.environ.get(STATE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser().absolute() / "gdmix"


def find_cluster(state_dir: Path) -> RunningCluster | None:
    """Return the cluster that runs in a state directory, None when there is none."""
    if not is_supervised(state_dir):
        return None
    try:
        return RunningCluster(**json.loads((state_dir / RECORD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # it is just starting or ending


def write_record(state_dir: Path, cluster: RunningCluster) -> None:
    """Say where the cluster is; only this user can read it."""
    path = state_dir / RECORD_FILE
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(cluster), file, indent=2)
        file.write("\n")
    temporary.replace(path)


def remove_record(state_dir: Path) -> None:
    """Say that no cluster runs here any more."""
    (state_dir / RECORD_FILE).unlink(missing_ok=True)


@contextmanager
def supervision(state_dir: Path) -> Iterator[None]:
    """Be the supervisor of a state directory, for as long as the block runs or the process lives.

    Raises:
        Conflict: another supervisor is.
        UsageError: the directory cannot be written to.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"state directory {state_dir}: cannot be written to: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"a local cluster is running in {state_dir} already; gdmix-cli down ends it"
            ) from error
        yield
    finally:
        os.close(descriptor)


def is_supervised(state_dir: Path) -> bool:
    """Return whether a supervisor runs in a state directory."""
    try:
        descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def end_cluster(state_dir: Path, cluster: RunningCluster, timeout_seconds: float = 20.0) -> None:
    """End a running cluster and wait until none of its processes is left.

    Raises:
        Unavailable: processes are left all the same.
    """
    _signal(cluster.supervisor, signal.SIGTERM)
    if not _wait_until(lambda: not is_supervised(state_dir), timeout_seconds):
        _signal(cluster.supervisor, signal.SIGKILL)  # its children end with it
        _wait_until(lambda: not is_supervised(state_dir), timeout_seconds)
    pids = [cluster.supervisor, *cluster.pids.values()]
    if not _wait_until(lambda: not any(map(_exists, pids)), timeout_seconds):
        left = ", ".join(str(pid) for pid in pids if _exists(pid))
        raise Unavailable(f"processes {left} of the cluster in {state_dir} did not end")
    remove_record(state_dir)


def _wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _exists(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the number belongs to somebody else's process by now
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
