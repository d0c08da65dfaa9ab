"""Jobs: submitted once, cancelled, resumed, deleted, taken up by the next coordinator; what is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdmix_core.errors import ConfigError, Conflict, DataError, NotFound
from gdmix_server.state.events import JobSubmitted
from gdmix_server.state.instructions import Acknowledge, DeleteJob, Emit, RevokeLease, SaveUnit, SendTask
from gdmix_server.state.jobs import SEQUENCE_JUMP
from gdmix_server.state.model import CoordinateReport, FitProgress, JobState, Published, Report


def two_stages(by_hand):
    def program(job):
        yield Report(notice="before all")
        yield by_hand.units("first", 2)
        yield Report(notice="between")
        yield by_hand.units("second", 2)

    return program


def progress_of(by_hand, batch):
    return [one.event.progress for one in by_hand.of(Emit, batch) if one.event.progress is not None]


# ---- submitted -------------------------------------------------------------------------------------------


def test_a_request_id_makes_one_job(by_hand):
    drive = by_hand.Drive(by_hand.one_stage())
    drive.submit("j", "r")
    assert drive.submit("another", "r") == []
    assert [row.job_id for row in drive.machine.jobs()] == ["j"]
    assert drive.machine.job_of_request("r") == drive.job()
    assert drive.machine.job_of_request("s") is None
    with pytest.raises(Conflict, match="there is a job 'j' already"):
        drive.submit("j", "s")


def test_a_config_that_cannot_be_read_changes_nothing(by_hand):
    drive = by_hand.Drive(by_hand.one_stage())
    event = JobSubmitted(
        now=drive.now, job_id="j", request_id="r", config_json='{"model": 3}', model="m", output="/out"
    )
    with pytest.raises(ConfigError):
        drive.handle(event)
    assert drive.machine.jobs() == []
    drive.submit("j", "r")
    assert drive.job().state is JobState.QUEUED


# ---- ended and taken up again ----------------------------------------------------------------------------


def test_a_cancelled_job_calls_its_units_back(by_hand):
    drive = by_hand.Drive(by_hand.one_stage())
    drive.submit()
    drive.connect(threads=2)
    sent = drive.sent_to("w")
    batch = drive.cancel()
    assert [one.lease for one in by_hand.of(RevokeLease, batch)] == [one.lease for one in sent]
    assert (drive.job().state, drive.job().error_code) == (JobState.CANCELLED, "cancelled")
    assert drive.job().ended == drive.now
    # What the worker had finished before it heard of that is refused.
    assert drive.finish(sent[0]) == [Acknowledge(worker_id="w", lease=sent[0].lease, accepted=False)]
    assert not drive.unit(0).done
    with pytest.raises(Conflict, match="has ended"):
        drive.cancel()


def test_a_resumed_job_does_only_what_is_left(by_hand):
    drive = by_hand.Drive(two_stages(by_hand))
    drive.submit()
    drive.connect()
    for _ in range(2):
        drive.finish(drive.sent_to("w")[0])
    drive.finish(drive.sent_to("w")[0])
    [failing] = drive.sent_to("w")
    assert failing.lease.stage == "second"
    drive.fail(failing, retryable=False)
    assert drive.job().state is JobState.FAILED
    batch = drive.resume()
    [sent] = by_hand.of(SendTask, batch)
    assert (sent.lease.stage, sent.lease.unit, sent.lease.attempt) == ("second", failing.lease.unit, 2)
    assert (drive.job().error, drive.job().error_code, drive.job().ended) == ("", "", None)
    assert drive.unit(failing.lease.unit, "second").failures == 0
    assert by_hand.notices(batch) == []  # what was reported before is not told again
    drive.work("w")
    assert drive.job().state is JobState.SUCCEEDED
    with pytest.raises(Conflict, match="only a failed or cancelled job can be resumed"):
        drive.resume()


def test_an_ended_job_can_be_forgotten_and_no_other(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit("j", "r")
    with pytest.raises(Conflict, match="job j is queued; cancel it before deleting it"):
        drive.delete()
    drive.cancel()
    assert drive.delete() == [DeleteJob(job_id="j")]
    assert drive.machine.jobs() == []
    for act in (drive.delete, drive.cancel, drive.resume, lambda: drive.machine.progress("j")):
        with pytest.raises(NotFound, match="there is no job 'j'"):
            act()
    drive.submit("j", "r")  # its name and its request are free again
    assert drive.job().state is JobState.QUEUED


# ---- programs that fail ----------------------------------------------------------------------------------


def test_what_a_program_raises_fails_its_job_and_no_other(by_hand):
    def program(job):
        if job.job_id == "bad data":
            raise DataError("train.csv: no rows")
        yield by_hand.units("only", 1)
        if job.job_id == "broken":
            raise ZeroDivisionError("by zero")
        if job.job_id == "twice":
            yield by_hand.units("only", 1)
        if job.job_id == "elsewhere":
            yield by_hand.units("../elsewhere", 1)

    drive = by_hand.Drive(program)
    drive.connect()
    names = ("bad data", "broken", "twice", "elsewhere", "good")
    for name in names:
        drive.submit(name)
    drive.work("w")
    assert [drive.job(name).state for name in names] == [*[JobState.FAILED] * 4, JobState.SUCCEEDED]
    assert [drive.job(name).error_code for name in names] == ["data", *["internal"] * 3, ""]
    assert drive.job("bad data").error == "train.csv: no rows"
    assert "ZeroDivisionError: by zero" in drive.job("broken").error
    for name in ("twice", "elsewhere"):
        assert "is no new name of a stage" in drive.job(name).error


# ---- what is told ----------------------------------------------------------------------------------------


def test_reports_become_rows_and_events(by_hand):
    coordinate = CoordinateReport(
        name="global",
        kind="fixed_effect",
        what="logistic_regression",
        pass_number=1,
        entities=1,
        rows=20,
        coefficients=3,
        unconverged=0,
        statuses={"converged": 1},
        iterations=5,
        seconds=0.25,
        validation=(),
    )
    published = Published(
        store="lmdb:/s", version=3, activated=True, winner=None, directory="/out/models/3", content_digest="d"
    )

    def program(job):
        yield Report(train_rows=20, validation_rows=5)
        yield by_hand.units("only", 1)
        yield Report(coordinate=coordinate)
        yield Report(coordinate=replace(coordinate, pass_number=2))
        yield Report(kept_pass=2)
        yield Report(published=published, notice="done", warning=False)

    drive = by_hand.Drive(program)
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    batch = drive.finish(sent)
    job = drive.job()
    assert (job.train_rows, job.validation_rows, job.published) == (20, 5, published)
    assert [(one.pass_number, one.kept) for one in job.coordinates] == [(1, False), (2, True)]
    kept = [one.event for one in by_hand.of(Emit, batch) if one.keep]
    assert [event.coordinate.pass_number for event in kept if event.coordinate] == [1, 2]
    assert [event.published for event in kept if event.published] == [published]
    assert [(event.notice, event.warning) for event in kept if event.notice] == [("done", False)]
    assert kept[-1].state is JobState.SUCCEEDED


def test_progress_is_told_at_most_every_quarter_of_a_second(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(40, rows=[100] * 40))
    drive.submit()
    drive.connect()
    told = []
    for _ in range(20):
        drive.now += 0.05
        told += progress_of(by_hand, drive.finish(drive.sent_to("w")[0]))
    assert 3 <= len(told) <= 5
    assert not any(one.keep for one in by_hand.of(Emit, drive.beat(rows=50)) if one.event.progress)
    # What was withheld is told by a timer, and what is shown never goes back.
    told += progress_of(by_hand, drive.wait(0.3))
    assert (told[-1].units_done, told[-1].units_total, told[-1].rows_done) == (20, 40, 2050)
    assert [one.rows_done for one in told] == sorted(one.rows_done for one in told)
    assert drive.machine.progress("j").units_done == 20
    assert {one.stage for one in told} == {"doing only"}


def test_how_far_a_fit_is_is_told_until_its_unit_is_finished(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    drive.connect()
    drive.now += 1
    [told] = progress_of(by_hand, drive.beat(fit=FitProgress(step=3, steps=9, rows=70, loss=0.5)))
    assert told.fit == FitProgress(step=3, steps=9, rows=70, loss=0.5)
    drive.now += 1
    [told] = progress_of(by_hand, drive.finish(drive.sent_to("w")[0]))
    assert told.fit is None


# ---- the next coordinator --------------------------------------------------------------------------------


def test_finished_work_is_not_done_again_and_held_leases_are_kept(by_hand):
    drive = by_hand.Drive(two_stages(by_hand))
    drive.submit("j", "r")
    drive.connect(threads=2)
    for sent in drive.sent_to("w"):
        drive.finish(sent)
    first, second = drive.sent_to("w")
    assert first.lease.stage == "second"
    drive.finish(first)
    last = drive.job().last_sequence

    batch = drive.restart()
    assert not by_hand.of(SendTask, batch)
    assert by_hand.notices(batch) == []
    assert drive.job().last_sequence >= last + SEQUENCE_JUMP
    assert drive.machine.job_of_request("r").job_id == "j"
    batch = drive.connect(threads=2, held=[first.lease, second.lease])
    assert by_hand.of(Acknowledge, batch) == [Acknowledge(worker_id="w", lease=first.lease, accepted=True)]
    assert not by_hand.of(SendTask, batch)
    assert not by_hand.of(RevokeLease, batch)
    drive.finish(second)
    assert drive.unit(1, "second").attempts == 1
    assert drive.job().state is JobState.SUCCEEDED


def test_leases_that_nobody_announces_are_given_out_again_after_a_while(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [old] = by_hand.of(SendTask, drive.connect("gone"))
    drive.restart()
    drive.connect("new")
    assert drive.sent_to("new") == []
    batch = drive.wait(7.1, "new")
    assert by_hand.of(RevokeLease, batch)[0].lease == old.lease
    [again] = drive.sent_to("new")
    # Nobody died of it, as far as anybody knows; and the old fence counts for nothing.
    assert (drive.unit(0).deaths, again.lease.attempt) == (0, 2)
    assert again.lease.fence > old.lease.fence
    assert drive.finish(old) == [Acknowledge(worker_id="gone", lease=old.lease, accepted=False)]


def test_a_worker_that_was_never_sent_its_unit_gets_it(by_hand):
    """Its lease was journaled, then the coordinator died before the worker heard of it."""
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    [lost] = by_hand.of(SendTask, drive.connect())
    drive.restart()
    batch = drive.connect(held=[])
    [sent] = by_hand.of(SendTask, batch)
    assert (sent.lease.unit, sent.lease.attempt, drive.unit(0).deaths) == (lost.lease.unit, 2, 0)


def test_failures_are_counted_over_restarts(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.submit()
    for _ in range(3):
        [sent] = by_hand.of(SendTask, drive.connect())
        drive.fail(sent)
        if not drive.job().state.ended:
            drive.restart()
    assert drive.job().state is JobState.FAILED


def test_ended_jobs_stay_ended(by_hand):
    drive = by_hand.Drive(by_hand.one_stage(1))
    drive.connect()
    for name in ("done", "cancelled", "failed"):
        drive.submit(name)
        if name == "cancelled":
            drive.cancel(name)
        elif name == "failed":
            drive.fail(drive.sent_to("w")[0], retryable=False)
        else:
            drive.work("w")
    before = dict(drive.jobs)
    batch = drive.restart()
    assert batch == []
    assert drive.jobs == before
    drive.connect()
    drive.resume("failed")
    drive.work("w")
    assert drive.job("failed").state is JobState.SUCCEEDED


@pytest.mark.parametrize("fault", ["another count", "another kind", "no json"])
def test_a_journal_of_another_program_is_said_to_be_so(by_hand, fault):
    drive = by_hand.Drive(two_stages(by_hand))
    drive.submit()
    drive.connect()
    for _ in range(3):
        drive.finish(drive.sent_to("w")[0])
    if fault == "another count":

        def program(job):
            yield by_hand.units("first", 1)

        drive.program = program
    else:
        key = ("j", "first", 0)
        text = "{}" if fault == "another kind" else "torn"
        drive.units[key] = replace(drive.units[key], result_json=text)
    drive.restart()
    job = drive.job()
    assert (job.state, job.error_code) == (JobState.FAILED, "internal")
    assert "submit the job again" in job.error


def test_rows_are_journaled_whenever_a_unit_changes(by_hand):
    """A restart at any point finds what the machine knew: each batch that changes a unit saves it."""
    drive = by_hand.Drive(by_hand.one_stage(2))
    drive.submit()
    [sent] = by_hand.of(SendTask, drive.connect())
    assert by_hand.of(SaveUnit, drive.fail(sent))[0].row.failures == 1
    [sent] = drive.sent_to("w")
    drive.disconnect()
    assert by_hand.of(SaveUnit, drive.wait(3.1))[0].row.deaths == 1
