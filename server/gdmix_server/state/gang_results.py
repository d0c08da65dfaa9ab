"""What becomes of a gang that is out: joined by all, accepted as a whole, or begun again as a whole."""

from __future__ import annotations

from gdmix_core.errors import JobFailed, Unavailable, UsageError
from gdmix_core.security import is_loopback
from gdmix_core.tasks import TaskResult
from gdmix_server.state.effects import Effects
from gdmix_server.state.events import GangJoined
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.instructions import Acknowledge, StartGang
from gdmix_server.state.job_book import JobBook
from gdmix_server.state.jobs import Job
from gdmix_server.state.leases import Grant, LeaseTable, save_unit
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.timers import Deadline, Timers
from gdmix_server.state.units import Unit
from gdmix_server.state.workers import Cluster


class GangResults:
    """The accounts of gangs that are out; grants given to its methods MUST be of a `GangRun`."""

    def __init__(
        self,
        *,
        settings: MachineSettings,
        cluster: Cluster,
        leases: LeaseTable,
        jobs: JobBook,
        timers: Timers,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._leases = leases
        self._jobs = jobs
        self._timers = timers

    # ---- joining -----------------------------------------------------------------------------------------

    def joined(self, event: GangJoined, effects: Effects) -> None:
        """Note where a member listens; once all are known, tell all, and whoever asks again."""
        grant = self._leases.current(event.lease, event.worker_id)
        if grant is None or not isinstance(grant.run, GangRun):
            return
        job, run = grant.job, grant.run
        known = run.joined
        run.addresses[grant.unit.number] = event.address
        if not run.joined:
            return
        addresses = tuple(run.addresses[rank] for rank in range(run.size))
        if known:
            self._start(grant, addresses, effects)
            return
        self._timers.clear(Deadline.GANG, job.job_id)
        if (unreachable := self._unreachable(run)) is not None:
            self._jobs.fail(job, effects, UsageError.code, unreachable)
            return
        for member in self._leases.of_run(run):
            self._start(member, addresses, effects)
        self._jobs.progressed(job, effects)

    def join_due(self, job_id: str, effects: Effects) -> None:
        """Begin a gang again that has not met in time."""
        job = self._jobs.get(job_id)
        if job is None or not isinstance(job.run, GangRun):
            return
        missing = [grant for grant in self._leases.of_run(job.run) if not self._has_joined(grant)]
        if missing:
            seconds = self._settings.gang_join_seconds
            reason = f"did not join within {seconds:g} s"
            self._fail(missing[0], effects, Unavailable.code, reason, died=False)

    def _start(self, grant: Grant, addresses: tuple[str, ...], effects: Effects) -> None:
        worker = self._cluster.get(grant.worker_id)
        if worker is not None:
            effects.add(
                StartGang(
                    worker_id=grant.worker_id,
                    session=worker.session,
                    lease=grant.lease,
                    addresses=addresses,
                )
            )

    @staticmethod
    def _has_joined(grant: Grant) -> bool:
        return isinstance(grant.run, GangRun) and grant.unit.number in grant.run.addresses

    def _unreachable(self, run: GangRun) -> str | None:
        """Say which member the others cannot reach, None when all can."""
        workers = {unit.number: self._cluster.get(unit.worker_id) for unit in run.units}
        hosts = {worker.info.host for worker in workers.values() if worker is not None}
        if len(hosts) < 2:
            return None
        for rank, worker in sorted(workers.items()):
            if worker is not None and is_loopback(run.addresses[rank].rpartition(":")[0]):
                return (
                    f"{_gang(run)} runs on {len(hosts)} machines, and its member {rank}, on worker "
                    f"{worker.worker_id} on {worker.info.host}, listens at {run.addresses[rank]}, where only that "
                    "machine reaches it; start workers with --advertise-host, then resume the job"
                )
        return None

    # ---- results -----------------------------------------------------------------------------------------

    def finished(self, grant: Grant, result: TaskResult, result_json: str, effects: Effects) -> None:
        """Keep a member's result until all are there, and accept them together."""
        job, run = grant.job, grant.run
        assert isinstance(run, GangRun)
        run.results[grant.unit.number] = (result, result_json)
        if len(run.results) < run.size:
            # Not acknowledged: its worker keeps it, and sends it again to the next coordinator.
            self._jobs.progressed(job, effects)
            return
        self._timers.clear(Deadline.GANG, job.job_id)
        results, run.results = run.results, {}
        for member in list(self._leases.of_run(run)):
            self._leases.accept(member, *results[member.unit.number], effects)
        self._jobs.finish_units(job, effects)

    def failed(
        self, grant: Grant, effects: Effects, error_code: str, message: str, *, retryable: bool
    ) -> None:
        """Count a member's failure: another attempt of the gang, or the end of the job."""
        run = grant.run
        assert isinstance(run, GangRun)
        leaving = next((member for member in self._leases.of_run(run) if self._is_leaving(member)), None)
        self._leases.release(grant)
        effects.add(Acknowledge(worker_id=grant.worker_id, lease=grant.lease, accepted=False))
        if not retryable:
            grant.unit.failures += 1
            self._recall(grant.job, run, effects)
            self._jobs.fail(grant.job, effects, error_code, message)
        elif leaving is not None:
            # The others fail when the member of a worker that was told to end stops.
            self._begin_again(leaving, run, effects)
        else:
            self._fail(grant, effects, error_code, f"failed: {message}", died=False)

    def lost(self, grant: Grant, effects: Effects, reason: str) -> None:
        """Begin a gang again whose member went with its worker; one that was leaving is not to blame.

        Args:
            grant: What the worker held.
            effects: Where it goes.
            reason: What happened to the worker, as the end of a sentence that begins with its name.
        """
        if self._is_leaving(grant):
            self.put_back(grant, effects)
        elif self._leases.of_lease(grant.lease) is not None:
            self._fail(grant, effects, JobFailed.code, reason, died=True)

    def put_back(self, grant: Grant, effects: Effects) -> None:
        """Begin a gang again that nobody is to blame for."""
        run = grant.run
        assert isinstance(run, GangRun)
        if self._leases.of_lease(grant.lease) is not None:
            self._begin_again(grant, run, effects)

    # ---- beginning again ---------------------------------------------------------------------------------

    def _is_leaving(self, grant: Grant) -> bool:
        worker = self._cluster.get(grant.worker_id)
        return worker is not None and worker.draining

    def _begin_again(self, gone: Grant, run: GangRun, effects: Effects) -> None:
        """Call all members back because of one that nobody is to blame for."""
        self._recall(gone.job, run, effects)
        text = f"{_gang(run)} begins again: worker {gone.worker_id} no longer has member {gone.unit.number}"
        gone.job.notice(effects, text)

    def _fail(self, grant: Grant, effects: Effects, error_code: str, reason: str, *, died: bool) -> None:
        """Count an attempt of the gang as failed by one member; the last one allowed fails the job."""
        job, run, unit = grant.job, grant.run, grant.unit
        assert isinstance(run, GangRun)
        reason = f"member {unit.number} on worker {grant.worker_id} {reason}{self._broken(run, unit)}"
        run.tell_reason(f"attempt {grant.lease.attempt}: {reason}")
        if died:
            unit.deaths += 1
        else:
            unit.failures += 1
            run.avoided = grant.worker_id
        run.failed_at = effects.now
        self._recall(job, run, effects)
        limit = self._settings.attempts
        if run.failures < limit:
            job.notice(
                effects, f"{_gang(run)} begins again (failure {run.failures} of at most {limit}): {reason}"
            )
        else:
            message = f"{_gang(run)} failed {run.failures} times: {'; '.join(run.reasons)}"
            self._jobs.fail(job, effects, error_code, message)

    def _recall(self, job: Job, run: GangRun, effects: Effects) -> None:
        """Call every member back; what any of them still brings does not count."""
        for grant in list(self._leases.of_run(run)):
            self._leases.revoke(grant, effects)
        run.recall()
        for unit in run.units:
            save_unit(job, run, unit, effects)
        self._timers.clear(Deadline.GANG, job.job_id)
        self._jobs.progressed(job, effects)

    def _broken(self, run: GangRun, failed: Unit) -> str:
        """Say which other workers are not connected: a member that fails often does so for another one."""
        away = [
            f"member {grant.unit.number} on worker {grant.worker_id}"
            for grant in self._leases.of_run(run)
            if grant.unit is not failed
            and (worker := self._cluster.get(grant.worker_id)) is not None
            and not worker.connected
        ]
        return f" (not connected: {', '.join(away)})" if away else ""


def _gang(run: GangRun) -> str:
    return f"the gang of {run.size} of stage {run.stage.name!r}"
