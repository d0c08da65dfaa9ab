"""Gangs: leased together, begun together, lost together, accepted together."""

from __future__ import annotations

import pytest

from gdmix_server.state.instructions import (
    Acknowledge,
    KeepArrays,
    RevokeLease,
    SaveUnit,
    SendTask,
    StartGang,
)
from gdmix_server.state.model import JobState, MemberState


@pytest.fixture
def three(by_hand):
    """A gang of three on three workers."""
    drive = by_hand.Drive(by_hand.one_gang(3))
    for name in "abc":
        drive.connect(name)
    drive.submit()
    return drive


def workers_of(drive, job_id="j"):
    return [sent.worker_id for sent in drive.members(job_id)]


def joined(drive):
    for sent in drive.members():
        drive.join(sent)
    return drive.members()


# ---- leasing ---------------------------------------------------------------------------------------------


def test_all_members_are_leased_at_once_to_different_workers(by_hand):
    drive = by_hand.Drive(by_hand.one_gang(3))
    drive.submit()
    drive.connect("a", threads=2)
    assert not by_hand.of(SendTask, drive.connect("b", ready=False))
    batch = drive.beat("b")
    assert [sent.worker_id for sent in by_hand.of(SendTask, batch)] == ["a", "b", "a"]
    assert [sent.gang_size for sent in drive.members()] == [3, 3, 3]
    assert len({sent.lease.attempt for sent in drive.members()}) == 1
    # One transaction has all leases, before any of them is sent.
    kinds = [type(one) for one in batch if isinstance(one, SaveUnit | SendTask)]
    assert kinds.count(SaveUnit) == 3
    assert drive.job().state is JobState.RUNNING


def test_the_least_loaded_workers_are_taken_and_one_that_failed_last(by_hand):
    def program(job):
        yield by_hand.units("first", 1) if job.job_id == "other" else by_hand.gang("fit", 2)

    drive = by_hand.Drive(program)
    for name in "abc":
        drive.connect(name, threads=2)
    drive.submit("other")
    [busy] = [name for name in "abc" if drive.sent_to(name)]
    drive.submit()
    assert workers_of(drive) == [name for name in "abc" if name != busy]
    failed = drive.members()[0]
    drive.fail(failed)
    assert failed.worker_id not in workers_of(drive)


def test_workers_of_the_job_s_numerics_come_first(by_hand):
    def program(job):
        yield by_hand.units("first", 1)
        yield by_hand.gang("fit", 2)

    drive = by_hand.Drive(program)
    drive.connect("a")
    drive.submit()
    drive.connect("other", fingerprint="0" * 16)
    drive.connect("b")
    drive.finish(drive.sent_to("a")[0])
    assert workers_of(drive) == ["a", "b"]
    assert drive.job().reproducible


def test_too_few_slots_are_told_once_and_the_gang_goes_on_when_more_connect(by_hand):
    drive = by_hand.Drive(by_hand.one_gang(3))
    drive.submit()
    batch = drive.connect("a", threads=2)
    assert by_hand.notices(batch) == [
        "the gang of 3 of stage 'fit' needs 3 free slots; 2 are connected: it waits for more workers"
    ]
    assert not by_hand.notices(drive.wait(120, "a"))
    assert drive.job().state is JobState.QUEUED
    drive.connect("b")
    assert workers_of(drive) == ["a", "b", "a"]


def test_a_waiting_gang_keeps_free_slots_from_younger_jobs(by_hand):
    def program(job):
        yield by_hand.gang("fit", 3) if job.job_id == "gang" else by_hand.units("only", 4)

    drive = by_hand.Drive(program)
    for name in "abc":
        drive.connect(name)
    drive.submit("young")  # all three slots
    drive.now -= 1
    drive.submit("gang")  # older: it comes first
    drive.now += 1
    for count, name in enumerate("abc"):
        assert not drive.members("gang")
        drive.finish(drive.sent_to(name)[0])
        assert len(drive.out) == (3 if name == "c" else 2 - count)
    assert sorted(workers_of(drive, "gang")) == ["a", "b", "c"]
    # The rest of the young job comes when the gang is done.
    for sent in drive.members("gang"):
        drive.finish(sent)
    assert [sent.lease.job_id for sent in drive.out.values()] == ["young"]


