"""`gdmix-cli score`: files and stdin in every format, and wrong input that leaves nothing behind."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from gdmix_client import LocalScorer
from gdmix_client.cli.app import app

from .conftest import CANARY_BIAS, COLORS, Candidate, publish_shop

PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))
ROWS = 1000
DOCUMENT_KEYS = {
    *("rows", "model", "version", "output", "seconds", "unknown_entities", "unknown_features"),
    *("unused_columns", "degraded_rows"),
}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Rows with users of their own, some unknown, and columns that no model has a use for."""
    rng = np.random.default_rng(3)
    users = np.array(["ann", "bob", "carl", "dora", ""])[rng.integers(0, 5, ROWS)]
    return pa.table(
        {
            "uid": np.arange(50_000, 50_000 + ROWS),
            "label": rng.integers(0, 2, ROWS),
            "user_id": pa.array([user or None for user in users]),
            "item_id": rng.integers(5, 11, ROWS),
            "age": rng.normal(size=ROWS),
            "color": pa.array(np.array([*COLORS, "green"])[rng.integers(0, 3, ROWS)]).dictionary_encode(),
            "vector": pa.array(rng.normal(size=(ROWS, 2)).tolist()),
            "when": pa.array(np.arange(ROWS), pa.timestamp("s")),
        }
    )


@pytest.fixture(scope="module")
def expected(table: pa.Table) -> list[float]:
    return [
        Candidate(row["item_id"], row["color"], None, row["vector"]).score(row["user_id"], row["age"])
        for row in table.to_pylist()
    ]


