"""A state machine driven by hand: events go in, instructions are compared; `Drive` is also its journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gdmix_core.config import config_to_json, parse_config
from gdmix_core.data.layout import DesignSpec
from gdmix_core.tasks import (
    EvaluateFixedEffect,
    FixedEffectEvaluated,
    RemoveWork,
    ShardInput,
    WorkRemoved,
    to_json,
)
from gdmix_server.state.events import (
    GangJoined,
    JobCancelRequested,
    JobDeleteRequested,
    JobResumeRequested,
    JobSubmitted,
    Tick,
    UnitFailed,
    UnitFinished,
    WorkerConnected,
    WorkerDisconnected,
    WorkerDraining,
    WorkerHeartbeat,
)
from gdmix_server.state.instructions import (
    Acknowledge,
    DeleteJob,
    Emit,
    Instruction,
    RevokeLease,
    SaveJob,
    SaveStage,
    SaveUnit,
    SendTask,
    StartGang,
    WakeAt,
)
from gdmix_server.state.machine import StateMachine
from gdmix_server.state.model import (
    FitProgress,
    FixedEffectOutcome,
    FixedEffectStage,
    GangStage,
    JobRow,
    Lease,
    StageRow,
    UnitRow,
    UnitStage,
    WorkerInfo,
)
from gdmix_server.state.settings import MachineSettings

CONFIG = config_to_json(
    parse_config(
        "model: m\n"
        "task: linear_regression\n"
        "data: {train: /data/train.parquet}\n"
        "features: {all: [x]}\n"
        "coordinates: {global: {fixed_effect: linear_regression, features: all}}\n"
        "output: /out\n"
    )
)
SETTINGS = MachineSettings(version="1.2.0")
REMOVED = to_json(WorkRemoved(seconds=0.5))


class Drive:
    """Feeds a state machine, keeps what it wants journaled, and checks every batch against the rules."""

    def __init__(self, program: Callable[..., Any], settings: MachineSettings = SETTINGS) -> None:
        self.program, self.settings = program, settings
        self.now, self.epoch = 1000.0, 1
        self.machine = StateMachine(self.epoch, program, settings, owner="journal")
        self.jobs: dict[str, JobRow] = {}
        self.stages: dict[tuple[str, str], StageRow] = {}
        self.units: dict[tuple[str, str, int], UnitRow] = {}
        self.sessions: dict[str, int] = {}
        self.threads: dict[str, int] = {}
        self.out: dict[int, SendTask] = {}
        """Tasks that were sent and neither revoked nor acknowledged, by fence."""
        self.gangs: dict[tuple[str, str], int] = {}
        """Sizes of the gangs that were sent, by job and stage."""
        self.told: dict[str, int] = {}
        self.wake: float | None = None
        self._session = 0
        self._fence = 0

    # ---- what happens ------------------------------------------------------------------------------------

    def submit(self, job_id: str = "j", request_id: str = "") -> list[Instruction]:
        return self.handle(
            JobSubmitted(
                now=self.now,
                job_id=job_id,
                request_id=request_id or f"request of {job_id}",
                config_json=CONFIG,
                model="m",
                output=f"/out/{job_id}",
            )
        )

    def cancel(self, job_id: str = "j") -> list[Instruction]:
        return self.handle(JobCancelRequested(now=self.now, job_id=job_id))

    def resume(self, job_id: str = "j") -> list[Instruction]:
        return self.handle(JobResumeRequested(now=self.now, job_id=job_id))

    def delete(self, job_id: str = "j") -> list[Instruction]:
        return self.handle(JobDeleteRequested(now=self.now, job_id=job_id))

    def connect(
        self,
        worker_id: str = "w",
        *,
        threads: int = 1,
        held: Sequence[Lease] = (),
        ready: bool = True,
        version: str = "1.2.9",
        fingerprint: str = "f" * 16,
        host: str = "here",
    ) -> list[Instruction]:
        self._session += 1
        self.sessions[worker_id], self.threads[worker_id] = self._session, threads
        worker = WorkerInfo(
            worker_id=worker_id,
            host=host,
            pid=1,
            threads=threads,
            version=version,
            fingerprint=fingerprint,
            ready=ready,
        )
        return self.handle(
            WorkerConnected(now=self.now, worker=worker, session=self._session, held=tuple(held))
        )

    def beat(
        self, worker_id: str = "w", *, ready: bool = True, rows: int = 0, fit: FitProgress | None = None
    ) -> list[Instruction]:
        session = self.sessions[worker_id]
        return self.handle(
            WorkerHeartbeat(
                now=self.now, worker_id=worker_id, session=session, ready=ready, rows_done=rows, fit=fit
            )
        )

    def disconnect(self, worker_id: str = "w") -> list[Instruction]:
        session = self.sessions[worker_id]
        return self.handle(WorkerDisconnected(now=self.now, worker_id=worker_id, session=session))

    def drain(self, worker_id: str = "w") -> list[Instruction]:
        session = self.sessions[worker_id]
        return self.handle(WorkerDraining(now=self.now, worker_id=worker_id, session=session))

    def finish(self, sent: SendTask, result_json: str = "") -> list[Instruction]:
        if isinstance(sent.task, EvaluateFixedEffect):
            result_json = result_json or to_json(FixedEffectEvaluated(seconds=0.1, rows=1))
        return self.handle(
            UnitFinished(
                now=self.now,
                worker_id=sent.worker_id,
                lease=sent.lease,
                result_json=result_json or REMOVED,
            )
        )

    def fail(
        self, sent: SendTask, message: str = "it broke", *, code: str = "internal", retryable: bool = True
    ) -> list[Instruction]:
        return self.handle(
            UnitFailed(
                now=self.now,
                worker_id=sent.worker_id,
                lease=sent.lease,
                error_code=code,
                message=message,
                retryable=retryable,
            )
        )

    def join(self, sent: SendTask, address: str = "") -> list[Instruction]:
        """Have a gang's member say where it listens."""
        address = address or f"127.0.0.1:{40000 + sent.lease.fence % 1000}"
        return self.handle(
            GangJoined(now=self.now, worker_id=sent.worker_id, lease=sent.lease, address=address)
        )

    def members(self, job_id: str = "j") -> list[SendTask]:
        """The members of a job's gang that are out, by rank."""
        out = [sent for sent in self.out.values() if sent.lease.job_id == job_id and sent.gang_size]
        return sorted(out, key=lambda sent: sent.lease.unit)

    def wait(self, seconds: float, *alive: str) -> list[Instruction]:
        """Let time pass as the interpreter does: a tick whenever one was wished for, heartbeats in between."""
        end, done = self.now + seconds, []
        while self.wake is not None and self.wake <= end:
            self.now, self.wake = max(self.now, self.wake), None
            for worker_id in alive:
                done += self.beat(worker_id)
            done += self.handle(Tick(now=self.now))
        self.now = end
        return done

    def restart(self) -> list[Instruction]:
        """Kill the coordinator; the next one knows what was journaled."""
        self.epoch += 1
        self.sessions.clear()
        self.out.clear()
        self.wake = None
        self.machine = StateMachine(self.epoch, self.program, self.settings, owner="journal")
        rows = (list(self.jobs.values()), list(self.stages.values()), list(self.units.values()))
        return self._take(self.machine.restore(rows, self.now))

    def handle(self, event: Any) -> list[Instruction]:
        return self._take(self.machine.handle(event))

    # ---- what is wanted ----------------------------------------------------------------------------------

    def sent_to(self, worker_id: str) -> list[SendTask]:
        """What a worker has to do, oldest first."""
        return [sent for _, sent in sorted(self.out.items()) if sent.worker_id == worker_id]

    def unit(self, number: int, stage: str = "only", job_id: str = "j") -> UnitRow:
        """A unit's row."""
        return self.units[job_id, stage, number]

    def job(self, job_id: str = "j") -> JobRow:
        """A job's row; the machine's own is the same, but for progress that was told since."""
        row, own = self.jobs[job_id], self.machine.job(job_id)
        assert replace(own, last_sequence=row.last_sequence) == row
        return row

    def work(self, *worker_ids: str) -> None:
        """Have workers finish what they are sent until nothing more comes."""
        while sent := [one for name in worker_ids for one in self.sent_to(name)]:
            for one in sent:
                self.finish(one)

    def _take(self, batch: list[Instruction]) -> list[Instruction]:
        saved = {(i.row.job_id, i.row.stage, i.row.unit): i.row for i in batch if isinstance(i, SaveUnit)}
        for instruction in batch:
            match instruction:
                case SaveJob(row=row):
                    self.jobs[row.job_id] = row
                case SaveStage(row=row):
                    self.stages[row.job_id, row.stage] = row
                case SaveUnit(row=row):
                    before = self.units.get((row.job_id, row.stage, row.unit))
                    assert before is None or not before.done, "what is done is never done again"
                    self.units[row.job_id, row.stage, row.unit] = row
                case SendTask(lease=lease):
                    self._check_lease(lease, instruction, saved)
                case RevokeLease(lease=lease):
                    assert not self.machine.is_current(lease)
                    self.out.pop(lease.fence, None)
                case Acknowledge(lease=lease, worker_id=worker_id):
                    sent = self.out.get(lease.fence)
                    if sent is not None and sent.worker_id == worker_id and sent.lease == lease:
                        assert not self.machine.is_current(lease)
                        del self.out[lease.fence]
                case StartGang(lease=lease, addresses=addresses):
                    assert len(addresses) == self.out[lease.fence].gang_size
                    revoked = {one.lease for one in batch if isinstance(one, RevokeLease)}
                    assert self.machine.is_current(lease) or lease in revoked
                case DeleteJob(job_id=job_id):
                    self._forget(job_id)
                case Emit(event=event):
                    assert event.sequence > self.told.get(event.job_id, 0), "sequence numbers rise"
                    self.told[event.job_id] = event.sequence
                case WakeAt(time=time):
                    self.wake = time
        for worker_id, threads in self.threads.items():
            assert len(self.sent_to(worker_id)) <= threads
        self._check_gangs()
        return batch

    def _check_gangs(self) -> None:
        """A gang is out as a whole or not at all, and done as a whole or not at all."""
        for (job_id, stage), size in self.gangs.items():
            rows = [row for key, row in self.units.items() if key[:2] == (job_id, stage)]
            leases = [row.lease for row in rows if row.lease is not None]
            assert len(leases) in {0, size}
            assert len({lease.attempt for lease in leases}) <= 1
            assert sum(row.done for row in rows) in {0, size}
            out = [sent.lease for sent in self.out.values() if sent.lease.stage == stage]
            assert all(lease in leases for lease in out if lease.job_id == job_id)

    def _check_lease(self, lease: Lease, sent: SendTask, saved: dict[Any, UnitRow]) -> None:
        assert lease.fence > self._fence, "fences rise, over restarts too"
        assert lease.epoch == self.epoch
        assert sent.session == self.sessions[sent.worker_id]
        self._fence = lease.fence
        if sent.gang_size:
            self.gangs[lease.job_id, lease.stage] = sent.gang_size
        # A later instruction of the batch may have ended it again.
        if self.machine.is_current(lease):
            self.out[lease.fence] = sent
        if not isinstance(sent.task, EvaluateFixedEffect):
            assert (lease.job_id, lease.stage, lease.unit) in saved, "a lease is journaled before it is sent"

    def _forget(self, job_id: str) -> None:
        del self.jobs[job_id], self.told[job_id]
        for rows in (self.stages, self.units):
            for key in [key for key in rows if key[0] == job_id]:
                del rows[key]


