"""The interpreter with a machine that follows a script: what is done, in which order, and after failures."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gdmix_core.errors import Conflict, InternalError, Unavailable
from gdmix_core.tasks import RemoveWork
from gdmix_server.interpreter import Interpreter
from gdmix_server.journal import Journal
from gdmix_server.sessions import Farewell
from gdmix_server.state.events import (
    JobCancelRequested,
    JobDeleteRequested,
    JobSubmitted,
    Tick,
    UnitFinished,
    WorkerConnected,
    WorkerDisconnected,
    WorkerHeartbeat,
)
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    DeleteJob,
    DropCache,
    Emit,
    KeepArrays,
    RefuseWorker,
    RevokeLease,
    SaveJob,
    SaveStage,
    SaveUnit,
    SendTask,
    WakeAt,
)
from gdmix_server.state.model import JobEvent, JobRow, JobState, Lease, StageRow, UnitRow, WorkerInfo

PATIENCE_SECONDS = 20.0
LEASE = Lease(job_id="j", stage="s", unit=0, attempt=1, fence=1, epoch=1)
TASK = RemoveWork(output="/o", directory="/d")
SUBMITTED = JobSubmitted(now=0.0, job_id="j", request_id="r", config_json="{}", model="m", output="/o")
CANCEL = JobCancelRequested(now=0.0, job_id="j")


def job(state=JobState.RUNNING, output="/o"):
    return JobRow(
        job_id="j", request_id="r", config_json="{}", model="m", output=output, state=state, submitted=1.0
    )


def unit(*, done=False):
    return UnitRow(
        job_id="j", stage="s", unit=0, attempts=1, failures=0, deaths=0, lease=LEASE, worker_id="w", done=done
    )


def notice(sequence, *, keep=True):
    event = JobEvent(job_id="j", sequence=sequence, time=0.0, state=JobState.RUNNING, notice=f"n{sequence}")
    return Emit(event=event, keep=keep)


def worker(worker_id="w"):
    return WorkerInfo(worker_id=worker_id, host="h", pid=1, threads=1, version="1", fingerprint="f")


class Script:
    """A machine that answers every kind of event as it is told to; it is no mock of the real one's rules."""

    def __init__(self, answers=None, restored=()):
        self.answers = answers or {}
        self.restored = list(restored)
        self.handled = []
        self.current = set()
        self.snapshot = None

    def handle(self, event):
        self.handled.append(event)
        answer = self.answers.get(type(event), [])
        if isinstance(answer, Exception):
            raise answer
        return answer(event) if callable(answer) else list(answer)

    def restore(self, snapshot, now):
        self.snapshot = snapshot
        return self.restored

    def progress(self, job_id):
        return None

    def workers(self):
        return []

    def is_current(self, lease):
        return lease in self.current


@asynccontextmanager
async def interpreting(state_dir, script):
    journal = Journal(state_dir)
    interpreter = Interpreter(script, journal)
    try:
        await interpreter.start()
        yield interpreter
    finally:
        await interpreter.stop()
        journal.close()


def connected(session, *held):
    return WorkerConnected(now=0.0, worker=worker(), session=session.number, held=held)


async def heard(session, count):
    """Return the next messages of a session."""
    messages = session.outgoing()

    async def read():
        return [await anext(messages) for _ in range(count)]

    return await asyncio.wait_for(read(), PATIENCE_SECONDS)


def test_nothing_is_let_out_before_it_is_in_the_journal(state_dir):
    """A slow disk: while the transaction runs, nobody hears of the job, and nobody else has to wait."""

    async def run():
        script = Script({JobSubmitted: [SaveJob(row=job()), notice(1)], Tick: []})
        async with interpreting(state_dir, script) as interpreter:
            gate = threading.Event()
            interpreter._journal._thread.submit(gate.wait)
            request = asyncio.ensure_future(interpreter.request(SUBMITTED))
            for _ in range(50):
                await asyncio.sleep(0)
            assert script.handled == [SUBMITTED]
            assert not request.done()
            assert interpreter.jobs() == []
            gate.set()
            await request
            assert [row.job_id for row in interpreter.jobs()] == ["j"]
            assert interpreter.job_of_request("r").job_id == "j"
            return [event.notice async for event in _first(interpreter.stories.watch("j", 0), 1)]

    assert asyncio.run(run()) == ["n1"]


def test_what_waits_is_handled_as_one_batch_in_one_transaction(state_dir):
    async def run():
        script = Script({Tick: lambda event: [notice(int(event.now))], JobSubmitted: [SaveJob(row=job())]})
        async with interpreting(state_dir, script) as interpreter:
            commits = []
            commit = interpreter._journal.commit

            async def counted(instructions):
                commits.append(len(list(instructions)))
                await commit(instructions)

            interpreter._journal.commit = counted
            await interpreter.request(SUBMITTED)
            for number in range(1, 101):
                interpreter.post(Tick(now=float(number)))
            await interpreter.request(SUBMITTED)
            return commits, await interpreter._journal.kept_events("j", 0)

    commits, kept = asyncio.run(run())
    assert commits == [1, 101]
    assert [event.sequence for event in kept] == list(range(1, 101))


