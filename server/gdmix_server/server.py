"""Puts a coordinator together: journal, interpreter, services, and the port they are on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gdmix_core.errors import Unavailable, UsageError
from gdmix_core.security import Authorizer, require_safe_binding
from gdmix_server.interpreter import Interpreter
from gdmix_server.jobs import Jobs
from gdmix_server.journal import Journal
from gdmix_server.permitted_paths import PermittedPaths
from gdmix_server.rpc import SERVER_OPTIONS, Guard
from gdmix_server.servicer import ClusterFacts, TrainingServicer, WorkerServicer, add_services
from gdmix_server.state.machine import StateMachine
from gdmix_server.state.settings import MachineSettings
from gdmix_server.stores import ModelStores
from gdmix_server.uploads import MAX_UPLOAD_BYTES, MAX_UPLOAD_ROWS, Uploads

logger = logging.getLogger(__name__)

ENDPOINT_FILE: Final = "endpoint.json"
UPLOADS_DIRECTORY: Final = "uploads"
_HEARTBEATS_PER_LEASE: Final = 15
_MAX_HEARTBEAT_SECONDS: Final = 1.0
_GRACE_SECONDS: Final = 2.0
_FAREWELL: Final = "the coordinator is shutting down"

Program = Callable[[Any], Generator[Any, Any, None]]
"""From a ProgramInput to the stages and reports of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of a server with TLS; with `client_ca` clients need a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What an operator decides."""

    state_dir: Path
    """Directory of journal, arrays and logs of evaluations; one coordinator at a time."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0: any free one."""
    store: str = ""
    """Coefficient store of jobs that name none; empty: `lmdb:<output>/store`."""
    token_file: Path | None = None
    """Who may do what; without it everybody may everything."""
    tls: TlsFiles | None = None
    """Certificate and key; without them in the clear."""
    insecure: bool = False
    """Whether to listen on an address that others reach without TLS and tokens."""
    data_roots: tuple[str, ...] = ()
    """Below which jobs may read and write; none: anywhere."""
    uploads: Path | None = None
    """Directory of uploaded scores; None: `uploads` below the state directory."""
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    """Largest file of scores that is taken."""
    max_upload_rows: int = MAX_UPLOAD_ROWS
    """Most rows that a file of scores may have."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Times and bounds of the state machine."""


class Coordinator:
    """A running coordinator; `start` it, `wait` for its end, `stop` it."""

    def __init__(self, settings: ServerSettings, program: Program | None = None) -> None:
        """Take what to run: the training program, unless another one is given.

        Raises:
            UsageError: the settings make no sense together, or a file they name cannot be read.
        """
        self._settings = settings
        self._program = program
        self._authorizer = Authorizer()
        if settings.token_file is not None:
            self._authorizer = Authorizer.from_file(settings.token_file)
        require_safe_binding(
            settings.host,
            tls=settings.tls is not None,
            tokens=self._authorizer.enforced,
            insecure=settings.insecure,
        )
        self._credentials = None if settings.tls is None else _credentials(settings.tls)
        self._health = HealthServicer()
        self.port = 0

    async def start(self) -> None:
        """Open the journal, restore the jobs, and listen.

        Raises:
            GdmixError: the state directory is in use or damaged, or the port is taken.
        """
        self._journal = Journal(self._settings.state_dir)
        try:
            machine = StateMachine(
                epoch=self._journal.epoch,
                program=self._chosen_program(),
                settings=self._settings.machine,
                owner=self._journal.identity,
            )
            self._uploads = Uploads(
                self._settings.uploads or self._journal.directory / UPLOADS_DIRECTORY,
                self._settings.max_upload_bytes,
                self._settings.max_upload_rows,
            )
            await asyncio.to_thread(self._uploads.clean)
            self._interpreter = Interpreter(machine, self._journal)
            await self._interpreter.start()
            try:
                await self._listen()
            except BaseException:
                await self._interpreter.stop()
                raise
        except BaseException:
            self._journal.close()
            raise
        logger.info(
            "coordinator listens on %s:%d, epoch %d, state in %s",
            self._settings.host,
            self.port,
            self._journal.epoch,
            self._journal.directory,
        )

    async def wait(self) -> None:
        """Wait until the coordinator cannot go on.

        Raises:
            GdmixError: always: the reason.
        """
        await asyncio.shield(self._interpreter.failed)

    async def stop(self) -> None:
        """Say farewell to workers and watchers, finish what is queued, and close the journal."""
        self._endpoint_path.unlink(missing_ok=True)
        await self._health.enter_graceful_shutdown()
        self._interpreter.stories.end(Unavailable(_FAREWELL))
        self._interpreter.sessions.end(_FAREWELL)
        self._uploads.end(Unavailable(_FAREWELL))
        await self._server.stop(_GRACE_SECONDS)
        await self._uploads.close()
        await self._interpreter.stop()
        self._journal.close()
        logger.info("coordinator has stopped")

    @property
    def _endpoint_path(self) -> Path:
        return self._journal.directory / ENDPOINT_FILE

    def _chosen_program(self) -> Program:
        if self._program is not None:
            return self._program
        from gdmix_server.program import job_program

        return job_program

    async def _listen(self) -> None:
        settings = self._settings
        self._server = grpc.aio.server(interceptors=(Guard(self._authorizer),), options=SERVER_OPTIONS)
        self._add_services()
        address = f"{_bracketed(settings.host)}:{settings.port}"
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: it is in use or not an address of this machine"
            ) from error
        if self.port == 0:
            raise Unavailable(f"cannot listen on {address}")
        await self._server.start()
        _write_endpoint(self._endpoint_path, settings.host, self.port)

    def _add_services(self) -> None:
        paths = PermittedPaths(self._settings.data_roots)
        machine = self._settings.machine
        facts = ClusterFacts(
            version=machine.version,
            epoch=self._journal.epoch,
            store=self._settings.store,
            heartbeat_seconds=min(_MAX_HEARTBEAT_SECONDS, machine.lease_seconds / _HEARTBEATS_PER_LEASE),
            lease_seconds=machine.lease_seconds,
        )
        interpreter = self._interpreter
        jobs = Jobs(interpreter, paths, self._settings.store, self._uploads)
        journal = self._journal
        stores = ModelStores(self._settings.store, journal.epoch, journal.identity, paths, interpreter.jobs)
        names = add_services(
            self._server,
            TrainingServicer(jobs, stores, self._uploads, interpreter, facts),
            WorkerServicer(interpreter, facts),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*names, health, reflection.SERVICE_NAME), self._server)
        self._serving = ("", *names)

    async def announce_ready(self) -> None:
        """Answer health checks by SERVING."""
        for name in self._serving:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(_read(files.key, "--tls-key"), _read(files.certificate, "--tls-cert"))],
        root_certificates=None if files.client_ca is None else _read(files.client_ca, "--tls-client-ca"),
        require_client_auth=files.client_ca is not None,
    )


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read: {error.strerror or error}") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _write_endpoint(path: Path, host: str, port: int) -> None:
    """Write where the coordinator listens, for those who know its state directory."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(
        json.dumps({"host": host, "port": port, "pid": os.getpid()}) + "\n", encoding="utf-8"
    )
    with suppress(OSError):
        temporary.chmod(0o600)
    temporary.replace(path)
