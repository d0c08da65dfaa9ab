from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.data import readers, readers_csv, readers_jsonl
from gdmix_core.data.column_values import number_values, uid_values
from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.readers import count_rows, read_split
from gdmix_core.errors import DataError
from gdmix_core.tasks import Split

UID = NeededColumn("uid", ("uid",))
X = NeededColumn("x", ("number",))
NAME = NeededColumn("name", ("categorical",))


def split_of(path: Path, **options: Any) -> Split:
    name = path.name.removesuffix(".gz")
    return Split(role="train", path=str(path), format=name.rsplit(".", 1)[-1], **options)


def rows_of(path: Path, *columns: NeededColumn) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in read_split(split_of(path), columns):
        assert part.first_row == len(rows)
        rows += part.batch.to_pylist()
    return rows


def put(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def reading_fails(path: Path, *columns: NeededColumn) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(path, *columns)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- Parquet --------------------------------------------------------------------------------------------


def test_parquet_gives_the_asked_columns_of_the_asked_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": range(10), "uid": range(10, 20), "z": ["a"] * 10}), path, row_group_size=3)
    split = split_of(path, first_row_group=1, row_groups=2, first_row=3)
    parts = list(read_split(split, [UID, X]))
    assert next(part.first_row for part in parts) == 3
    table = pa.Table.from_batches([part.batch for part in parts])
    assert table.to_pydict() == {"uid": list(range(13, 19)), "x": list(range(3, 9))}
    assert count_rows(split, "uid") == 6
    assert count_rows(split_of(path), "uid") == 10


def test_parquet_terms_stay_dictionary_encoded_over_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    names = ["a", "b", None, "c", "a", "d"]
    pq.write_table(pa.table({"name": names, "tags": [[n] for n in names]}), path, row_group_size=2)
    parts = list(read_split(split_of(path), [NAME, NeededColumn("tags", ("list",))]))
    assert all(pa.types.is_dictionary(part.batch.column(0).type) for part in parts)
    assert [name for part in parts for name in part.batch.column(0).to_pylist()] == names


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\x00" * 40 + b"PAR1"])
def test_what_is_no_parquet_is_one_error(content: bytes, tmp_path: Path) -> None:
    assert reading_fails(put(tmp_path / "a.parquet", content), UID).startswith("cannot be read as Parquet: ")


def test_truncated_parquet_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uid": range(1000)}), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert reading_fails(path, UID).startswith("cannot be read as Parquet: ")


def test_damaged_parquet_pages_are_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uid": range(5000)}), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    assert reading_fails(path, UID).startswith("cannot be read as Parquet: ")


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    names = pa.array([b"ok", b"\xff\xfe", None], pa.binary())
    bad = pa.StringArray.from_buffers(3, names.buffers()[1], names.buffers()[2], names.buffers()[0])
    pq.write_table(pa.table({"name": bad}), path)
    entity = NeededColumn("name", ("entity",))
    assert reading_fails(path, entity) == "column 'name': row 2 is not valid UTF-8 text"
    assert "column 'name': row" in reading_fails(path, NAME)


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        assert reading_fails(tmp_path / name, UID) == "no such file"
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    assert reading_fails(tmp_path / "b.parquet", UID) == "column 'uid' is missing"
    assert "'uid'" in reading_fails(put(tmp_path / "b.csv", "x\n1\n"), UID)


def test_a_parquet_file_that_shrank_since_it_was_inspected_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has 1 row groups where 5 were found before"):
        list(read_split(split_of(tmp_path / "a.parquet", first_row_group=2, row_groups=3), [UID]))


# ---- CSV ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_is_text_and_only_the_empty_field_is_null(name: str, tmp_path: Path) -> None:
    content = '\ufeffuid,x,name\n1,0.5,"two\nlines"\n\n2,,""\n3,NA,NaN\n'
    path = put(tmp_path / name, content)
    assert rows_of(path, NAME, UID, X) == [
        {"name": "two\nlines", "uid": "1", "x": "0.5"},
        {"name": None, "uid": "2", "x": None},
        {"name": "NaN", "uid": "3", "x": "NA"},
    ]
    assert count_rows(split_of(path), "uid") == 3


def test_quotes_inside_of_csv_fields_are_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'uid,name\n1,5" pipe\n2,"a ""b"" c"\n')
    assert [row["name"] for row in rows_of(path, NAME)] == ['5" pipe', 'a "b" c']


def test_csv_of_many_blocks_keeps_row_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_csv, "BLOCK_BYTES", 256)
    path = put(tmp_path / "a.csv", "uid,x\n" + "".join(f"{i},{i}.5\n" for i in range(500)))
    assert [row["uid"] for row in rows_of(path, UID, X)] == [str(i) for i in range(500)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"uid,x\n1,2\n2,3,4\n", "row 2: Expected 2 columns, got 3: 2,3,4"),
        (b"uid,x\n1,\xff\n", "row 1: CSV conversion error to string: invalid UTF8 data"),
        (b"", "Empty CSV file"),
        (b'uid,x\n1,2\n2,"3\n4,5\n', "row 2: a quote is never closed"),
    ],
)
def test_broken_csv_is_one_error(content: bytes, expected: str, tmp_path: Path) -> None:
    assert expected in reading_fails(put(tmp_path / "a.csv", content), UID, X)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_truncated_and_fake_gzip_are_one_error(form: str, tmp_path: Path) -> None:
    lines = "uid,x\n" if form == "csv" else ""
    lines += "".join(f"{i},{i * 7919}\n" if form == "csv" else f'{{"uid": {i}}}\n' for i in range(20_000))
    path = tmp_path / f"a.{form}.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-500])
    assert "cannot be read as" in reading_fails(path, UID)
    path.write_bytes(lines.encode())
    assert "cannot be read as" in reading_fails(path, UID)