def test_a_refusal_goes_to_who_asked_and_to_nobody_else(state_dir):
    async def run():
        script = Script({JobCancelRequested: Conflict("it has ended"), JobSubmitted: [SaveJob(row=job())]})
        async with interpreting(state_dir, script) as interpreter:
            answers = await asyncio.gather(
                interpreter.request(CANCEL),
                interpreter.request(SUBMITTED),
                interpreter.request(CANCEL),
                return_exceptions=True,
            )
            interpreter.post(CANCEL)
            await interpreter.request(SUBMITTED)
            return answers, interpreter.failed.done()

    answers, failed = asyncio.run(run())
    assert [str(answer) for answer in answers] == ["it has ended", "None", "it has ended"]
    assert not failed


@pytest.mark.parametrize("what", ["machine", "journal"])
def test_what_must_not_happen_ends_the_coordinator(state_dir, what, caplog):
    async def run():
        broken = ValueError("a fault") if what == "machine" else [SaveJob(row=job()), SaveJob(row=_twin())]
        script = Script({JobSubmitted: broken})
        async with interpreting(state_dir, script) as interpreter:
            requests = [interpreter.request(SUBMITTED), interpreter.request(CANCEL)]
            answers = await asyncio.gather(*requests, return_exceptions=True)
            with pytest.raises(InternalError):
                await asyncio.wait_for(asyncio.shield(interpreter.failed), PATIENCE_SECONDS)
            with pytest.raises(Unavailable):
                await interpreter.request(CANCEL)
            return answers, interpreter.jobs()

    answers, jobs = asyncio.run(run())
    assert all(isinstance(answer, InternalError) for answer in answers)
    assert jobs == []
    assert "the coordinator cannot go on" in caplog.text


def _twin():
    return JobRow(
        job_id="k",
        request_id="r",
        config_json="{}",
        model="m",
        output="/o",
        state=JobState.RUNNING,
        submitted=1.0,
    )


def test_a_restart_hands_the_machine_its_rows(state_dir):
    async def run():
        rows = [
            SaveJob(row=job()),
            SaveUnit(row=unit()),
            SaveStage(row=StageRow(job_id="j", stage="s", started=1.0)),
        ]
        async with interpreting(state_dir, Script({JobSubmitted: [*rows, notice(1)]})) as interpreter:
            await interpreter.request(SUBMITTED)
        script = Script(restored=[notice(1_000_002)])
        async with interpreting(state_dir, script) as interpreter:
            events = [event.sequence async for event in _first(interpreter.stories.watch("j", 0), 2)]
            return script.snapshot, events, interpreter.job("j")

    snapshot, events, row = asyncio.run(run())
    assert snapshot == ((job(),), (StageRow(job_id="j", stage="s", started=1.0),), (unit(),))
    assert events == [1, 1_000_002]
    assert row == job()


def test_workers_are_told_by_session_or_by_name(state_dir):
    async def run():
        answers = {
            WorkerConnected: lambda event: [AcceptWorker(worker_id="w", session=event.session)],
            WorkerHeartbeat: lambda event: [
                SendTask(worker_id="w", session=event.session, lease=LEASE, task=TASK),
                RevokeLease(worker_id="w", session=event.session, lease=LEASE),
                Acknowledge(worker_id="w", lease=LEASE, accepted=True),
                DropCache(worker_id="w", prefix="p"),
                DropCache(worker_id="nobody", prefix="p"),
                SendTask(worker_id="w", session=999, lease=LEASE, task=TASK),
            ],
        }
        async with interpreting(state_dir, Script(answers)) as interpreter:
            session = interpreter.sessions.open()
            session.receive(connected(session))
            session.receive(WorkerHeartbeat(now=0.0, worker_id="w", session=session.number, ready=True))
            kinds = [type(message).__name__ for message in await heard(session, 5)]
            interpreter.sessions.end("bye")
            with pytest.raises(Unavailable, match="bye"):
                interpreter.sessions.open()
            return kinds, await heard(session, 1)

    kinds, last = asyncio.run(run())
    assert kinds == ["AcceptWorker", "SendTask", "RevokeLease", "Acknowledge", "DropCache"]
    assert last == [Farewell("bye")]


def test_a_refused_worker_is_not_missed(state_dir):
    async def run():
        refuse = lambda event: [RefuseWorker(worker_id="w", session=event.session, reason="version 99")]  # noqa: E731
        script = Script({WorkerConnected: refuse})
        async with interpreting(state_dir, script) as interpreter:
            session = interpreter.sessions.open()
            session.receive(connected(session))
            with pytest.raises(Conflict, match="version 99"):
                await heard(session, 1)
            session.closed()
            await interpreter.request(Tick(now=0.0))
            return [type(event) for event in script.handled], interpreter.sessions.of_worker("w")

    assert asyncio.run(run()) == ([WorkerConnected, Tick], None)


