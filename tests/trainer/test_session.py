"""The session with a coordinator, over real gRPC: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from gdmix_core.errors import Cancelled, Conflict, NotPermitted
from gdmix_proto.v1 import worker_pb2 as wire
from gdmix_trainer.context import TaskContext
from gdmix_trainer.executor import UnitExecutor
from gdmix_trainer.gang import Meeting
from gdmix_trainer.messages import Identity
from gdmix_trainer.rpc import Endpoint, connector
from gdmix_trainer.session import Connection, WorkerSession

LEASE = wire.Lease(job_id="j", stage="s", unit=3, attempt=1, fence=7, epoch=1)
OTHER = wire.Lease(job_id="j", stage="s", unit=4, attempt=1, fence=8, epoch=1)
RESULT = '{"rows": 1}'


def work(kind: str, task_json: str, context: TaskContext) -> str:
    """The usual unit of these tests: one small array and a result."""
    context.push("sums", np.arange(6.0).reshape(2, 3))
    return RESULT


class Running:
    """A session with its executor on this test's loop."""

    def __init__(self, port: int, run: Callable[[str, str, TaskContext], str], threads: int) -> None:
        loop = asyncio.get_running_loop()
        self.announced: list[str] = []
        self.executor = UnitExecutor(
            threads,
            run,
            lambda lease, name: asyncio.run_coroutine_threadsafe(self.session.pull(lease, name), loop),
            lambda outcome: loop.call_soon_threadsafe(self.session.finished, outcome),
            Meeting(
                "127.0.0.1",
                lambda lease, address: asyncio.run_coroutine_threadsafe(
                    self.session.join(lease, address), loop
                ),
            ),
        )
        identity = Identity(
            worker_id="w1",
            host="h",
            pid=1,
            threads=threads,
            version="0.1.0",
            fingerprint="f",
            data_roots=("/d",),
        )
        self.tries = 0
        connect = connector(Endpoint(target=f"127.0.0.1:{port}", metadata=(("authorization", "Bearer t"),)))

        async def counted() -> Connection:
            self.tries += 1
            return await connect()

        self.session = WorkerSession(
            identity,
            counted,
            self.executor,
            announce=self.announced.append,
            first_delay_seconds=0.01,
            longest_delay_seconds=0.05,
        )
        self.executor.start()


@asynccontextmanager
async def running(
    coordinator: Any, run: Callable[[str, str, TaskContext], str] = work, threads: int = 1, start: bool = True
) -> AsyncIterator[Running]:
    """A worker session at a coordinator, both ended at the end of the test."""
    if start:
        await coordinator.start()
    worker = Running(coordinator.port, run, threads)
    task = asyncio.create_task(worker.session.run())
    try:
        yield worker
    finally:
        await worker.session.stop(0.0)
        await task
        await coordinator.stop()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds; `play` bounds the time."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_registers_and_says_at_once_when_it_is_ready(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator, threads=2) as worker:
            register = await coordinator.expect("register")
            assert (register.worker_id, register.threads, register.version) == ("w1", 2, "0.1.0")
            assert not register.ready
            assert not register.held
            assert list(register.data_roots) == ["/d"]
            assert coordinator.metadata["authorization"] == "Bearer t"
            await coordinator.heartbeat(lambda beat: not beat.ready)
            worker.session.set_ready()  # the next regular heartbeat would be 30 s away
            await coordinator.heartbeat(lambda beat: beat.ready)
            await until(lambda: "ready" in worker.announced)
            assert worker.announced == ["registered", "ready"]

    play(scenario())


def test_arrays_arrive_before_the_result_and_both_are_kept_until_acknowledged(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator) as worker:
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            finished = await coordinator.expect("unit_finished")
            assert (finished.lease, finished.result_json) == (LEASE, RESULT)
            np.testing.assert_array_equal(coordinator.pushed[7, "sums"], np.arange(6.0).reshape(2, 3))
            assert len(worker.session.held) == 1
            coordinator.acknowledge(LEASE)
            coordinator.end_session()
            assert not (await coordinator.expect("register")).held

    play(scenario())


