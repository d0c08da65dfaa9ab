"""Units: who gets which, what a result is worth, what becomes of failures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdmix_server.state.events import UnitFinished
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    Emit,
    KeepArrays,
    RevokeLease,
    SaveJob,
    SaveStage,
    SaveUnit,
    SendTask,
)
from gdmix_server.state.model import JobState


def test_a_job_waits_for_a_worker_and_begins_with_it(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    batch = drive.submit()
    assert isinstance(batch[0], SaveJob)
    assert [row.row.stage for row in by_hand.of(SaveStage, batch)] == ["only"]
    assert not by_hand.of(SendTask, batch)
    assert drive.job().state is JobState.QUEUED
    assert drive.job().started is None
    drive.now += 5
    batch = drive.connect()
    [sent] = by_hand.of(SendTask, batch)
    assert isinstance(batch[0], SaveJob)
    assert batch.index(by_hand.of(AcceptWorker, batch)[0]) < batch.index(sent)
    assert (sent.lease.unit, sent.lease.attempt, sent.lease.epoch) == (0, 1, 1)
    assert sent.task.directory == "/only/0"
    assert sent.task.output == f"/out/j/.gdmix/jobs/j/work/only/u00000-a1-f{sent.lease.fence}"
    assert (drive.job().state, drive.job().started) == (JobState.RUNNING, drive.now)
    assert drive.stages["j", "only"].started == drive.now
    assert drive.unit(0).lease == sent.lease


def test_a_result_is_kept_journaled_and_acknowledged_in_this_order(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    batch = drive.finish(sent)
    order = [type(i) for i in batch if isinstance(i, KeepArrays | SaveUnit | Acknowledge | SendTask)]
    assert order == [KeepArrays, SaveUnit, Acknowledge, SaveUnit, SendTask]
    row = drive.unit(0)
    assert (row.done, row.directory, row.attempts) == (True, sent.task.output, 1)
    assert by_hand.of(Acknowledge, batch)[0].accepted
    [other] = drive.sent_to("w")
    batch = drive.finish(other)
    assert drive.job().state is JobState.SUCCEEDED
    assert drive.stages["j", "only"].ended == drive.now
    assert by_hand.of(Emit, batch)[-1].event.state is JobState.SUCCEEDED


def test_large_units_first_and_as_many_as_there_are_threads(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(5, rows=(10, 50, 20, 50, 40)))
    drive.submit()
    drive.connect("two", threads=2)
    assert [sent.lease.unit for sent in drive.sent_to("two")] == [1, 3]
    drive.connect("one")
    assert [sent.lease.unit for sent in drive.sent_to("one")] == [4]
    drive.finish(drive.sent_to("two")[0])
    assert [sent.lease.unit for sent in drive.sent_to("two")] == [3, 2]


def test_a_lost_unit_is_put_back_in_its_place(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(3, rows=(10, 50, 20)))
    drive.submit()
    drive.connect("lost")
    assert [sent.lease.unit for sent in drive.sent_to("lost")] == [1]
    drive.disconnect("lost")
    drive.wait(3.1)
    drive.connect("w", threads=3)
    assert [sent.lease.unit for sent in drive.sent_to("w")] == [1, 2, 0]


def test_units_go_to_the_least_loaded_worker(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(4))
    for worker_id, threads in (("small", 1), ("large", 4)):
        drive.connect(worker_id, threads=threads)
    drive.submit()
    assert len(drive.sent_to("small")) == 1
    assert len(drive.sent_to("large")) == 3


def test_the_oldest_job_is_served_first_and_the_rest_goes_to_younger_ones(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit("old")
    drive.now += 1
    drive.submit("young")
    drive.connect(threads=3)
    assert [sent.lease.job_id for sent in drive.sent_to("w")] == ["old", "old", "young"]
    assert [row.job_id for row in drive.machine.jobs()] == ["young", "old"]


def test_stages_are_barriers_and_an_empty_one_is_passed_over(by_hand):
    seen = []

    def program(job):
        seen.append((yield by_hand.units("first", 2)))
        seen.append((yield by_hand.units("nothing", 0)))
        yield by_hand.units("last", 1)

    drive = by_hand.Drive(program)
    drive.submit()
    drive.connect(threads=4)
    first, second = drive.sent_to("w")
    drive.now += 3
    drive.finish(second)
    assert not seen
    drive.finish(first)
    assert [sent.lease.stage for sent in drive.sent_to("w")] == ["last"]
    # Results and directories are in the order of the units, whatever order they came in.
    assert seen[0].directories == (first.task.output, second.task.output)
    assert len(seen[0].results) == 2
    assert seen[0].seconds == 3
    assert seen[0].reproducible
    assert seen[1].results == ()


@pytest.mark.parametrize("change", [{"fence": -1}, {"attempt": 9}, {"unit": 1}, {"job_id": "other"}])
def test_a_lease_that_is_not_quite_the_current_one_counts_for_nothing(by_hand, change):
    drive = by_hand.Drive(by_hand.one_stage())
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    change = {name: value if name != "fence" else sent.lease.fence - 1 for name, value in change.items()}
    stale = replace(sent.lease, **change)
    batch = drive.handle(UnitFinished(now=drive.now, worker_id="w", lease=stale, result_json="{}"))
    assert batch == [Acknowledge(worker_id="w", lease=stale, accepted=False)]
    assert not drive.machine.is_current(stale)
    assert drive.machine.is_current(sent.lease)


def test_the_lease_of_another_worker_counts_for_nothing(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect("holder"))
    drive.connect("thief")
    batch = drive.finish(replace(sent, worker_id="thief"))
    assert batch == [Acknowledge(worker_id="thief", lease=sent.lease, accepted=False)]
    assert not drive.unit(0).done


def test_a_result_that_was_accepted_is_acknowledged_again_and_changes_nothing(by_hand):
    drive = by_hand.Drive(by_hand.one_stage())
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    drive.finish(sent)
    assert drive.finish(sent) == [Acknowledge(worker_id="w", lease=sent.lease, accepted=True)]
    # Nor does a failure that comes behind it.
    assert drive.fail(sent) == [Acknowledge(worker_id="w", lease=sent.lease, accepted=False)]
    assert drive.unit(0).done


def test_a_failed_unit_runs_again_on_another_worker(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect("a")
    drive.connect("b")
    [sent] = drive.sent_to("a")
    batch = drive.fail(sent, "disk full")
    assert by_hand.of(Acknowledge, batch) == [Acknowledge(worker_id="a", lease=sent.lease, accepted=False)]
    assert by_hand.notices(batch) == [
        "unit 0 of stage 'only' failed on worker a and runs again (failure 1 of at most 3): disk full"
    ]
    [again] = drive.sent_to("b")
    assert (again.lease.attempt, drive.unit(0).failures) == (2, 1)
    assert again.task.output != sent.task.output
    assert drive.sent_to("a") == []


def test_without_another_worker_a_failed_unit_runs_again_on_the_same(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    drive.fail(sent)
    [again] = drive.sent_to("w")
    drive.finish(again)
    assert drive.job().state is JobState.SUCCEEDED


def test_a_unit_that_fails_too_often_fails_its_job(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect("w", threads=2)
    _, bystander = drive.sent_to("w")
    for _ in range(3):
        failing = next(sent for sent in drive.sent_to("w") if sent.lease.unit == 0)
        batch = drive.fail(failing, "disk full", code="data")
    job = drive.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "data")
    assert job.error == "disk full (unit 0 of stage 'only' failed 3 times: remove work)"
    assert [revoked.lease for revoked in by_hand.of(RevokeLease, batch)] == [bystander.lease]
    assert drive.out == {}
    assert drive.unit(1).lease is None


def test_a_failure_that_would_come_again_fails_the_job_at_once(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    drive.fail(sent, "train.csv: column 'x': row 3 holds 'abc'", code="data", retryable=False)
    job = drive.job()
    assert (job.state, job.error_code, job.error) == (
        *(JobState.FAILED, "data"),
        "train.csv: column 'x': row 3 holds 'abc'",
    )
    assert job.ended == drive.now
    assert drive.machine.progress("j") is None


def test_an_error_code_that_is_not_in_the_catalog_is_an_internal_error(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    drive.fail(sent, code="no_such_code", retryable=False)
    assert drive.job().error_code == "internal"


@pytest.mark.parametrize("result", ["", "no json", "{}", '{"seconds": "soon"}'])
def test_a_result_that_cannot_be_read_is_a_failure(by_hand, result):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    event = UnitFinished(now=drive.now, worker_id="w", lease=sent.lease, result_json=result)
    batch = drive.handle(event)
    assert by_hand.of(Acknowledge, batch) == [Acknowledge(worker_id="w", lease=sent.lease, accepted=False)]
    [notice] = by_hand.notices(batch)
    assert "worker w sent a result that cannot be read" in notice
    assert drive.unit(0).failures == 1
    assert not drive.unit(0).done


def test_notices_of_retries_are_bounded(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(40))
    drive.submit()
    drive.connect(threads=40)
    told = [by_hand.notices(drive.fail(sent)) for sent in drive.sent_to("w")[:30]]
    assert [len(texts) for texts in told] == [1] * 21 + [0] * 9
    assert told[20] == ["more units of stage 'only' run again; they are not listed"]
