"""The coordinator's ends of its workers' session streams, free of any wire format."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from gdmix_core.errors import Conflict, GdmixError, Unavailable, UsageError
from gdmix_server.array_store import ArrayStore
from gdmix_server.state.events import (
    Event,
    UnitFailed,
    UnitFinished,
    WorkerConnected,
    WorkerDisconnected,
)
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    DropCache,
    RevokeLease,
    SendTask,
    StartGang,
)

logger = logging.getLogger(__name__)

MAX_WAITING_MESSAGES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Farewell:
    """The last message of a session that the coordinator ends."""

    reason: str


Outgoing = AcceptWorker | SendTask | StartGang | RevokeLease | Acknowledge | DropCache | Farewell


class Session:
    """One stream of one worker.

    Attributes:
        number: tells the sessions of a run of the coordinator apart.
        worker_id: empty until the worker has registered.
    """

    def __init__(self, number: int, sessions: Sessions) -> None:
        self.number = number
        self.worker_id = ""
        self._sessions = sessions
        self._outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue()
        self._failure: GdmixError | None = None
        self._over = False

    def receive(self, event: Event) -> None:
        """Take what the worker said.

        Raises:
            UsageError: it did not register first, or registers again.
        """
        if isinstance(event, WorkerConnected):
            if self.worker_id:
                raise UsageError("a session registers once; open another one")
            self.worker_id = event.worker.worker_id
            self._sessions.registered(self)
        elif not self.worker_id:
            raise UsageError("the first message of a session must be register")
        self._sessions.forward(event)

    def send(self, message: Outgoing) -> None:
        """Queue a message; one to a session that is over is dropped."""
        if self._over:
            return
        if self._outgoing.qsize() >= MAX_WAITING_MESSAGES:
            self.end(Unavailable(f"{MAX_WAITING_MESSAGES} messages wait for this worker: it does not read"))
            return
        self._outgoing.put_nowait(message)

    def end(self, failure: GdmixError | None = None) -> None:
        """End the stream once what is queued has been sent, with an error if one is given."""
        if not self._over:
            self._over = True
            self._failure = failure
            self._outgoing.put_nowait(None)

    def refuse(self, reason: str) -> None:
        """End the stream because the worker cannot be one of this coordinator's."""
        self.worker_id, refused = "", self.worker_id
        self._sessions.refused(self, refused)
        self.end(Conflict(reason))

    async def outgoing(self) -> AsyncIterator[Outgoing]:
        """Yield messages to be sent, until the session is ended.

        Raises:
            GdmixError: it was ended with one.
        """
        while (message := await self._outgoing.get()) is not None:
            yield message
        if self._failure is not None:
            raise self._failure

    def closed(self) -> None:
        """Take note that the stream is gone."""
        self._over = True
        self._sessions.closed(self)


class Sessions:
    """All open sessions, and the latest one of each worker."""

    def __init__(self, arrays: ArrayStore, post: Callable[[Event], None]) -> None:
        """Hand on what workers say by `post`, results not before their arrays are complete."""
        self._arrays = arrays
        self._post = post
        self._numbers = itertools.count(1)
        self._open: dict[int, Session] = {}
        self._of_worker: dict[str, Session] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._farewell: str | None = None

    def open(self) -> Session:
        """Begin a session.

        Raises:
            Unavailable: the coordinator is shutting down.
        """
        if self._farewell is not None:
            raise Unavailable(self._farewell)
        session = Session(next(self._numbers), self)
        self._open[session.number] = session
        return session

    def numbered(self, number: int) -> Session | None:
        """Return an open session by its number."""
        return self._open.get(number)

    def of_worker(self, worker_id: str) -> Session | None:
        """Return a worker's open session."""
        return self._of_worker.get(worker_id)

    def registered(self, session: Session) -> None:
        """Make a session its worker's; an earlier one is ended."""
        earlier = self._of_worker.get(session.worker_id)
        self._of_worker[session.worker_id] = session
        if earlier is not None and earlier is not session:
            earlier.end(Conflict("the worker has opened another session"))

    def refused(self, session: Session, worker_id: str) -> None:
        """Forget whose session it would have been."""
        if self._of_worker.get(worker_id) is session:
            del self._of_worker[worker_id]

    def closed(self, session: Session) -> None:
        """Forget a session whose stream is gone and say so, unless the coordinator itself is leaving."""
        if self._open.pop(session.number, None) is None or not session.worker_id:
            return
        if self._of_worker.get(session.worker_id) is session:
            del self._of_worker[session.worker_id]
        if self._farewell is None:
            self._post(
                WorkerDisconnected(now=time.time(), worker_id=session.worker_id, session=session.number)
            )

    def forward(self, event: Event) -> None:
        """Hand on what a worker said."""
        if isinstance(event, UnitFinished | UnitFailed) and self._arrays.coming(event.lease):
            task = asyncio.get_running_loop().create_task(self._forward_settled(event))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            self._post(event)

    def end(self, reason: str) -> None:
        """Say farewell to all workers and take no new ones; their leases stay as they are."""
        self._farewell = reason
        for session in list(self._open.values()):
            session.send(Farewell(reason))
            session.end()
        for task in self._waiting:
            task.cancel()

    async def _forward_settled(self, event: UnitFinished | UnitFailed) -> None:
        await self._arrays.settled(event.lease)
        self._post(event)
