"""A fixed effect while it is fitted: rounds, each an evaluation of every home shard somewhere.

The shards are cut into contiguous ranges, one for each slot, balanced by rows; the same slots keep the same
ranges from round to round, because workers keep the shards they have read in memory. What a slot cannot take
soon (another job has it, its worker died) goes to whichever slot is free.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

from gdmix_core.tasks import EvaluateFixedEffect
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.model import FixedEffectStage, Lease
from gdmix_server.state.units import RETRIES_LOOKED_AT, Unit, UnitStageRun
from gdmix_server.state.workers import Worker


@dataclass(slots=True, eq=False)
class Part(Unit):
    """A range of shards in one round."""

    shards: range = range(0)
    """Positions in the stage's shards."""
    owner: str = ""
    """Worker that has the shards in memory; empty when any one may take it."""


def balanced_ranges(weights: Sequence[int], parts: int) -> list[range]:
    """Cut positions into `parts` ≤ len(weights) contiguous, non-empty ranges of nearly equal weight."""
    count = len(weights)
    # A shard without rows is work too: without the 1, such shards would pile up in one range.
    ends = list(accumulate(weight + 1 for weight in weights))
    cuts = [0]
    for part in range(1, parts):
        target = ends[-1] * part / parts
        cut = bisect_left(ends, target)
        below = ends[cut - 1] if cut else 0
        if ends[cut] - target < target - below:
            cut += 1
        cuts.append(min(max(cut, cuts[-1] + 1), count - (parts - part)))
    cuts.append(count)
    return [range(first, last) for first, last in pairwise(cuts)]


class FixedEffectRun:
    """A `FixedEffectStage` while it runs."""

    def __init__(self, stage: FixedEffectStage, job_id: str) -> None:
        self.stage = stage
        self.journaled = False
        self.cache_key = f"{job_id}/{stage.name}"
        self.running: dict[int, Unit] = {}
        self.notices = 0
        self.rows_done = self.entities_done = self.shown_rows = self.shown_entities = 0
        self.round_number = 0
        self.objective = 0.0
        self.gradient_ratio = 0.0
        self.fences: set[int] = set()
        """Of all accepted results."""
        self.evaluating = False
        """Whether the driver waits for a round."""
        self._hessian = False
        self._planned = False
        self._next_number = 0
        self._slots: tuple[str, ...] = ()
        self._ranges: list[tuple[str, range]] = []
        self._owned: dict[str, deque[Part]] = {}
        self._shared: deque[Part] = deque()
        self._accepted: list[tuple[Lease, range]] = []
        self._covered = 0

    @property
    def waiting(self) -> bool:
        """Whether parts of the round wait for a worker."""
        return self.evaluating and (not self._planned or bool(self._shared or self._owned))

    @property
    def wants_plan(self) -> bool:
        """Whether `plan` has to be called before parts can be taken."""
        return self.evaluating and not self._planned

    @property
    def arrays(self) -> tuple[tuple[str, str], ...]:
        """The round's theta."""
        return (("theta", f"{self.stage.name}/theta@{self.round_number}"),)

    @property
    def size(self) -> int:
        """Number of home shards."""
        return len(self.stage.shards)

    @property
    def done(self) -> int:
        """Home shards evaluated in this round."""
        return self._covered

    @property
    def round_complete(self) -> bool:
        """Whether every shard has been evaluated."""
        return self.evaluating and self._covered == len(self.stage.shards)

    def begin_round(
        self, round_number: int, *, hessian: bool, objective: float, gradient_ratio: float
    ) -> None:
        """Begin an evaluation; its parts are made when a worker is there to take one."""
        self.round_number = round_number
        self.objective, self.gradient_ratio = objective, gradient_ratio
        self._hessian = hessian
        self.evaluating = True
        self._planned = False
        self._owned.clear()
        self._shared.clear()
        self._accepted.clear()
        self._covered = 0
        self._next_number = 0

    def end_round(self) -> tuple[tuple[Lease, tuple[int, ...]], ...]:
        """Close a complete round; return each accepted lease with its shards' numbers."""
        self.evaluating = False
        parts = sorted(self._accepted, key=lambda part: part[1].start)
        return tuple(
            (lease, tuple(self.stage.shards[position].shard for position in shards))
            for lease, shards in parts
        )

    def plan(self, workers: list[Worker]) -> None:
        """Make the round's parts, unless they are made, for the slots of the workers that run units now."""
        if self._planned or not self.evaluating or not workers:
            return
        self._planned = True
        slots = tuple(worker.worker_id for worker in workers for _ in range(worker.info.threads))
        if slots != self._slots:
            self._slots = slots
            ranges = balanced_ranges(self.stage.shard_rows, min(len(slots), len(self.stage.shards)))
            # With fewer shards than slots, the slots used are spread over the workers.
            spread = [(2 * k + 1) * len(slots) // (2 * len(ranges)) for k in range(len(ranges))]
            self._ranges = [(slots[slot], shards) for slot, shards in zip(spread, ranges, strict=True)]
        for owner, shards in self._ranges:
            self._owned.setdefault(owner, deque()).append(self._part(shards, owner))

    def take(self, worker_id: str, others: bool) -> Unit | None:
        """Return a part of the worker's own shards, else one that nobody keeps, else one of a busy worker's.

        None when only failed ones wait, and for another worker; arguments as in `UnitStageRun.take`.
        """
        if worker_id in self._owned:
            return self._take_of(worker_id)
        for _ in range(min(len(self._shared), RETRIES_LOOKED_AT)):
            part = self._shared.popleft()
            if part.avoid != worker_id or not others:
                return part
            self._shared.append(part)
        return self._take_of(next(iter(self._owned))) if self._owned else None

    def put_back(self, unit: Unit, slots: int) -> None:
        """Cut the shards of a lost part over `slots` threads, so that a round waits for no double share."""
        part = cast("Part", unit)
        rows = self.stage.shard_rows[part.shards.start : part.shards.stop]
        for piece in balanced_ranges(rows, max(1, min(slots, len(part.shards)))):
            again = self._part(part.shards[piece.start : piece.stop], "")
            again.failures, again.deaths = part.failures, part.deaths
            self._shared.append(again)

    def retry(self, unit: Unit) -> None:
        """Have a failed part wait for another worker."""
        part = cast("Part", unit)
        part.lease = None
        part.avoid = part.worker_id
        self._shared.append(part)

    def accept(self, unit: Unit, lease: Lease) -> None:
        """Take a part's result."""
        part = cast("Part", unit)
        part.done = True
        self.fences.add(lease.fence)
        self._accepted.append((lease, part.shards))
        self._covered += len(part.shards)
        self.rows_done += part.rows

    def _take_of(self, owner: str) -> Part:
        parts = self._owned[owner]
        part = parts.popleft()
        if not parts:
            del self._owned[owner]
        return part

    def _part(self, shards: range, owner: str) -> Part:
        stage, inside = self.stage, slice(shards.start, shards.stop)
        task = EvaluateFixedEffect(
            output="",
            design=stage.design,
            dimension=stage.dimension,
            loss=stage.loss,
            hessian=self._hessian,
            cache_key=self.cache_key,
            shards=stage.shards[inside],
            shard_count=len(stage.shards),
        )
        number = self._next_number
        self._next_number += 1
        rows = sum(stage.shard_rows[inside])
        return Part(number=number, task=task, rows=rows, shards=shards, owner=owner)


StageRun = UnitStageRun | GangRun | FixedEffectRun
"""A running stage of any kind."""