def test_a_gang_that_cannot_run_keeps_nothing_from_younger_jobs(by_hand):
    def program(job):
        yield by_hand.gang("fit", 3) if job.job_id == "gang" else by_hand.units("only", 2)

    drive = by_hand.Drive(program)
    drive.connect("a")
    drive.connect("b")
    drive.submit("gang")
    drive.now += 1
    drive.submit("young")
    assert len(drive.sent_to("a") + drive.sent_to("b")) == 2
    # With a third worker it can: now it waits for the other two.
    drive.connect("c")
    assert not drive.sent_to("c")
    for name in "ab":
        drive.finish(drive.sent_to(name)[0])
    assert sorted(workers_of(drive, "gang")) == ["a", "b", "c"]


def test_two_gangs_do_not_wait_for_each_other(by_hand):
    drive = by_hand.Drive(by_hand.one_gang(2))
    drive.connect("a")
    drive.submit("old")
    drive.now += 1
    drive.submit("young")
    drive.connect("b")
    assert (len(drive.members("old")), len(drive.members("young"))) == (2, 0)
    drive.connect("c")
    assert not drive.members("young")
    drive.connect("d")
    assert len(drive.members("young")) == 2
    for job_id in ("young", "old"):
        for sent in drive.members(job_id):
            drive.finish(sent)
        assert drive.job(job_id).state is JobState.SUCCEEDED


def test_members_share_a_worker_only_when_there_are_fewer_workers(by_hand):
    """A worker that still warms up is waited for: two members side by side would be slower for hours."""
    drive = by_hand.Drive(by_hand.one_gang(2))
    drive.connect("a", threads=2)
    drive.connect("b", ready=False)
    drive.submit()
    assert not drive.members()
    drive.disconnect("b")
    drive.wait(3.1, "a")
    assert workers_of(drive) == ["a", "a"]


def test_a_worker_that_another_gang_has_is_not_waited_for(by_hand):
    """It would be for hours; one that runs a unit has a slot again soon."""

    def program(job):
        yield by_hand.units("only", 1) if job.job_id == "unit" else by_hand.gang("fit", 2)

    drive = by_hand.Drive(program)
    drive.connect("a")
    drive.connect("b")
    drive.submit("first")
    drive.connect("c")
    drive.now += 1
    drive.submit("unit")
    assert [sent.lease.job_id for sent in drive.sent_to("c")] == ["unit"]
    drive.now += 1
    drive.submit("second")
    drive.connect("d", threads=2)
    assert not drive.members("second")
    drive.finish(drive.sent_to("c")[0])
    assert workers_of(drive, "second") == ["c", "d"]
    drive.now += 1
    drive.submit("third")
    drive.connect("e", threads=2)
    assert workers_of(drive, "third") == ["e", "d"]


# ---- joining ---------------------------------------------------------------------------------------------


def test_members_hear_where_all_listen_when_all_have_joined(by_hand, three):
    first, second, third = three.members()
    assert not by_hand.of(StartGang, three.join(third, "10.0.0.3:3"))
    assert not by_hand.of(StartGang, three.join(first, "10.0.0.1:1"))
    states = {member.state for member in three.machine.progress("j").members}
    assert states == {MemberState.JOINING}
    started = by_hand.of(StartGang, three.join(second, "10.0.0.2:2"))
    assert [(one.worker_id, one.lease) for one in started] == [
        (sent.worker_id, sent.lease) for sent in (first, second, third)
    ]
    assert {one.addresses for one in started} == {("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3")}
    members = three.machine.progress("j").members
    assert [member.address for member in members] == list(started[0].addresses)
    assert {member.state for member in members} == {MemberState.RUNNING}


def test_a_member_that_asks_again_is_told_again(by_hand, three):
    first, *_ = joined(three)
    three.disconnect(first.worker_id)
    three.connect(first.worker_id, held=[first.lease])
    [again] = by_hand.of(StartGang, three.join(first))
    assert (again.lease, again.session) == (first.lease, three.sessions[first.worker_id])


def test_a_member_of_an_earlier_attempt_joins_nothing(by_hand, three):
    old = three.members()
    three.fail(old[0])
    for sent in old:
        assert three.join(sent) == []
    assert all(not member.address for member in three.machine.progress("j").members)


