"""A coordinator that ends in the middle of a job, and the next one on the same state directory."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gdmix_core.tasks import EvaluateFixedEffect, WorkRemoved
from gdmix_proto.v1 import training_pb2


async def _finish(tiny, cluster, job_id, worker):
    """Let a worker do what comes until the job has ended; return the job and its events."""
    busy = asyncio.create_task(worker.work())
    events = await cluster.client.watch(job_id)
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)
    return await cluster.client.get(job_id), events


def test_finished_units_are_not_done_again_and_held_leases_are_kept(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=lambda task: task.directory == "/only/1")
            held = worker.lease
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            registered = await worker.register(held=[held])
            assert registered.epoch == 2
            same = await cluster.client.submit()
            assert same.job_id == job.job_id
            await worker.push(held, "a", np.ones(3))
            await worker.finish(held, WorkRemoved(seconds=0.0))
            assert (await worker.hear("acknowledge_result")).accepted
            left = []

            def note(task):
                left.append(task.directory)
                return False

            busy = asyncio.create_task(worker.work(until=note))
            events = await cluster.client.watch(job.job_id)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            return (
                left,
                events,
                held,
                (state_dir / "jobs" / job.job_id / "arrays" / "only" / "a.npy").exists(),
            )

    left, events, held, kept = asyncio.run(run())
    assert left == ["/only/2"]
    assert held.epoch == 1
    assert kept
    assert events[-1].state == training_pb2.JOB_STATE_SUCCEEDED
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))


def test_leases_that_nobody_announces_go_to_others(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker("gone")
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=lambda task: True)
        async with tiny.running(state_dir) as cluster:
            other = cluster.worker("other")
            await other.register()
            return await _finish(tiny, cluster, job.job_id, other)

    job, _ = asyncio.run(run())
    assert job.state == training_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_fixed_effect_goes_on_to_the_same_bytes(tiny, state_dir, tmp_path, rounds):
    async def whole():
        async with tiny.running(tmp_path / "whole", tiny.fixed_effect_program) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            await _finish(tiny, cluster, job.job_id, worker)
            return worker.pulled["theta"]

    async def interrupted():
        evaluations = []

        def interrupt(task):
            if isinstance(task, EvaluateFixedEffect):
                evaluations.append(task)
            return len(evaluations) > rounds

        async with tiny.running(state_dir, tiny.fixed_effect_program) as cluster:
            worker = cluster.worker("before")
            await worker.register()
            job = await cluster.client.submit()
            await worker.work(until=interrupt)
        log = state_dir / "jobs" / job.job_id / "fit.evaluations"
        assert log.exists()
        async with tiny.running(state_dir, tiny.fixed_effect_program) as cluster:
            first, second = cluster.worker("after1"), cluster.worker("after2")
            await first.register()
            await second.register()
            busy = asyncio.create_task(second.work())
            job, _ = await _finish(tiny, cluster, job.job_id, first)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            assert job.state == training_pb2.JOB_STATE_SUCCEEDED, job.error
            return (first.pulled | second.pulled)["theta"]

    assert asyncio.run(interrupted()).tobytes() == asyncio.run(whole()).tobytes()


def test_an_ended_job_is_still_told(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            worker = cluster.worker()
            await worker.register()
            job = await cluster.client.submit()
            _, before = await _finish(tiny, cluster, job.job_id, worker)
        async with tiny.running(state_dir) as cluster:
            again = await cluster.client.watch(job.job_id)
            return before, again, await cluster.client.get(job.job_id)

    before, again, job = asyncio.run(run())
    kept = [event for event in before if event.WhichOneof("event") != "progress"]
    assert [event for event in again if event.WhichOneof("event") != "progress"] == kept
    assert job.state == training_pb2.JOB_STATE_SUCCEEDED
