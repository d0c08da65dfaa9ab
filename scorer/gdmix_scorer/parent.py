"""The scorer's parent: it holds the port, keeps the serving processes running, and speaks for them all."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from gdmix_core.errors import GdmixError, Unavailable
from gdmix_core.parent_link import ParentLink
from gdmix_scorer.admin import AdminServer, Response
from gdmix_scorer.children import (
    Child,
    ChildState,
    child_command,
    how_it_ended,
    relay_to_stderr,
    start_child,
)
from gdmix_scorer.held_port import HeldPort
from gdmix_scorer.parent_metrics import ChildFacts, ParentMetrics, SnapshotSums
from gdmix_scorer.restarts import RestartPolicy

logger = logging.getLogger(__name__)

ChildSettings = Callable[[int, str, int], Mapping[str, Any]]
"""From a serving process's number, the address and the port to what it is sent: plain data."""

_POLL_SECONDS: Final = 1.0
_POLL_SECONDS_AT_FIRST: Final = 0.2
_SCRAPE_SECONDS: Final = 1.0
_STALE_SECONDS: Final = 10.0
"""A process that has not answered for this long does not count as serving."""
_AFTER_DRAIN_SECONDS: Final = 3.0
_NO_RESTART: Final = frozenset({2, 4})
"""Exit codes of mistakes that the next process would make too: usage, permission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentSettings:
    """What an operator decides about the scorer as a whole."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0: any free one."""
    processes: int = 1
    """Serving processes on that port."""
    admin_host: str = "127.0.0.1"
    """Address of metrics and status; in the clear, and read-only."""
    admin_port: int = 0
    """Port of metrics and status; 0: any free one."""
    drain_seconds: float = 10.0
    """How long a serving process may take to finish what is under way."""
    hung_seconds: float = 30.0
    """A serving process that does not answer the parent for this long is started again."""


@dataclass(slots=True)
class _Place:
    """One of the N places for serving processes; the process in it may change."""

    number: int
    child: Child | None = None
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    last_end: str = ""

    @property
    def name(self) -> str:
        return str(self.number)

    @property
    def living(self) -> Child | None:
        return None if self.child is None or self.child.state is ChildState.ENDED else self.child

    @property
    def listening(self) -> bool:
        child = self.living
        return child is not None and child.listened

    @property
    def serving(self) -> bool:
        child = self.living
        return (
            child is not None
            and child.state in {ChildState.LISTENING, ChildState.READY}
            and child.news.serving
            and child.silent_seconds < _STALE_SECONDS
        )