def test_a_gang_that_does_not_meet_in_time_begins_again(by_hand, three):
    first, _, third = three.members()
    three.join(first)
    three.join(third)
    [notice] = by_hand.notices(three.wait(61, "a", "b", "c"))
    assert notice == (
        "the gang of 3 of stage 'fit' begins again (failure 1 of at most 3): member 1 on worker b did not join "
        "within 60 s"
    )
    assert three.members()[0].lease.attempt == 2
    joined(three)
    three.wait(600, "a", "b", "c")
    assert three.unit(1, "fit").failures == 1


def test_members_on_several_machines_must_reach_each_other(by_hand):
    drive = by_hand.Drive(by_hand.one_gang(2))
    drive.connect("a", host="one")
    drive.connect("b", host="two")
    drive.submit()
    first, second = drive.members()
    drive.join(first, "10.0.0.1:4000")
    drive.join(second, "127.0.0.1:4000")
    job = drive.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "usage")
    assert job.error == (
        "the gang of 2 of stage 'fit' runs on 2 machines, and its member 1, on worker b on two, listens at "
        "127.0.0.1:4000, where only that machine reaches it; start workers with --advertise-host, then resume the "
        "job"
    )
    assert not drive.out


def test_a_unit_that_is_no_member_joins_nothing(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.connect()
    drive.submit()
    [sent] = drive.sent_to("w")
    assert drive.join(sent) == []
    assert sent.gang_size == 0


# ---- results ---------------------------------------------------------------------------------------------


def test_results_count_when_the_last_one_is_there(by_hand, three):
    first, second, third = joined(three)
    for sent in (second, third):
        batch = three.finish(sent)
        assert not by_hand.of(SaveUnit, batch)
        assert not by_hand.of(Acknowledge, batch)
    assert three.machine.progress("j").units_done == 2
    assert [member.state for member in three.machine.progress("j").members] == [
        *(MemberState.RUNNING, MemberState.FINISHED, MemberState.FINISHED),
    ]
    # A result that comes twice, over a new connection, is the same result.
    assert not by_hand.of(Acknowledge, three.finish(third))
    batch = three.finish(first)
    assert [one.lease.unit for one in by_hand.of(KeepArrays, batch)] == [0, 1, 2]
    assert [(one.lease.unit, one.accepted) for one in by_hand.of(Acknowledge, batch)] == [
        *((0, True), (1, True), (2, True)),
    ]
    assert [three.unit(rank, "fit").directory for rank in range(3)] == [
        sent.task.output for sent in (first, second, third)
    ]
    assert three.job().state is JobState.SUCCEEDED
    assert three.finish(first) == [Acknowledge(worker_id="a", lease=first.lease, accepted=True)]


def test_a_result_of_a_gang_that_began_again_does_not_count(by_hand, three):
    first, second, third = joined(three)
    three.finish(first)
    three.fail(second)
    batch = three.finish(third)
    assert batch == [Acknowledge(worker_id=third.worker_id, lease=third.lease, accepted=False)]
    assert three.machine.progress("j").units_done == 0
    assert not any(three.unit(rank, "fit").done for rank in range(3))


# ---- failures --------------------------------------------------------------------------------------------


def test_the_failure_of_one_calls_all_back(by_hand, three):
    old = first, second, third = joined(three)
    batch = three.fail(second, "disk full")
    assert by_hand.of(Acknowledge, batch) == [Acknowledge(worker_id="b", lease=second.lease, accepted=False)]
    assert [one.lease for one in by_hand.of(RevokeLease, batch)] == [first.lease, third.lease]
    assert by_hand.notices(batch) == [
        "the gang of 3 of stage 'fit' begins again (failure 1 of at most 3): member 1 on worker b failed: disk full"
    ]
    again = three.members()
    assert min(sent.lease.fence for sent in again) > max(sent.lease.fence for sent in old)
    assert {sent.lease.attempt for sent in again} == {2}
    assert not {sent.task.output for sent in again} & {sent.task.output for sent in old}


def test_the_loss_of_a_worker_calls_all_back_and_they_wait_for_another(by_hand, three):
    joined(three)
    three.disconnect("b")
    batch = three.wait(3.1, "a", "c")
    assert [one.lease.unit for one in by_hand.of(RevokeLease, batch)] == [0, 1, 2]
    again = "the gang of 3 of stage 'fit' begins again (failure 1 of at most 3)"
    assert by_hand.notices(batch) == [
        "worker b on here was lost (no connection for 3 s); 1 unit of fit will run elsewhere",
        f"{again}: member 1 on worker b was lost (no connection for 3 s)",
        "the gang of 3 of stage 'fit' needs 3 free slots; 2 are connected: it waits for more workers",
    ]
    assert not three.out
    three.connect("d")
    assert sorted(workers_of(three)) == ["a", "c", "d"]
    for sent in joined(three):
        three.finish(sent)
    assert three.job().state is JobState.SUCCEEDED


def test_silence_of_one_calls_all_back(by_hand, three):
    joined(three)
    for _ in range(16):
        three.wait(1, "a", "b")
    assert not [sent for sent in three.out.values() if sent.worker_id == "c"]
    assert three.unit(2, "fit").deaths == 1


def test_who_fails_because_of_another_names_the_other(by_hand, three):
    """A peer sees a broken connection before the coordinator knows that the worker is gone."""
    first, *_ = joined(three)
    three.disconnect("c")
    batch = three.fail(first, "connection reset by peer")
    [notice] = by_hand.notices(batch)
    assert notice.endswith(
        "member 0 on worker a failed: connection reset by peer (not connected: member 2 on worker c)"
    )
    # One loss is one failure.
    three.wait(3.1, "a", "b")
    assert sum(three.unit(rank, "fit").failures + three.unit(rank, "fit").deaths for rank in range(3)) == 1


def test_after_a_failure_only_workers_that_are_heard_of_take_part(by_hand, three):
    """A dead machine's peers fail before it is known to be dead: it must not take the next attempt down too."""
    first, *_ = joined(three)
    three.now += 0.5
    three.fail(first, "connection reset by peer")
    three.connect("d")
    assert not three.out
    three.now += 0.5
    three.beat("a")
    assert not three.out  # b and c may yet be heard of, or missed
    three.beat("b")
    three.disconnect("c")
    three.wait(3.1, "a", "b", "d")
    assert sorted(workers_of(three)) == ["a", "b", "d"]
    assert sum(three.unit(rank, "fit").failures + three.unit(rank, "fit").deaths for rank in range(3)) == 1


def test_a_gang_that_fails_three_times_fails_the_job_by_names_and_reasons(by_hand, three):
    three.fail(three.members()[0], "no memory")
    three.restart()
    for name in "abc":
        three.connect(name)
    [lost] = [sent.worker_id for sent in three.members() if sent.lease.unit == 2]
    three.disconnect(lost)
    three.wait(3.1, *(name for name in "abc" if name != lost))
    three.connect("d")
    last = three.members()[1]
    three.fail(last, "no network", code="unavailable")
    job = three.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "unavailable")
    assert job.error == (
        "the gang of 3 of stage 'fit' failed 3 times: attempt 1: member 0 on worker a failed: no memory; "
        f"attempt 3: member 2 on worker {lost} was lost (no connection for 3 s); attempt 4: member 1 on worker "
        f"{last.worker_id} failed: no network"
    )
    assert not three.out
    # A resume forgives it.
    three.resume()
    assert not any(three.unit(rank, "fit").reasons for rank in range(3))
    for sent in joined(three):
        three.finish(sent)
    assert three.job().state is JobState.SUCCEEDED


