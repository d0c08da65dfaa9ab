"""The yields of a program, named: run a stage of units, run an optimisation."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gdmix_core.tasks import Task
from gdmix_server.state.model import GangStage, Report, Stage, StageOutcome, UnitsOutcome, UnitStage

T = TypeVar("T")

Steps = Generator[Stage | Report, StageOutcome | None, T]
"""A part of a program that ends in a `T`."""

NO_ARRAYS: Mapping[str, str] = {}


def run(name: str, title: str, units: Sequence[Task], rows: tuple[int, ...] = ()) -> Steps[UnitsOutcome]:
    """Run a stage of units that belongs to no coordinate."""
    return _run(UnitStage(name=name, title=title, units=tuple(units), rows=rows))


@dataclass(frozen=True, slots=True)
class CoordinateStep:
    """One coordinate in one pass, of one trial where there is a search: the names and labels of its stages."""

    coordinate: str
    pass_number: int
    trial: int = 0

    def stage(self, suffix: str) -> str:
        """Return the name of a stage, unique in the job."""
        trial = f"trial-{self.trial}." if self.trial else ""
        return f"{trial}{self.coordinate}.{self.pass_number}.{suffix}"

    def title(self, text: str) -> str:
        """Return what a person reads while a stage runs."""
        return f"trial {self.trial}: {text}" if self.trial else text

    def run(
        self,
        suffix: str,
        title: str,
        units: Sequence[Task],
        *,
        rows: tuple[int, ...] = (),
        arrays: Mapping[str, str] = NO_ARRAYS,
    ) -> Steps[UnitsOutcome]:
        """Run a stage of units of this coordinate."""
        return _run(
            UnitStage(
                name=self.stage(suffix),
                title=self.title(title),
                units=tuple(units),
                coordinate=self.coordinate,
                pass_number=self.pass_number,
                arrays=arrays,
                rows=rows,
            )
        )

    def run_gang(
        self, suffix: str, title: str, units: Sequence[Task], *, rows: tuple[int, ...] = ()
    ) -> Steps[UnitsOutcome]:
        """Run a stage of units of this coordinate at the same time; unit k is the gang's member of rank k."""
        return _run(
            GangStage(
                name=self.stage(suffix),
                title=self.title(title),
                units=tuple(units),
                coordinate=self.coordinate,
                pass_number=self.pass_number,
                rows=rows,
            )
        )


@dataclass(frozen=True, slots=True)
class RoundStep(CoordinateStep):
    """One round over all coordinates together, which `coordinate` names."""

    def run(
        self,
        suffix: str,
        title: str,
        units: Sequence[Task],
        *,
        rows: tuple[int, ...] = (),
        arrays: Mapping[str, str] = NO_ARRAYS,
    ) -> Steps[UnitsOutcome]:
        """Run a stage of units of this round."""
        of_round = f", round {self.pass_number}" if self.pass_number else ""
        told = self.title(f"learning {self.coordinate}{of_round}: {title}")
        return _run(
            UnitStage(name=self.stage(suffix), title=told, units=tuple(units), arrays=arrays, rows=rows)
        )


def _run(stage: UnitStage) -> Steps[UnitsOutcome]:
    outcome = yield stage
    assert isinstance(outcome, UnitsOutcome)
    return outcome
