"""The optimisers behind fixed-effect stages: rounds, resuming, and what may go wrong."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from gdmix_server.array_store import ArrayStore
from gdmix_server.optimiser_runner import OptimiserRunner
from gdmix_server.state.events import OptimiserAsked, OptimiserFailed, OptimiserFinished
from gdmix_server.state.instructions import TellOptimiser
from gdmix_server.state.model import FixedEffectStage, Lease

JOB = "j"
LOG = "fit.evaluations"


class Bench:
    """A runner whose events are read one by one, and whose rounds are evaluated here."""

    def __init__(self, tiny, directory):
        self.tiny = tiny
        self.directory = directory
        self.arrays = ArrayStore(directory)
        self.events = asyncio.Queue()
        self.runner = OptimiserRunner(self.arrays, self.events.put_nowait)
        stages = tiny.fixed_effect_program(None)
        self.stage = next(stage for stage in stages if isinstance(stage, FixedEffectStage))
        self.fence = 0

    async def event(self):
        return await asyncio.wait_for(self.events.get(), self.tiny.patience)

    def evaluate(self, asked, split=((0, 1), (2,)), change=None):
        """Push a round's sums as workers with these shards would; return what the machine says then."""
        theta = self.arrays._shared[JOB, f"fit/theta@{asked.round_number}"]
        nodes = []
        for shards in split:
            self.fence += 1
            lease = Lease(job_id=JOB, stage="fit", unit=self.fence, attempt=1, fence=self.fence, epoch=1)
            task = SimpleNamespace(
                shards=[SimpleNamespace(shard=shard) for shard in shards],
                shard_count=3,
                hessian=asked.hessian,
            )
            sums = self.tiny.sums_of(task, theta)
            self.arrays.grant(lease)
            if change is not None:
                sums = change(sums)
            if sums is not None:
                with self.arrays.push(lease, "sums", "<f8", sums.shape) as push:
                    push.append(sums.tobytes())
                    push.finish()
            nodes.append((lease, shards))
        return TellOptimiser(job_id=JOB, stage="fit", round_number=asked.round_number, nodes=tuple(nodes))

    async def until_the_end(self, split=((0, 1), (2,)), rounds=100):
        """Evaluate up to `rounds` rounds; return the last event."""
        event = await self.event()
        while isinstance(event, OptimiserAsked) and rounds:
            rounds -= 1
            self.runner.tell(self.evaluate(event, split))
            event = await self.event()
        return event


@pytest.fixture
def bench(tiny, tmp_path):
    def make(name="state"):
        made = Bench(tiny, tmp_path / name)
        made.arrays.save(JOB, "prepare/l2", np.array([0.0, 1.0, 1.0]))
        return made

    return make


def test_a_solve_ends_with_its_solution_on_disk(bench, tiny):
    async def run():
        made = bench()
        made.runner.prepare()
        made.runner.start(JOB, made.stage)
        finished = await made.until_the_end()
        log = made.directory / "jobs" / JOB / LOG
        assert log.exists()
        made.runner.end_stage(JOB, "fit")
        await made.runner.idle(JOB)
        assert not log.exists()
        await made.runner.close()
        return finished, made.arrays.saved(JOB, "fit/theta")

    finished, theta = asyncio.run(run())
    assert isinstance(finished, OptimiserFinished)
    assert finished.outcome.converged
    assert finished.outcome.status == "converged"
    assert finished.outcome.gradient_ratio <= 1.0
    np.testing.assert_allclose(theta, tiny.solution(), rtol=1e-10)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_killed_after_any_round_it_goes_on_to_the_same_bytes(bench, solver):
    """And whichever workers had whichever shards."""

    async def run():
        whole = bench("whole")
        stage = _changed(whole.stage, solver=solver)
        whole.runner.start(JOB, stage)
        finished = await whole.until_the_end()
        await whole.runner.close()
        expected = whole.arrays.saved(JOB, "fit/theta").tobytes()
        for cut in range(finished.outcome.evaluations + 1):
            split = (((0, 1, 2),), ((0, 2), (1,)), ((2,), (1,), (0,)))[cut % 3]
            killed = bench(f"{solver}{cut}")
            killed.runner.start(JOB, stage)
            await killed.until_the_end(split, rounds=cut)
            await killed.runner.close()
            again = Bench(killed.tiny, killed.directory)
            again.runner.start(JOB, stage)
            first = await again.event()
            again.events.put_nowait(first)
            if isinstance(first, OptimiserAsked):
                assert first.round_number == cut
            outcome = (await again.until_the_end()).outcome
            await again.runner.close()
            assert again.arrays.saved(JOB, "fit/theta").tobytes() == expected
            assert (outcome.iterations, outcome.objective) == (
                finished.outcome.iterations,
                finished.outcome.objective,
            )

    asyncio.run(run())


