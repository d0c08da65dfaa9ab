"""What becomes of a unit that is out: accepted, failed, or lost with its worker."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from gdmix_core.errors import InternalError, JobFailed, catalog
from gdmix_core.tasks import Task, TaskResult, result_from_json
from gdmix_server.state.effects import Effects
from gdmix_server.state.events import UnitFailed, UnitFinished
from gdmix_server.state.instructions import Acknowledge, KeepArrays, TellOptimiser
from gdmix_server.state.job_book import JobBook
from gdmix_server.state.jobs import Job
from gdmix_server.state.leases import Grant, LeaseTable, output_directory, save_unit
from gdmix_server.state.rounds import FixedEffectRun
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.workers import Cluster

# A stage whose every unit fails once would fill the journal with notices.
_NOTICES_PER_STAGE = 20


def describe_task(task: Task) -> str:
    """Say what a task does and to which piece of the data, in words for a person."""
    facts = []
    for name in ("split", "shard", "partition", "part", "version", "coordinate"):
        value = getattr(task, name, None)
        if value is not None:
            facts.append(f"{name} {getattr(value, 'path', value)}")
    for name in ("grouping", "design"):
        spec = getattr(task, name, None)
        if spec is not None:
            facts.append(f"of {getattr(spec, 'name', None) or getattr(spec, 'coordinate', '')}")
    shards = getattr(task, "shards", None)
    if isinstance(shards, tuple) and shards and hasattr(shards[0], "shard"):
        facts.append(f"shards {shards[0].shard} to {shards[-1].shard}")
    words = task.kind.replace("_", " ")
    return f"{words} ({', '.join(facts)})" if facts else words


class Results:
    """The accounts of units that are out."""

    def __init__(
        self, *, settings: MachineSettings, cluster: Cluster, leases: LeaseTable, jobs: JobBook
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._leases = leases
        self._jobs = jobs
        self._known_codes = frozenset(catalog())

    # ---- what workers report -----------------------------------------------------------------------------

    def finished(self, event: UnitFinished, effects: Effects) -> None:
        """Accept the result of a current lease; acknowledge any other without more ado."""
        grant = self._leases.current(event.lease, event.worker_id)
        if grant is None:
            accepted = self.was_accepted(event.lease.job_id, event.lease.fence)
            effects.add(Acknowledge(worker_id=event.worker_id, lease=event.lease, accepted=accepted))
            return
        try:
            result = result_from_json(grant.unit.task.kind, event.result_json)
        except (ValueError, KeyError) as error:
            message = f"worker {event.worker_id} sent a result that cannot be read: {_reason(error)}"
            self._failed(grant, effects, InternalError.code, message, retryable=True)
            return
        self._accept(grant, result, event.result_json, effects)

    def failed(self, event: UnitFailed, effects: Effects) -> None:
        """Count a failure of a current lease: another attempt, or the end of the job."""
        grant = self._leases.current(event.lease, event.worker_id)
        if grant is None:
            effects.add(Acknowledge(worker_id=event.worker_id, lease=event.lease, accepted=False))
            return
        code = event.error_code if event.error_code in self._known_codes else InternalError.code
        self._failed(grant, effects, code, event.message, retryable=event.retryable)

    def was_accepted(self, job_id: str, fence: int) -> bool:
        """Return whether a result under this fence has been accepted before."""
        job = self._jobs.get(job_id)
        if job is None:
            return False
        return fence in job.accepted or (isinstance(job.run, FixedEffectRun) and fence in job.run.fences)

    # ---- what happens to workers -------------------------------------------------------------------------

    def lose(self, grants: Sequence[Grant], effects: Effects, reason: str) -> None:
        """Put back units whose worker is gone, quarantining those that were there too often.

        Args:
            grants: What one worker held.
            effects: Where it goes.
            reason: What happened to the worker, as the end of a sentence that begins with its name.
        """
        by_job: dict[str, list[Grant]] = {}
        for grant in grants:
            by_job.setdefault(grant.job.job_id, []).append(grant)
        for lost in by_job.values():
            worker = self._cluster.get(lost[0].worker_id)
            name = lost[0].worker_id + (f" on {worker.info.host}" if worker is not None else "")
            units = "1 unit" if len(lost) == 1 else f"{len(lost)} units"
            stages = ", ".join(sorted({grant.run.stage.name for grant in lost}))
            text = f"worker {name} {reason}; {units} of {stages} will run elsewhere"
            lost[0].job.notice(effects, text)
            for grant in lost:
                self._die(grant, effects)

    def put_back(self, grants: Sequence[Grant], effects: Effects) -> None:
        """Put back units that nobody is to blame for."""
        for grant in grants:
            self._leases.revoke(grant, effects)
            grant.run.put_back(grant.unit, self._slots())
            save_unit(grant.job, grant.run, grant.unit, effects)

    def _die(self, grant: Grant, effects: Effects) -> None:
        if self._leases.of_lease(grant.lease) is None:
            return  # its job failed by another unit of the same worker
        unit = grant.unit
        unit.deaths += 1
        if unit.deaths < self._settings.deaths:
            self.put_back((grant,), effects)
            return
        self._leases.revoke(grant, effects)
        unit.lease = None
        save_unit(grant.job, grant.run, unit, effects)
        message = (
            f"unit {unit.number} of stage {grant.run.stage.name!r} is quarantined: {unit.deaths} workers "
            f"were lost while they ran it; it was to {describe_task(unit.task)}"
        )
        self._jobs.fail(grant.job, effects, JobFailed.code, message)

    # ---- accounts ----------------------------------------------------------------------------------------

    def _accept(self, grant: Grant, result: TaskResult, result_json: str, effects: Effects) -> None:
        job, run, unit, lease = grant.job, grant.run, grant.unit, grant.lease
        self._leases.release(grant)
        worker = self._cluster.get(grant.worker_id)
        if worker is not None:
            # Its next heartbeat counts without this unit, whose rows are counted as done from now on.
            worker.rows_done = worker.entities_done = 0
            worker.fit = None
        if isinstance(run, FixedEffectRun):
            run.accept(unit, lease)
            effects.add(Acknowledge(worker_id=grant.worker_id, lease=lease, accepted=True))
            self._jobs.progressed(job, effects)
            if run.round_complete:
                self._tell(job, run, effects)
            return
        unit.directory = output_directory(job, lease)
        unit.result_json = result_json
        run.accept(unit, result)
        job.accepted.add(lease.fence)
        effects.add(KeepArrays(lease=lease))
        save_unit(job, run, unit, effects)
        effects.add(Acknowledge(worker_id=grant.worker_id, lease=lease, accepted=True))
        if run.finished:
            self._jobs.finish_units(job, effects)
        else:
            self._jobs.progressed(job, effects)

    @staticmethod
    def _tell(job: Job, run: FixedEffectRun, effects: Effects) -> None:
        round_number, nodes = run.round_number, run.end_round()
        effects.add(
            TellOptimiser(job_id=job.job_id, stage=run.stage.name, round_number=round_number, nodes=nodes)
        )

    def _failed(
        self, grant: Grant, effects: Effects, error_code: str, message: str, *, retryable: bool
    ) -> None:
        job, run, unit = grant.job, grant.run, grant.unit
        self._leases.release(grant)
        # Not accepted: arrays that it pushed are of no use.
        effects.add(Acknowledge(worker_id=grant.worker_id, lease=grant.lease, accepted=False))
        unit.failures += 1
        name = f"unit {unit.number} of stage {run.stage.name!r}"
        if retryable and unit.failures < self._settings.attempts:
            run.retry(unit)
            save_unit(job, run, unit, effects)
            run.notices += 1
            if run.notices <= _NOTICES_PER_STAGE:
                failure = f"failure {unit.failures} of at most {self._settings.attempts}"
                text = f"{name} failed on worker {grant.worker_id} and runs again ({failure}): {message}"
                job.notice(effects, text)
            elif run.notices == _NOTICES_PER_STAGE + 1:
                job.notice(effects, f"more units of stage {run.stage.name!r} run again; they are not listed")
            return
        unit.lease = None
        save_unit(job, run, unit, effects)
        if retryable:
            message = f"{message} ({name} failed {unit.failures} times: {describe_task(unit.task)})"
        self._jobs.fail(job, effects, error_code, message)

    def _slots(self) -> int:
        return sum(worker.info.threads for worker in self._cluster if worker.usable)


def _reason(error: Exception) -> str:
    """Return the first mistake that a reader found, without the text that was read."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return type(error).__name__
