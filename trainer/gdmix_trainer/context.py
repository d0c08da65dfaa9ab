"""What a unit may use while it runs: arrays from and for the coordinator, cached shards, its cancel flag."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from gdmix_core.errors import Cancelled
from gdmix_trainer.messages import FitProgress, Lease, UnitProgress
from gdmix_trainer.shard_cache import ShardCache

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

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

    def __init__(self, lease: Lease, pull: Pull, cache: ShardCache, threads: int = 1) -> None:
        self.lease = lease
        self.cache = cache
        self.threads = threads
        self.pushed: dict[str, Array] = {}
        self._pull = pull
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._pending: Future[Array] | None = None
        self._rows_done = 0
        self._entities_done = 0
        self._fit: FitProgress | None = None
        self._end_work: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the lease is void, so that nobody wants the result."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Set the cancel flag and end a pull that is under way."""
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
        with self._lock:
            self.check()
            pending = self._pending = self._pull(self.lease, name)
        try:
            return pending.result()
        except CancelledError as error:
            raise Cancelled(f"{self.lease} was revoked") from error
        finally:
            with self._lock:
                self._pending = None

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