def test_progress_is_reported_with_every_round(bench):
    async def run():
        made = bench()
        made.runner.start(JOB, _changed(made.stage, solver="lbfgs"))
        seen = [await made.event()]
        while isinstance(seen[-1], OptimiserAsked):
            made.runner.tell(made.evaluate(seen[-1]))
            seen.append(await made.event())
        await made.runner.close()
        return seen

    *asked, finished = asyncio.run(run())
    assert [event.round_number for event in asked] == list(range(len(asked)))
    assert asked[0].objective == 0.0
    assert asked[1].gradient_ratio > 1.0
    assert finished.outcome.objective <= min(event.objective for event in asked[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: None, "without its array 'sums'"),
        (lambda sums: sums[0], "expected is one row for each"),
        (lambda sums: np.vstack([sums, sums]), "expected is one row for each"),
        (lambda sums: sums[:, :-1], "numbers"),
    ],
)
def test_sums_that_do_not_fit_fail_the_stage(bench, change, message):
    async def run():
        made = bench()
        made.runner.start(JOB, made.stage)
        made.runner.tell(made.evaluate(await made.event(), change=change))
        failed = await made.event()
        await made.runner.close()
        return failed

    failed = asyncio.run(run())
    assert isinstance(failed, OptimiserFailed)
    assert failed.error_code == "internal"
    assert message in failed.message


def test_a_stage_without_its_ridge_vector_fails(bench):
    async def run():
        made = bench()
        made.runner.start(JOB, _changed(made.stage, l2="prepare/nothing"))
        failed = await made.event()
        await made.runner.close()
        return failed

    failed = asyncio.run(run())
    assert (failed.error_code, failed.stage) == ("not_found", "fit")


def test_a_log_of_other_data_is_refused(bench):
    async def run():
        made = bench()
        made.runner.start(JOB, made.stage)
        await made.until_the_end()
        await made.runner.close()
        again = bench()
        again.arrays.save(JOB, "prepare/l2", np.array([0.0, 9.0, 9.0]))
        again.runner.start(JOB, again.stage)
        failed = await again.event()
        await again.runner.close()
        return failed

    failed = asyncio.run(run())
    assert isinstance(failed, OptimiserFailed)
    assert "the log belongs to other data" in " ".join(failed.message.split())


def test_a_stopped_optimiser_says_nothing_more_and_can_be_started_again(bench):
    async def run():
        made = bench()
        made.runner.start(JOB, made.stage)
        asked = await made.event()
        told = made.evaluate(asked)
        made.runner.tell(told)
        made.runner.stop(JOB, "fit")
        made.runner.tell(told)
        await made.runner.idle(JOB)
        assert made.events.empty()
        made.runner.start(JOB, made.stage)
        made.runner.stop(JOB, "fit")
        made.runner.start(JOB, made.stage)
        finished = await made.until_the_end()
        made.runner.end_job(JOB)
        await made.runner.close()
        return finished

    assert isinstance(asyncio.run(run()), OptimiserFinished)


def test_a_round_that_is_not_waited_for_changes_nothing(bench, tiny):
    async def run():
        made = bench()
        made.runner.start(JOB, made.stage)
        asked = await made.event()
        first = made.evaluate(asked)
        made.runner.tell(first)
        second = await made.event()
        made.runner.tell(first)
        again = await made.event()
        assert (again.round_number, isinstance(again, OptimiserAsked)) == (second.round_number, True)
        made.runner.tell(made.evaluate(again))
        await made.until_the_end()
        await made.runner.close()
        return made.arrays.saved(JOB, "fit/theta")

    np.testing.assert_allclose(asyncio.run(run()), tiny.solution(), rtol=1e-10)


def _changed(stage, **changes):
    return dataclasses.replace(stage, **changes)
