"""All jobs, and what moves them: submitting, going on to the next stage, failing, cancelling, resuming."""

from __future__ import annotations

import logging
import re
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

from gdmix_core.config import config_from_json
from gdmix_core.errors import Conflict, GdmixError, InternalError, NotFound
from gdmix_core.tasks import result_from_json
from gdmix_server.state.effects import Effects
from gdmix_server.state.events import JobSubmitted, OptimiserAsked, OptimiserFailed, OptimiserFinished
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.instructions import (
    DeleteJob,
    DropCache,
    SaveStage,
    SaveUnit,
    StartOptimiser,
    StopOptimiser,
)
from gdmix_server.state.jobs import SEQUENCE_JUMP, Job, ProgramFactory
from gdmix_server.state.leases import LeaseTable, save_unit
from gdmix_server.state.model import (
    FixedEffectStage,
    GangStage,
    JobRow,
    JobState,
    Progress,
    Report,
    Stage,
    StageOutcome,
    StageRow,
    UnitStage,
)
from gdmix_server.state.record import Record
from gdmix_server.state.rounds import FixedEffectRun
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.timers import Deadline, Timers
from gdmix_server.state.units import UnitsRun, UnitStageRun
from gdmix_server.state.workers import Cluster, Worker

logger = logging.getLogger(__name__)

_STAGE_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]+")


def _age(job: Job) -> tuple[float, str]:
    return (job.row.submitted, job.row.job_id)


