"""Leases: who may deliver which unit. A result counts only while its lease is the unit's current one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdmix_core.tasks import TaskResult
from gdmix_server.state.effects import Effects
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.instructions import Acknowledge, KeepArrays, RevokeLease, SaveUnit
from gdmix_server.state.jobs import Job
from gdmix_server.state.model import Lease
from gdmix_server.state.rounds import StageRun
from gdmix_server.state.units import Unit, UnitsRun, UnitStageRun
from gdmix_server.state.workers import Cluster, Worker


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """A current lease and what it is of."""

    lease: Lease
    worker_id: str
    job: Job
    run: StageRun
    unit: Unit


def output_directory(job: Job, lease: Lease) -> str:
    """Return the directory that an attempt writes to; no other attempt ever has the same."""
    return f"{job.work_directory}/{lease.stage}/u{lease.unit:05d}-a{lease.attempt}-f{lease.fence}"


def save_unit(job: Job, run: StageRun, unit: Unit, effects: Effects) -> None:
    """Have a unit's row journaled, if its stage's are."""
    if run.journaled:
        row = unit.row(job.job_id, run.stage.name)
        job.record.units.setdefault(run.stage.name, {})[unit.number] = row
        effects.add(SaveUnit(row=row))


class LeaseTable:
    """All current leases, by fence."""

    __slots__ = ("_awaited", "_cluster", "_epoch", "_fences", "_grants")

    def __init__(self, epoch: int, cluster: Cluster) -> None:
        self._epoch = epoch
        self._fences = epoch << 32
        self._cluster = cluster
        self._grants: dict[int, Grant] = {}
        # Leases of before a restart whose workers have not announced them yet, by worker.
        self._awaited: dict[str, dict[int, Grant]] = {}

    def grant(self, job: Job, run: StageRun, unit: Unit, worker: Worker) -> Lease:
        """Lease a unit to a worker."""
        # The epoch in the upper half makes fences rise over restarts without being journaled.
        self._fences += 1
        unit.attempts += 1
        lease = Lease(
            job_id=job.job_id,
            stage=run.stage.name,
            unit=unit.number,
            attempt=unit.attempts,
            fence=self._fences,
            epoch=self._epoch,
        )
        unit.lease, unit.worker_id = lease, worker.worker_id
        self._enter(Grant(lease, worker.worker_id, job, run, unit))
        worker.fences.add(lease.fence)
        self._cluster.update(worker)
        return lease

    def restore(self, job: Job, run: UnitStageRun | GangRun, unit: Unit) -> None:
        """Hold a lease of before a restart for the worker that had it."""
        assert unit.lease is not None
        grant = Grant(unit.lease, unit.worker_id, job, run, unit)
        self._enter(grant)
        self._awaited.setdefault(grant.worker_id, {})[grant.lease.fence] = grant

    def adopt(self, grant: Grant, worker: Worker) -> None:
        """Give a worker that announced its lease the lease back."""
        self._forget_awaited(grant)
        worker.fences.add(grant.lease.fence)
        self._cluster.update(worker)

    def awaited(self, worker_id: str | None = None) -> list[Grant]:
        """Return the leases of before a restart that were not announced yet, of one worker or of all."""
        if worker_id is not None:
            return list(self._awaited.get(worker_id, {}).values())
        return [grant for grants in self._awaited.values() for grant in grants.values()]

    def current(self, lease: Lease, worker_id: str) -> Grant | None:
        """Return the grant if the lease is current and the worker's own."""
        grant = self._grants.get(lease.fence)
        return grant if grant is not None and grant.lease == lease and grant.worker_id == worker_id else None

    def of_lease(self, lease: Lease) -> Grant | None:
        """Return the grant if the lease is current."""
        grant = self._grants.get(lease.fence)
        return grant if grant is not None and grant.lease == lease else None

    def of_worker(self, worker: Worker) -> list[Grant]:
        """Return what a worker holds, oldest first."""
        return [self._grants[fence] for fence in sorted(worker.fences)]

    def of_run(self, run: StageRun) -> Iterator[Grant]:
        """Return what is out of a stage, oldest first."""
        return (self._grants[fence] for fence in sorted(run.running))

    def release(self, grant: Grant) -> None:
        """End a lease."""
        fence = grant.lease.fence
        del self._grants[fence]
        grant.run.running.pop(fence, None)
        self._forget_awaited(grant)
        worker = self._cluster.get(grant.worker_id)
        if worker is not None:
            worker.fences.discard(fence)
            self._cluster.update(worker)

    def finish(self, grant: Grant) -> None:
        """End a lease whose result counts."""
        self.release(grant)
        worker = self._cluster.get(grant.worker_id)
        if worker is not None:
            # Its next heartbeat counts without this unit, whose rows are counted as done from now on.
            worker.rows_done = worker.entities_done = 0
            worker.fit = None

    def accept(self, grant: Grant, result: TaskResult, result_json: str, effects: Effects) -> None:
        """End a lease whose unit is done; `grant` MUST be of a stage of units."""
        job, run, unit, lease = grant.job, grant.run, grant.unit, grant.lease
        assert isinstance(run, UnitsRun)
        self.finish(grant)
        unit.directory = output_directory(job, lease)
        unit.result_json = result_json
        run.accept(unit, result)
        job.accepted.add(lease.fence)
        effects.add(KeepArrays(lease=lease))
        save_unit(job, run, unit, effects)
        effects.add(Acknowledge(worker_id=grant.worker_id, lease=lease, accepted=True))

    def revoke(self, grant: Grant, effects: Effects) -> None:
        """End a lease and tell its worker to stop."""
        self.release(grant)
        worker = self._cluster.get(grant.worker_id)
        session = worker.session if worker is not None else 0
        effects.add(RevokeLease(worker_id=grant.worker_id, session=session, lease=grant.lease))

    def _enter(self, grant: Grant) -> None:
        self._grants[grant.lease.fence] = grant
        grant.run.running[grant.lease.fence] = grant.unit

    def _forget_awaited(self, grant: Grant) -> None:
        awaited = self._awaited.get(grant.worker_id)
        if awaited is not None:
            awaited.pop(grant.lease.fence, None)
            if not awaited:
                del self._awaited[grant.worker_id]