def test_a_failure_that_would_come_again_fails_the_job_at_once(by_hand, three):
    three.fail(three.members()[1], "column 'x': row 3 holds 'abc'", code="data", retryable=False)
    job = three.job()
    assert (job.state, job.error_code, job.error) == (
        *(JobState.FAILED, "data"),
        "column 'x': row 3 holds 'abc'",
    )
    assert not three.out


@pytest.mark.parametrize("noticed_by", ["its peer", "the coordinator"])
def test_a_worker_that_leaves_takes_the_gang_along_without_blame(by_hand, three, noticed_by):
    first, *_ = joined(three)
    three.drain("b")
    assert len(three.out) == 3  # it may still finish
    if noticed_by == "its peer":
        batch = three.fail(first, "connection reset by peer")
    else:
        three.disconnect("b")
        batch = three.wait(3.1, "a", "c")
    assert "the gang of 3 of stage 'fit' begins again: worker b no longer has member 1" in by_hand.notices(
        batch
    )
    assert [three.unit(rank, "fit").deaths + three.unit(rank, "fit").failures for rank in range(3)] == [
        0,
        0,
        0,
    ]
    three.connect("d")
    assert len(three.members()) == 3


def test_a_worker_with_two_members_is_lost_once(by_hand):
    drive = by_hand.Drive(by_hand.one_gang(3))
    drive.connect("a", threads=2)
    drive.connect("b", threads=2)
    drive.submit()
    drive.disconnect("a")
    drive.wait(3.1, "b")
    assert sum(drive.unit(rank, "fit").deaths for rank in range(3)) == 1


