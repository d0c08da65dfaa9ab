"""The worker process put together: session, executor, warming up, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from importlib import metadata
from typing import TYPE_CHECKING

from gdmix_core.errors import GdmixError, InternalError
from gdmix_core.fingerprint import numerics_digest, numerics_fingerprint
from gdmix_core.parent_link import ParentLink
from gdmix_trainer.data_roots import DataRoots
from gdmix_trainer.executor import UnitExecutor
from gdmix_trainer.gang import LOOPBACK, HeldPort, Meeting
from gdmix_trainer.messages import Identity, Lease
from gdmix_trainer.rpc import Endpoint, connector
from gdmix_trainer.session import WorkerSession

if TYPE_CHECKING:
    from gdmix_trainer.context import Array, TaskContext
    from gdmix_trainer.executor import Outcome

_log = logging.getLogger(__name__)

GRACE_SECONDS = 1.5
"""How long an ending worker lets running units come to their end."""


class Worker:
    """One worker; `run` returns when it was told to end."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        threads: int,
        name: str,
        data_roots: Sequence[str],
        link: ParentLink,
        advertise_host: str,
    ) -> None:
        """Prepare without connecting.

        Args:
            endpoint: The coordinator.
            threads: Units side by side.
            name: The worker's id; empty to have one made.
            data_roots: Prefixes of the files that tasks may touch; none means all.
            link: The parent process: told `registered` and `ready`; its end is this worker's.
            advertise_host: Where members of gangs on other machines reach those that run here.

        Raises:
            UsageError: `advertise_host` has no address.
            Unavailable: It is no address of this machine.
        """
        if advertise_host != LOOPBACK:
            HeldPort(advertise_host).close()
        self._roots = DataRoots(data_roots)
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._failure: BaseException | None = None
        self._executor = UnitExecutor(
            threads, self._run_unit, self._pull, self._report, Meeting(advertise_host, self._join)
        )
        self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        self._session = WorkerSession(
            _identity(name, threads, self._roots), connector(endpoint), self._executor, announce=link.report
        )

    @property
    def busy(self) -> bool:
        """Whether a thread is still at work: waiting for it would delay the process's end."""
        return self._executor.busy or self._warming.is_alive()

    async def run(self) -> None:
        """Register, warm up, work; until SIGTERM, SIGINT or the parent's end.

        Raises:
            NotPermitted: The coordinator does not let this worker in.
            Conflict: The coordinator refuses it, say because of its version.
            InternalError: The worker cannot get ready.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ending.set)
        self._link.when_parent_ends(self._from_thread(self._ending.set))
        self._executor.start()
        self._warming.start()
        session = asyncio.create_task(self._session.run())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({session, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not session.done():
                _log.info("ending")
                await self._session.stop(0.0 if self._failure else GRACE_SECONDS)
            await session
        finally:
            ending.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)
        if self._failure is not None:
            raise InternalError(f"the worker cannot get ready: {self._failure}") from self._failure

    # ---- on other threads --------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        try:
            from gdmix_trainer.start_up import prepare

            prepare()
        except (GdmixError, ImportError, OSError) as error:
            _log.exception("the worker cannot get ready")
            self._failure = error
            self._from_thread(self._ending.set)()
            return
        self._from_thread(self._session.set_ready)()

    def _run_unit(self, kind: str, task_json: str, context: TaskContext) -> str:
        from gdmix_trainer.tasks.registry import run_unit

        return run_unit(kind, task_json, context, self._roots)

    def _pull(self, lease: Lease, name: str) -> Future[Array]:
        return asyncio.run_coroutine_threadsafe(self._session.pull(lease, name), self._loop)

    def _join(self, lease: Lease, address: str) -> Future[tuple[str, ...]]:
        return asyncio.run_coroutine_threadsafe(self._session.join(lease, address), self._loop)

    def _report(self, outcome: Outcome) -> None:
        self._from_thread(lambda: self._session.finished(outcome))()

    def _from_thread(self, act: Callable[[], object]) -> Callable[[], None]:
        """Return a function that has the loop do `act`, and does nothing once the loop is closed."""

        def call() -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(act)

        return call


def _identity(name: str, threads: int, roots: DataRoots) -> Identity:
    host = socket.gethostname()
    return Identity(
        worker_id=name or f"{host}-{os.getpid()}-{secrets.token_hex(3)}",
        host=host,
        pid=os.getpid(),
        threads=threads,
        version=metadata.version("gdmix"),
        fingerprint=numerics_digest(),
        fingerprint_parts=numerics_fingerprint(),
        data_roots=roots.prefixes,
    )


if TYPE_CHECKING:
    from collections.abc import Callable
