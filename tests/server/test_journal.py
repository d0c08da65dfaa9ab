"""The journal: what a transaction is, and what may happen to the file."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import signal
import sqlite3
import subprocess
import sys

import pytest

from gdmix_core.errors import Conflict, InternalError, StoreCorrupt, UsageError
from gdmix_server.journal import Journal, is_kept
from gdmix_server.journal_schema import MIGRATIONS
from gdmix_server.state.instructions import (
    DeleteJob,
    Emit,
    KeepArrays,
    SaveJob,
    SaveStage,
    SaveUnit,
    WakeAt,
)
from gdmix_server.state.model import (
    CoordinateReport,
    JobEvent,
    JobRow,
    JobState,
    Lease,
    Metric,
    Progress,
    Published,
    StageRow,
    UnitRow,
)

LEASE = Lease(job_id="a", stage="s", unit=0, attempt=1, fence=1 << 40, epoch=1)
REPORT = CoordinateReport(
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
    validation=(Metric(name="auc", value=0.7), Metric(name="auc:user", value=None, reason="no rows")),
)


def job(job_id="a", request_id="r", **changes):
    row = JobRow(
        job_id=job_id,
        request_id=request_id,
        config_json="{}",
        model="m",
        output="/o",
        state=JobState.RUNNING,
        submitted=1.0,
    )
    return dataclasses.replace(row, **changes)


def unit(number=0, **changes):
    row = UnitRow(
        job_id="a",
        stage="s",
        unit=number,
        attempts=1,
        failures=0,
        deaths=0,
        lease=LEASE,
        worker_id="w",
        done=False,
    )
    return dataclasses.replace(row, **changes)


def event(sequence, **changes):
    return JobEvent(job_id="a", sequence=sequence, time=2.0, state=JobState.RUNNING, **changes)


@pytest.fixture
def journal(state_dir):
    journal = Journal(state_dir)
    yield journal
    journal.close()


def commit(journal, *instructions):
    asyncio.run(journal.commit(instructions))


def kept(journal, after=0):
    return asyncio.run(journal.kept_events("a", after))


def test_rows_come_back_as_they_were(journal, state_dir):
    published = Published(
        store="lmdb:/o/store",
        version=3,
        activated=False,
        winner=4,
        directory="/o/models/3",
        content_digest="d",
    )
    rows = [
        job(coordinates=(REPORT,), published=published, started=1.5, error="é\n☃"),
        job("b", "r2", state=JobState.FAILED, submitted=0.5, ended=9.0),
    ]
    stages = [
        StageRow(job_id="a", stage="s", started=2.0),
        StageRow(
            job_id="a", stage="t", started=2.0, ended=3.0, outcome={"objective": 1 / 3, "converged": True}
        ),
    ]
    units = [
        unit(0, reasons=("attempt 1: member 2 on worker c failed: no memory", "attempt 2: …")),
        unit(1, done=True, lease=None, directory="/d", result_json='{"x": 1}'),
    ]
    commit(journal, *(SaveJob(row=row) for row in rows))
    commit(journal, *(SaveStage(row=row) for row in stages), *(SaveUnit(row=row) for row in units))
    journal.close()
    again = Journal(state_dir)
    try:
        found = again.load()
    finally:
        again.close()
    assert found.jobs == (rows[1], rows[0])
    assert found.stages == tuple(stages)
    assert found.units == tuple(units)


def test_the_latest_row_of_a_batch_wins(journal):
    commit(journal, SaveJob(row=job()), SaveUnit(row=unit()), SaveUnit(row=unit(done=True, lease=None)))
    commit(journal, SaveJob(row=job(state=JobState.SUCCEEDED)))
    rows = journal.load()
    assert [row.state for row in rows.jobs] == [JobState.SUCCEEDED]
    assert [row.done for row in rows.units] == [True]


def test_a_batch_is_written_whole_or_not_at_all(journal):
    commit(journal, SaveJob(row=job()))
    with pytest.raises(InternalError, match="cannot be written"):
        # Two jobs of one request id: the second statement fails.
        commit(journal, SaveUnit(row=unit()), SaveJob(row=job("b", "r")))
    rows = journal.load()
    assert [row.job_id for row in rows.jobs] == ["a"]
    assert rows.units == ()
    commit(journal, SaveUnit(row=unit()))
    assert len(journal.load().units) == 1


def test_numbers_that_are_none_survive(journal):
    progress = Progress(stage="s", objective=math.nan, gradient_ratio=math.inf)
    commit(journal, SaveJob(row=job()), Emit(event=event(1, progress=progress), keep=True))
    (found,) = kept(journal)
    assert math.isnan(found.progress.objective)
    assert found.progress.gradient_ratio == math.inf


def test_kept_events_are_read_on_from_a_sequence_number(journal):
    batch = [
        Emit(event=event(number, notice=f"n{number}"), keep=number % 2 == 1) for number in range(1, 2_600)
    ]
    commit(journal, *batch)
    first = kept(journal)
    assert [found.sequence for found in first] == list(range(1, 2_000, 2))
    assert [found.sequence for found in kept(journal, 1_999)] == list(range(2_001, 2_600, 2))
    assert first[0].notice == "n1"


def test_deleting_a_job_deletes_all_of_it_and_nothing_else(journal):
    other = job("b", "r2")
    commit(
        journal, SaveJob(row=job()), SaveJob(row=other), SaveUnit(row=unit()), Emit(event=event(1), keep=True)
    )
    commit(journal, SaveStage(row=StageRow(job_id="a", stage="s", started=1.0)), DeleteJob(job_id="a"))
    rows = journal.load()
    assert (rows.jobs, rows.stages, rows.units) == ((other,), (), ())
    assert kept(journal) == []


def test_what_is_kept():
    assert all(map(is_kept, [SaveJob(row=job()), DeleteJob(job_id="a"), Emit(event=event(1), keep=True)]))
    assert not any(
        map(is_kept, [Emit(event=event(1), keep=False), WakeAt(time=1.0), KeepArrays(lease=LEASE)])
    )


def test_the_epoch_rises_and_the_identity_stays(state_dir):
    seen = []
    for _ in range(3):
        journal = Journal(state_dir)
        seen.append((journal.epoch, journal.identity))
        journal.close()
        journal.close()
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert len({identity for _, identity in seen}) == 1


def test_a_second_coordinator_is_refused(journal, state_dir):
    with pytest.raises(Conflict, match=r"in use by another coordinator \(process \d+\)"):
        Journal(state_dir)
    assert journal.load().jobs == ()


def test_a_killed_coordinator_leaves_no_lock_and_no_half_batch(state_dir):
    script = (
        "import asyncio, sys; from gdmix_server.journal import Journal;"
        "from gdmix_server.state.instructions import SaveJob;"
        "from gdmix_server.state.model import JobRow, JobState;"
        "j = Journal(sys.argv[1]);"
        "row = JobRow(job_id='a', request_id='r', config_json='{}', model='m', output='/o',"
        " state=JobState.RUNNING, submitted=1.0);"
        "asyncio.run(j.commit([SaveJob(row=row)])); print('on disk', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(state_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"on disk\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    journal = Journal(state_dir)
    try:
        assert [row.job_id for row in journal.load().jobs] == ["a"]
        assert journal.epoch == 2
    finally:
        journal.close()


def test_every_migration_is_noted(state_dir):
    Journal(state_dir).close()
    with sqlite3.connect(state_dir / "journal.sqlite") as connection:
        versions = [number for (number,) in connection.execute("SELECT version FROM migrations")]
        assert versions == list(range(1, len(MIGRATIONS) + 1))
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    connection.close()


def test_an_older_journal_is_brought_up_to_date(state_dir, monkeypatch):
    Journal(state_dir).close()
    more = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT",))
    monkeypatch.setattr("gdmix_server.journal.MIGRATIONS", more)
    journal = Journal(state_dir)
    assert journal.epoch == 2
    journal.close()
    monkeypatch.undo()
    with pytest.raises(Conflict, match=r"schema version 2, .* newer GDMix; .* up to 1"):
        Journal(state_dir)


def test_a_migration_that_fails_leaves_the_journal_as_it_was(state_dir, monkeypatch):
    Journal(state_dir).close()
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "ALTER TABLE nowhere ADD COLUMN x"))
    monkeypatch.setattr("gdmix_server.journal.MIGRATIONS", broken)
    with pytest.raises(UsageError, match="nowhere"):
        Journal(state_dir)
    monkeypatch.undo()
    Journal(state_dir).close()


def test_files_that_are_no_journal(state_dir, tmp_path):
    state_dir.mkdir()
    (state_dir / "journal.sqlite").write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(StoreCorrupt, match=r"the journal .*journal\.sqlite is damaged"):
        Journal(state_dir)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        Journal(tmp_path / "file" / "below")


def test_a_row_that_cannot_be_read(journal, state_dir):
    commit(journal, SaveJob(row=job()))
    journal.close()
    with sqlite3.connect(state_dir / "journal.sqlite") as connection:
        connection.execute("UPDATE jobs SET document = '{}'")
    connection.close()
    again = Journal(state_dir)
    try:
        with pytest.raises(StoreCorrupt, match="holds a JobRow that cannot be read"):
            again.load()
    finally:
        again.close()
