"""Deadlines by name: a heap with one live entry for each name."""

from __future__ import annotations

import heapq
from enum import StrEnum


class Deadline(StrEnum):
    """What a deadline is about."""

    SILENCE = "silence"
    """A connected worker has to be heard of."""
    RECONNECT = "reconnect"
    """A worker whose session broke has to be back."""
    GRACE = "grace"
    """Leases of before a restart are held no longer."""
    WAIT = "wait"
    """A job that waits for any worker gives up."""
    GANG = "gang"
    """The members of a job's gang have to have joined it."""
    PROGRESS = "progress"
    """A job's withheld progress is told."""


Key = tuple[Deadline, str]
"""A deadline and the worker or job that it is about."""


class Timers:
    """A priority queue of deadlines; setting one again replaces it, in O(log n)."""

    __slots__ = ("_heap", "_times")

    def __init__(self) -> None:
        self._heap: list[tuple[float, Key]] = []
        self._times: dict[Key, float] = {}

    def set(self, deadline: Deadline, name: str, time: float) -> None:
        """Set or move a deadline."""
        key = (deadline, name)
        if self._times.get(key) != time:
            self._times[key] = time
            heapq.heappush(self._heap, (time, key))

    def clear(self, deadline: Deadline, name: str) -> None:
        """Forget a deadline, if there is one."""
        self._times.pop((deadline, name), None)

    def has(self, deadline: Deadline, name: str) -> bool:
        """Return whether the deadline is set."""
        return (deadline, name) in self._times

    def earliest(self) -> float | None:
        """Return the next deadline's time."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Key | None:
        """Remove and return the earliest deadline that has passed."""
        time = self.earliest()
        if time is None or time > now:
            return None
        key = heapq.heappop(self._heap)[1]
        del self._times[key]
        return key

    def shift(self, seconds: float) -> None:
        """Put every deadline off."""
        self._times = {key: time + seconds for key, time in self._times.items()}
        self._heap = [(time, key) for key, time in self._times.items()]
        heapq.heapify(self._heap)