def test_cancelling_calls_all_back(by_hand, three):
    joined(three)
    batch = three.cancel()
    assert [one.lease.unit for one in by_hand.of(RevokeLease, batch)] == [0, 1, 2]
    assert three.job().state is JobState.CANCELLED
    assert not by_hand.notices(three.wait(120, "a", "b", "c"))
    three.resume()
    for sent in joined(three):
        three.finish(sent)
    assert three.job().state is JobState.SUCCEEDED


# ---- restart ---------------------------------------------------------------------------------------------


def test_a_gang_whose_members_are_all_announced_goes_on(by_hand, three):
    members = joined(three)
    three.finish(members[1])
    three.restart()
    for sent in members:
        batch = three.connect(sent.worker_id, held=[sent.lease])
        assert not by_hand.of(RevokeLease, batch)
        three.out[sent.lease.fence] = sent
    # Addresses and unfinished results were in memory only: workers send them again.
    started = [by_hand.of(StartGang, three.join(sent)) for sent in members]
    assert [len(one) for one in started] == [0, 0, 3]
    three.wait(120, "a", "b", "c")
    assert three.members() == members
    for sent in members:
        three.finish(sent)
    assert three.job().state is JobState.SUCCEEDED
    assert three.unit(0, "fit").attempts == 1


@pytest.mark.parametrize("missing", ["stays away", "comes without it"])
def test_a_gang_whose_members_are_not_all_announced_begins_again(by_hand, three, missing):
    members = joined(three)
    three.restart()
    for sent in members[:2]:
        three.connect(sent.worker_id, held=[sent.lease])
    batch = three.wait(7.1, "a", "b") if missing == "stays away" else three.connect("c")
    revoked = by_hand.of(RevokeLease, batch)
    assert [one.lease for one in revoked] == [sent.lease for sent in members]
    assert "the gang of 3 of stage 'fit' begins again: worker c no longer has member 2" in by_hand.notices(
        batch
    )
    assert three.unit(2, "fit").deaths == 0
    if missing == "stays away":
        three.connect("c")
    assert {sent.lease.attempt for sent in three.members()} == {2}


def test_a_restored_gang_that_does_not_meet_begins_again(by_hand, three):
    members = three.members()
    three.restart()
    for sent in members:
        three.connect(sent.worker_id, held=[sent.lease])
    for sent in members[:2]:
        three.join(sent)
    three.wait(68, "a", "b", "c")
    assert three.unit(2, "fit").failures == 1


# ---- the rest --------------------------------------------------------------------------------------------


def test_a_gang_of_one_and_none(by_hand):
    def program(job):
        none = yield by_hand.gang("nobody", 0)
        assert none.results == ()
        yield by_hand.gang("alone", 1)
        yield by_hand.units("last", 1)

    drive = by_hand.Drive(program)
    drive.connect()
    drive.submit()
    [sent] = drive.members()
    [started] = by_hand.of(StartGang, drive.join(sent, "h:1"))
    assert started.addresses == ("h:1",)
    drive.finish(sent)
    drive.work("w")
    assert drive.job().state is JobState.SUCCEEDED


def test_progress_of_a_gang_that_began_again_begins_again(by_hand, three):
    joined(three)
    three.beat("a", rows=500)
    assert three.machine.progress("j").rows_done == 500
    three.beat("a", rows=0)
    three.fail(three.members()[1])
    assert three.machine.progress("j").rows_done == 0
