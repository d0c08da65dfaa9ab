"""The state machine: what the coordinator knows, and what it wants done about every event.

    events → StateMachine.handle → instructions

Nothing here does I/O, reads a clock or starts a thread: the same events give the same instructions.
The parts:

    timers      deadlines                     jobs, job_book   jobs, their programs, stages
    workers     who is there, free slots      units, gangs, rounds    a running stage of each kind
    leases      who may deliver what          results, gang_results   accepted, failed, lost
    sessions    workers come and go           scheduling       which unit to whom
    record      a job's journaled rows        effects          the batch of one event
"""

from __future__ import annotations

from collections.abc import Iterable

from gdmix_core.errors import InternalError
from gdmix_server.state.effects import Effects
from gdmix_server.state.events import (
    Event,
    GangJoined,
    JobCancelRequested,
    JobDeleteRequested,
    JobResumeRequested,
    JobSubmitted,
    OptimiserAsked,
    OptimiserFailed,
    OptimiserFinished,
    Tick,
    UnitFailed,
    UnitFinished,
    WorkerConnected,
    WorkerDisconnected,
    WorkerDraining,
    WorkerHeartbeat,
)
from gdmix_server.state.gang_results import GangResults
from gdmix_server.state.instructions import Instruction, WakeAt
from gdmix_server.state.job_book import JobBook
from gdmix_server.state.jobs import ProgramFactory
from gdmix_server.state.leases import LeaseTable
from gdmix_server.state.model import JobRow, Lease, Progress, StageRow, UnitRow
from gdmix_server.state.record import Record
from gdmix_server.state.results import Results
from gdmix_server.state.scheduling import Scheduler
from gdmix_server.state.sessions import Sessions
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.timers import Deadline, Timers
from gdmix_server.state.workers import Cluster, WorkerView

Snapshot = tuple[Iterable[JobRow], Iterable[StageRow], Iterable[UnitRow]]
"""Everything that the journal holds of jobs, stages and units."""

# A tick that comes later than this shows that the coordinator itself stood still (stopped, swapped out).
_STANDSTILL_SECONDS = 2.0


