"""The workers: who is there, what they run, and which of them takes the next unit."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from gdmix_server.state.model import FitProgress, WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as the outside sees it."""

    info: WorkerInfo
    connected_since: float
    running: int
    """Units it holds."""
    connected: bool
    """False while it may still come back."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker that registered and has not been given up."""

    info: WorkerInfo
    session: int
    number: int
    """Order of first registration; breaks ties."""
    since: float
    heard: float
    ready: bool
    connected: bool = True
    silent: bool = False
    """Connected, but not heard of for a lease's time: its units went to others."""
    draining: bool = False
    fences: set[int] = field(default_factory=set)
    """Of the leases it holds."""
    caches: set[str] = field(default_factory=set)
    """Keys under which it may keep shards in memory."""
    rows_done: int = 0
    entities_done: int = 0
    fit: FitProgress | None = None
    listed: set[int] = field(default_factory=set)
    """Loads under which it stands in the heap of its group."""

    @property
    def worker_id(self) -> str:
        """Its own name."""
        return self.info.worker_id

    def view(self) -> WorkerView:
        """Return what the outside sees."""
        return WorkerView(
            info=replace(self.info, ready=self.ready),
            connected_since=self.since,
            running=len(self.fences),
            connected=self.connected,
        )

    @property
    def present(self) -> bool:
        """Whether units may be expected to be taken by it, now or soon."""
        return not self.silent and not self.draining

    @property
    def usable(self) -> bool:
        """Whether it runs units now."""
        return self.present and self.connected and self.ready

    @property
    def available(self) -> bool:
        """Whether it has a free slot now."""
        return self.usable and len(self.fences) < self.info.threads


_Entry = tuple[float, int, int, int, Worker]
"""Share of its threads in use, number, load, session, worker; no two are equal in the first four."""


class Cluster:
    """All workers; finds the least loaded one with a free slot in O(log n)."""

    __slots__ = ("_caches_of_lost", "_groups", "_next_number", "_present", "_usable", "_workers")

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._present: set[str] = set()
        self._usable: set[str] = set()
        # Available workers by numerics fingerprint; entries go stale and are dropped when they come up.
        self._groups: dict[str, list[_Entry]] = {}
        # A lost worker may come back with its memory: then it is told what to forget.
        self._caches_of_lost: dict[str, set[str]] = {}
        self._next_number = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def get(self, worker_id: str) -> Worker | None:
        """Return a worker that is connected, or may still come back."""
        return self._workers.get(worker_id)

    def in_session(self, worker_id: str, session: int) -> Worker | None:
        """Return the worker if that is its session now."""
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.session == session and worker.connected else None

    def register(self, info: WorkerInfo, session: int, now: float) -> Worker:
        """Add a worker, or put one that came back in the place of what it was; it holds no leases yet."""
        before = self._workers.get(info.worker_id)
        worker = Worker(
            info=info,
            session=session,
            number=before.number if before is not None else self._next_number,
            since=now,
            heard=now,
            ready=info.ready,
            caches=before.caches if before is not None else self._caches_of_lost.pop(info.worker_id, set()),
        )
        if before is None:
            self._next_number += 1
        self._workers[info.worker_id] = worker
        self.update(worker)
        return worker

    def remove(self, worker: Worker) -> None:
        """Give a worker up."""
        del self._workers[worker.worker_id]
        self._present.discard(worker.worker_id)
        self._usable.discard(worker.worker_id)
        if worker.caches:
            self._caches_of_lost[worker.worker_id] = worker.caches

    def update(self, worker: Worker) -> None:
        """Take note of any change of a worker; MUST follow each."""
        for members, belongs in ((self._present, worker.present), (self._usable, worker.usable)):
            if belongs:
                members.add(worker.worker_id)
            else:
                members.discard(worker.worker_id)
        load = len(worker.fences)
        if worker.available and load not in worker.listed:
            worker.listed.add(load)
            group = self._groups.setdefault(worker.info.fingerprint, [])
            # The session sets a worker that came back apart from what is still listed of it.
            entry = (load / worker.info.threads, worker.number, load, worker.session, worker)
            heapq.heappush(group, entry)

    @property
    def any_present(self) -> bool:
        """Whether any worker is connected (or may still come back) and takes units, now or soon."""
        return bool(self._present)

    @property
    def slots(self) -> int:
        """Number of units that those workers run side by side."""
        return sum(self._workers[name].info.threads for name in self._present)

    @property
    def usable(self) -> int:
        """Number of workers that run units now."""
        return len(self._usable)

    def usable_workers(self) -> list[Worker]:
        """Return the workers that run units now, in the order of their registration."""
        return sorted((self._workers[name] for name in self._usable), key=lambda worker: worker.number)

    def pick(self, fingerprint: str, excluded: Collection[str] = ()) -> Worker | None:
        """Return the least loaded worker with a free slot, one with `fingerprint` when there is one."""
        for name in self._by_preference(fingerprint):
            worker = self._top(self._groups[name], excluded)
            if worker is not None:
                return worker
        return None

    def spread(
        self, members: int, fingerprint: str, *, avoided: str, heard_since: float, full: Collection[str]
    ) -> list[Worker]:
        """Return a worker with a free slot for each member of a gang, empty when there are too few.

        Members go to as many different workers as there are: with fewer workers than members, some get several.

        Args:
            members: How many.
            fingerprint: Numerics that are preferred.
            avoided: Worker that is taken last.
            heard_since: Workers that were not heard of since then are not taken.
            full: Workers that will have no slot for long; the others that have none now are waited for.
        """
        order = {name: place for place, name in enumerate(self._by_preference(fingerprint))}

        def preference(worker: Worker) -> tuple[bool, int, float, int]:
            info, load = worker.info, len(worker.fences)
            return (worker.worker_id == avoided, order[info.fingerprint], load / info.threads, worker.number)

        usable = (worker for worker in self.usable_workers() if worker.heard >= heard_since)
        free = sorted((worker for worker in usable if worker.available), key=preference)
        if len(free) < min(members, len(self._present.difference(full))):
            return []
        chosen: list[Worker] = []
        taken = 0
        while free and len(chosen) < members:
            chosen += free
            taken += 1
            free = [worker for worker in free if len(worker.fences) + taken < worker.info.threads]
        return chosen[:members] if len(chosen) >= members else []

    def _by_preference(self, fingerprint: str) -> list[str]:
        if len(self._groups) < 2:
            return list(self._groups)
        slots: dict[str, int] = {}
        if fingerprint not in self._groups:
            # A job that starts now goes where most of its units can follow.
            for worker in self.usable_workers():
                slots[worker.info.fingerprint] = slots.get(worker.info.fingerprint, 0) + worker.info.threads
        return sorted(self._groups, key=lambda name: (name != fingerprint, -slots.get(name, 0)))

    def _top(self, group: list[_Entry], excluded: Collection[str]) -> Worker | None:
        aside: list[_Entry] = []
        found = None
        while group and found is None:
            _, _, load, _, worker = group[0]
            if (
                not worker.available
                or len(worker.fences) != load
                or self._workers.get(worker.worker_id) is not worker
            ):
                heapq.heappop(group)
                worker.listed.discard(load)
            elif worker.worker_id in excluded:
                aside.append(heapq.heappop(group))
            else:
                found = worker
        for entry in aside:
            heapq.heappush(group, entry)
        return found
