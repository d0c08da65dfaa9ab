"""What a unit may use while it runs: arrays from and for the coordinator, cached shards, its gang, its cancel flag."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gdmix_core.errors import Cancelled, InternalError
from gdmix_trainer.gang import Gang, HeldPort, Meeting
from gdmix_trainer.messages import FitProgress, Lease, UnitProgress
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
        threads: Of the worker: what a unit that is a whole stage may keep busy.
        pushed: Arrays that belong to the result, by name.
    """

    def __init__(
        self,
        lease: Lease,
        pull: Pull,
        cache: ShardCache,
        threads: int = 1,
        meeting: Meeting | None = None,
    ) -> None:
        """Prepare for one unit.

        Args:
            lease: What it works on.
            pull: Starts to fetch an array.
            cache: The worker's.
            threads: Units that the worker runs side by side.
            meeting: How to meet the other members of its gang; None for a unit that runs alone.
        """
        self.lease = lease
        self.cache = cache
        self.threads = threads
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
        self._fit: FitProgress | None = None
        self._end_work: Callable[[], None] | None = None

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
            if self._end_work is not None:
                self._end_work()

    def check(self) -> None:
        """Raise `Cancelled` when the lease is void; tasks call it between steps."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.lease} was revoked")

    @contextmanager
    def when_cancelled(self, act: Callable[[], None]) -> Iterator[None]:
        """Have a cancellation during the block call `act`, from another thread, to end what the block waits for."""
        with self._lock:
            self.check()
            self._end_work = act
        try:
            yield
        finally:
            with self._lock:
                self._end_work = None

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

    def show(self, fit: FitProgress) -> None:
        """Take how far a fit is in the place of what was shown before."""
        self._fit = fit

    def progress(self) -> UnitProgress:
        """Return how far the unit is."""
        fit = self._fit
        rows = self._rows_done if fit is None or fit.steps else fit.rows
        return UnitProgress(self.lease, rows, self._entities_done, fit if fit and fit.steps else None)

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
