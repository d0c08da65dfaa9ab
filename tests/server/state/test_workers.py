"""Workers: registered, silent, lost, back, leaving; and jobs that find none."""

from __future__ import annotations

import pytest

from gdmix_server.state.events import Tick, WorkerDisconnected, WorkerHeartbeat
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    RefuseWorker,
    RevokeLease,
    SendTask,
    WakeAt,
)
from gdmix_server.state.model import JobState


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"version": "1.3.0"}, "worker w runs gdmix 1.3.0, this coordinator 1.2.0"),
        ({"version": "2.2.0"}, "install the same major and minor version on both"),
        ({"threads": 0}, "worker w offers 0 threads; at least 1 is needed"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused(by_hand, says, reason):
    drive = by_hand.Drive(by_hand.one_stage())
    drive.submit()
    batch = drive.connect(**says)
    [refused] = by_hand.of(RefuseWorker, batch)
    assert reason in refused.reason
    assert not by_hand.of(AcceptWorker, batch)
    assert not by_hand.of(SendTask, batch)
    assert drive.machine.workers() == []


def test_a_worker_gets_units_once_it_is_ready(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    assert not by_hand.of(SendTask, drive.connect(ready=False))
    assert not by_hand.of(SendTask, drive.beat(ready=False))
    # Compiling may take longer than a job would wait for a worker that is not there.
    for _ in range(90):
        drive.now += 1
        drive.beat(ready=False)
    assert drive.job().state is JobState.QUEUED
    assert by_hand.of(SendTask, drive.beat(ready=True))


def test_silence_costs_a_worker_its_units_and_a_sign_of_life_makes_it_useful_again(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect("a")
    [lost] = drive.sent_to("a")
    drive.connect("b")
    drive.now += 1.5
    drive.beat("a")
    assert drive.wait(14.9, "b") == [] or drive.machine.is_current(lost.lease)
    batch = drive.wait(0.2, "b")
    assert by_hand.of(RevokeLease, batch) == [
        RevokeLease(worker_id="a", session=drive.sessions["a"], lease=lost.lease)
    ]
    assert by_hand.notices(batch) == [
        "worker a on here was silent for 15 s; 1 unit of only will run elsewhere"
    ]
    [again] = drive.sent_to("b")
    assert (again.lease.unit, drive.unit(0).deaths, drive.unit(0).failures) == (0, 1, 0)
    # What it brings too late is refused, and it takes units again as soon as it is heard of.
    assert drive.finish(lost) == [Acknowledge(worker_id="a", lease=lost.lease, accepted=False)]
    drive.fail(again)
    assert drive.sent_to("a") == []
    drive.beat("a")
    drive.finish(drive.sent_to("b")[0])
    drive.submit("next")
    assert drive.sent_to("a")


def test_heartbeats_keep_leases(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect()
    [sent] = drive.sent_to("w")
    for _ in range(100):
        drive.now += 1
        drive.beat()
        drive.handle(Tick(now=drive.now))
    assert drive.machine.is_current(sent.lease)


def test_a_heartbeat_of_an_older_session_keeps_nothing_alive(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect()
    old = drive.sessions["w"]
    drive.connect(held=[drive.sent_to("w")[0].lease])
    for _ in range(20):
        drive.now += 1
        drive.handle(WorkerHeartbeat(now=drive.now, worker_id="w", session=old, ready=True))
    assert drive.unit(0).deaths == 1
    # Nor does the end of the older session end the newer.
    drive.beat()
    drive.handle(WorkerDisconnected(now=drive.now, worker_id="w", session=old))
    assert drive.machine.workers()[0].connected


def test_a_worker_that_comes_back_in_time_keeps_its_lease(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect()
    [sent] = drive.sent_to("w")
    drive.disconnect()
    assert not drive.machine.workers()[0].connected
    drive.wait(2.9)
    batch = drive.connect(held=[sent.lease])
    assert not by_hand.of(RevokeLease, batch)
    assert not by_hand.of(SendTask, batch)  # its only thread is busy
    drive.wait(5)
    drive.finish(sent)
    assert drive.unit(0).done
    assert drive.unit(0).attempts == 1


def test_a_worker_that_stays_away_is_given_up(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect("a")
    [lost] = drive.sent_to("a")
    drive.connect("b")
    drive.disconnect("a")
    batch = drive.wait(3.1)
    assert by_hand.notices(batch) == [
        "worker a on here was lost (no connection for 3 s); 1 unit of only will run elsewhere"
    ]
    assert [view.info.worker_id for view in drive.machine.workers()] == ["b"]
    assert drive.sent_to("b")[0].lease.unit == 0
    # If it comes back after all, its lease is no longer its own.
    batch = drive.connect("a", held=[lost.lease])
    assert by_hand.of(RevokeLease, batch)[0].lease == lost.lease


def test_a_worker_that_comes_back_without_its_unit_has_lost_it(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect()
    [lost] = drive.sent_to("w")
    batch = drive.connect()  # a new process under the same name
    assert by_hand.notices(batch) == [
        "worker w on here came back without what it was working on; 1 unit of only will run elsewhere"
    ]
    [again] = drive.sent_to("w")
    assert again.lease.attempt == lost.lease.attempt + 1
    assert drive.unit(0).deaths == 1


def test_held_results_that_were_accepted_are_acknowledged_on_return(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect()
    [sent] = drive.sent_to("w")
    drive.finish(sent)  # the acknowledgement does not arrive
    drive.disconnect()
    batch = drive.connect(held=[sent.lease, drive.sent_to("w")[0].lease])
    assert by_hand.of(Acknowledge, batch) == [Acknowledge(worker_id="w", lease=sent.lease, accepted=True)]
    assert not by_hand.of(RevokeLease, batch)


def test_a_unit_that_takes_worker_after_worker_down_is_quarantined(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    for name in ("a", "b", "c"):
        drive.connect(name)
        assert drive.sent_to(name)[0].lease.unit == 0
        drive.disconnect(name)
        drive.wait(3.1)
    job = drive.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "job_failed")
    assert "unit 0 of stage 'only' is quarantined: 3 workers were lost while they ran it" in job.error
    assert drive.unit(0).deaths == 3
    # A resume forgives it.
    drive.connect("d")
    drive.resume()
    drive.work("d")
    assert drive.job().state is JobState.SUCCEEDED


def test_a_leaving_worker_gets_nothing_more_and_is_not_missed(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect("a")
    [sent] = drive.sent_to("a")
    drive.drain("a")
    drive.finish(sent)
    assert drive.sent_to("a") == []
    drive.disconnect("a")
    assert drive.machine.workers() == []
    drive.connect("b")
    drive.work("b")
    assert drive.job().state is JobState.SUCCEEDED


@pytest.mark.parametrize("first", ["a timer", "the worker"])
def test_a_coordinator_that_stood_still_blames_nobody(by_hand, first):
    """It was stopped for an hour: that nobody was heard of in the meantime says nothing about workers."""
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect()
    [sent] = drive.sent_to("w")
    drive.now += 3600
    if first == "a timer":
        drive.handle(Tick(now=drive.now))
    else:
        drive.beat()
    assert drive.machine.is_current(sent.lease)
    assert drive.unit(0).deaths == 0
    # From now on it counts again.
    drive.wait(14)
    assert drive.unit(0).deaths == 0
    drive.wait(1.1)
    assert drive.unit(0).deaths == 1


def test_a_standstill_is_forgiven_in_full(by_hand):
    """What was heard just before it counts as heard just now, and what was to come may still come."""
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect("heard")
    drive.connect("away")
    [held] = drive.sent_to("away")
    drive.wait(10, "away")
    drive.beat("heard")
    drive.disconnect("away")
    drive.now += 3600
    drive.handle(Tick(now=drive.now))
    drive.wait(2.9)
    drive.connect("away", held=[held.lease])
    drive.wait(12, "away")
    assert [drive.unit(number).deaths for number in (0, 1)] == [0, 0]


def test_after_a_standstill_new_deadlines_are_not_put_off(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.connect("a")
    drive.now += 3600
    drive.connect("b")
    drive.disconnect("a")
    drive.wait(3.1, "b")
    assert [view.info.worker_id for view in drive.machine.workers()] == ["b"]
    drive.wait(15.1)
    assert drive.unit(0).deaths == 2


def test_a_worker_that_came_back_idle_takes_units(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.connect()
    drive.disconnect()
    drive.connect()
    drive.connect()
    drive.submit()
    drive.work("w")
    assert drive.job().state is JobState.SUCCEEDED


def test_a_job_without_workers_says_so_and_fails_in_the_end(by_hand):
    drive = by_hand.Drive(by_hand.one_stage())
    assert by_hand.notices(drive.submit()) == ["no worker is connected; waiting up to 60 s"]
    drive.wait(59)
    assert drive.job().state is JobState.QUEUED
    drive.wait(2)
    job = drive.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "unavailable")
    assert job.error == "no worker was connected for 60 s; start workers, then resume the job"
    drive.connect()
    drive.resume()
    drive.work("w")
    assert drive.job().state is JobState.SUCCEEDED


def test_a_worker_in_time_ends_the_wait(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    drive.wait(50)
    drive.connect(ready=False)
    drive.wait(14, "w")
    assert not drive.job().state.ended
    drive.disconnect()
    batch = drive.wait(10)  # given up after 3 s: the patience begins anew
    assert "no worker is connected; waiting up to 60 s" in by_hand.notices(batch)
    drive.wait(49)
    assert not drive.job().state.ended


def test_workers_of_other_numerics_are_told_and_used_last(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(3))
    drive.connect("other", fingerprint="0" * 16)
    drive.connect("a", threads=2)
    batch = drive.submit()
    # It begins where most of its units can follow.
    assert len(drive.sent_to("a")) == 2
    assert drive.job().fingerprint == "f" * 16
    [notice] = [text for text in by_hand.notices(batch) if "numerics" in text]
    assert "worker other on here has other numerics than the job began with" in notice
    assert not drive.job().reproducible
    assert drive.sent_to("other")


def test_the_wish_to_be_woken_is_repeated_only_when_it_changes(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    first = by_hand.of(WakeAt, drive.connect())
    assert len(first) == 1
    assert not by_hand.of(WakeAt, drive.beat())