def units(name: str, count: int, *, rows: Sequence[int] = ()) -> UnitStage:
    """Return a stage of units."""
    tasks = tuple(RemoveWork(output="", directory=f"/{name}/{i}") for i in range(count))
    return UnitStage(name=name, title=f"doing {name}", units=tasks, rows=tuple(rows))


def gang(name: str, size: int) -> GangStage:
    """Return a stage of a gang."""
    tasks = tuple(RemoveWork(output="", directory=f"/{name}/{i}") for i in range(size))
    return GangStage(name=name, title=f"doing {name}", units=tasks)


def one_gang(size: int = 3) -> Callable[..., Any]:
    """Return a program of one gang, `fit`."""

    def program(job: Any) -> Any:
        outcome = yield gang("fit", size)
        assert len(set(outcome.directories)) == len(outcome.results) == size

    return program


def one_stage(count: int = 3, *, rows: Sequence[int] = ()) -> Callable[..., Any]:
    """Return a program of one stage, `only`."""

    def program(job: Any) -> Any:
        yield units("only", count, rows=rows)

    return program


def fixed_effect(rows: Sequence[int] = (10, 10, 10, 10), name: str = "fit") -> FixedEffectStage:
    """Return a fixed effect over shards of so many rows."""
    return FixedEffectStage(
        name=name,
        title=name,
        coordinate="global",
        pass_number=1,
        design=DesignSpec(name="global", bags=("all",), intercept=True),
        dimension=3,
        loss=1,
        shards=tuple(ShardInput(shard=k, directory=f"/{k}", scores=()) for k in range(len(rows))),
        shard_rows=tuple(rows),
        nonzeros=1,
        l2="prepare/l2",
        solver="newton",
        variance="none",
        max_iterations=50,
    )


OUTCOME = FixedEffectOutcome(
    status="converged",
    converged=True,
    iterations=3,
    evaluations=4,
    objective=1.5,
    gradient_norm=1e-9,
    gradient_ratio=0.5,
    has_variances=False,
    seconds=2.0,
)


def of(kind: type[Any], batch: Sequence[Instruction]) -> list[Any]:
    """Return a batch's instructions of one kind."""
    return [instruction for instruction in batch if isinstance(instruction, kind)]


def notices(batch: Sequence[Instruction]) -> list[str]:
    """Return what a batch tells people."""
    return [emit.event.notice for emit in of(Emit, batch) if emit.event.notice]


@pytest.fixture
def by_hand() -> SimpleNamespace:
    """The tools above."""
    return SimpleNamespace(
        Drive=Drive,
        SETTINGS=SETTINGS,
        OUTCOME=OUTCOME,
        units=units,
        gang=gang,
        one_gang=one_gang,
        one_stage=one_stage,
        fixed_effect=fixed_effect,
        of=of,
        notices=notices,
        with_settings=lambda **changes: replace(SETTINGS, **changes),
    )