def test_sends_again_what_was_not_acknowledged(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            await coordinator.expect("unit_finished")
            coordinator.pushed.clear()
            coordinator.end_session()
            assert list((await coordinator.expect("register")).held) == [LEASE]
            again = await coordinator.expect("unit_finished")
            assert (again.lease, again.result_json) == (LEASE, RESULT)
            assert (7, "sums") in coordinator.pushed

    play(scenario())


def test_a_killed_coordinator_that_comes_back_gets_the_result(coordinator: Any) -> None:
    go = threading.Event()

    def slow(kind: str, task_json: str, context: TaskContext) -> str:
        assert go.wait(20)
        return work(kind, task_json, context)

    async def scenario() -> None:
        async with running(coordinator, slow):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            await coordinator.heartbeat(lambda beat: True)
            await coordinator.stop()
            go.set()
            await coordinator.start()
            assert list((await coordinator.expect("register")).held) == [LEASE]
            assert (await coordinator.expect("unit_finished")).lease == LEASE

    play(scenario())


def test_waits_for_a_coordinator_that_is_not_there_yet(coordinator: Any) -> None:
    async def scenario() -> None:
        await coordinator.start()
        await coordinator.stop()  # the port is known now, and nobody listens
        async with running(coordinator, start=False) as worker:
            await until(lambda: worker.tries >= 3)
            await coordinator.start()
            await coordinator.expect("register")

    play(scenario())


def test_a_revoked_unit_is_cancelled_and_forgotten(coordinator: Any) -> None:
    began, cancelled = threading.Event(), threading.Event()

    def endless(kind: str, task_json: str, context: TaskContext) -> str:
        if kind == "work":
            return work(kind, task_json, context)
        began.set()
        while not context.cancelled:
            threading.Event().wait(0.005)
        cancelled.set()
        return RESULT

    async def scenario() -> None:
        async with running(coordinator, endless) as worker:
            await coordinator.expect("register")
            coordinator.assign(LEASE, kind="endless")
            assert await asyncio.to_thread(began.wait, 20)
            coordinator.send(revoke_unit=wire.RevokeUnit(lease=LEASE))
            assert await asyncio.to_thread(cancelled.wait, 20)
            coordinator.assign(OTHER)
            assert (await coordinator.expect("unit_finished")).lease == OTHER
            assert [lease.fence for lease in worker.session.held] == [8]

    play(scenario())


def test_a_unit_assigned_twice_runs_once(coordinator: Any) -> None:
    ran: list[str] = []

    def count(kind: str, task_json: str, context: TaskContext) -> str:
        ran.append(kind)
        return work(kind, task_json, context)

    async def scenario() -> None:
        async with running(coordinator, count):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            coordinator.assign(LEASE)
            await coordinator.expect("unit_finished")
            coordinator.assign(LEASE)  # it is known, and its result is sent again
            await coordinator.expect("unit_finished")
            assert ran == ["work"]

    play(scenario())


def test_units_run_side_by_side(coordinator: Any) -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(kind: str, task_json: str, context: TaskContext) -> str:
        together.wait()
        return RESULT

    async def scenario() -> None:
        async with running(coordinator, meet, threads=2):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            coordinator.assign(OTHER)
            fences = {(await coordinator.expect("unit_finished")).lease.fence for _ in range(2)}
            assert fences == {7, 8}

    play(scenario())


def test_progress_of_running_units_travels_in_heartbeats(coordinator: Any) -> None:
    done = threading.Event()

    def report(kind: str, task_json: str, context: TaskContext) -> str:
        context.advance(rows=5, entities=2)
        assert done.wait(20)
        return RESULT

    async def scenario() -> None:
        coordinator.heartbeat_seconds = 0.01
        async with running(coordinator, report):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            beat = await coordinator.heartbeat(lambda beat: any(unit.rows_done for unit in beat.running))
            assert (beat.running[0].lease, beat.running[0].entities_done) == (LEASE, 2)
            done.set()
            await coordinator.expect("unit_finished")

    play(scenario())


def test_a_failure_is_reported_and_kept_until_acknowledged(coordinator: Any) -> None:
    def fail(kind: str, task_json: str, context: TaskContext) -> str:
        raise ZeroDivisionError("secret path /x")

    async def scenario() -> None:
        async with running(coordinator, fail):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            failed = await coordinator.expect("unit_failed")
            assert (failed.lease, failed.error_code, failed.retryable) == (LEASE, "internal", True)
            assert failed.message == "ZeroDivisionError: secret path /x"
            coordinator.end_session()
            assert list((await coordinator.expect("register")).held) == [LEASE]
            await coordinator.expect("unit_failed")
            coordinator.acknowledge(LEASE)

    play(scenario())


def test_pulls_arrays_and_goes_on_pulling_after_a_lost_connection(coordinator: Any) -> None:
    theta = np.linspace(0.0, 1.0, 200_000)  # several chunks

    def mean(kind: str, task_json: str, context: TaskContext) -> str:
        return str(float(context.pull("theta").sum()))

    async def scenario() -> None:
        await coordinator.start()
        async with running(coordinator, mean, start=False):
            await coordinator.expect("register")
            coordinator.arrays["theta"] = theta
            coordinator.assign(LEASE)
            assert (await coordinator.expect("unit_finished")).result_json == str(float(theta.sum()))

    play(scenario())


def test_an_unknown_input_array_is_a_stale_lease(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator, lambda kind, text, context: str(context.pull("theta"))):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            failed = await coordinator.expect("unit_failed")
            assert (failed.error_code, failed.retryable) == ("stale_lease", True)

    play(scenario())


def test_a_result_whose_arrays_nobody_wants_is_forgotten(coordinator: Any) -> None:
    async def scenario() -> None:
        coordinator.push_refusal = (grpc.StatusCode.ABORTED, "stale lease")
        async with running(coordinator) as worker:
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            await until(lambda: worker.session.held)
            await until(lambda: not worker.session.held)
            coordinator.push_refusal = None
            coordinator.assign(OTHER)
            assert (await coordinator.expect("unit_finished")).lease == OTHER

    play(scenario())


def test_a_result_whose_arrays_are_refused_becomes_a_failure(coordinator: Any) -> None:
    async def scenario() -> None:
        coordinator.push_refusal = (grpc.StatusCode.INVALID_ARGUMENT, "too large")
        async with running(coordinator):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            failed = await coordinator.expect("unit_failed")
            assert (failed.message, failed.retryable) == ("too large", True)

    play(scenario())


def test_a_refused_worker_does_not_try_again(coordinator: Any) -> None:
    async def scenario(status: grpc.StatusCode, error: type[Exception]) -> None:
        coordinator.refusal = (status, "version 9.9 does not fit")
        await coordinator.start()
        worker = Running(coordinator.port, work, 1)
        with pytest.raises(error, match="does not fit"):
            await worker.session.run()
        await coordinator.stop()

    play(scenario(grpc.StatusCode.FAILED_PRECONDITION, Conflict))
    play(scenario(grpc.StatusCode.UNAUTHENTICATED, NotPermitted))
    play(scenario(grpc.StatusCode.PERMISSION_DENIED, NotPermitted))


def test_an_ending_worker_says_so_and_finishes_what_runs(coordinator: Any) -> None:
    go = threading.Event()

    def slow(kind: str, task_json: str, context: TaskContext) -> str:
        assert go.wait(20)
        return work(kind, task_json, context)

    async def scenario() -> None:
        async with running(coordinator, slow) as worker:
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            await until(lambda: worker.session.held)
            ending = asyncio.create_task(worker.session.stop(20.0))
            await coordinator.expect("draining")
            coordinator.assign(OTHER)  # not taken any more
            go.set()
            assert (await coordinator.expect("unit_finished")).lease == LEASE
            coordinator.acknowledge(LEASE)
            await ending
            assert worker.session.held == ()

    play(scenario())


def test_cached_shards_are_dropped_by_prefix(coordinator: Any) -> None:
    sizes: list[int] = []

    def load(kind: str, task_json: str, context: TaskContext) -> str:
        context.cache.get(task_json, 0, object)
        sizes.append(len(context.cache))
        return RESULT

    async def scenario() -> None:
        async with running(coordinator, load):
            await coordinator.expect("register")
            for unit, key in enumerate(("a/1", "b/1", "a/2", "b/2")):
                if unit == 3:
                    coordinator.send(drop_cache=wire.DropCache(prefix="a/"))
                lease = wire.Lease(job_id="j", stage="s", unit=unit, fence=unit)
                coordinator.assign(lease, task_json=key)
                await coordinator.expect("unit_finished")
            assert sizes == [1, 2, 3, 2]

    play(scenario())


# ---- gangs -----------------------------------------------------------------------------------------------

MEMBER = wire.Lease(job_id="j", stage="fit", unit=1, attempt=1, fence=9, epoch=1)
ADDRESSES = ("10.0.0.1:1000", "10.0.0.2:2000", "10.0.0.3:3000")


def meet(kind: str, task_json: str, context: TaskContext) -> str:
    """A member that joins, and returns what it knows of its gang."""
    gang = context.gang()
    assert context.gang() is gang
    return json.dumps([gang.rank, gang.size, *gang.addresses])


def start_gang() -> dict[str, Any]:
    return {"start_gang": wire.StartGang(lease=MEMBER, addresses=ADDRESSES)}


def test_a_member_says_where_it_listens_and_waits_for_the_others(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator, meet):
            await coordinator.expect("register")
            coordinator.assign(MEMBER, gang_size=3)
            joined = await coordinator.expect("gang_joined")
            assert joined.lease == MEMBER
            host, _, port = joined.address.rpartition(":")
            assert host == "127.0.0.1"
            # The port is held: nobody gets it by accident, and the member may listen there.
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((host, int(port)))
            socket.create_server((host, int(port))).close()
            coordinator.send(**start_gang())
            finished = await coordinator.expect("unit_finished")
            assert json.loads(finished.result_json) == [1, 3, *ADDRESSES]
            with socket.socket() as other:
                other.bind((host, int(port)))

    play(scenario())


def test_a_member_joins_again_over_a_new_connection(coordinator: Any) -> None:
    go = threading.Event()

    def slow(kind: str, task_json: str, context: TaskContext) -> str:
        result = meet(kind, task_json, context)
        assert go.wait(20)
        return result

    async def scenario() -> None:
        async with running(coordinator, slow):
            await coordinator.expect("register")
            coordinator.assign(MEMBER, gang_size=3)
            joined = await coordinator.expect("gang_joined")
            coordinator.end_session()
            assert list((await coordinator.expect("register")).held) == [MEMBER]
            assert await coordinator.expect("gang_joined") == joined
            coordinator.send(**start_gang())
            # Also when it knows the others: a coordinator that was restarted does not.
            await coordinator.stop()
            await coordinator.start()
            await coordinator.expect("register")
            assert await coordinator.expect("gang_joined") == joined
            coordinator.send(**start_gang())
            go.set()
            finished = await coordinator.expect("unit_finished")
            assert json.loads(finished.result_json) == [1, 3, *ADDRESSES]

    play(scenario())


def test_a_member_that_joined_without_a_connection_is_announced_by_the_next(coordinator: Any) -> None:
    go = threading.Event()

    def late(kind: str, task_json: str, context: TaskContext) -> str:
        assert go.wait(20)
        return meet(kind, task_json, context)

    async def scenario() -> None:
        async with running(coordinator, late) as worker:
            await coordinator.expect("register")
            coordinator.assign(MEMBER, gang_size=3)
            await until(lambda: worker.session.held)
            await coordinator.stop()
            go.set()
            await coordinator.start()
            await coordinator.expect("register")
            await coordinator.expect("gang_joined")

    play(scenario())


@pytest.mark.parametrize("knows_the_others", [False, True])
def test_a_member_that_is_called_back_waits_no_longer(coordinator: Any, knows_the_others: bool) -> None:
    ended, reason = threading.Event(), []

    def waiting(kind: str, task_json: str, context: TaskContext) -> str:
        try:
            context.gang()
            while True:
                context.check()
        except BaseException as error:
            reason.append(error)
            raise
        finally:
            ended.set()

    async def scenario() -> None:
        async with running(coordinator, waiting) as worker:
            await coordinator.expect("register")
            coordinator.assign(MEMBER, gang_size=3)
            await coordinator.expect("gang_joined")
            if knows_the_others:
                coordinator.send(**start_gang())
            coordinator.send(revoke_unit=wire.RevokeUnit(lease=MEMBER))
            assert await asyncio.to_thread(ended.wait, 20)
            assert isinstance(reason[0], Cancelled)
            assert not worker.session.held
            coordinator.end_session()
            assert not (await coordinator.expect("register")).held

    play(scenario())


def test_a_unit_that_runs_alone_has_no_gang(coordinator: Any) -> None:
    async def scenario() -> None:
        async with running(coordinator, meet):
            await coordinator.expect("register")
            coordinator.assign(LEASE)
            failed = await coordinator.expect("unit_failed")
            assert (failed.error_code, failed.message) == (
                *("internal", "j/s/3 attempt 1 runs alone: its stage is no gang"),
            )

    play(scenario())
