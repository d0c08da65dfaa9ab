"""A job: its row, its program, the stage that runs, and what its watchers are told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

from gdmix_core.config import config_from_json
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.state.effects import Effects
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.instructions import Emit
from gdmix_server.state.model import (
    JobEvent,
    JobRow,
    JobState,
    Progress,
    Report,
    Stage,
    StageOutcome,
)
from gdmix_server.state.record import Record
from gdmix_server.state.rounds import FixedEffectRun, StageRun
from gdmix_server.state.workers import Worker

Program = Generator[Stage | Report, StageOutcome | None, None]
ProgramFactory = Callable[[ProgramInput], Program]

SEQUENCE_JUMP = 1_000_000
"""By how much a restart raises a job's sequence: more than the progress events between two journaled ones."""


class Job:
    """A job of the coordinator; changes of its row go to the journal with the event's effects."""

    __slots__ = (
        "accepted",
        "last_progress",
        "program",
        "record",
        "replaying",
        "row",
        "run",
        "stage_names",
        "stage_started",
    )

    def __init__(self, row: JobRow, record: Record) -> None:
        self.row = row
        self.record = record
        self.accepted = record.accepted_fences()
        self.program: Program | None = None
        self.replaying = False
        """While the program is answered from the record: its reports have been made before."""
        self.run: StageRun | None = None
        self.stage_started: float | None = None
        self.stage_names: set[str] = set()
        self.last_progress: float | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.row.job_id

    @property
    def work_directory(self) -> str:
        """Where its units write."""
        return f"{self.row.output}/.gdmix/jobs/{self.row.job_id}/work"

    def start_program(self, factory: ProgramFactory, epoch: int, owner: str, default_store: str) -> None:
        """Create the program, to be answered from the record as far as that goes.

        Raises:
            gdmix_core.errors.ConfigError: The config cannot be read.
        """
        config = config_from_json(self.row.config_json)
        self.program = factory(
            ProgramInput(
                job_id=self.row.job_id,
                config=config,
                work_directory=self.work_directory,
                store=config.store or default_store or f"lmdb:{self.row.output}/store",
                epoch=epoch,
                owner=owner,
            )
        )
        self.replaying = True
        self.stage_names.clear()

    # ---- row and events ----------------------------------------------------------------------------------

    def change(self, effects: Effects, **changes: Any) -> None:
        """Replace fields of the row and have it journaled."""
        self.row = replace(self.row, **changes)
        effects.save(self)

    def emit(self, effects: Effects, **content: Any) -> None:
        """Tell watchers something that is kept."""
        effects.save(self)
        self._emit(effects, keep=True, **content)

    def notice(self, effects: Effects, text: str, *, warning: bool = True) -> None:
        """Tell watchers something that a person should know."""
        self.emit(effects, notice=text, warning=warning)

    def set_state(self, effects: Effects, state: JobState, error: str = "", error_code: str = "") -> None:
        """Change the state and tell it."""
        ended = effects.now if state.ended else None
        self.change(effects, state=state, ended=ended, error=error, error_code=error_code)
        self.emit(effects, error=error, error_code=error_code)

    def report(self, effects: Effects, report: Report) -> None:
        """Take in and tell what the program reports."""
        if report.train_rows is not None:
            self.change(effects, train_rows=report.train_rows)
        if report.validation_rows is not None:
            self.change(effects, validation_rows=report.validation_rows)
        if report.kept_pass is not None:
            kept = (
                replace(
                    coordinate,
                    kept=(coordinate.pass_number, coordinate.trial) == (report.kept_pass, report.kept_trial),
                )
                for coordinate in self.row.coordinates
            )
            self.change(effects, coordinates=tuple(kept))
        if report.coordinate is not None:
            self.change(effects, coordinates=(*self.row.coordinates, report.coordinate))
            self.emit(effects, coordinate=report.coordinate)
        if report.published is not None:
            self.change(effects, published=report.published)
            self.emit(effects, published=report.published)
        if report.notice:
            self.notice(effects, report.notice, warning=report.warning)

    def _emit(self, effects: Effects, *, keep: bool, **content: Any) -> None:
        self.row = replace(self.row, last_sequence=self.row.last_sequence + 1)
        event = JobEvent(
            job_id=self.row.job_id,
            sequence=self.row.last_sequence,
            time=effects.now,
            state=self.row.state,
            **content,
        )
        effects.add(Emit(event=event, keep=keep))

    # ---- progress ----------------------------------------------------------------------------------------

    def tell_progress(self, effects: Effects, workers: Iterable[Worker]) -> None:
        """Tell where the running stage stands."""
        progress = self.progress(effects.now, workers)
        if progress is not None:
            self.last_progress = effects.now
            self._emit(effects, keep=False, progress=progress)

    def progress(self, now: float, workers: Iterable[Worker]) -> Progress | None:
        """Return where the running stage stands; `workers` are those that run units of this stage alone."""
        run = self.run
        if run is None:
            return None
        live = list(workers)
        run.shown_rows = max(run.shown_rows, run.rows_done + sum(worker.rows_done for worker in live))
        run.shown_entities = max(
            run.shown_entities, run.entities_done + sum(worker.entities_done for worker in live)
        )
        fixed_effect = run if isinstance(run, FixedEffectRun) else None
        return Progress(
            stage=run.stage.title,
            coordinate=run.stage.coordinate,
            pass_number=run.stage.pass_number,
            units_done=run.done,
            units_total=run.size,
            rows_done=run.shown_rows,
            entities_done=run.shown_entities,
            round_number=fixed_effect.round_number if fixed_effect else 0,
            stage_seconds=max(0.0, now - self.stage_started) if self.stage_started is not None else 0.0,
            objective=fixed_effect.objective if fixed_effect else 0.0,
            gradient_ratio=fixed_effect.gradient_ratio if fixed_effect else 0.0,
            members=run.members() if isinstance(run, GangRun) else (),
            fit=next((worker.fit for worker in live if worker.fit is not None), None),
        )
