"""A scorer as a process of this machine.

    with LocalScorer("lmdb:gdmix-quickstart/model/store") as local, local.client() as scorer:
        print(scorer.score({"user_id": 7}, [{"movie_id": 1}]).predictions)

It listens on the loopback interface, asks for a random token that only this user can read, and ends with
this process, however it ends.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from gdmix_client.connection import Connection
from gdmix_client.role_process import RoleProcess, role_command
from gdmix_client.token_file import write_token
from gdmix_core.errors import UsageError

if TYPE_CHECKING:
    from gdmix_client.scoring.scorer import Scorer

SCORER: Final = "scorer"
SCORER_SECONDS: Final = 300.0
"""The first serving process on a machine compiles its kernels."""
DRAIN_SECONDS: Final = 2
"""Below `RoleProcess.stop`'s grace: a scorer that is told to end has finished by then."""


@dataclass(frozen=True, slots=True)
class ScorerPorts:
    """Where a scorer of this machine listens; 0: nowhere yet, any free port will do."""

    port: int = 0
    admin_port: int = 0

    @property
    def address(self) -> str:
        """HOST:PORT to ask for scores."""
        return f"127.0.0.1:{self.port}"

    @property
    def admin_address(self) -> str:
        """HOST:PORT of metrics and status, over HTTP."""
        return f"127.0.0.1:{self.admin_port}"


def scorer_command(store: str, token_file: Path, ports: ScorerPorts, processes: int = 1) -> list[str]:
    """Return the command that runs a scorer of this machine."""
    return role_command(
        "scorer",
        *("--store", store, "--token-file", str(token_file), "--processes", str(processes)),
        *("--port", str(ports.port), "--admin-port", str(ports.admin_port)),
        *("--drain-seconds", str(DRAIN_SECONDS)),
    )


def ports_of(process: RoleProcess, timeout_seconds: float = SCORER_SECONDS) -> ScorerPorts:
    """Return where a scorer listens, once it does.

    Raises:
        GdmixError: it does not; the message says why.
    """
    told = process.wait_for("listening", timeout_seconds)
    return ScorerPorts(int(told["port"]), int(told["admin_port"]))


class LocalScorer:
    """A scorer on this machine; a context manager."""

    def __init__(self, store: str, *, processes: int = 1) -> None:
        """Prepare a scorer; `start`, or entering it, starts the processes.

        Args:
            store: URL of the coefficient store.
            processes: that serve, on one port.
        """
        if processes < 1:
            raise UsageError(f"processes: found {processes}; allowed are 1 and above")
        self._store = store
        self._processes = processes
        self._directory: Path | None = None
        self._process: RoleProcess | None = None
        self._ports = ScorerPorts()

    @property
    def address(self) -> str:
        """HOST:PORT to ask for scores."""
        self._running()
        return self._ports.address

    @property
    def admin_address(self) -> str:
        """HOST:PORT of metrics and status, over HTTP."""
        self._running()
        return self._ports.admin_address

    @property
    def token_file(self) -> Path:
        """The file with the scorer's token."""
        self._running()
        assert self._directory is not None
        return self._directory / "token"

    @property
    def connection(self) -> Connection:
        """How to reach the scorer."""
        return Connection(self.address, self.token_file.read_text(encoding="ascii").strip())

    def client(self) -> Scorer:
        """Return a client of this scorer."""
        from gdmix_client.scoring.scorer import Scorer

        return Scorer(self.connection)

    def start(self) -> None:
        """Start the processes and wait until they listen; models are loaded meanwhile.

        Raises:
            GdmixError: the scorer did not start; the message says why.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="gdmix-scorer-"))
        try:
            token_file = self._directory / "token"
            write_token(token_file)
            command = scorer_command(self._store, token_file, self._ports, self._processes)
            self._process = RoleProcess(SCORER, command, self._directory / "scorer.log")
            self._ports = ports_of(self._process)
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self, timeout_seconds: float = SCORER_SECONDS) -> None:
        """Wait until every process has loaded the store's active versions; without any, it never is.

        Raises:
            GdmixError: it is not ready in time, or has ended.
        """
        self._running().wait_for("ready", timeout_seconds)

    def stop(self) -> None:
        """End the processes; requests under way are answered first."""
        if self._process is not None:
            self._process.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._process = self._directory = None
        self._ports = ScorerPorts()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> RoleProcess:
        if self._process is None:
            raise UsageError("the scorer is not running: enter it, or call start()")
        return self._process