class Parent:
    """A running scorer; `run` it."""

    def __init__(
        self,
        settings: ParentSettings,
        child_settings: ChildSettings,
        link: ParentLink,
        command: Sequence[str] | None = None,
    ) -> None:
        """Take what to run.

        Args:
            settings: of the parent.
            child_settings: what each serving process is sent.
            link: to this process's own parent, if it has one.
            command: of a serving process, without `--parent-fd`; this package's own unless given.
        """
        self._settings = settings
        self._child_settings = child_settings
        self._link = link
        self._command = child_command() if command is None else list(command)
        self._places = [_Place(number) for number in range(settings.processes)]
        self._sums = SnapshotSums()
        self._metrics = ParentMetrics(self._sums, self._facts)
        self._admin = AdminServer(
            {
                "/metrics": self._metrics_page,
                "/healthz": self._health_page,
                "/readyz": self._ready_page,
                "/status": self._status_page,
            }
        )
        self._reported: set[str] = set()
        self._started = time.time()

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or the end of this process's parent; then drain.

        Raises:
            GdmixError: the ports are taken, or the serving processes cannot live.
        """
        self._ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._told_to_end)
        self._link.when_parent_ends(lambda: _from_thread(loop, self._ending.set))
        with HeldPort(self._settings.host, self._settings.port) as self._port:
            await self._admin.start(self._settings.admin_host, self._settings.admin_port)
            try:
                await self._keep_all()
            finally:
                await self._admin.stop()
        logger.info("scorer has stopped")

    # -- the processes

    async def _keep_all(self) -> None:
        keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        helpers = [asyncio.create_task(self._poll()), asyncio.create_task(self._ending.wait())]
        try:
            done, _ = await asyncio.wait([*keepers, *helpers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ending.set()
            await self._drain(keepers)
            for helper in helpers:
                helper.cancel()
        for task in done:
            task.result()

    async def _keep(self, place: _Place) -> None:
        """Keep a serving process running in one place until the scorer ends."""
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                place.child = await start_child(
                    place.name,
                    self._command,
                    self._child_settings(place.number, self._port.host, self._port.port),
                    when_changed=lambda child: self._changed(place, child),
                    relay=relay_to_stderr(place.name),
                )
            except Unavailable as error:
                failure: GdmixError = error
                listened = False
                place.child, place.last_end = None, f"did not start: {error}"
            else:
                child = place.child
                if self._ending.is_set():
                    child.terminate()
                await child.wait()
                self._sums.end(place.name)
                place.last_end = how_it_ended(child.exit_status)
                if self._ending.is_set():
                    return
                failure, listened = child.failure(), child.listened
                self._stop_if_hopeless(child, failure)
            delay = place.policy.died(
                time.monotonic() - began,
                listened=listened,
                others_listen=any(other.listening for other in self._places),
            )
            if delay is None:
                raise failure
            reason = "" if place.child is None or place.child.failed is None else f": {failure}"
            logger.warning(
                "serving process %s %s%s; the next one starts in %.1f s",
                place.name,
                place.last_end,
                reason,
                delay,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), delay)

    def _stop_if_hopeless(self, child: Child, failure: GdmixError) -> None:
        """Raise the failure of a process that made a mistake any other would make too."""
        code = None if child.failed is None else child.failed.get("exit_code")
        if code in _NO_RESTART and "listening" not in self._reported:
            raise failure

    def _told_to_end(self) -> None:
        """Begin to drain; the second time, end at once."""
        if self._ending.is_set():
            for place in self._places:
                if place.living is not None:
                    place.living.kill()
        self._ending.set()

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Tell all processes to end, and end those that do not."""
        for place in self._places:
            if place.living is not None:
                place.living.terminate()
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_seconds + _AFTER_DRAIN_SECONDS)
        if late:
            logger.warning("%d serving processes did not end in time: ending them", len(late))
            for place in self._places:
                if place.living is not None:
                    place.living.kill()
            await asyncio.wait(late)

    async def _poll(self) -> None:
        """Ask every process how it is, again and again; end those that do not answer any more."""
        while True:
            for place in self._places:
                child = place.living
                if child is None:
                    continue
                if child.silent_seconds > self._settings.hung_seconds:
                    logger.error("serving process %s (%d) hangs: ending it", place.name, child.pid)
                    child.kill()
                else:
                    child.ask()
            await asyncio.sleep(_POLL_SECONDS if "ready" in self._reported else _POLL_SECONDS_AT_FIRST)

    def _changed(self, place: _Place, child: Child) -> None:
        """Take the news of a process, and pass on what it means for the whole."""
        if child.news.at:
            self._sums.update(place.name, child.news.metrics)
        if all(each.listening for each in self._places):
            self._report("listening", host=self._port.host, port=self._port.port, admin_port=self._admin.port)
        if self._ready:
            self._report("ready")

    def _report(self, event: str, **facts: object) -> None:
        if event not in self._reported:
            self._reported.add(event)
            self._link.report(event, **facts)
            if event == "listening":
                logger.info(
                    "scorer listens on %s:%d with %d processes; metrics and status on %s:%d",
                    self._port.host,
                    self._port.port,
                    len(self._places),
                    self._settings.admin_host,
                    self._admin.port,
                )
            else:
                logger.info("scorer is ready")

    # -- what is shown

    @property
    def _ready(self) -> bool:
        return not self._ending.is_set() and all(place.serving for place in self._places)

    def _facts(self) -> list[ChildFacts]:
        return [
            ChildFacts(
                place.name,
                None if place.living is None else place.living.pid,
                place.serving,
                place.policy.deaths,
            )
            for place in self._places
        ]

    async def _ask_all(self) -> None:
        living = [place.living for place in self._places if place.living is not None]
        await asyncio.gather(*(child.answer(_SCRAPE_SECONDS) for child in living))

    async def _metrics_page(self) -> Response:
        await self._ask_all()
        return Response.exposition(self._metrics.text())

    async def _health_page(self) -> Response:
        # Serving processes are the parent's to restart: whoever watches the parent need not know of them.
        return Response.text(HTTPStatus.OK, "draining" if self._ending.is_set() else "ok")

    async def _ready_page(self) -> Response:
        if self._ready:
            return Response.text(HTTPStatus.OK, "ready")
        missing = [place.name for place in self._places if not place.serving]
        reason = "draining" if self._ending.is_set() else f"not serving: {', '.join(missing)}"
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    async def _status_page(self) -> Response:
        await self._ask_all()
        return Response.document(
            HTTPStatus.OK,
            {
                "pid": os.getpid(),
                "host": self._port.host,
                "port": self._port.port,
                "admin_port": self._admin.port,
                "started": self._started,
                "ready": self._ready,
                "draining": self._ending.is_set(),
                "children": [_shown(place) for place in self._places],
            },
        )


def _shown(place: _Place) -> dict[str, object]:
    child = place.living
    shown: dict[str, object] = {
        "child": place.number,
        "pid": None,
        "state": ChildState.ENDED,
        "serving": place.serving,
        "restarts": place.policy.deaths,
        "last_end": place.last_end,
        "versions": [],
    }
    if child is not None:
        shown |= {
            "pid": child.pid,
            "state": child.state,
            "age_seconds": round(time.monotonic() - child.started, 1),
            "versions": list(child.news.versions),
        }
    return shown


def _from_thread(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the scorer has ended already
        loop.call_soon_threadsafe(act)
