"""The thread by which a serving process hangs on the scorer's parent, and the questions it answers there.

It is a `ParentLink` on which the parent also speaks, one JSON object a line:

    parent → child   the settings, once, as the first line             `read_settings`
                     `{"ask": "snapshot"}`, about once a second
    child → parent   `listening`, `ready`, `failed` as every role reports them
                     `{"event": "snapshot", "serving": …, "versions": […], "metrics": […]}`

The snapshot is taken on the event loop of the child and answered from a thread: a child that does not answer is
one whose loop does not turn, and the parent starts it again. When the parent dies, however it does, the child is
told; if it has not ended some time later, the process is ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from gdmix_core.errors import InternalError
from gdmix_core.parent_link import ParentLink

logger = logging.getLogger(__name__)

_LOOP_SECONDS: Final = 5.0
"""How long the link waits for the event loop before it listens again for the parent's end."""
ORPHAN_SECONDS: Final = 40.0
"""After the parent's end a process that still lives is ended; longer than any drain."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a serving process tells the parent about itself."""

    serving: bool
    """Whether requests without a version are answered: the overall health."""
    versions: Sequence[Mapping[str, object]] = ()
    """The versions it knows, for `/status`: model, version, state, active, in_flight, error."""
    metrics: Sequence[Mapping[str, Any]] = field(default=())
    """`ScorerMetrics.snapshot()`."""


class ChildLink(ParentLink):
    """The child's end; without a descriptor (`None`) every call does nothing."""

    def __init__(self, descriptor: int | None) -> None:
        super().__init__(descriptor)
        self._sending = threading.Lock()
        self._describe: Callable[[], Snapshot] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unread = b""

    def read_settings(self) -> dict[str, Any]:
        """Return the first line of the parent, the settings.

        Raises:
            InternalError: there is no parent, or it died before it sent them.
        """
        while b"\n" not in self._unread:
            data = b"" if self._socket is None else self._socket.recv(65536)
            if not data:
                raise InternalError("a serving process gets its settings from the scorer, which is not there")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        settings: dict[str, Any] = json.loads(line)
        return settings

    def report(self, event: str, **facts: object) -> None:
        """Send one line to the parent, from any thread; a parent that is gone is no error here."""
        with self._sending:
            super().report(event, **facts)

    def answer_with(self, describe: Callable[[], Snapshot]) -> None:
        """Answer the parent's questions from now on; to be called on the event loop.

        Args:
            describe: called on this event loop for each question; it must be quick.
        """
        self._loop = asyncio.get_running_loop()
        self._describe = describe

    def when_parent_ends(self, act: Callable[[], None]) -> None:
        """Listen to the parent in a daemon thread; call `act` once when it closes its end or dies.

        The process is ended without further ado `ORPHAN_SECONDS` later.
        """
        if self._socket is not None:
            threading.Thread(target=self._listen, args=(act,), name="parent-link", daemon=True).start()

    def _listen(self, act: Callable[[], None]) -> None:
        assert self._socket is not None
        data = self._unread
        try:
            while True:
                *lines, self._unread = data.split(b"\n")
                for line in lines:
                    self._answer(json.loads(line))
                received = self._socket.recv(65536)
                if not received:
                    break
                data = self._unread + received
        except OSError:
            pass
        end = threading.Timer(ORPHAN_SECONDS, _end_orphan)
        end.daemon = True
        end.start()
        act()

    def _answer(self, question: Mapping[str, Any]) -> None:
        """Answer one question; nothing is said before `answer_with`, or while the event loop does not turn."""
        loop, describe = self._loop, self._describe
        if question.get("ask") != "snapshot" or loop is None or describe is None:
            return
        result: Future[Snapshot] = Future()

        def take() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(describe())
            except Exception as error:  # noqa: BLE001 - handed to the thread that waits for it
                result.set_exception(error)

        try:
            loop.call_soon_threadsafe(take)
        except RuntimeError:  # the loop is closed: this process is at its end
            return
        try:
            snapshot = result.result(_LOOP_SECONDS)
        except TimeoutError:
            result.cancel()
            return
        except Exception:
            logger.exception("cannot describe this process to the scorer")
            return
        self.report(
            "snapshot",
            serving=snapshot.serving,
            versions=list(snapshot.versions),
            metrics=list(snapshot.metrics),
        )


def _end_orphan() -> None:
    logger.error("the scorer is gone and this process did not end: ending it")
    os._exit(1)
