"""Which unit goes to which worker, and what a job does that finds no worker at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from gdmix_core.errors import Unavailable
from gdmix_server.state.effects import Effects
from gdmix_server.state.gangs import GangRun
from gdmix_server.state.instructions import SendTask
from gdmix_server.state.job_book import JobBook
from gdmix_server.state.jobs import Job
from gdmix_server.state.leases import LeaseTable, output_directory, save_unit
from gdmix_server.state.model import JobState
from gdmix_server.state.rounds import FixedEffectRun, StageRun
from gdmix_server.state.settings import MachineSettings
from gdmix_server.state.timers import Deadline, Timers
from gdmix_server.state.units import Unit, UnitStageRun
from gdmix_server.state.workers import Cluster, Worker


class Scheduler:
    """Hands waiting units to free slots: those of the oldest job first, the rest to younger jobs.

    A gang takes all its slots at once. While it waits, and the workers that are there could take it, what is free
    is kept for it: younger jobs get nothing. It holds nothing itself, so that two gangs cannot wait for each other.
    """

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
        self._lonely: set[str] = set()

    def schedule(self, effects: Effects) -> None:
        """Hand out what can be handed out."""
        for job in self._jobs.active:
            if self._cluster.pick(job.row.fingerprint) is None:
                return
            run = job.run
            if run is None or not run.waiting:
                continue
            if not isinstance(run, GangRun):
                self._serve(job, run, effects)
            elif not self._serve_gang(job, run, effects) and run.size <= self._cluster.slots:
                return

    def watch_for_workers(self, effects: Effects) -> None:
        """Warn jobs that want a worker when there is none, and begin to count their patience."""
        if self._cluster.any_present or self._timers.has(Deadline.GRACE, ""):
            for job_id in self._lonely:
                self._timers.clear(Deadline.WAIT, job_id)
            self._lonely.clear()
            self._tell_short_gangs(effects)
            return
        self._lonely.intersection_update(job.job_id for job in self._jobs.active)
        for job in self._jobs.active:
            wanting = job.run is not None and job.run.waiting
            if wanting and job.job_id not in self._lonely:
                self._lonely.add(job.job_id)
                seconds = self._settings.workers_wait_seconds
                job.notice(effects, f"no worker is connected; waiting up to {seconds:g} s")
                self._timers.set(Deadline.WAIT, job.job_id, effects.now + seconds)

    def give_up(self, job_id: str, effects: Effects) -> None:
        """Fail a job that found no worker for too long."""
        self._lonely.discard(job_id)
        job = self._jobs.get(job_id)
        if job is None or job.row.state.ended:
            return
        seconds = self._settings.workers_wait_seconds
        message = f"no worker was connected for {seconds:g} s; start workers, then resume the job"
        self._jobs.fail(job, effects, Unavailable.code, message)

    def _tell_short_gangs(self, effects: Effects) -> None:
        """Tell jobs once whose gang is larger than what the workers run side by side."""
        if self._timers.has(Deadline.GRACE, ""):
            return
        for job in self._jobs.active:
            run = job.run
            if isinstance(run, GangRun) and run.waiting and not run.told_short:
                slots = self._cluster.slots
                if slots < run.size:
                    run.told_short = True
                    text = (
                        f"the gang of {run.size} of stage {run.stage.name!r} needs {run.size} free slots; {slots} "
                        "are connected: it waits for more workers"
                    )
                    job.notice(effects, text)

    def _serve_gang(self, job: Job, run: GangRun, effects: Effects) -> bool:
        """Hand out a whole gang; return False when it has to wait."""
        workers = self._cluster.spread(
            run.size,
            job.row.fingerprint,
            avoided=run.avoided,
            heard_since=run.failed_at,
            full=self._full_of_gangs(),
        )
        if not workers:
            return False
        run.told_short = False
        for unit, worker in zip(run.units, workers, strict=True):
            self._hand_out(job, run, unit, worker, effects)
        self._jobs.await_gang(job, effects)
        self._jobs.progressed(job, effects)
        return True

    def _full_of_gangs(self) -> set[str]:
        """Return the workers whose every slot a gang has, which may be for hours."""
        runs = (job.run for job in self._jobs.active)
        members = Counter(
            unit.worker_id for run in runs if isinstance(run, GangRun) for unit in run.running.values()
        )
        workers = ((self._cluster.get(name), count) for name, count in members.items())
        return {worker.worker_id for worker, count in workers if worker and count >= worker.info.threads}

    def _serve(self, job: Job, run: UnitStageRun | FixedEffectRun, effects: Effects) -> None:
        if isinstance(run, FixedEffectRun) and run.wants_plan:
            run.plan(self._cluster.usable_workers())
        refused: set[str] = set()
        while run.waiting:
            worker = self._cluster.pick(job.row.fingerprint, refused)
            if worker is None:
                return
            unit = run.take(worker.worker_id, self._cluster.usable > 1)
            if unit is None:
                # Only failed units wait, and they want another worker than this one.
                refused.add(worker.worker_id)
            else:
                self._hand_out(job, run, unit, worker, effects)

    def _hand_out(self, job: Job, run: StageRun, unit: Unit, worker: Worker, effects: Effects) -> None:
        self._jobs.start_stage_clock(job, effects)
        lease = self._leases.grant(job, run, unit, worker)
        if job.row.state is JobState.QUEUED:
            if job.row.started is None:
                job.change(effects, started=effects.now)
            job.set_state(effects, JobState.RUNNING)
        self._compare_numerics(job, worker, effects)
        if isinstance(run, FixedEffectRun):
            worker.caches.add(run.cache_key)
        save_unit(job, run, unit, effects)
        effects.add(
            SendTask(
                worker_id=worker.worker_id,
                session=worker.session,
                lease=lease,
                task=replace(unit.task, output=output_directory(job, lease)),
                arrays=run.arrays,
                gang_size=run.size if isinstance(run, GangRun) else 0,
            )
        )

    @staticmethod
    def _compare_numerics(job: Job, worker: Worker, effects: Effects) -> None:
        fingerprint = worker.info.fingerprint
        if not job.row.fingerprint:
            job.change(effects, fingerprint=fingerprint)
        elif job.row.fingerprint != fingerprint and job.row.reproducible:
            job.change(effects, reproducible=False)
            text = (
                f"worker {worker.worker_id} on {worker.info.host} has other numerics than the job began with "
                f"(fingerprint {fingerprint}, not {job.row.fingerprint}): the model is not reproducible to the "
                "last bit; use alike machines and versions, or GDMIX_CPU_TARGET"
            )
            job.notice(effects, text)
