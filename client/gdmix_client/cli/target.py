"""Which coordinator a command speaks to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gdmix_client.connection import COORDINATOR_VARIABLE, Connection, connection_to
from gdmix_client.running_cluster import RunningCluster, default_state_dir, find_cluster
from gdmix_core.errors import NotFound, UsageError
from gdmix_core.security import TOKEN_VARIABLE

if TYPE_CHECKING:
    from gdmix_client.client import Client


@dataclass(frozen=True, slots=True)
class Target:
    """The coordinator that options and environment point to.

    Attributes:
        coordinator: HOST:PORT; None: not named.
        token_file: as given.
        tls_ca: as given.
        output: of a job that was trained without a coordinator; its journal is below.
        workers: of a cluster that has to be started for `output`.
    """

    coordinator: str | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    output: str | None = None
    workers: int | None = None

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Connect to the coordinator; one that had to be started for it ends with the block.

        Raises:
            UsageError: no coordinator is named, and none runs here.
        """
        if self.output is not None:
            from gdmix_client.local_cluster import LocalCluster

            state_dir = self.require_state()
            with LocalCluster(self.workers, state_dir=state_dir) as cluster, cluster.client() as client:
                yield client
            return
        with self.client() as client:
            yield client

    def require_state(self) -> Path:
        """Return where the journal of jobs with `output` is.

        Raises:
            NotFound: there is none.
        """
        assert self.output is not None
        state_dir = ephemeral_state_dir(self.output)
        if not (state_dir / "logs").is_dir():
            raise NotFound(f"--output {self.output}: no job was trained there without a coordinator")
        return state_dir

    def client(self) -> Client:
        """Return a client of the coordinator that is named, or of the cluster that runs here.

        Raises:
            UsageError: no coordinator is named, and none runs here.
        """
        from gdmix_client.client import Client

        return Client(self.connection())

    def connection(self) -> Connection:
        """Return how to reach the coordinator that is named, or the cluster that runs here.

        Raises:
            UsageError: as `client`.
        """
        running = find_cluster(default_state_dir())
        if self.coordinator is None:
            if running is None:
                raise UsageError(
                    f"no coordinator: give --coordinator or {COORDINATOR_VARIABLE}, start a local cluster "
                    "with gdmix-cli up, or name the --output of a job that was trained without one"
                )
            return running.connection
        token_file: Path | str | None = self.token_file
        if running is not None and self._token_is_known(running):
            token_file = running.token_file
        return connection_to(self.coordinator, token_file=token_file, tls_ca=self.tls_ca)

    @property
    def options(self) -> str:
        """The options that lead another command to the same coordinator."""
        if self.output is not None:
            return f" --output {self.output}"
        options = f" --coordinator {self.coordinator}" if self.coordinator else ""
        return options + (f" --token-file {self.token_file}" if self.token_file else "")

    def _token_is_known(self, running: RunningCluster) -> bool:
        said = self.token_file is not None or bool(os.environ.get(TOKEN_VARIABLE, "").strip())
        return not said and same_address(self.coordinator or "", running.address)


def same_address(one: str, other: str) -> bool:
    """Return whether two addresses mean the same port of this machine."""
    return one.replace("localhost:", "127.0.0.1:") == other.replace("localhost:", "127.0.0.1:")


def ephemeral_state_dir(output: str) -> Path:
    """Return where the cluster of a job without a coordinator keeps its journal: below the job's output.

    For an output in an object store it is a directory of this machine that goes by the output's name.
    """
    if "://" in output and not output.startswith("file://"):
        name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
        return default_state_dir() / "jobs" / name
    return Path(output.removeprefix("file://")).expanduser().absolute() / ".gdmix" / "coordinator"
