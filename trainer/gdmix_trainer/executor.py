"""The threads that do the work: as many units side by side as the worker has threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gdmix_trainer.context import Pull, TaskContext
from gdmix_trainer.failures import failure_of
from gdmix_trainer.gang import Meeting
from gdmix_trainer.messages import AssignUnit, Lease, UnitFailed, UnitProgress
from gdmix_trainer.shard_cache import ShardCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gdmix_trainer.context import Array

_log = logging.getLogger(__name__)

RunUnit: TypeAlias = "Callable[[str, str, TaskContext], str]"
"""Does the work of (kind, task as JSON) and returns the result as JSON."""


@dataclass(frozen=True, slots=True)
class Success:
    """A unit's result, and the arrays that belong to it."""

    lease: Lease
    result_json: str
    arrays: Mapping[str, Array]


Outcome = Success | UnitFailed


class UnitExecutor:
    """Runs units on daemon threads; kernels release the GIL, so N threads keep N cores busy.

    Daemon threads: a worker that was told to end must not wait for a solve that nobody wants any more.
    """

    def __init__(
        self,
        threads: int,
        run: RunUnit,
        pull: Pull,
        report: Callable[[Outcome], None],
        meeting: Meeting,
    ) -> None:
        """Prepare without starting.

        Args:
            threads: Units side by side.
            run: Does one unit's work.
            pull: Fetches input arrays; called from the threads.
            report: Takes outcomes; called from the threads, never for a revoked lease.
            meeting: How members of gangs meet; used from the threads.
        """
        self._run = run
        self._pull = pull
        self._report = report
        self._meeting = meeting
        self._cache = ShardCache()
        self._queue: queue.SimpleQueue[tuple[AssignUnit, TaskContext]] = queue.SimpleQueue()
        self._contexts: dict[Lease, TaskContext] = {}
        self._lock = threading.Lock()
        self._working = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"unit-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, unit: AssignUnit) -> None:
        """Queue a unit; one that is here already is not queued again."""
        with self._lock:
            if unit.lease in self._contexts:
                return
            meeting = self._meeting if unit.gang_size else None
            context = TaskContext(unit.lease, self._pull, self._cache, len(self._threads), meeting)
            self._contexts[unit.lease] = context
        self._queue.put((unit, context))

    def revoke(self, lease: Lease) -> None:
        """Cancel a unit and forget it; nothing when it is not here."""
        with self._lock:
            context = self._contexts.pop(lease, None)
        if context is not None:
            context.cancel()

    def drop_cache(self, prefix: str) -> None:
        """Forget cached shards of the stages that begin with `prefix`."""
        self._cache.drop(prefix)

    @property
    def busy(self) -> bool:
        """Whether a thread is at work, be it on a unit that nobody wants any more."""
        return self._working > 0

    def progress(self) -> tuple[UnitProgress, ...]:
        """Return how far each unit is, queued ones included."""
        with self._lock:
            return tuple(context.progress() for context in self._contexts.values())

    def _work(self) -> None:
        while True:
            unit, context = self._queue.get()
            with self._lock:
                self._working += 1
            outcome = self._outcome(unit, context)
            with self._lock:
                self._working -= 1
                wanted = self._contexts.pop(unit.lease, None) is not None
            if wanted:
                self._report(outcome)
            # Nothing of a finished unit may stay alive while the thread waits for the next one.
            del unit, context, outcome

    def _outcome(self, unit: AssignUnit, context: TaskContext) -> Outcome:
        try:
            context.check()
            _log.debug("%s begins", unit.lease)
            result = self._run(unit.kind, unit.task_json, context)
            return Success(unit.lease, result, context.pushed)
        except BaseException as error:  # noqa: BLE001 - a thread must survive whatever a task does
            if context.cancelled:
                return UnitFailed(unit.lease, "cancelled", "revoked", retryable=True)
            return failure_of(unit.lease, error)
        finally:
            context.close()