def test_a_broken_session_is_told_once_and_only_if_it_was_a_workers(state_dir):
    async def run():
        script = Script()
        async with interpreting(state_dir, script) as interpreter:
            stranger, session = interpreter.sessions.open(), interpreter.sessions.open()
            session.receive(connected(session))
            for closed in (stranger, session, session):
                closed.closed()
            await interpreter.request(Tick(now=0.0))
            return script.handled

    handled = asyncio.run(run())
    assert [type(event) for event in handled] == [WorkerConnected, WorkerDisconnected, Tick]


def test_arrays_are_on_disk_before_their_unit_is_done(state_dir):
    async def run():
        finish = [
            KeepArrays(lease=LEASE),
            SaveUnit(row=unit(done=True)),
            Acknowledge(worker_id="w", lease=LEASE, accepted=True),
        ]
        script = Script({UnitFinished: finish})
        async with interpreting(state_dir, script) as interpreter:
            interpreter.arrays.grant(LEASE)
            with interpreter.arrays.push(LEASE, "a", "<f8", [2]) as push:
                push.append(np.arange(2.0).tobytes())
                push.finish()
            path = state_dir / "jobs" / "j" / "arrays" / "s" / "a.npy"
            there = []
            commit = interpreter._journal.commit

            async def looking(instructions):
                there.append(path.exists())
                await commit(instructions)

            interpreter._journal.commit = looking
            await interpreter.request(UnitFinished(now=0.0, worker_id="w", lease=LEASE, result_json="{}"))
            return there, interpreter.arrays.used_bytes, interpreter.arrays.stands(LEASE)

    assert asyncio.run(run()) == ([True], 0, False)


def test_a_refused_result_takes_its_arrays_with_it(state_dir):
    async def run():
        script = Script({UnitFinished: [Acknowledge(worker_id="w", lease=LEASE, accepted=False)]})
        async with interpreting(state_dir, script) as interpreter:
            interpreter.arrays.grant(LEASE)
            with interpreter.arrays.push(LEASE, "a", "<f8", [2]) as push:
                push.append(bytes(16))
                push.finish()
            await interpreter.request(UnitFinished(now=0.0, worker_id="w", lease=LEASE, result_json="{}"))
            return interpreter.arrays.used_bytes

    assert asyncio.run(run()) == 0


def test_leases_that_a_worker_brings_stand_if_they_count(state_dir):
    async def run():
        other = Lease(job_id="j", stage="s", unit=1, attempt=1, fence=2, epoch=1)
        script = Script({WorkerConnected: lambda event: [AcceptWorker(worker_id="w", session=event.session)]})
        script.current = {LEASE}
        async with interpreting(state_dir, script) as interpreter:
            session = interpreter.sessions.open()
            session.receive(connected(session, LEASE, other))
            await heard(session, 1)
            return interpreter.arrays.stands(LEASE), interpreter.arrays.stands(other)

    assert asyncio.run(run()) == (True, False)


def test_timers_replace_each_other(state_dir):
    async def run():
        ticked = asyncio.Event()

        def tick(event):
            ticked.set()
            return []

        script = Script({JobSubmitted: [WakeAt(time=5_000.0), WakeAt(time=1_000.02)], Tick: tick})
        journal = Journal(state_dir)
        interpreter = Interpreter(script, journal, clock=lambda: 1_000.0)
        await interpreter.start()
        await interpreter.request(SUBMITTED)
        await asyncio.wait_for(ticked.wait(), PATIENCE_SECONDS)
        await interpreter.stop()
        journal.close()
        return [event.now for event in script.handled if isinstance(event, Tick)]

    assert asyncio.run(run()) == [1_000.0]


def test_an_ended_job_gives_its_memory_back_and_a_deleted_one_its_disk(state_dir, tmp_path):
    working = tmp_path / "out" / ".gdmix" / "jobs" / "j"
    working.mkdir(parents=True)
    (working / "file").write_text("x")

    async def run():
        row = job(JobState.SUCCEEDED, output=str(tmp_path / "out"))
        script = Script({JobSubmitted: [SaveJob(row=row)], JobDeleteRequested: [DeleteJob(job_id="j")]})
        async with interpreting(state_dir, script) as interpreter:
            interpreter.arrays.grant(LEASE)
            interpreter.arrays.share("j", "s/theta@1", np.ones(3))
            interpreter.arrays.save("j", "s/a", np.ones(3))
            await interpreter.request(SUBMITTED)
            assert interpreter.arrays.used_bytes == 0
            await interpreter.request(JobDeleteRequested(now=0.0, job_id="j"))
            assert interpreter.jobs() == []
            assert interpreter.job_of_request("r") is None

    asyncio.run(run())
    assert not working.exists()
    assert working.parent.exists()
    assert not (state_dir / "jobs" / "j").exists()


async def _first(events, count):
    """Yield the first events of a watcher."""
    async for event in events:
        yield event
        count -= 1
        if not count:
            return
