"""What a unit may use while it runs: arrays from and for the coordinator, cached shards, its gang, its cancel flag."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gdmix_core.errors import Cancelled, InternalError
from gdmix_trainer.gang import Gang, HeldPort, Meeting
from gdmix_trainer.messages import Lease, UnitProgress
from gdmix_trainer.shard_cache import ShardCache

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

T = TypeVar("T")

Pull: TypeAlias = "Callable[[Lease, str], Future[Array]]"
"""Starts to fetch an array of a lease; the future may be cancelled."""


class TaskContext:
    """One running unit, seen from its task function.

    Attributes:
        lease: What it works on.
        cache: Shards that stay in memory between units.
        pushed: Arrays that belong to the result, by name.
    """

    def __init__(self, lease: Lease, pull: Pull, cache: ShardCache, meeting: Meeting | None = None) -> None:
        """Prepare for one unit.

        Args:
            lease: What it works on.
            pull: Starts to fetch an array.
            cache: The worker's.
            meeting: How to meet the other members of its gang; None for a unit that runs alone.
        """
        self.lease = lease
        self.cache = cache
        self.pushed: dict[str, Array] = {}
        self._pull = pull
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._pending: Future[Any] | None = None
        self._meeting = meeting
        self._port: HeldPort | None = None
        self._gang: Gang | None = None
        self._rows_done = 0
        self._entities_done = 0

    @property
    def cancelled(self) -> bool:
        """Whether the lease is void, so that nobody wants the result."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Set the cancel flag and end a wait for the coordinator that is under way."""
        self._cancelled.set()
        with self._lock:
            if self._pending is not None:
                self._pending.cancel()

    def check(self) -> None:
        """Raise `Cancelled` when the lease is void; tasks call it between steps."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.lease} was revoked")

    def pull(self, name: str) -> Array:
        """Fetch an input array of this lease from the coordinator, waiting through reconnections.

        Raises:
            Cancelled: The lease became void meanwhile.
            StaleLease: The coordinator no longer knows the lease, or has no such array for it.
        """
        return self._wait(lambda: self._pull(self.lease, name))

    def gang(self) -> Gang:
        """Join the gang that this unit is a member of, and wait until all others have joined it.

        A task calls it first: a gang whose members have not all joined a minute after their lease begins again. A port
        is held for this member until the unit ends; the others will try to connect to it from now on. A member that
        sees another one gone raises; all of them are called back then, and leased anew.

        Raises:
            Cancelled: The lease became void meanwhile.
            InternalError: The unit is no member of a gang.
            Unavailable: No port can be held.
        """
        if self._meeting is None:
            raise InternalError(f"{self.lease} runs alone: its stage is no gang")
        if self._gang is None:
            meeting, port = self._meeting, HeldPort(self._meeting.host)
            self._port = port
            self._gang = Gang(self.lease.unit, self._wait(lambda: meeting.join(self.lease, port.address)))
        return self._gang

    def close(self) -> None:
        """Let go of what is held for the unit, when it has ended."""
        if self._port is not None:
            self._port.close()

    def push(self, name: str, array: Array) -> None:
        """Make `array` part of the result; it is sent, and sent again, until the result is acknowledged."""
        self.pushed[name] = array

    def advance(self, *, rows: int = 0, entities: int = 0) -> None:
        """Count what is done, for the progress that people watch."""
        self._rows_done += rows
        self._entities_done += entities

    def progress(self) -> UnitProgress:
        """Return how far the unit is."""
        return UnitProgress(self.lease, self._rows_done, self._entities_done)

    def _wait(self, start: Callable[[], Future[T]]) -> T:
        """Ask the coordinator for something, and wait for it or for the lease's end."""
        with self._lock:
            self.check()
            pending = self._pending = start()
        try:
            return pending.result()
        except CancelledError as error:
            raise Cancelled(f"{self.lease} was revoked") from error
        finally:
            with self._lock:
                self._pending = None