@pytest.fixture
def score(served: LocalScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `gdmix-cli score` in this process, in the test's directory."""
    monkeypatch.chdir(tmp_path)
    options = ["--scorer", served.address, "--token-file", str(served.token_file)]

    def run(*arguments: object, stdin: str | None = None, model: str = "shop") -> Result:
        given = ["score", *map(str, arguments), *options, "--model", model]
        return CliRunner().invoke(app, given, input=stdin)

    return run


def write(table: pa.Table, path: Path) -> Path:
    """Write rows in the format of the path's ending."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=300)
        return path
    rows = table.drop_columns(["when"]).to_pylist()
    if path.suffix == ".csv":
        # CSV has no lists: the vector is left out.
        rows = [{name: value for name, value in row.items() if name != "vector"} for row in rows]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> dict[str, list[Any]]:
    """Read an output file by column."""
    if path.suffix == ".parquet":
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
        return columns
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        rows = [{k: int(v) if k == "uid" else float(v) for k, v in row.items()} for row in rows]
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0]}


# ---- every format ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["rows.parquet", "rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("target", ["scores.parquet", "scores.csv", "scores.jsonl"])
def test_a_file(
    score: Any, table: pa.Table, expected: list[float], tmp_path: Path, source: str, target: str
) -> None:
    done = score(write(table, tmp_path / source), "--output", target, "--batch", 64)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    found = read(tmp_path / target)
    assert list(found) == ["uid", "score", "prediction"]
    assert found["uid"] == table["uid"].to_pylist()
    assert found["score"] == pytest.approx(expected, abs=1e-12)
    assert found["prediction"] == pytest.approx([1 / (1 + math.exp(-each)) for each in expected])
    assert {path.name for path in tmp_path.iterdir()} == {source, target}
    said = done.stderr.splitlines()
    assert said[0].startswith("scored 1,000 rows with shop, version 2, in ")
    assert "per_user 2" in said[1]
    assert "per_item 4" in said[1]
    assert "item.color 3" in said[2]
    for column in ("label", *(["when (timestamp[ms])"] if source.endswith("parquet") else [])):
        assert column in said[3]


def test_a_csv_file(score: Any, table: pa.Table, tmp_path: Path) -> None:
    done = score(write(table, tmp_path / "rows.csv"), "--output", "scores.parquet")
    assert done.exit_code == 0, done.stderr
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.schema.field("uid").type == pa.int64()
    assert json.loads(found.schema.metadata[b"gdmix"]) == {"model": "shop", "version": 2}
    rows = table.to_pylist()
    expected = [Candidate(r["item_id"], r["color"], None, None).score(r["user_id"], r["age"]) for r in rows]
    assert found["score"].to_pylist() == pytest.approx(expected, abs=1e-12)


def test_stdin_and_stdout(score: Any, table: pa.Table, expected: list[float], tmp_path: Path) -> None:
    text = write(table.slice(0, 7), tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    for arguments in ([], ["-"]):
        done = score(*arguments, "--quiet", "--contributions", stdin=text + "\n\n")
        assert done.exit_code == 0, done.stderr
        assert done.stderr == ""
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["uid"] for line in lines] == table["uid"].to_pylist()[:7]
        assert [line["score"] for line in lines] == pytest.approx(expected[:7])
        for line in lines:
            assert list(line["contributions"]) == ["global", "per_user", "per_item"]
            assert math.fsum(line["contributions"].values()) == pytest.approx(line["score"])
    lines = [json.loads(line) for line in score(stdin='{"color": "red"}\n{}\n').stdout.splitlines()]
    assert [set(line) for line in lines] == [{"score", "prediction"}] * 2
    assert [line["score"] for line in lines] == pytest.approx([Candidate(color="red").score(None, 0), 0.25])
    # Rows without any column that the model uses are scored like any other.
    lines = [json.loads(line) for line in score("--batch", 1, stdin='{"n": 1}\n' * 3).stdout.splitlines()]
    assert [line["score"] for line in lines] == [0.25] * 3


def test_json_and_contributions(score: Any, table: pa.Table, tmp_path: Path) -> None:
    rows = write(table, tmp_path / "rows.parquet")
    done = score(rows, "--output", tmp_path / "scores.csv", "--contributions", "--json", "--alias", "canary")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == DOCUMENT_KEYS
    assert (document["rows"], document["model"], document["version"]) == (1000, "shop", 1)
    assert document["output"] == str(tmp_path / "scores.csv")
    assert document["unknown_entities"] == {"per_user": 2, "per_item": 4}
    assert document["unknown_features"]["item.color"] == table["color"].to_pylist().count("green")
    assert document["unused_columns"] == ["label", "when"]
    assert document["degraded_rows"] == 0
    found = read(tmp_path / "scores.csv")
    names = [f"contribution.{name}" for name in ("global", "per_user", "per_item")]
    assert list(found) == ["uid", "score", "prediction", *names]
    sums = np.sum([found[name] for name in names], axis=0)
    assert sums.tolist() == pytest.approx(found["score"])


def test_scores_of_an_outside_model(score: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("key,base,color\na,1.5,red\nb,-2,blue\n", encoding="utf-8")
    options = ("rows.csv", "--uid-column", "key", "--output", "scores.csv", "--fixed-effect-column")
    done = score(*options, "base", model="outside")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines() == [
        "key,score,prediction",
        "a,1.5,1.5",
        "b,-2.0,-2.0",
    ]
    refused = score(*options, "base")
    assert refused.exit_code == 2
    assert "computes its fixed effect itself" in refused.stderr
    for column, model, says in (
        ("offset", "outside", "--fixed-effect-column offset: rows.csv has key, base, color"),
        ("color", "outside", "rows.csv: row 1: column 'color' holds 'red'; allowed: finite numbers"),
    ):
        refused = score(*options, column, model=model)
        assert refused.exit_code in {1, 2}
        assert says in refused.stderr


def test_no_rows(score: Any, table: pa.Table, tmp_path: Path) -> None:
    for source in ("rows.parquet", "rows.csv", "rows.jsonl"):
        path = tmp_path / source
        write(table.slice(0, 1), path)
        if source == "rows.parquet":
            write(table.slice(0, 0), path)
        elif source == "rows.csv":
            path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
        else:
            path.write_text("\n", encoding="utf-8")
        for target in ("scores.parquet", "scores.csv", "scores.jsonl"):
            done = score(path, "--output", target)
            assert done.exit_code == 0, done.stderr
            assert "scored 0 rows" in done.stderr
            assert (tmp_path / target).exists()
    assert pq.read_table(tmp_path / "scores.parquet").column_names == ["score", "prediction"]


# ---- wrong input -----------------------------------------------------------------------------------------


def changed(table: pa.Table, column: str, row: int, value: Any, kind: pa.DataType | None = None) -> pa.Table:
    values = table[column].to_pylist()
    values[row - 1] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, kind))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("age", 777, math.nan), "rows.parquet: row 777: column 'age' holds nan"),
        (("vector", 130, [1.0, 2.0, 3.0]), "rows.parquet: row 130: column 'vector' holds 3 numbers"),
        (("item_id", 1000, "x" * 300, pa.string()), "rows.parquet: row 1000: column 'item_id' holds"),
        (("color", 1, 7, None), "rows.parquet"),
    ],
)
def test_a_row_that_cannot_be_scored(
    score: Any, table: pa.Table, tmp_path: Path, change: Any, says: str
) -> None:
    column, row, value, *kind = change
    if column == "item_id":
        table = table.set_column(3, "item_id", table["item_id"].cast(pa.string()))
    if column == "color":
        table = table.set_column(5, "color", pa.array([[0.5]] * ROWS))
    else:
        table = changed(table, column, row, value, *kind)
    before = tmp_path / "scores.csv"
    before.write_text("what was there", encoding="utf-8")
    done = score(write(table, tmp_path / "rows.parquet"), "--output", before)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gdmix-cli: ")
    assert says in done.stderr
    assert before.read_text(encoding="utf-8") == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "scores.csv"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"age": 1}\n{"age": "old"}\n', "stdin: row 2: column 'age' holds a str, and others a int"),
        ('{"age": 1}\n\n{"age": 2\n', "stdin: row 2 is not JSON"),
        ('{"age": 1}\n[1]\n', "stdin: row 2 is no JSON object"),
        ('{"age": NaN}\n', "stdin: row 1: column 'age' holds nan"),
        ('{"age": 1e999}\n', "stdin: row 1: column 'age' holds inf"),
        ('{"color": {"a": 1}}\n', "stdin: row 1: column 'color' holds {'a': 1}"),
        ('{"color": [["a"]]}\n', "stdin: row 1: column 'color' holds [['a']]"),
        ('{"color": "\\ud800"}\n', "stdin: row 1: column 'color' holds"),
    ],
)
def test_wrong_json(score: Any, text: str, says: str) -> None:
    done = score(stdin=text)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "exit_code", "says"),
    [
        ("rows.csv", b"age,age\n1,2\n", 1, "'age' stands twice"),
        ("rows.csv", b"age,color\n1,red,2\n", 1, "rows.csv"),
        ("rows.csv", b"age\n1\nold\n", 1, "rows.csv: row 2: column 'age' holds 'old'"),
        ("rows.csv", b"age\n\xff\n", 1, "rows.csv: cannot be read as CSV: In CSV column #0: row 1"),
        ("rows.parquet", b"not that", 1, "rows.parquet: cannot be read as Parquet"),
        ("rows.jsonl", b'{"color": "\xff"}\n', 1, "rows.jsonl: row 1 is not valid UTF-8"),
        ("rows.jsonl.gz", b"not that", 1, "rows.jsonl.gz: cannot be read as JSON Lines"),
        ("rows.txt", b"", 2, "rows.txt: the format cannot be told from the name"),
    ],
)
def test_wrong_files(
    score: Any, tmp_path: Path, name: str, content: bytes, exit_code: int, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = score(name, "--output", "scores.parquet")
    assert done.exit_code == exit_code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "scores.parquet").exists()


def test_uids_that_change_their_kind(score: Any, tmp_path: Path) -> None:
    text = "".join(json.dumps({"uid": uid, "age": 1}) + "\n" for uid in [*range(250), "x"])
    done = score("--output", "scores.parquet", stdin=text)
    assert done.exit_code == 1
    assert "stdin: column 'uid': rows 201 to 251 do not all hold integers" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = score("--output", "scores.parquet", stdin=json.dumps({"uid": "a", "age": 1}))
    assert done.exit_code == 0
    assert pq.read_table(tmp_path / "scores.parquet")["uid"].to_pylist() == ["a"]


def test_a_model_that_is_not_there(score: Any) -> None:
    done = score("--version", 9, stdin="{}\n")
    assert done.exit_code == 2
    assert "version 9 of model 'shop'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_there(cli: Any, tmp_path: Path, table: pa.Table) -> None:
    write(table, tmp_path / "rows.parquet")
    done = cli("score", "rows.parquet", "--scorer", "127.0.0.1:1", "--output", "scores.csv")
    assert done.returncode == 3
    assert done.stderr.startswith("gdmix-cli: cannot reach the scorer at 127.0.0.1:1: connection refused")
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet"}


# ---- one version for all rows ----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[LocalScorer, Path, str]]:
    """A scorer of a store in which a test may publish, and that store."""
    url = f"lmdb:{tmp_path / 'store'}"
    publish_shop(tmp_path / "one", url, 1, CANARY_BIAS)
    with LocalScorer(url) as running:
        running.wait_until_ready()
        yield running, tmp_path, url


def test_a_new_version_in_the_middle(own: tuple[LocalScorer, Path, str]) -> None:
    """Rows behind the first answer are scored with its version, whatever becomes active meanwhile."""
    running, work, url = own
    options = ["--scorer", running.address, "--token-file", str(running.token_file), "--batch", "1"]
    with subprocess.Popen(
        [PROGRAM, "score", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("{}\n")
        process.stdin.flush()
        first = json.loads(process.stdout.readline())["score"]
        publish_shop(work / "two", url, 2)
        with running.client() as scorer:
            while scorer.score({}, [{}]).version != 2:
                pass
        process.stdin.write("{}\n")
        process.stdin.close()
        second = json.loads(process.stdout.readline())["score"]
    assert process.returncode == 0
    assert first == second == 0.25 + CANARY_BIAS


# ---- the real program ------------------------------------------------------------------------------------


def test_progress_on_a_terminal(
    served: LocalScorer, table: pa.Table, expected: list[float], tmp_path: Path
) -> None:
    rows = write(table, tmp_path / "rows.parquet")
    ours, theirs = os.openpty()
    seen: list[bytes] = []

    def read_all() -> None:
        while not seen or b"the end" not in seen[-1]:
            seen.append(os.read(ours, 4096))

    reader = threading.Thread(target=read_all)
    reader.start()
    options = ["--scorer", served.address, "--token-file", str(served.token_file), "--model", "shop"]
    done = subprocess.run(
        [PROGRAM, "score", str(rows), *options, "--batch", "10", "--output", str(tmp_path / "scores.csv")],
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        timeout=60,
        check=False,
    )
    os.write(theirs, b"the end")
    reader.join()
    os.close(ours)
    os.close(theirs)
    screen = b"".join(seen).decode(errors="replace")
    assert done.returncode == 0
    assert "scoring" in screen
    assert "scored 1,000 rows" in screen
    assert "Traceback" not in screen
    assert read(tmp_path / "scores.csv")["score"] == pytest.approx(expected)