class StateMachine:
    """The coordinator's state; `handle` is the only way to change it.

    Args:
        epoch: Of this coordinator: larger than that of any before it on the same journal, so that its fences
            are larger too.
        program: Makes a job's program; the same input MUST give the same program.
        settings: Times and bounds.
        owner: Identity of the journal, which stores keep beside the epoch.
    """

    def __init__(
        self, epoch: int, program: ProgramFactory, settings: MachineSettings | None = None, owner: str = ""
    ) -> None:
        settings = settings if settings is not None else MachineSettings()
        self.epoch = epoch
        self._settings = settings
        self._now = 0.0
        self._wake: float | None = None
        self._timers = Timers()
        self._cluster = Cluster()
        self._leases = LeaseTable(epoch, self._cluster)
        self._jobs = JobBook(
            epoch=epoch,
            owner=owner,
            program=program,
            settings=settings,
            cluster=self._cluster,
            leases=self._leases,
            timers=self._timers,
        )
        self._gangs = GangResults(
            settings=settings,
            cluster=self._cluster,
            leases=self._leases,
            jobs=self._jobs,
            timers=self._timers,
        )
        self._results = Results(
            settings=settings,
            cluster=self._cluster,
            leases=self._leases,
            jobs=self._jobs,
            gangs=self._gangs,
        )
        self._sessions = Sessions(
            settings=settings,
            cluster=self._cluster,
            leases=self._leases,
            jobs=self._jobs,
            results=self._results,
            timers=self._timers,
        )
        self._scheduler = Scheduler(
            settings=settings,
            cluster=self._cluster,
            leases=self._leases,
            jobs=self._jobs,
            timers=self._timers,
        )

    # ---- changes -----------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Instruction]:
        """Take in an event; return what is to be done about it, as one batch.

        Raises:
            gdmix_core.errors.NotFound: A request names a job that does not exist.
            gdmix_core.errors.Conflict: A job's state forbids the request.
            gdmix_core.errors.ConfigError: A submitted config cannot be read. After any of these, nothing has
                changed.
        """
        effects = Effects(event.now)
        self._excuse_standstill(event.now)
        self._dispatch(event, effects)
        self._now = event.now
        return self._settle(effects)

    def restore(self, snapshot: Snapshot, now: float) -> list[Instruction]:
        """Rebuild the state from the journal, before any event; return what is to be done about it.

        Every job that had not ended runs its program again, answered from the journal up to its first
        unfinished stage. Leases of before are held a while for the workers that announce them.
        """
        effects = Effects(now)
        jobs, stages, units = snapshot
        records: dict[str, Record] = {}
        for stage in stages:
            records.setdefault(stage.job_id, Record()).stages[stage.stage] = stage
        for unit in units:
            record = records.setdefault(unit.job_id, Record())
            record.units.setdefault(unit.stage, {})[unit.unit] = unit
        self._now = now
        self._jobs.restore(jobs, records, effects)
        if self._jobs.active:
            self._timers.set(Deadline.GRACE, "", now + self._settings.restart_grace_seconds)
        return self._settle(effects)

    # ---- queries -----------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRow:
        """Return a job as it stands.

        Raises:
            gdmix_core.errors.NotFound: There is none of that id.
        """
        return self._jobs.find(job_id).row

    def job_of_request(self, request_id: str) -> JobRow | None:
        """Return the job that was submitted under a client's request id, None when there is none."""
        job = self._jobs.of_request(request_id)
        return job.row if job is not None else None

    def jobs(self) -> list[JobRow]:
        """Return all jobs, newest first."""
        rows = [job.row for job in self._jobs]
        return sorted(rows, key=lambda row: (row.submitted, row.job_id), reverse=True)

    def progress(self, job_id: str) -> Progress | None:
        """Return where a job's running stage stands, None when none runs.

        Raises:
            gdmix_core.errors.NotFound: There is no job of that id.
        """
        return self._jobs.progress(self._jobs.find(job_id), self._now)

    def workers(self) -> list[WorkerView]:
        """Return the workers that are connected or may still come back, in the order they registered in."""
        return [worker.view() for worker in sorted(self._cluster, key=lambda worker: worker.number)]

    def is_current(self, lease: Lease) -> bool:
        """Return whether a lease is current: only then are arrays taken and given under it."""
        return self._leases.of_lease(lease) is not None

    # ---- how an event goes through -----------------------------------------------------------------------

    def _dispatch(self, event: Event, effects: Effects) -> None:
        match event:
            case JobSubmitted():
                self._jobs.submit(event, effects)
            case JobCancelRequested(job_id=job_id):
                self._jobs.cancel(job_id, effects)
            case JobResumeRequested(job_id=job_id):
                self._jobs.resume(job_id, effects)
            case JobDeleteRequested(job_id=job_id):
                self._jobs.delete(job_id, effects)
            case UnitFinished():
                self._results.finished(event, effects)
            case UnitFailed():
                self._results.failed(event, effects)
            case GangJoined():
                self._gangs.joined(event, effects)
            case OptimiserAsked():
                self._jobs.begin_round(event, effects)
            case OptimiserFinished():
                self._jobs.finish_optimisation(event, effects)
            case OptimiserFailed():
                self._jobs.fail_optimisation(event, effects)
            case WorkerHeartbeat():
                self._sessions.heard(event, effects)
            case WorkerConnected():
                self._sessions.connected(event, effects)
            case WorkerDisconnected():
                self._sessions.disconnected(event, effects)
            case WorkerDraining():
                self._sessions.draining(event)
            case Tick():
                pass
            case _:
                raise InternalError(f"the state machine knows no event {type(event).__name__}")

    def _settle(self, effects: Effects) -> list[Instruction]:
        """Do what follows from a changed state: deadlines, scheduling, the next wake-up."""
        while (due := self._timers.pop_due(effects.now)) is not None:
            self._deadline(*due, effects)
        self._scheduler.schedule(effects)
        self._scheduler.watch_for_workers(effects)
        wake = self._timers.earliest()
        if wake is not None and wake != self._wake:
            effects.add(WakeAt(time=wake))
        self._wake = wake
        return effects.finish()

    def _deadline(self, deadline: Deadline, name: str, effects: Effects) -> None:
        match deadline:
            case Deadline.SILENCE:
                self._sessions.silence_due(name, effects)
            case Deadline.RECONNECT:
                self._sessions.reconnect_due(name, effects)
            case Deadline.GRACE:
                self._sessions.grace_due(effects)
            case Deadline.WAIT:
                self._scheduler.give_up(name, effects)
            case Deadline.GANG:
                self._gangs.join_due(name, effects)
            case Deadline.PROGRESS:
                job = self._jobs.get(name)
                if job is not None:
                    self._jobs.tell_progress(job, effects)

    def _excuse_standstill(self, now: float) -> None:
        """Put deadlines off by as long as the coordinator itself may not have run: silence then proves nothing.

        It comes before the event, which says what is so now, and whose own deadlines stay as they are.
        """
        if self._wake is not None and now - self._wake > _STANDSTILL_SECONDS:
            away = now - self._now
            self._timers.shift(away)
            self._sessions.excuse(away)
            self._wake = None
