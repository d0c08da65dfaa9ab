"""The access log: which requests, what of them, how it rotates, what happens when there is no room."""

from __future__ import annotations

import json
import stat
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import UsageError
from gdmix_core.scoring.request import Columns, EntityIds
from gdmix_scorer import access_log
from gdmix_scorer.access_log import BRIEF_PER_SECOND, QUEUE_ENTRIES, AccessLog, LoggedAnswer, LoggedCall

SECONDS = {"decode": 0.0001, "store": 0.0, "compute": 0.00025, "total": 0.0005}


def call(number: int = 0) -> LoggedCall:
    return LoggedCall(
        request_id=f"r{number}",
        model="movies",
        form="readable",
        candidates=2,
        entities={
            "user_id": EntityIds(True, ByteStrings.of(["42"])),
            "movie_id": EntityIds(False, ByteStrings.of(["7", "é"])),
        },
        columns=Columns(
            candidates=2,
            context={"age": pa.array([31.0])},
            per_candidate={"genres": pa.array([["Comedy", "Drama"], None])},
            fixed_effect_scores=None,
        ),
    )


GOOD = LoggedAnswer("OK", version=3, scores=np.array([0.5, -1.5]), unknown_entities={"per_user": 1})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(path, *answers, rate=1.0, **options):
    log = AccessLog.from_settings(path, rate, **options)
    for number, answer in enumerate(answers):
        log.write(call(number), answer, SECONDS)
    log.close()
    return lines(path)


def test_a_sampled_request_is_logged_in_full(tmp_path):
    (line,) = logged(tmp_path / "log", GOOD, instance="scorer-1")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "instance": "scorer-1",
        "request_id": "r0",
        "model": "movies",
        "version": 3,
        "form": "readable",
        "candidates": 2,
        "outcome": "OK",
        "degraded": False,
        "seconds": SECONDS,
        "sampled": True,
        "unknown_entities": {"per_user": 1},
        "scores": {"min": -1.5, "max": 0.5},
        "entities": {"user_id": "42", "movie_id": ["7", "é"]},
    }


def test_features_on_request_only(tmp_path):
    (line,) = logged(tmp_path / "log", GOOD, features=True)
    assert line["features"] == {
        "context": {"age": 31.0},
        "candidates": {"genres": [["Comedy", "Drama"], None]},
    }


def test_of_the_unsampled_those_that_went_wrong_are_logged_without_ids(tmp_path):
    failed = LoggedAnswer("NOT_FOUND", error="no such version")
    degraded = LoggedAnswer("OK", version=3, scores=np.array([1.0]), degraded_reason="store")
    first, second = logged(tmp_path / "log", GOOD, failed, degraded, rate=0.0)
    assert (first["outcome"], first["error"], first["sampled"]) == ("NOT_FOUND", "no such version", False)
    assert (second["degraded"], second["degraded_reason"]) == (True, "store")
    assert not {"entities", "features"} & (first.keys() | second.keys())


def test_failures_are_logged_at_a_bounded_rate(tmp_path):
    now = [1000.0]
    log = AccessLog.from_settings(tmp_path / "log", 0.0)
    log._clock = lambda: now[0]
    failed = LoggedAnswer("RESOURCE_EXHAUSTED")
    for _ in range(3 * BRIEF_PER_SECOND):
        log.write(call(), failed, SECONDS)
    now[0] += 1
    log.write(call(), failed, SECONDS)
    log.close()
    assert len(lines(tmp_path / "log")) == BRIEF_PER_SECOND + 1
    assert log.dropped == 0


def test_the_sample_has_the_size_that_was_asked_for(tmp_path):
    log = AccessLog.from_settings(tmp_path / "log", 0.25)
    chances = iter(np.linspace(0.0, 1.0, 400, endpoint=False))
    log._chance = lambda: float(next(chances))
    for number in range(400):
        log.write(call(number), GOOD, SECONDS)
    log.close()
    assert len(lines(tmp_path / "log")) == 100


def test_scores_that_json_does_not_know_become_null(tmp_path):
    (line,) = logged(tmp_path / "log", LoggedAnswer("OK", version=1, scores=np.array([np.inf, np.nan])))
    assert line["scores"] == {"min": None, "max": None}


def test_it_rotates_by_size_and_keeps_the_newest(tmp_path):
    path = tmp_path / "access.jsonl"
    size = len(json.dumps(logged(tmp_path / "one", GOOD)[0])) + 20
    logged(path, *[GOOD] * 25, max_bytes=5 * size, keep_files=2)
    names = sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("access"))
    assert names == ["access.jsonl", "access.jsonl.1", "access.jsonl.2"]
    numbers = [
        int(line["request_id"][1:])
        for name in ("access.jsonl.2", "access.jsonl.1", "access.jsonl")
        for line in lines(tmp_path / name)
    ]
    assert numbers == list(range(25 - len(numbers), 25))
    assert max(Counter(len(lines(tmp_path / name)) for name in names)) <= 6


def test_it_goes_on_in_an_existing_file_that_others_cannot_read(tmp_path):
    logged(tmp_path / "log", GOOD)
    assert len(logged(tmp_path / "log", GOOD)) == 2
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_what_finds_no_room_is_dropped_and_counted(tmp_path, monkeypatch):
    go_on = threading.Event()
    write = access_log._Writer._append

    def slow(writer, line):
        go_on.wait(30)
        write(writer, line)

    monkeypatch.setattr(access_log._Writer, "_append", slow)
    log = AccessLog.from_settings(tmp_path / "log", 1.0)
    for number in range(QUEUE_ENTRIES + 50):
        log.write(call(number), GOOD, SECONDS)
    assert 49 <= log.dropped <= 50  # the thread may hold one already
    dropped = log.dropped
    go_on.set()
    log.close()
    assert len(lines(tmp_path / "log")) == QUEUE_ENTRIES + 50 - dropped


def test_a_directory_that_goes_away_costs_lines_and_nothing_else(tmp_path, caplog):
    directory = tmp_path / "logs"
    directory.mkdir()
    log = AccessLog.from_settings(directory / "log", 1.0, max_bytes=1)  # every line wants a new file
    (directory / "log").unlink()
    directory.rmdir()
    for number in range(3):
        log.write(call(number), GOOD, SECONDS)
    log.close()
    assert log.dropped == 2  # the first went into the file that was open
    assert caplog.text.count("cannot be written: No such file") == 1


def test_without_a_path_nothing_happens(tmp_path):
    log = AccessLog.from_settings(None, 1.0)
    log.write(call(), GOOD, SECONDS)
    log.close()
    assert not log.enabled
    assert log.dropped == 0


def test_mistakes(tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        AccessLog.from_settings(tmp_path / "nowhere" / "log", 1.0)
    with pytest.raises(UsageError, match="allowed are 0 to 1"):
        AccessLog.from_settings(tmp_path / "log", 1.5)
