"""Both services over a real server on an ephemeral port."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import numpy as np

from gdmix_core.tasks import WorkRemoved
from gdmix_proto.v1 import training_pb2, worker_pb2
from gdmix_server.state.settings import MachineSettings


def test_a_job_with_a_fixed_effect_runs_to_its_end_on_two_workers(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir, tiny.fixed_effect_program) as cluster:
            first, second = cluster.worker("w1"), cluster.worker("w2")
            registered = await first.register()
            await second.register()
            assert registered.epoch == 1
            assert registered.lease_seconds == 15.0
            assert registered.heartbeat_seconds == 1.0
            job = await cluster.client.submit()
            assert job.state in {training_pb2.JOB_STATE_QUEUED, training_pb2.JOB_STATE_RUNNING}
            busy = [asyncio.create_task(worker.work()) for worker in (first, second)]
            events = await cluster.client.watch(job.job_id)
            ended = await cluster.client.get(job.job_id)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
            return events, ended, first.pulled | second.pulled

    events, ended, pulled = asyncio.run(run())
    assert ended.state == training_pb2.JOB_STATE_SUCCEEDED, ended.error
    np.testing.assert_allclose(pulled["theta"], tiny.solution(), rtol=1e-10)
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert events[-1].state == training_pb2.JOB_STATE_SUCCEEDED
    assert "the solve converged" in {event.notice.text for event in events}
    rounds = [event.progress.round for event in events if event.WhichOneof("event") == "progress"]
    assert max(rounds) >= 1
    job_directory = state_dir / "jobs" / ended.job_id
    assert (job_directory / "arrays" / "fit" / "theta.npy").exists()
    assert not (job_directory / "fit.evaluations").exists()


def test_the_same_request_id_returns_the_same_job(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            at_once = await asyncio.gather(*(cluster.client.submit("same") for _ in range(5)))
            later = await cluster.client.submit("same", model="ignored")
            other = await cluster.client.submit("other")
            listed = await cluster.client.stub.ListJobs(training_pb2.ListJobsRequest())
            newest = await cluster.client.stub.ListJobs(training_pb2.ListJobsRequest(limit=1))
            return at_once, later, other, listed.jobs, newest.jobs

    at_once, later, other, listed, newest = asyncio.run(run())
    assert {job.job_id for job in at_once} == {later.job_id}
    assert [job.job_id for job in listed] == [other.job_id, later.job_id]
    assert [job.job_id for job in newest] == [other.job_id]
    config = json.loads(later.config_json)
    assert config["store"] == f"lmdb:{config['output']}/store"


def test_mistakes_in_requests_are_refused_by_the_catalog(tiny, state_dir, tmp_path):
    async def run():
        async with tiny.running(state_dir, data_roots=(str(tmp_path), "/data")) as cluster:
            client = cluster.client
            stub, submit = client.stub, training_pb2.SubmitJobRequest
            return [
                await tiny.refusal(stub.SubmitJob(submit(request_id="a", config_json="{}"))),
                await tiny.refusal(stub.SubmitJob(submit(request_id="", config_json=client.config()))),
                await tiny.refusal(client.submit("b", data={"train": ["/etc/passwd"]})),
                await tiny.refusal(client.submit("c", data={"train": ["/data/../etc/passwd"]})),
                await tiny.refusal(client.submit("d", output="relative")),
                await tiny.refusal(client.get("nowhere")),
                await tiny.refusal(stub.CancelJob(training_pb2.CancelJobRequest(job_id="nowhere"))),
                await tiny.refusal(stub.ListJobs(training_pb2.ListJobsRequest(limit=-1))),
                await tiny.refusal(client.watch("nowhere")),
            ]

    refusals = asyncio.run(run())
    assert [(status.name, code) for status, _, code in refusals] == [
        ("INVALID_ARGUMENT", "config"),
        ("INVALID_ARGUMENT", "usage"),
        ("PERMISSION_DENIED", "not_permitted"),
        ("PERMISSION_DENIED", "not_permitted"),
        ("INVALID_ARGUMENT", "usage"),
        ("NOT_FOUND", "not_found"),
        ("NOT_FOUND", "not_found"),
        ("INVALID_ARGUMENT", "usage"),
        ("NOT_FOUND", "not_found"),
    ]
    assert "data.train[0]: '/etc/passwd' is not below" in refusals[2][1]


def test_cancel_resume_and_delete(tiny, state_dir, tmp_path):
    async def run():
        async with tiny.running(state_dir) as cluster:
            client, worker = cluster.client, cluster.worker()
            await worker.register()
            job = await client.submit()
            await worker.work(until=lambda task: task.directory == "/only/1")
            premature = await tiny.refusal(
                client.stub.DeleteJob(training_pb2.DeleteJobRequest(job_id=job.job_id))
            )
            await client.stub.CancelJob(training_pb2.CancelJobRequest(job_id=job.job_id))
            revoked = await worker.hear("revoke_unit")
            cancelled = (await client.watch(job.job_id))[-1]
            await client.stub.ResumeJob(training_pb2.ResumeJobRequest(job_id=job.job_id))
            busy = asyncio.create_task(worker.work(until=lambda task: task.directory == "/only/0"))
            resumed = await client.watch(job.job_id, cancelled.sequence)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            working = Path(job.output) / ".gdmix" / "jobs" / job.job_id
            working.mkdir(parents=True)
            (working.parent / "another").mkdir()
            await client.stub.DeleteJob(training_pb2.DeleteJobRequest(job_id=job.job_id))
            gone = await tiny.refusal(client.get(job.job_id))
            return premature, revoked.lease.unit, cancelled, resumed[-1], gone, working

    premature, unit, cancelled, resumed, gone, working = asyncio.run(run())
    assert premature[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert unit == 1
    assert cancelled.state == training_pb2.JOB_STATE_CANCELLED
    assert resumed.state == training_pb2.JOB_STATE_SUCCEEDED
    assert gone[0] is grpc.StatusCode.NOT_FOUND
    assert not working.exists()
    assert (working.parent / "another").exists()
    assert not list((state_dir / "jobs").glob("*"))


def test_a_failed_unit_fails_the_job_with_its_message(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=lambda task: True)
            await worker.fail(worker.lease, "train.csv, column x: row 3 holds 'abc'", retryable=False)
            await cluster.client.watch(job.job_id)
            return await cluster.client.get(job.job_id)

    job = asyncio.run(run())
    assert job.state == training_pb2.JOB_STATE_FAILED
    assert job.error_code == "data"
    assert "row 3 holds 'abc'" in job.error


def test_results_are_acknowledged_once_and_stale_ones_refused(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            await cluster.client.submit()
            await worker.work(until=lambda task: True)
            first = worker.lease
            await worker.finish(first, WorkRemoved(seconds=0.0))
            accepted = await worker.hear("acknowledge_result")
            await worker.finish(first, WorkRemoved(seconds=0.0))
            again = await worker.hear("acknowledge_result")
            stale = worker_pb2.Lease()
            stale.CopyFrom(first)
            stale.fence -= 1
            await worker.finish(stale, WorkRemoved(seconds=0.0))
            refused = await worker.hear("acknowledge_result")
            push = await tiny.refusal(worker.push(stale, "x", np.zeros(3)))
            return accepted.accepted, again.accepted, refused.accepted, push

    accepted, again, refused, push = asyncio.run(run())
    assert (accepted, again, refused) == (True, True, False)
    assert push[0] is grpc.StatusCode.ABORTED
    assert push[2] == "stale_lease"


def test_a_lost_worker_costs_its_unit_only(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            lost, other = cluster.worker("lost"), cluster.worker("other")
            await lost.register()
            job = await cluster.client.submit()
            await lost.work(until=lambda task: task.directory == "/only/1")
            await lost.close()
            await other.register()
            busy = asyncio.create_task(other.work())
            events = await cluster.client.watch(job.job_id)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            return events

    events = asyncio.run(run())
    assert events[-1].state == training_pb2.JOB_STATE_SUCCEEDED
    warnings = [
        event.notice.text for event in events if event.notice.severity == training_pb2.Notice.SEVERITY_WARNING
    ]
    assert any("lost" in text for text in warnings)


def test_a_worker_that_comes_back_keeps_its_lease_and_its_older_session_ends(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=lambda task: True)
            lease, older = worker.lease, worker.stream
            await worker.register(held=[lease])
            status = await older.code()
            await worker.finish(lease, WorkRemoved(seconds=0.0))
            acknowledged = await worker.hear("acknowledge_result")
            busy = asyncio.create_task(worker.work())
            events = await cluster.client.watch(job.job_id)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            return status, acknowledged, lease, events[-1]

    status, acknowledged, lease, last = asyncio.run(run())
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert acknowledged.accepted
    assert acknowledged.lease == lease
    assert last.state == training_pb2.JOB_STATE_SUCCEEDED


def test_an_idle_worker_that_comes_back_takes_units(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            for _ in range(3):
                await worker.register()
                await worker.close()
            await worker.register()
            job = await cluster.client.submit()
            busy = asyncio.create_task(worker.work())
            events = await cluster.client.watch(job.job_id)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            return events[-1]

    assert asyncio.run(run()).state == training_pb2.JOB_STATE_SUCCEEDED


def test_sessions_that_do_not_make_sense_are_refused(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            found = []
            silent = cluster.worker("silent")
            silent.open()
            await silent.say(heartbeat=worker_pb2.Heartbeat(ready=True))
            found.append(await silent.ended())
            nameless = cluster.worker("")
            nameless.open()
            await nameless.say(register=worker_pb2.Register(threads=1))
            found.append(await nameless.ended())
            twice = cluster.worker("twice")
            await twice.register()
            await twice.say(register=worker_pb2.Register(worker_id="twice", threads=1))
            found.append(await twice.ended())
            older = cluster.worker("older")
            older.open()
            await older.say(register=worker_pb2.Register(worker_id="older", threads=1, version="99.0.0"))
            found.append(await older.ended())
            return found, await older.stream.details()

    found, details = asyncio.run(run())
    assert [status.name for status in found] == ["INVALID_ARGUMENT"] * 3 + ["FAILED_PRECONDITION"]
    assert "99.0" in details


def test_arrays_that_may_not_be_pushed_or_pulled(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            await cluster.client.submit()
            await worker.work(until=lambda task: True)

            async def chunks(dtype, shape, *data, name="a"):
                first, *rest = data
                yield worker_pb2.ArrayChunk(
                    lease=worker.lease, name=name, dtype=dtype, shape=shape, data=first
                )
                for piece in rest:
                    yield worker_pb2.ArrayChunk(data=piece)

            async def nothing():
                for chunk in ():
                    yield chunk

            push = worker.stub.PushArray
            return [
                await tiny.refusal(push(chunks("|O", [1], b"x"))),
                await tiny.refusal(push(chunks("<f8", [-1], b""))),
                await tiny.refusal(push(chunks("<f8", [1 << 50], b""))),
                await tiny.refusal(push(chunks("<f8", [1], b"x" * 9))),
                await tiny.refusal(push(chunks("<f8", [1], b"x" * 4, b"x"))),
                await tiny.refusal(push(chunks("<f8", [1], b"x" * 8, name="../a"))),
                await tiny.refusal(push(nothing())),
                await tiny.refusal(worker.pull(worker.lease, "theta")),
            ], cluster.coordinator._interpreter.arrays.used_bytes

    refusals, used = asyncio.run(run())
    statuses = [status.name for status, _, _ in refusals]
    assert statuses == ["INVALID_ARGUMENT"] * 7 + ["NOT_FOUND"]
    assert used == 0


def test_a_result_waits_for_its_arrays(tiny, state_dir):
    """UnitFinished overtakes the end of the push on another stream: it is held back, not lost."""

    def program(job):
        yield tiny.units("only", 1)

    async def run():
        async with tiny.running(state_dir, program) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=lambda task: True)
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def chunks():
                yield worker_pb2.ArrayChunk(
                    lease=worker.lease, name="a", dtype="<f8", shape=[2], data=b"x" * 8
                )
                begun.set()
                await go_on.wait()
                yield worker_pb2.ArrayChunk(data=b"y" * 8)

            push = asyncio.ensure_future(worker.stub.PushArray(chunks()))
            await begun.wait()
            arrays = cluster.coordinator._interpreter.arrays
            while not arrays.used_bytes:  # noqa: ASYNC110 - the coordinator runs in this very loop
                await asyncio.sleep(0)
            await worker.finish(worker.lease, WorkRemoved(seconds=0.0))
            state = await cluster.client.get(job.job_id)
            go_on.set()
            await push
            await worker.hear("acknowledge_result")
            await cluster.client.watch(job.job_id)
            kept = state_dir / "jobs" / job.job_id / "arrays" / "only" / "a.npy"
            return state, np.load(kept).tobytes(), arrays.used_bytes

    state, kept, used = asyncio.run(run())
    assert state.state == training_pb2.JOB_STATE_RUNNING
    assert kept == b"x" * 8 + b"y" * 8
    assert used == 0


def test_a_slow_start_is_no_reason_to_give_up_a_connected_worker(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register(ready=False)
            job = await cluster.client.submit()
            found = await cluster.client.stub.GetCluster(training_pb2.GetClusterRequest())
            await worker.say(heartbeat=worker_pb2.Heartbeat(ready=True))
            busy = asyncio.create_task(worker.work())
            events = await cluster.client.watch(job.job_id)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            return found, events[-1]

    found, last = asyncio.run(run())
    assert [worker.worker_id for worker in found.workers] == ["w1"]
    assert found.epoch == 1
    assert last.state == training_pb2.JOB_STATE_SUCCEEDED


def test_without_workers_the_job_fails_as_unavailable(tiny, state_dir):
    async def run():
        machine = MachineSettings(workers_wait_seconds=0.1)
        async with tiny.running(state_dir, machine=machine) as cluster:
            job = await cluster.client.submit()
            events = await cluster.client.watch(job.job_id)
            return await cluster.client.get(job.job_id), events

    job, events = asyncio.run(run())
    assert (job.state, job.error_code) == (training_pb2.JOB_STATE_FAILED, "unavailable")
    assert any("no worker" in event.notice.text for event in events)


def test_shutdown_says_farewell_to_workers_and_watchers(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            watch = cluster.client.stub.WatchJob(training_pb2.WatchJobRequest(job_id=job.job_id))
            await watch.read()
            endpoint = json.loads((state_dir / "endpoint.json").read_text())
            stopping = asyncio.create_task(cluster.coordinator.stop())
            reason = (await worker.hear("shutdown")).reason
            ended = await worker.ended()
            code, _, _ = await tiny.refusal(_read_to_the_end(watch))
            await stopping
            cluster.coordinator.stop = _nothing
            return endpoint["port"] == cluster.coordinator.port, reason, ended, code

    same, reason, ended, code = asyncio.run(run())
    assert same
    assert "shutting down" in reason
    assert ended is grpc.StatusCode.OK
    assert code is grpc.StatusCode.UNAVAILABLE
    assert not (state_dir / "endpoint.json").exists()


async def _read_to_the_end(stream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def _nothing() -> None:
    """Stop what has been stopped."""


def test_every_rpc_is_called_by_some_test():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    for contract in (training_pb2, worker_pb2):
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert f"stub.{method.name}(" in text, f"no test calls {service.name}.{method.name}"
