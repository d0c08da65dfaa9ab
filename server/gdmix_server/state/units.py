"""A stage of units while it runs: what waits, what is out, what is done. `gangs` has those that run together."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gdmix_core.errors import InternalError
from gdmix_core.tasks import Task, TaskResult
from gdmix_server.state.model import Lease, UnitRow, UnitsOutcome, UnitStage

# Retries that only wait for another worker are looked at this many at a time, so that an event stays cheap.
RETRIES_LOOKED_AT = 32


@dataclass(slots=True, eq=False)
class Unit:
    """One unit of a stage, from waiting to done."""

    number: int
    task: Task
    rows: int = 0
    attempts: int = 0
    failures: int = 0
    deaths: int = 0
    lease: Lease | None = None
    """The current lease, or the accepted one once done."""
    worker_id: str = ""
    done: bool = False
    directory: str = ""
    result_json: str = ""
    result: TaskResult | None = None
    avoid: str = ""
    """Worker where it failed last: another one gets the next attempt if there is another."""
    reasons: tuple[str, ...] = ()
    """Of rank 0 of a gang: how attempts of the gang failed."""

    def row(self, job_id: str, stage: str) -> UnitRow:
        """Return the unit as the journal holds it."""
        return UnitRow(
            job_id=job_id,
            stage=stage,
            unit=self.number,
            attempts=self.attempts,
            failures=self.failures,
            deaths=self.deaths,
            lease=self.lease,
            worker_id=self.worker_id,
            done=self.done,
            directory=self.directory,
            result_json=self.result_json,
            reasons=self.reasons,
        )


class UnitsRun:
    """What stages of units have in common while they run: the units, their results, and counts."""

    def __init__(self, stage: UnitStage, rows: Mapping[int, UnitRow]) -> None:
        """Begin, or go on from the rows of a journal.

        Raises:
            gdmix_core.errors.InternalError: A row is of no unit of the stage.
        """
        self.stage = stage
        self.journaled = True
        self.arrays = tuple(stage.arrays.items())
        self.running: dict[int, Unit] = {}
        """Units that are out, by the fence of their lease."""
        self.notices = 0
        """Retries that were told of."""
        self.rows_done = self.entities_done = 0
        self.shown_rows = self.shown_entities = 0
        """The largest counts that progress told: what is shown never goes back."""
        self._done = 0
        self.units = [
            Unit(number=number, task=task, rows=stage.rows[number] if stage.rows else 0)
            for number, task in enumerate(stage.units)
        ]
        for row in rows.values():
            if not 0 <= row.unit < len(self.units):
                raise InternalError(
                    f"job {row.job_id}: the journal has a unit {row.unit} of stage {stage.name!r}, which has "
                    f"{len(self.units)} units in this version of gdmix; submit the job again"
                )
            self._restore(self.units[row.unit], row)

    @staticmethod
    def _restore(unit: Unit, row: UnitRow) -> None:
        unit.attempts, unit.failures, unit.deaths = row.attempts, row.failures, row.deaths
        unit.lease, unit.worker_id = row.lease, row.worker_id
        unit.done, unit.directory, unit.result_json = row.done, row.directory, row.result_json
        unit.reasons = row.reasons

    @property
    def done(self) -> int:
        """Number of units that are done."""
        return self._done

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def finished(self) -> bool:
        """Whether every unit is done."""
        return self._done == len(self.units)

    def leased(self) -> Iterable[Unit]:
        """Return the units that the rows of a journal had out."""
        return (unit for unit in self.units if unit.lease is not None and not unit.done)

    def done_units(self) -> Iterable[Unit]:
        """Return the units that the rows of a journal had done; `accept` MUST be called for each."""
        return (unit for unit in self.units if unit.done)

    def accept(self, unit: Unit, result: TaskResult) -> None:
        """Take a unit's result; it is done."""
        unit.result = result
        unit.done = True
        self._done += 1
        self.rows_done += unit.rows or _count(result, "rows")
        self.entities_done += _count(result, "entities")

    def outcome(self, seconds: float, reproducible: bool) -> UnitsOutcome:
        """Return what a finished stage leaves."""
        results = tuple(unit.result for unit in self.units if unit.result is not None)
        return UnitsOutcome(
            results=results,
            directories=tuple(unit.directory for unit in self.units),
            seconds=seconds,
            reproducible=reproducible,
        )


class UnitStageRun(UnitsRun):
    """A `UnitStage` while it runs; larger units first, then by number."""

    def __init__(self, stage: UnitStage, rows: Mapping[int, UnitRow]) -> None:
        """Begin, or go on from the rows of a journal; raises as `UnitsRun`."""
        super().__init__(stage, rows)
        self._retries: deque[Unit] = deque()
        self._waiting = [
            (-unit.rows, unit.number) for unit in self.units if unit.lease is None and not unit.done
        ]
        heapq.heapify(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether units wait for a worker."""
        return bool(self._waiting or self._retries)

    def take(self, worker_id: str, others: bool) -> Unit | None:
        """Return the next unit for a worker, None when only failed ones wait, and for another worker.

        Args:
            worker_id: Who asks.
            others: Whether other workers run units too, so that a failed unit can wait for one of them.
        """
        for _ in range(min(len(self._retries), RETRIES_LOOKED_AT)):
            unit = self._retries.popleft()
            if unit.avoid != worker_id or not others:
                return unit
            self._retries.append(unit)
        return self.units[heapq.heappop(self._waiting)[1]] if self._waiting else None

    def put_back(self, unit: Unit, slots: int) -> None:  # noqa: ARG002 - a unit cannot be split
        """Have a unit wait again."""
        unit.lease = None
        heapq.heappush(self._waiting, (-unit.rows, unit.number))

    def retry(self, unit: Unit) -> None:
        """Have a failed unit wait for another worker."""
        unit.lease = None
        unit.avoid = unit.worker_id
        self._retries.append(unit)


def _count(result: TaskResult, name: str) -> int:
    """Return a result's count of that name; some results have none, or one of another meaning."""
    value = getattr(result, name, 0)
    return value if isinstance(value, int) else 0