class JobBook:
    """The jobs of a coordinator."""

    def __init__(
        self,
        *,
        epoch: int,
        owner: str,
        program: ProgramFactory,
        settings: MachineSettings,
        cluster: Cluster,
        leases: LeaseTable,
        timers: Timers,
    ) -> None:
        self._epoch = epoch
        self._owner = owner
        self._program = program
        self._settings = settings
        self._cluster = cluster
        self._leases = leases
        self._timers = timers
        self._jobs: dict[str, Job] = {}
        self._requests: dict[str, str] = {}
        self._active: list[Job] = []

    # ---- queries -----------------------------------------------------------------------------------------

    @property
    def active(self) -> tuple[Job, ...]:
        """Jobs that have not ended, oldest first."""
        return tuple(self._active)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, job_id: str) -> Job | None:
        """Return a job, None when there is none of that id."""
        return self._jobs.get(job_id)

    def find(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            gdmix_core.errors.NotFound: There is none of that id.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    def of_request(self, request_id: str) -> Job | None:
        """Return the job that was submitted under a client's request id."""
        job_id = self._requests.get(request_id)
        return self._jobs.get(job_id) if job_id is not None else None

    # ---- what people ask ---------------------------------------------------------------------------------

    def submit(self, event: JobSubmitted, effects: Effects) -> None:
        """Take a job in and begin its first stage; a request id that is known changes nothing.

        Raises:
            gdmix_core.errors.Conflict: The job id is taken.
            gdmix_core.errors.ConfigError: The config cannot be read.
        """
        if event.request_id and event.request_id in self._requests:
            return
        if event.job_id in self._jobs:
            raise Conflict(f"there is a job {event.job_id!r} already")
        config_from_json(event.config_json)
        row = JobRow(
            job_id=event.job_id,
            request_id=event.request_id,
            config_json=event.config_json,
            model=event.model,
            output=event.output,
            state=JobState.QUEUED,
            submitted=event.now,
        )
        job = Job(row, Record())
        self._add(job)
        job.set_state(effects, JobState.QUEUED)
        self._start(job, effects)

    def cancel(self, job_id: str, effects: Effects) -> None:
        """End a job; its workers are told to stop and nothing they send counts any more."""
        job = self._unended(job_id)
        self._stop(job, effects)
        job.set_state(effects, JobState.CANCELLED, "the job was cancelled", "cancelled")

    def resume(self, job_id: str, effects: Effects) -> None:
        """Take a failed or cancelled job up again where its finished units end."""
        job = self._resumable(job_id)
        job.set_state(effects, JobState.QUEUED)
        for stage, units in job.record.units.items():
            for row in list(units.values()):
                if not row.done and (row.failures or row.deaths):
                    units[row.unit] = replace(row, failures=0, deaths=0, reasons=())
                    effects.add(SaveUnit(row=units[row.unit]))
            job.record.units[stage] = units
        self._start(job, effects)

    def delete(self, job_id: str, effects: Effects) -> None:
        """Forget an ended job."""
        job = self._ended(job_id)
        del self._jobs[job_id]
        self._requests.pop(job.row.request_id, None)
        effects.add(DeleteJob(job_id=job_id))

    def _unended(self, job_id: str) -> Job:
        job = self.find(job_id)
        if job.row.state.ended:
            raise Conflict(
                f"job {job_id} has ended ({job.row.state}); only a running or queued job can be cancelled"
            )
        return job

    def _resumable(self, job_id: str) -> Job:
        job = self.find(job_id)
        if job.row.state not in {JobState.FAILED, JobState.CANCELLED}:
            raise Conflict(f"job {job_id} is {job.row.state}; only a failed or cancelled job can be resumed")
        return job

    def _ended(self, job_id: str) -> Job:
        job = self.find(job_id)
        if not job.row.state.ended:
            raise Conflict(f"job {job_id} is {job.row.state}; cancel it before deleting it")
        return job

    # ---- restart -----------------------------------------------------------------------------------------

    def restore(self, jobs: Iterable[JobRow], records: dict[str, Record], effects: Effects) -> None:
        """Rebuild every job from the journal; those that had not ended go on."""
        for row in sorted(jobs, key=lambda row: (row.submitted, row.job_id)):
            job = Job(row, records.get(row.job_id, Record()))
            self._add(job)
            if row.state.ended:
                if row.state is JobState.SUCCEEDED:
                    job.record.clear()
                continue
            job.change(effects, last_sequence=row.last_sequence + SEQUENCE_JUMP)
            if row.state is JobState.CANCELLING:
                job.set_state(effects, JobState.CANCELLED, "the job was cancelled", "cancelled")
            else:
                self._start(job, effects)

    def _add(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        if job.row.request_id:
            self._requests[job.row.request_id] = job.job_id

    # ---- programs ----------------------------------------------------------------------------------------

    def _start(self, job: Job, effects: Effects) -> None:
        """Run a job's program from its beginning, answered from the record as far as that goes."""
        insort(self._active, job, key=_age)
        try:
            job.start_program(self._program, self._epoch, self._owner, self._settings.store)
        except GdmixError as error:
            self.fail(job, effects, error.code, str(error))
            return
        # What it reports before its first stage was told when that stage began.
        job.replaying = bool(job.record.stages)
        self._go_on(job, effects, None)

    def _go_on(self, job: Job, effects: Effects, outcome: StageOutcome | None) -> None:
        """Send an outcome to the program and act on what it yields, up to the next stage or its end."""
        assert job.program is not None
        while True:
            try:
                wanted = job.program.send(outcome)
                outcome = None
                if isinstance(wanted, Report):
                    if not job.replaying:
                        job.report(effects, wanted)
                    continue
                self._check_name(job, wanted)
                outcome = job.record.outcome(wanted, job.row.reproducible)
                if outcome is None:
                    self._begin(job, wanted, effects)
                    return
            except StopIteration:
                self._succeed(job, effects)
                return
            except GdmixError as error:
                self.fail(job, effects, error.code, str(error))
                return
            except Exception as error:
                logger.exception("the program of job %s failed", job.job_id)
                message = f"the program of the job failed: {type(error).__name__}: {error}"
                self.fail(job, effects, InternalError.code, message)
                return

    @staticmethod
    def _check_name(job: Job, stage: Stage) -> None:
        if _STAGE_NAME.fullmatch(stage.name) is None or stage.name in job.stage_names:
            raise InternalError(f"job {job.job_id}: {stage.name!r} is no new name of a stage")
        job.stage_names.add(stage.name)

    def _begin(self, job: Job, stage: Stage, effects: Effects) -> None:
        """Begin a stage, or go on with it where the journal says it stood."""
        job.replaying = False
        job.last_progress = None
        row = job.record.stages.get(stage.name)
        job.stage_started = row.started if row is not None and job.record.units.get(stage.name) else None
        if row is None:
            self._save_stage(job, StageRow(job_id=job.job_id, stage=stage.name, started=effects.now), effects)
        if isinstance(stage, FixedEffectStage):
            job.run = FixedEffectRun(stage, job.job_id)
            effects.add(StartOptimiser(job_id=job.job_id, stage=stage))
        else:
            self._take_up(job, stage, effects)
        self.tell_progress(job, effects)

    def _take_up(self, job: Job, stage: UnitStage, effects: Effects) -> None:
        rows = job.record.units.get(stage.name, {})
        run = GangRun(stage, rows) if isinstance(stage, GangStage) else UnitStageRun(stage, rows)
        for unit in run.done_units():
            try:
                result = result_from_json(unit.task.kind, unit.result_json)
            except (ValueError, KeyError) as error:
                raise InternalError(
                    f"job {job.job_id}: the journal's result of unit {unit.number} of stage {stage.name!r} "
                    "cannot be read; submit the job again"
                ) from error
            run.accept(unit, result)
        job.run = run
        for unit in run.leased():
            self._leases.restore(job, run, unit)
        if isinstance(run, GangRun) and run.running:
            self.await_gang(job, effects, self._settings.restart_grace_seconds)

    def await_gang(self, job: Job, effects: Effects, more_seconds: float = 0.0) -> None:
        """Give the members of a job's gang their time to join it."""
        seconds = self._settings.gang_join_seconds + more_seconds
        self._timers.set(Deadline.GANG, job.job_id, effects.now + seconds)

    def start_stage_clock(self, job: Job, effects: Effects) -> None:
        """Count the stage's time from now on, when its first unit goes out."""
        if job.stage_started is None and job.run is not None:
            job.stage_started = effects.now
            name = job.run.stage.name
            self._save_stage(job, replace(job.record.stages[name], started=effects.now), effects)

    def finish_units(self, job: Job, effects: Effects) -> None:
        """Close a stage whose every unit is done, and go on."""
        run = job.run
        assert isinstance(run, UnitsRun)
        row = replace(job.record.stages[run.stage.name], ended=effects.now)
        self._close_stage(job, row, effects)
        self._go_on(job, effects, run.outcome(effects.now - row.started, job.row.reproducible))

    def begin_round(self, event: OptimiserAsked, effects: Effects) -> None:
        """Have a fixed effect's shards evaluated at the point its driver asks about."""
        job = self._jobs.get(event.job_id)
        if job is None or not isinstance(job.run, FixedEffectRun) or job.run.stage.name != event.stage:
            return
        job.run.begin_round(
            event.round_number,
            hessian=event.hessian,
            objective=event.objective,
            gradient_ratio=event.gradient_ratio,
        )
        self.progressed(job, effects)

    def finish_optimisation(self, event: OptimiserFinished, effects: Effects) -> None:
        """Close a fixed effect's stage, and go on."""
        job = self._jobs.get(event.job_id)
        if job is None or not isinstance(job.run, FixedEffectRun) or job.run.stage.name != event.stage:
            return
        row = job.record.stages[event.stage]
        self._drop_caches(job.run, effects)
        self._close_stage(job, replace(row, ended=effects.now, outcome=asdict(event.outcome)), effects)
        self._go_on(job, effects, event.outcome)

    def fail_optimisation(self, event: OptimiserFailed, effects: Effects) -> None:
        """Fail a job whose driver failed."""
        job = self._jobs.get(event.job_id)
        if job is not None and isinstance(job.run, FixedEffectRun) and job.run.stage.name == event.stage:
            self.fail(job, effects, event.error_code, event.message)

    def _close_stage(self, job: Job, row: StageRow, effects: Effects) -> None:
        self.tell_progress(job, effects)
        self._save_stage(job, row, effects)
        job.run = None
        self._timers.clear(Deadline.PROGRESS, job.job_id)

    @staticmethod
    def _save_stage(job: Job, row: StageRow, effects: Effects) -> None:
        job.record.stages[row.stage] = row
        effects.add(SaveStage(row=row))

    # ---- ends --------------------------------------------------------------------------------------------

    def fail(self, job: Job, effects: Effects, error_code: str, message: str) -> None:
        """End a job in failure; one that has ended stays as it is."""
        if not job.row.state.ended:
            self._stop(job, effects)
            job.set_state(effects, JobState.FAILED, message, error_code)

    def _succeed(self, job: Job, effects: Effects) -> None:
        self._stop(job, effects)
        job.record.clear()
        job.set_state(effects, JobState.SUCCEEDED)

    def _stop(self, job: Job, effects: Effects) -> None:
        """Call back what is out and forget what runs."""
        run = job.run
        job.run = None
        if run is not None:
            for grant in list(self._leases.of_run(run)):
                self._leases.revoke(grant, effects)
                grant.unit.lease = None
                save_unit(job, run, grant.unit, effects)
        if isinstance(run, FixedEffectRun):
            effects.add(StopOptimiser(job_id=job.job_id, stage=run.stage.name))
            self._drop_caches(run, effects)
        if job.program is not None:
            program, job.program = job.program, None
            program.close()
        if job in self._active:
            self._active.remove(job)
        for deadline in (Deadline.PROGRESS, Deadline.WAIT, Deadline.GANG):
            self._timers.clear(deadline, job.job_id)

    def _drop_caches(self, run: FixedEffectRun, effects: Effects) -> None:
        for worker in self._cluster:
            if run.cache_key in worker.caches:
                worker.caches.discard(run.cache_key)
                effects.add(DropCache(worker_id=worker.worker_id, prefix=run.cache_key))

    # ---- progress ----------------------------------------------------------------------------------------

    def progressed(self, job: Job, effects: Effects) -> None:
        """Tell progress now, or as soon as enough time has passed since it was last told."""
        due = (job.last_progress or 0.0) + self._settings.progress_seconds
        if due <= effects.now:
            self.tell_progress(job, effects)
        elif not self._timers.has(Deadline.PROGRESS, job.job_id):
            self._timers.set(Deadline.PROGRESS, job.job_id, due)

    def tell_progress(self, job: Job, effects: Effects) -> None:
        """Tell where a job's running stage stands."""
        self._timers.clear(Deadline.PROGRESS, job.job_id)
        job.tell_progress(effects, self._workers_of(job))

    def progress(self, job: Job, now: float) -> Progress | None:
        """Return where a job's running stage stands."""
        return job.progress(now, self._workers_of(job))

    def _workers_of(self, job: Job) -> list[Worker]:
        """Return the workers that run units of the job's stage and of no other."""
        running = job.run.running if job.run is not None else {}
        names = dict.fromkeys(unit.worker_id for unit in running.values())
        workers = (self._cluster.get(name) for name in names)
        return [worker for worker in workers if worker is not None and worker.fences <= running.keys()]
