"""Workers come, are heard of, fall silent, leave, and come back."""

from __future__ import annotations

from gdmix_server.state.effects import Effects
from gdmix_server.state.events import WorkerConnected, WorkerDisconnected, WorkerDraining, WorkerHeartbeat
from gdmix_server.state.instructions import AcceptWorker, Acknowledge, DropCache, RefuseWorker, RevokeLease
from gdmix_server.state.job_book import JobBook
from gdmix_server.state.leases import LeaseTable
from gdmix_server.state.model import WorkerInfo
from gdmix_server.state.results import Results
from gdmix_server.state.rounds import FixedEffectRun
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.timers import Deadline, Timers
from gdmix_server.state.workers import Cluster, Worker


class Sessions:
    """The workers' comings and goings, and what they mean for the leases they hold."""

    def __init__(
        self,
        *,
        settings: MachineSettings,
        cluster: Cluster,
        leases: LeaseTable,
        jobs: JobBook,
        results: Results,
        timers: Timers,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._leases = leases
        self._jobs = jobs
        self._results = results
        self._timers = timers

    def connected(self, event: WorkerConnected, effects: Effects) -> None:
        """Take in a worker, new or back, and settle which of its leases still count."""
        refusal = self._refusal(event.worker)
        worker_id, session = event.worker.worker_id, event.session
        if refusal:
            effects.add(RefuseWorker(worker_id=worker_id, session=session, reason=refusal))
            return
        before = self._cluster.get(worker_id)
        held_before = self._leases.of_worker(before) if before is not None else []
        worker = self._cluster.register(event.worker, session, effects.now)
        self._timers.clear(Deadline.RECONNECT, worker_id)
        self._timers.set(Deadline.SILENCE, worker_id, effects.now + self._settings.lease_seconds)
        effects.add(AcceptWorker(worker_id=worker_id, session=session))
        for lease in event.held:
            grant = self._leases.current(lease, worker_id)
            if grant is not None:
                self._leases.adopt(grant, worker)
            elif self._results.was_accepted(lease.job_id, lease.fence):
                effects.add(Acknowledge(worker_id=worker_id, lease=lease, accepted=True))
            else:
                effects.add(RevokeLease(worker_id=worker_id, session=session, lease=lease))
        # What it had before a restart it may never have been sent: nobody died of that.
        self._results.put_back(self._leases.awaited(worker_id), effects)
        missing = [grant for grant in held_before if grant.lease.fence not in worker.fences]
        self._results.lose(missing, effects, "came back without what it was working on")
        self._drop_stale_caches(worker, effects)

    def heard(self, event: WorkerHeartbeat, effects: Effects) -> None:
        """Take note that a worker is alive, and of what it has done."""
        worker = self._cluster.in_session(event.worker_id, event.session)
        if worker is None:
            return
        if worker.silent:
            worker.silent = False
            self._timers.set(Deadline.SILENCE, worker.worker_id, effects.now + self._settings.lease_seconds)
        worker.heard = effects.now
        worker.ready = event.ready
        self._cluster.update(worker)
        done = event.rows_done, event.entities_done, event.fit
        if done != (worker.rows_done, worker.entities_done, worker.fit):
            worker.rows_done, worker.entities_done, worker.fit = done
            jobs = {grant.job.job_id: grant.job for grant in self._leases.of_worker(worker)}
            for job in jobs.values():
                self._jobs.progressed(job, effects)

    def draining(self, event: WorkerDraining) -> None:
        """Give a worker no more units."""
        worker = self._cluster.in_session(event.worker_id, event.session)
        if worker is not None:
            worker.draining = True
            self._cluster.update(worker)

    def disconnected(self, event: WorkerDisconnected, effects: Effects) -> None:
        """Wait a little for a worker whose session broke; let one that was done and leaving go."""
        worker = self._cluster.in_session(event.worker_id, event.session)
        if worker is None:
            return
        worker.connected = False
        self._cluster.update(worker)
        self._timers.clear(Deadline.SILENCE, worker.worker_id)
        if worker.draining and not worker.fences:
            self._cluster.remove(worker)
        else:
            seconds = self._settings.reconnect_seconds
            self._timers.set(Deadline.RECONNECT, worker.worker_id, effects.now + seconds)

    # ---- deadlines ---------------------------------------------------------------------------------------

    def silence_due(self, worker_id: str, effects: Effects) -> None:
        """Take the units of a worker that was not heard of; a heartbeat later makes it useful again."""
        worker = self._cluster.get(worker_id)
        if worker is None or not worker.connected or worker.silent:
            return
        deadline = worker.heard + self._settings.lease_seconds
        if deadline > effects.now:
            self._timers.set(Deadline.SILENCE, worker_id, deadline)
            return
        worker.silent = True
        self._cluster.update(worker)
        reason = f"was silent for {self._settings.lease_seconds:g} s"
        self._results.lose(self._leases.of_worker(worker), effects, reason)

    def reconnect_due(self, worker_id: str, effects: Effects) -> None:
        """Give up a worker that did not come back."""
        worker = self._cluster.get(worker_id)
        if worker is None or worker.connected:
            return
        lost = self._leases.of_worker(worker)
        worker.silent = True
        self._cluster.update(worker)
        self._results.lose(
            lost, effects, f"was lost (no connection for {self._settings.reconnect_seconds:g} s)"
        )
        self._cluster.remove(worker)

    def grace_due(self, effects: Effects) -> None:
        """Put back what nobody announced after a restart."""
        self._results.put_back(self._leases.awaited(), effects)

    def excuse(self, seconds: float) -> None:
        """Count no silence against workers while the coordinator itself stood still."""
        for worker in self._cluster:
            worker.heard += seconds

    # ---- registration ------------------------------------------------------------------------------------

    def _refusal(self, info: WorkerInfo) -> str:
        ours = self._settings.version
        if _series(info.version) != _series(ours):
            return (
                f"worker {info.worker_id} runs gdmix {info.version}, this coordinator {ours}: install the "
                "same major and minor version on both"
            )
        if info.threads < 1:
            return f"worker {info.worker_id} offers {info.threads} threads; at least 1 is needed"
        return ""

    def _drop_stale_caches(self, worker: Worker, effects: Effects) -> None:
        if not worker.caches:
            return
        active = {job.run.cache_key for job in self._jobs.active if isinstance(job.run, FixedEffectRun)}
        for key in sorted(worker.caches - active):
            worker.caches.discard(key)
            effects.add(DropCache(worker_id=worker.worker_id, prefix=key))


def _series(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
