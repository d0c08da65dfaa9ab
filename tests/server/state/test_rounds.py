"""A fixed effect: rounds of evaluations over all shards, whoever dies in the middle of one."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdmix_core.tasks import EvaluateFixedEffect
from gdmix_server.state.events import OptimiserAsked, OptimiserFailed, OptimiserFinished
from gdmix_server.state.instructions import (
    Acknowledge,
    DropCache,
    RevokeLease,
    SaveStage,
    SaveUnit,
    SendTask,
    StartOptimiser,
    StopOptimiser,
    TellOptimiser,
)
from gdmix_server.state.model import JobState
from gdmix_server.state.rounds import balanced_ranges


def program_of(by_hand, rows=(10, 10, 10, 10)):
    def program(job):
        outcome = yield by_hand.fixed_effect(rows)
        assert outcome == by_hand.OUTCOME
        yield by_hand.units("last", 1)

    return program


def ask(drive, round_number, *, hessian=False, stage="fit"):
    return drive.handle(
        OptimiserAsked(now=drive.now, job_id="j", stage=stage, round_number=round_number, hessian=hessian)
    )


def shards(sent):
    assert isinstance(sent.task, EvaluateFixedEffect)
    return tuple(entry.shard for entry in sent.task.shards)


def finish_round(drive, *workers):
    """Have workers evaluate what they are sent; return what the driver is told."""
    while sent := [one for name in workers for one in drive.sent_to(name)]:
        batch = drive.finish(sent[0])
        told = [i for i in batch if isinstance(i, TellOptimiser)]
        if told:
            return told[0]
    raise AssertionError("the round did not end")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.data())
def test_ranges_are_contiguous_not_empty_and_balanced(weights, data):
    parts = data.draw(st.integers(1, len(weights)))
    ranges = balanced_ranges(weights, parts)
    assert len(ranges) == parts
    assert [position for shards in ranges for position in shards] == list(range(len(weights)))
    assert all(len(shards) for shards in ranges)
    heaviest = max(sum(weights[i] + 1 for i in shards) for shards in ranges)
    fair = sum(weight + 1 for weight in weights) / parts
    assert heaviest <= fair + 2 * (max(weights) + 1) or parts > len(weights) // 2


def test_a_round_covers_every_shard_once_and_the_driver_hears_of_it(by_hand):
    drive = by_hand.Drive(program_of(by_hand, (10, 10, 40, 10, 10)))
    assert by_hand.of(StartOptimiser, drive.submit())[0].stage.name == "fit"
    drive.connect("a")
    drive.connect("b")
    assert drive.out == {}
    batch = ask(drive, 1, hessian=True)
    sent = by_hand.of(SendTask, batch)
    assert sorted(shard for one in sent for shard in shards(one)) == [0, 1, 2, 3, 4]
    assert [one.arrays for one in sent] == [(("theta", "fit/theta@1"),)] * 2
    assert all(one.task.hessian and one.task.shard_count == 5 for one in sent)
    assert not by_hand.of(SaveUnit, batch)  # rounds are not journaled: their evaluations are logged
    told = finish_round(drive, "b", "a")
    assert (told.stage, told.round_number) == ("fit", 1)
    assert [numbers for _, numbers in told.nodes] == [shards(one) for one in sent]
    assert [lease for lease, _ in told.nodes] == [one.lease for one in sent]
    assert drive.out == {}


def test_workers_keep_their_shards_from_round_to_round(by_hand):
    drive = by_hand.Drive(program_of(by_hand, (5, 9, 2, 7, 30, 1)))
    drive.submit()
    for name, threads in (("a", 1), ("b", 2)):
        drive.connect(name, threads=threads)
    kept = []
    for round_number in (1, 2, 3):
        ask(drive, round_number)
        kept.append({name: [shards(one) for one in drive.sent_to(name)] for name in "ab"})
        finish_round(drive, *("ab" if round_number % 2 else "ba"))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]["b"]) == 2


def test_a_part_that_was_accepted_is_acknowledged_again(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    ask(drive, 1)
    [sent] = drive.sent_to("w")
    finish_round(drive, "w")
    ask(drive, 2)
    assert drive.finish(sent) == [Acknowledge(worker_id="w", lease=sent.lease, accepted=True)]
    assert len(drive.sent_to("w")) == 1


def test_more_slots_than_shards(by_hand):
    drive = by_hand.Drive(program_of(by_hand, (3, 3)))
    drive.submit()
    for name in "abc":
        drive.connect(name, threads=2)
    sent = by_hand.of(SendTask, ask(drive, 1))
    assert [shards(one) for one in sent] == [(0,), (1,)]
    assert len({one.worker_id for one in sent}) == 2


def test_the_shards_of_a_lost_worker_are_spread_over_the_others(by_hand):
    drive = by_hand.Drive(program_of(by_hand, (10,) * 9))
    drive.submit()
    for name in "abc":
        drive.connect(name)
    ask(drive, 1)
    [lost] = drive.sent_to("a")
    done = {shard for one in drive.sent_to("b") for shard in shards(one)}
    drive.finish(drive.sent_to("b")[0])
    drive.disconnect("a")
    drive.wait(3.1, "b", "c")
    assert set(shards(drive.sent_to("b")[0])) < set(shards(lost))
    told = finish_round(drive, "b", "c")
    numbers = [shard for _, of_lease in told.nodes for shard in of_lease]
    assert numbers == list(range(9))
    assert done < set(numbers)
    # A result of the lost one counts for nothing, also in a later round.
    ask(drive, 2)
    assert not by_hand.of(TellOptimiser, drive.finish(lost))
    told = finish_round(drive, "b", "c")
    assert lost.lease not in [lease for lease, _ in told.nodes]


def test_a_failed_part_runs_elsewhere_and_too_often_fails_the_job(by_hand):
    drive = by_hand.Drive(program_of(by_hand, (10, 10)))
    drive.submit()
    drive.connect("a")
    drive.connect("b")
    ask(drive, 1)
    [failed] = drive.sent_to("a")
    drive.finish(drive.sent_to("b")[0])
    drive.fail(failed, "shard 0 is damaged", code="data")
    [again] = drive.sent_to("b")
    assert shards(again) == shards(failed)
    drive.fail(again, "shard 0 is damaged", code="data")
    [last] = drive.sent_to("a")
    batch = drive.fail(last, "shard 0 is damaged", code="data")
    assert drive.job().error.startswith("shard 0 is damaged (unit 0 of stage 'fit' failed 3 times: evaluate")
    assert by_hand.of(StopOptimiser, batch) == [StopOptimiser(job_id="j", stage="fit")]


def test_its_end_is_journaled_and_workers_forget_its_shards(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect("a")
    drive.connect("never asked", threads=1)
    ask(drive, 1)
    finish_round(drive, "a", "never asked")
    drive.now += 2
    batch = drive.handle(OptimiserFinished(now=drive.now, job_id="j", stage="fit", outcome=by_hand.OUTCOME))
    row = next(one.row for one in by_hand.of(SaveStage, batch) if one.row.stage == "fit")
    assert (row.ended, row.outcome) == (drive.now, asdict(by_hand.OUTCOME))
    assert {one.prefix for one in by_hand.of(DropCache, batch)} == {"j/fit"}
    assert by_hand.of(SendTask, batch)[0].lease.stage == "last"
    drive.work("a", "never asked")
    assert drive.job().state is JobState.SUCCEEDED


def test_a_worker_that_comes_back_forgets_what_is_over(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    ask(drive, 1)
    drive.disconnect()
    drive.wait(3.1)
    drive.cancel()
    batch = drive.connect()
    assert by_hand.of(DropCache, batch) == [DropCache(worker_id="w", prefix="j/fit")]


def test_a_driver_that_fails_fails_the_job(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    ask(drive, 1)
    failed = OptimiserFailed(
        now=drive.now, job_id="j", stage="fit", error_code="data", message="the ridge is negative"
    )
    drive.handle(replace(failed, stage="another"))
    assert not drive.job().state.ended
    batch = drive.handle(failed)
    assert (drive.job().state, drive.job().error_code, drive.job().error) == (
        *(JobState.FAILED, "data"),
        "the ridge is negative",
    )
    assert len(by_hand.of(RevokeLease, batch)) == 1
    assert by_hand.of(StopOptimiser, batch)


@pytest.mark.parametrize("late", ["asked", "finished", "failed"])
def test_what_a_driver_says_after_its_stage_is_over_changes_nothing(by_hand, late):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    drive.cancel()
    event = {
        "asked": OptimiserAsked(now=drive.now, job_id="j", stage="fit", round_number=9, hessian=False),
        "finished": OptimiserFinished(now=drive.now, job_id="j", stage="fit", outcome=by_hand.OUTCOME),
        "failed": OptimiserFailed(now=drive.now, job_id="j", stage="fit", error_code="data", message="no"),
    }[late]
    assert drive.handle(event) == []
    assert drive.handle(replace(event, job_id="no such job")) == []


def test_a_resume_starts_the_driver_again(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    ask(drive, 1)
    drive.cancel()
    assert by_hand.of(StartOptimiser, drive.resume())[0].stage.name == "fit"
    ask(drive, 2)
    finish_round(drive, "w")


def test_a_restart_starts_the_driver_again_and_old_parts_count_for_nothing(by_hand):
    drive = by_hand.Drive(program_of(by_hand))
    drive.submit()
    drive.connect()
    ask(drive, 1)
    [old] = drive.sent_to("w")
    assert by_hand.of(StartOptimiser, drive.restart())[0].stage.name == "fit"
    batch = drive.connect(held=[old.lease])
    assert by_hand.of(RevokeLease, batch)[0].lease == old.lease
    ask(drive, 1)
    finish_round(drive, "w")
    drive.handle(OptimiserFinished(now=drive.now, job_id="j", stage="fit", outcome=by_hand.OUTCOME))
    # Its outcome is in the journal: the next coordinator does not fit it again.
    drive.wait(10, "w")
    assert not by_hand.of(StartOptimiser, drive.restart())
    drive.connect()
    drive.wait(6, "w")
    drive.work("w")
    assert drive.job().state is JobState.SUCCEEDED