@pytest.mark.parametrize(
    ("values", "expected", "bad"),
    [
        (["1", " 2.5 ", None], [1.0, 2.5, 0.0], []),
        (["True", "false"], [1.0, 0.0], []),
        (["1e3", "abc", "1_0", ""], [1000.0, 0.0, 0.0, 0.0], [1, 2, 3]),
    ],
)
def test_text_becomes_numbers(values: list[str | None], expected: list[float], bad: list[int]) -> None:
    numbers = number_values(pa.array(values), "x")
    assert numbers.values.tolist() == expected
    assert [row for fault in numbers.faults for row in fault.rows.tolist()] == bad


def test_text_becomes_uids() -> None:
    uid, known, faults = uid_values(pa.array(["1", " 2", "1.0", "9223372036854775808", "-3"]), "uid")
    assert uid.tolist() == [1, 2, 0, 0, -3]
    assert known.tolist() == [True, True, False, False, True]
    assert faults[0].found == ("'1.0'", "'9223372036854775808'")


# ---- JSON Lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_gives_asked_keys_and_nulls_for_absent_ones(name: str, tmp_path: Path) -> None:
    content = '{"uid": 1, "x": 2, "other": [1]}\n\n{"uid": 2, "name": "2020-01-01"}\n{"uid": 3, "x": 0.5}'
    assert rows_of(put(tmp_path / name, content), UID, X, NAME) == [
        {"uid": 1, "x": 2.0, "name": None},
        {"uid": 2, "x": None, "name": "2020-01-01"},
        {"uid": 3, "x": 0.5, "name": None},
    ]


def test_jsonl_of_many_blocks_reads_one_type_throughout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_jsonl, "BLOCK_BYTES", 64)
    rows = [{"uid": i, "x": i if i < 50 else i + 0.5, "name": f"n{i}", "pad": "x" * i} for i in range(100)]
    path = put(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert rows_of(path, UID, X, NAME) == [{k: row[k] for k in ("uid", "x", "name")} for row in rows]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['{"uid": 1, "x": 1}', '{"uid": 2, "x": "a"}'], "column 'x': row 2 holds 'a'; allowed: numbers"),
        (['{"uid": 1}', '{"uid": "b"}'], "column 'uid': row 2 holds 'b'; allowed: numbers, as before"),
        (['{"uid": 1}', "", "[1]"], "row 2 holds [1]; allowed: a JSON object in every line"),
        (['{"uid": 1}', '{"uid": 2'], "row 2 is not JSON: "),
        (['{"uid": 1}', '{"uid": 2, "x": 1e999}'], "row 2 cannot be read as JSON Lines: Number too big"),
        (['{"uid": 1, "uid": 2}'], "row 1 is not JSON: key 'uid' stands twice"),
        (['{"uid": 1}', '{"uid": 2, "name": "\xff"}'], "row 2 is not valid UTF-8 text"),
    ],
)
def test_broken_jsonl_is_one_error(lines: list[str], expected: str, tmp_path: Path) -> None:
    content = "".join(line + "\n" for line in lines).encode("latin-1")
    assert expected in reading_fails(put(tmp_path / "a.jsonl", content), UID, X, NAME)


def test_jsonl_value_of_another_type_in_a_later_block_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_jsonl, "BLOCK_BYTES", 64)
    lines = [json.dumps({"uid": i, "name": "n"}) for i in range(30)]
    lines[20] = '{"uid": 20.5, "name": "n"}'
    path = put(tmp_path / "a.jsonl", "\n".join(lines))
    expected = "column 'uid': row 21 holds 20.5; allowed: integers of 64 bits, as before"
    assert reading_fails(path, UID, NAME) == expected


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_jsonl, "BLOCK_BYTES", 1 << 10)
    path = put(tmp_path / "a.jsonl", '{"uid": "' + "x" * 10_000)
    assert "a line is longer than" in reading_fails(path, UID)


# ---- start-up -------------------------------------------------------------------------------------------


def test_heavy_modules_are_loaded_when_needed_only() -> None:
    code = (
        "import sys; import gdmix_core.data.encoding, gdmix_core.data.inspection;"
        "heavy = {'pyarrow.parquet', 'pyarrow.dataset', 'pyarrow.csv', 'pyarrow.json', 'polars'}"
        " | {'scipy.optimize'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_reading_a_large_file_takes_bounded_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BATCH_ROWS", 100)
    pq.write_table(pa.table({"uid": range(1000)}), tmp_path / "a.parquet")
    parts = list(read_split(split_of(tmp_path / "a.parquet"), [UID]))
    assert max(part.batch.num_rows for part in parts) <= 100
