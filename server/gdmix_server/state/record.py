"""A job's journaled stages and units, from which its program is answered when it runs again."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdmix_core.errors import InternalError
from gdmix_core.tasks import TaskResult, result_from_json
from gdmix_server.state.model import (
    FixedEffectOutcome,
    FixedEffectStage,
    Stage,
    StageOutcome,
    StageRow,
    UnitRow,
    UnitsOutcome,
    UnitStage,
)


@dataclass(slots=True)
class Record:
    """The rows of one job, as they lie in the journal."""

    stages: dict[str, StageRow] = field(default_factory=dict)
    units: dict[str, dict[int, UnitRow]] = field(default_factory=dict)

    def accepted_fences(self) -> set[int]:
        """Return the fences of all accepted results, by which their duplicates are known."""
        return {
            row.lease.fence
            for rows in self.units.values()
            for row in rows.values()
            if row.done and row.lease is not None
        }

    def clear(self) -> None:
        """Forget the rows: the job will not run again."""
        self.stages.clear()
        self.units.clear()

    def outcome(self, stage: Stage, reproducible: bool) -> StageOutcome | None:
        """Return a finished stage's outcome, None when it is not finished.

        Args:
            stage: The stage.
            reproducible: What the job's row says of its workers.

        Raises:
            gdmix_core.errors.InternalError: The rows are not those of this stage.
        """
        if isinstance(stage, FixedEffectStage):
            return self._fixed_effect(stage)
        if not stage.units:
            return UnitsOutcome(results=(), directories=(), seconds=0.0, reproducible=reproducible)
        return self._units(stage, reproducible)

    def _fixed_effect(self, stage: FixedEffectStage) -> FixedEffectOutcome | None:
        row = self.stages.get(stage.name)
        if row is None or row.outcome is None:
            return None
        try:
            return FixedEffectOutcome(**row.outcome)
        except TypeError as error:
            raise _unreadable(row.job_id, stage.name) from error

    def _units(self, stage: UnitStage, reproducible: bool) -> UnitsOutcome | None:
        row = self.stages.get(stage.name)
        if row is None or row.ended is None:
            return None
        rows = self.units.get(stage.name, {})
        results: list[TaskResult] = []
        directories: list[str] = []
        for number, task in enumerate(stage.units):
            unit = rows.get(number)
            if unit is None or not unit.done:
                raise _unreadable(row.job_id, stage.name)
            try:
                results.append(result_from_json(task.kind, unit.result_json))
            except (ValueError, KeyError) as error:
                raise _unreadable(row.job_id, stage.name) from error
            directories.append(unit.directory)
        if len(rows) != len(results):
            raise _unreadable(row.job_id, stage.name)
        return UnitsOutcome(
            results=tuple(results),
            directories=tuple(directories),
            seconds=row.ended - row.started,
            reproducible=reproducible,
        )


def _unreadable(job_id: str, stage: str) -> InternalError:
    return InternalError(
        f"job {job_id}: the journal's rows of stage {stage!r} do not fit what this version of gdmix would "
        "run; submit the job again"
    )
