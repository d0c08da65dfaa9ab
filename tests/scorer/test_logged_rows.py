"""What a real scorer logs becomes rows that a training job takes."""

from __future__ import annotations

import json

import pytest

from gdmix_client.logged_rows import LoggedRows, convert_access_logs
from gdmix_core.errors import DataError, UsageError
from gdmix_proto.v1 import scoring_pb2 as wire


def row(**values) -> wire.Row:
    kinds = {str: "text", float: "number", int: "integer"}
    return wire.Row(values={n: wire.Value(**{kinds[type(v)]: v}) for n, v in values.items()})


def test_logged_requests_become_rows(store, scorer, tmp_path):
    log = tmp_path / "access.jsonl"
    with scorer(store, "--access-log", log, "--access-log-sample", 1, "--access-log-features") as running:
        with running.stub() as stub:
            request = wire.ScoreRequest(
                request_id="page-1",
                readable=wire.ReadableInput(
                    context=row(user_id="ann"), candidates=[row(age=1.0), row(age=2.0), row()]
                ),
            )
            stub.Score(request, timeout=10)
            running.score("bob", stub)  # columnar: no columns
            with pytest.raises(Exception, match="has no alias"):
                running.score("bob", stub, alias="nothing")
        running.process.terminate()
        assert running.process.wait(60) == 0
    done = convert_access_logs([tmp_path / "access.0.jsonl"], tmp_path / "rows.jsonl", first_uid=100)
    assert done == LoggedRows(1, 3, {"without data columns": 1, "not answered": 1})
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {one.pop("logged_at")[:2] for one in rows} == {"20"}
    assert rows == [
        {"uid": 100 + i, "request_id": "page-1", "candidate": i, "user_id": "ann", "age": age}
        for i, age in enumerate([1.0, 2.0, None])
    ]


@pytest.mark.parametrize("line", ["{", "[]", '{"time": "now"}'])
def test_a_line_of_something_else_is_named_and_nothing_is_written(tmp_path, line):
    log = tmp_path / "log"
    log.write_text(line + "\n")
    with pytest.raises(DataError, match="line 1: is no line of an access log"):
        convert_access_logs([log], tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.jsonl: cannot be read: No such file"):
        convert_access_logs([tmp_path / "missing.jsonl"], tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
