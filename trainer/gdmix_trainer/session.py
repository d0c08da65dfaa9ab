"""The worker's side of the session with its coordinator: register, report, reconnect, lose nothing.

Everything here runs on one asyncio loop over an abstract connection (`rpc` has the real one). The contract:
a result and its arrays are kept until the coordinator acknowledges them; after a broken connection the worker
registers again with every lease it holds and sends again what was not acknowledged.
See `docs/specs/worker-session.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gdmix_core.errors import Cancelled, Conflict, GdmixError, NotPermitted, StaleLease, Unavailable
from gdmix_trainer.executor import Success
from gdmix_trainer.messages import (
    AcknowledgeResult,
    AssignUnit,
    Draining,
    DropCache,
    GangJoined,
    Heartbeat,
    Identity,
    Incoming,
    Lease,
    Outgoing,
    Register,
    Registered,
    RevokeUnit,
    Shutdown,
    StartGang,
    UnitFailed,
    UnitFinished,
    UnitProgress,
)

if TYPE_CHECKING:
    from gdmix_trainer.context import Array
    from gdmix_trainer.executor import Outcome

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
REGISTRATION_SECONDS = 10.0


class Connection(Protocol):
    """One open stream to a coordinator.

    Every method raises `Unavailable` when the connection is broken, `NotPermitted` or `Conflict` when the
    coordinator refuses this worker.
    """

    async def send(self, message: Outgoing) -> None:
        """Send a control message; safe to call from several tasks."""

    async def receive(self) -> Incoming | None:
        """Wait for the next control message; None when the coordinator has closed the stream."""

    async def push_array(self, lease: Lease, name: str, array: Array) -> None:
        """Send an array of a lease; `StaleLease` when the coordinator no longer wants it."""

    async def pull_array(self, lease: Lease, name: str) -> Array:
        """Fetch an array of a lease; `StaleLease` when the coordinator no longer knows the lease."""

    async def close(self) -> None:
        """End the stream at once; a `receive` under way raises `Unavailable`."""


class Executor(Protocol):
    """Who does the work; see `executor.UnitExecutor`."""

    def submit(self, unit: AssignUnit) -> None:
        """Queue a unit."""

    def revoke(self, lease: Lease) -> None:
        """Cancel and forget a unit."""

    def drop_cache(self, prefix: str) -> None:
        """Forget cached shards."""

    def progress(self) -> tuple[UnitProgress, ...]:
        """Return how far each unit is."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """A member of a gang: where it listens, and where all do, once known."""

    address: str
    addresses: asyncio.Future[tuple[str, ...]]


class WorkerSession:
    """Keeps a worker in touch with its coordinator for as long as the process lives."""

    def __init__(
        self,
        identity: Identity,
        connect: Callable[[], Awaitable[Connection]],
        executor: Executor,
        *,
        announce: Callable[[str], None] = lambda _: None,
        first_delay_seconds: float = FIRST_DELAY_SECONDS,
        longest_delay_seconds: float = LONGEST_DELAY_SECONDS,
    ) -> None:
        """Prepare without connecting.

        Args:
            identity: What the worker says of itself.
            connect: Opens a connection.
            executor: Runs the units.
            announce: Told `registered` at every registration and, once, `ready`: registered and warm.
            first_delay_seconds: Wait before the first new try; doubles, with jitter.
            longest_delay_seconds: Bound of the wait.
        """
        self._identity = identity
        self._connect = connect
        self._executor = executor
        self._announce = announce
        self._delays = (first_delay_seconds, longest_delay_seconds)
        self._jitter = random.SystemRandom()
        self._held: dict[Lease, Outcome | None] = {}
        """Every lease whose end the coordinator has not confirmed; the outcome, once there is one."""
        self._ready = False
        self._announced_ready = False
        self._draining = False
        self._stopped = asyncio.Event()
        self._beat = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._opened: Connection | None = None
        """The newest connection, registered or not."""
        self._connection: Connection | None = None
        """The registered one."""
        self._connected = asyncio.Event()
        self._deliveries: dict[Lease, asyncio.Task[None]] = {}
        self._joined: dict[Lease, _Joined] = {}
        """Members of gangs among the held leases."""

    @property
    def held(self) -> tuple[Lease, ...]:
        """Leases whose end the coordinator has not confirmed."""
        return tuple(self._held)

    # ---- called by the process ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and reconnect for ever, until `stop`.

        Raises:
            NotPermitted: The coordinator does not let this worker in.
            Conflict: The coordinator refuses this worker: another version, other plug-ins.
        """
        failures = 0
        reported_lost = False
        while not self._stopped.is_set():
            registered = False
            reason = ""
            try:
                connection = self._opened = await self._connect()
                try:
                    await self._register(connection)
                    registered, reported_lost = True, False
                    reason = await self._serve(connection)
                finally:
                    await self._disconnect(connection)
            except StaleLease as error:
                reason = str(error)
            except (NotPermitted, Conflict):
                # Also after registering: another process works under this worker's id.
                raise
            except (GdmixError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            if self._stopped.is_set():
                return
            failures = 0 if registered else failures + 1
            if not reported_lost:
                _log.warning("not connected to the coordinator (%s); trying again until it answers", reason)
                reported_lost = True
            await self._pause(failures)

    def set_ready(self) -> None:
        """Say that units may come; the coordinator learns it at once."""
        self._ready = True
        self._beat.set()

    def finished(self, outcome: Outcome) -> None:
        """Take a unit's outcome; it is kept until acknowledged."""
        if outcome.lease not in self._held:
            return
        self._held[outcome.lease] = outcome
        self._deliver(outcome)

    async def pull(self, lease: Lease, name: str) -> Array:
        """Fetch an input array, waiting through reconnections.

        Raises:
            StaleLease: The coordinator no longer knows the lease.
            GdmixError: The coordinator refuses for another reason.
        """
        while True:
            await self._connected.wait()
            connection = self._connection
            if connection is None:
                continue
            try:
                return await connection.pull_array(lease, name)
            except Unavailable as error:
                # The session may live on where only this call broke: never spin.
                _log.debug("pulling %s of %s again: %s", name, lease, error)
                await asyncio.sleep(self._delays[0])

    async def join(self, lease: Lease, address: str) -> tuple[str, ...]:
        """Tell where a gang's member listens and wait, through reconnections, until all members are known.

        Raises:
            Cancelled: The lease is void.
        """
        if lease not in self._held:
            raise Cancelled(f"{lease} was revoked")
        joined = self._joined[lease] = _Joined(address, asyncio.get_running_loop().create_future())
        if self._connection is not None:
            connection = self._connection
            try:
                await connection.send(GangJoined(lease, address))
            except GdmixError:
                # The next connection tells it.
                await connection.close()
        return await joined.addresses

    async def stop(self, grace_seconds: float) -> None:
        """Take no more units, give running ones `grace_seconds` to be finished and acknowledged, then end."""
        self._draining = True
        if self._connection is not None:
            with contextlib.suppress(GdmixError):
                await self._connection.send(Draining())
        if self._connection is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
        for lease in self.held:
            self._forget(lease)
        self._stopped.set()
        if self._opened is not None:
            await self._opened.close()

    # ---- one connection ----------------------------------------------------------------------------------

    async def _register(self, connection: Connection) -> None:
        ready = self._ready
        await connection.send(Register(self._identity, ready, self.held))
        answer = await asyncio.wait_for(connection.receive(), REGISTRATION_SECONDS)
        if isinstance(answer, Shutdown) or answer is None:
            raise Unavailable(f"the coordinator is ending{': ' + answer.reason if answer else ''}")
        if not isinstance(answer, Registered):
            raise Unavailable(f"the coordinator answered a registration with {type(answer).__name__}")
        self._heartbeat_seconds = answer.heartbeat_seconds
        self._connection = connection
        self._connected.set()
        _log.info("registered with the coordinator as %s", self._identity.worker_id)
        self._announce("registered")

    async def _serve(self, connection: Connection) -> str:
        """Handle messages until the coordinator ends the stream; return why."""
        beats = asyncio.create_task(self._send_heartbeats(connection))
        try:
            # Also of gangs that have begun: a coordinator that was restarted has forgotten where they are.
            for lease, joined in list(self._joined.items()):
                await connection.send(GangJoined(lease, joined.address))
            for outcome in list(self._held.values()):
                if outcome is not None:
                    self._deliver(outcome)
            while (message := await connection.receive()) is not None:
                if isinstance(message, Shutdown):
                    return f"the coordinator is ending: {message.reason}"
                self._handle(message)
            return "the coordinator closed the session"
        finally:
            await _cancelled(beats)

    def _handle(self, message: Incoming) -> None:
        match message:
            case AssignUnit(lease=lease):
                self._assign(lease, message)
            case StartGang(lease=lease, addresses=addresses):
                joined = self._joined.get(lease)
                if joined is not None and not joined.addresses.done():
                    joined.addresses.set_result(addresses)
            case RevokeUnit(lease=lease):
                self._forget(lease)
            case AcknowledgeResult(lease=lease, accepted=accepted):
                if not accepted and isinstance(self._held.get(lease), Success):
                    _log.info("the result of %s came too late", lease)
                self._forget(lease)
            case DropCache(prefix=prefix):
                self._executor.drop_cache(prefix)
            case _:
                _log.debug("ignored %s", message)

    def _assign(self, lease: Lease, unit: AssignUnit) -> None:
        if self._draining:
            return
        if lease not in self._held:
            self._held[lease] = None
            self._idle.clear()
            self._executor.submit(unit)
        elif (outcome := self._held[lease]) is not None:
            self._deliver(outcome)

    def _forget(self, lease: Lease) -> None:
        """Drop a lease with its result, and stop whatever still works on it."""
        self._held.pop(lease, None)
        self._executor.revoke(lease)
        if joined := self._joined.pop(lease, None):
            joined.addresses.cancel()
        if delivery := self._deliveries.pop(lease, None):
            delivery.cancel()
        if not self._held:
            self._idle.set()

    async def _send_heartbeats(self, connection: Connection) -> None:
        while True:
            self._beat.clear()
            ready = self._ready
            try:
                await connection.send(Heartbeat(ready and not self._draining, self._executor.progress()))
            except GdmixError:
                await connection.close()
                return
            if ready and not self._announced_ready:
                self._announced_ready = True
                _log.info("ready for %d units at a time", self._identity.threads)
                self._announce("ready")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._beat.wait(), self._heartbeat_seconds)

    # ---- results -----------------------------------------------------------------------------------------

    def _deliver(self, outcome: Outcome) -> None:
        """Begin to send an outcome over the current connection; without one, the next connection will."""
        lease = outcome.lease
        if self._connection is None or lease in self._deliveries:
            return
        task = asyncio.create_task(self._send_outcome(self._connection, outcome))
        self._deliveries[lease] = task
        task.add_done_callback(lambda _: self._delivered(lease, task))

    def _delivered(self, lease: Lease, task: asyncio.Task[None]) -> None:
        if self._deliveries.get(lease) is task:
            del self._deliveries[lease]

    async def _send_outcome(self, connection: Connection, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, Success):
                for name, array in outcome.arrays.items():
                    await connection.push_array(outcome.lease, name, array)
                await connection.send(UnitFinished(outcome.lease, outcome.result_json))
            else:
                await connection.send(outcome)
        except Unavailable:
            # A result must not wait for the connection to break by itself: a new one sends it again.
            await connection.close()
        except StaleLease as error:
            _log.info("the coordinator no longer wants %s: %s", outcome.lease, error)
            self._forget(outcome.lease)
        except GdmixError as error:
            _log.error("the arrays of %s were refused: %s", outcome.lease, error)
            failure = UnitFailed(outcome.lease, error.code, str(error), retryable=True)
            self._held[outcome.lease] = failure
            with contextlib.suppress(GdmixError):
                await connection.send(failure)

    # ---- the end of a connection -------------------------------------------------------------------------

    async def _disconnect(self, connection: Connection) -> None:
        self._connection = None
        self._connected.clear()
        for task in list(self._deliveries.values()):
            await _cancelled(task)
        self._deliveries.clear()
        await connection.close()

    async def _pause(self, failures: int) -> None:
        first, longest = self._delays
        delay = min(longest, first * 2.0 ** min(failures, 16)) * self._jitter.uniform(0.5, 1.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), delay)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; its own errors are handled inside it."""
    task.cancel()
    await asyncio.wait([task])
