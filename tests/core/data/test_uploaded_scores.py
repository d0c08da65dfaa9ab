"""Uploaded scores: what is written of good files, and the one message on each kind of bad one."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.data.uploaded_scores import (
    CheckAnswer,
    ScoresSummary,
    UploadedFile,
    limits,
    normalise_scores,
)
from gdmix_core.errors import DataError

FORMATS = ("parquet", "avro", "csv")
NAME = "upload 'dnn'"


def avro_schema(**columns: Any) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in columns.items()]
    return {"type": "record", "name": "Score", "fields": fields}


NULLABLE = avro_schema(uid=["null", "long"], score=["null", "double"])


def write(path: Path, form: str, uid: Any, score: Any) -> Path:
    """Write lists, None for null, as a file of a format."""
    if form == "avro":
        with path.open("wb") as stream:
            rows = [{"uid": u, "score": s} for u, s in zip(uid, score, strict=True)]
            fastavro.writer(stream, NULLABLE, rows, codec="deflate", sync_interval=64)
    else:
        table = pa.table({"uid": pa.array(uid, pa.int64()), "score": pa.array(score, pa.float64())})
        if form == "csv":
            pa_csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=3)
    return path


class Bench:
    """Normalises files in a directory, and sees that nothing is left there of bad ones."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "sent"
        self.target = directory / "scores.tmp"

    def run(self, form: str, **more: Any) -> ScoresSummary:
        options = {key: more.pop(key) for key in ("max_rows",) if key in more}
        file = UploadedFile(path=self.path, name=NAME, format=form, **more)
        return normalise_scores(file, self.target, **{"max_rows": 10**6, **options})

    def rows(self) -> tuple[list[int], list[float]]:
        table = pq.read_table(self.target)
        assert table.schema.types == [pa.int64(), pa.float64()]
        assert table.column_names == ["uid", "score"]
        return table["uid"].to_pylist(), table["score"].to_pylist()

    def refusal(self, form: str, **more: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.run(form, **more)
        assert list(self.path.parent.iterdir()) == [self.path]
        message = str(caught.value)
        assert message.startswith(NAME)
        assert str(self.path) not in message
        return message


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done piece by piece is done in many pieces."""
    monkeypatch.setattr(limits, "BATCH_ROWS", 4)
    monkeypatch.setattr(limits, "RUN_ROWS", 8)
    monkeypatch.setattr(limits, "ROW_GROUP_ROWS", 8)


# ---- good files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_rows_keep_their_order(bench: Bench, form: str) -> None:
    uid, score = [5, -3, 2**63 - 1, -(2**63), 7], [0.5, -1.25, 1e300, 0.0, -2.0]
    write(bench.path, form, uid, score)
    summary = bench.run(form)
    assert bench.rows() == (uid, score)
    assert (summary.rows, summary.min_score, summary.max_score) == (5, -2.0, 1e300)
    assert summary.mean_score == pytest.approx(2e299)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("form", FORMATS)
def test_many_pieces_are_one_file(bench: Bench, form: str) -> None:
    uid = np.random.default_rng(1).permutation(100).tolist()
    write(bench.path, form, uid, [float(u) for u in uid])
    assert bench.run(form) == ScoresSummary(rows=100, min_score=0.0, max_score=99.0, mean_score=49.5)
    assert bench.rows() == (uid, uid)


def test_the_largest_scores_have_a_mean(bench: Bench) -> None:
    write(bench.path, "parquet", [1, 2, 3], [1.7e308] * 3)
    assert bench.run("parquet").mean_score == pytest.approx(1.7e308)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
@pytest.mark.parametrize("score_kind", [pa.float32(), pa.int64()])
def test_narrower_types_are_widened(bench: Bench, kind: pa.DataType, score_kind: pa.DataType) -> None:
    table = pa.table({"uid": pa.array([3, 1], kind), "score": pa.array([2, 4], score_kind)})
    pq.write_table(table, bench.path)
    bench.run("parquet")
    assert bench.rows() == ([3, 1], [2.0, 4.0])


def test_other_columns_may_be_there_and_names_are_free(bench: Bench) -> None:
    table = pa.table({"text": ['a "quoted, word"', 'b"'], "id": [1, 2], "value": [0.5, 1.5]})
    pa_csv.write_csv(table, bench.path)
    bench.run("csv", uid_column="id", score_column="value")
    assert bench.rows() == ([1, 2], [0.5, 1.5])
    pq.write_table(table.append_column("nested", pa.array([[1], [2]])), bench.path)
    bench.run("parquet", uid_column="id", score_column="value")
    assert bench.rows() == ([1, 2], [0.5, 1.5])
    schema = avro_schema(text="string", id="int", colour=["null", "string"], value="float")
    with bench.path.open("wb") as stream:
        rows = [{"text": "a", "id": 1, "colour": None, "value": 0.5}]
        fastavro.writer(stream, schema, [*rows, {"text": "", "id": 2, "colour": "red", "value": 1.5}])
    bench.run("avro", uid_column="id", score_column="value")
    assert bench.rows() == ([1, 2], [0.5, 1.5])


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_codecs_of_avro(bench: Bench, codec: str) -> None:
    with bench.path.open("wb") as stream:
        fastavro.writer(stream, NULLABLE, [{"uid": k, "score": 1.0} for k in range(1000)], codec=codec)
    assert bench.run("avro").rows == 1000


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_codecs_and_page_versions_of_parquet(bench: Bench, compression: str, version: str) -> None:
    table = pa.table({"uid": np.arange(5000), "score": np.ones(5000)})
    pq.write_table(
        table, bench.path, compression=compression, data_page_version=version, data_page_size=512,
        write_page_checksum=True,
    )  # fmt: skip
    assert bench.run("parquet").rows == 5000


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_uid(bench: Bench, form: str) -> None:
    write(bench.path, form, [1, None, 3, None], [0.5] * 4)
    assert bench.refusal(form) == (
        f"{NAME}: column 'uid': 2 rows are not allowed: row 2 holds null, row 4 holds null; "
        "allowed: integers from -2^63 to 2^63 - 1, in every row"
    )


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_score(bench: Bench, form: str) -> None:
    write(bench.path, form, [1, 2, 3], [0.5, None, 1.5])
    assert bench.refusal(form) == (
        f"{NAME}: column 'score': 1 row is not allowed: row 2 (uid 2) holds null; allowed: a score in every row"
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite(bench: Bench, form: str, value: float) -> None:
    write(bench.path, form, [10, 20, 30], [0.5, 1.0, value])
    assert bench.refusal(form) == (
        f"{NAME}: column 'score': 1 row is not allowed: row 3 (uid 30) holds {value}; allowed: finite numbers"
    )


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("form", FORMATS)
def test_row_numbers_count_over_batches(bench: Bench, form: str) -> None:
    write(bench.path, form, list(range(50)), [1.0] * 41 + [float("nan")] + [1.0] * 8)
    assert "row 42 (uid 41) holds nan" in bench.refusal(form)


def test_a_uid_beyond_64_bits(bench: Bench) -> None:
    table = pa.table({"uid": pa.array([1, 2**63], pa.uint64()), "score": [0.5, 0.5]})
    pq.write_table(table, bench.path)
    assert "row 2 holds 9223372036854775808; allowed: integers" in bench.refusal("parquet")


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", "99999999999999999999"])
def test_text_that_is_no_uid(bench: Bench, text: str) -> None:
    bench.path.write_text(f"uid,score\n1,0.5\n{text},0.5\n")
    assert f"column 'uid': 1 row is not allowed: row 2 holds '{text}'" in bench.refusal("csv")


def test_text_that_stops_being_numbers(bench: Bench) -> None:
    bench.path.write_text("uid,score\n" + "".join(f"{k},0.5\n" for k in range(100)) + "100,high\n")
    assert bench.refusal("csv") == (
        f"{NAME}: column 'score': 1 row is not allowed: row 101 (uid 100) holds 'high'; allowed: finite numbers"
    )


# ---- columns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_column(bench: Bench, form: str) -> None:
    write(bench.path, form, [1], [0.5])
    for options, missing in (({"uid_column": "id"}, "id"), ({"score_column": "value"}, "value")):
        message = f"{NAME}: column '{missing}' is missing; its columns are 'uid', 'score'"
        assert bench.refusal(form, **options) == message


def test_a_column_that_is_there_twice(bench: Bench) -> None:
    bench.path.write_text("uid,score,uid\n1,0.5,2\n")
    assert "column 'uid' is there more than once" in bench.refusal("csv")
    array = pa.array([1, 2])
    pq.write_table(pa.Table.from_arrays([array, array, array], names=["uid", "score", "score"]), bench.path)
    assert "column 'score' is there more than once" in bench.refusal("parquet")


def test_one_column_for_both(bench: Bench) -> None:
    write(bench.path, "csv", [1], [1.0])
    assert "column 'uid' cannot hold both" in bench.refusal("csv", score_column="uid")


@pytest.mark.parametrize("values", [[1.0], ["1"], [True], [[1]], [None]])
def test_a_uid_of_another_type_in_parquet(bench: Bench, values: list[Any]) -> None:
    pq.write_table(pa.table({"uid": pa.array(values), "score": [0.5]}), bench.path)
    assert re.search(r"column 'uid' is of type .+; allowed: integers", bench.refusal("parquet"))


@pytest.mark.parametrize("values", [["1"], [True], [[1.0]], [None]])
def test_a_score_of_another_type_in_parquet(bench: Bench, values: list[Any]) -> None:
    pq.write_table(pa.table({"uid": [1], "score": pa.array(values)}), bench.path)
    assert re.search(r"column 'score' is of type .+; allowed: floating-point", bench.refusal("parquet"))


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("uid", "double", 1.0),
        ("uid", "string", "1"),
        ("uid", "null", None),
        ("uid", {"type": "long", "logicalType": "timestamp-millis"}, 0),
        ("score", "boolean", True),
        ("score", ["null", "double", "string"], 0.5),
        ("score", {"type": "array", "items": "double"}, [0.5]),
    ],
)
def test_another_type_in_avro(bench: Bench, column: str, kind: Any, value: Any) -> None:
    with bench.path.open("wb") as stream:
        schema = avro_schema(**{"uid": "long", "score": "double", column: kind})
        fastavro.writer(stream, schema, [{"uid": 1, "score": 0.5, column: value}])
    assert f"column {column!r} is of type" in bench.refusal("avro")


def test_nested_columns_in_avro(bench: Bench) -> None:
    """An array of nulls can have more items than anybody can wait for, in ten bytes."""
    schema = avro_schema(uid="long", score="double", more={"type": "array", "items": "null"})
    with bench.path.open("wb") as stream:
        fastavro.writer(stream, schema, [{"uid": 1, "score": 0.5, "more": [None]}])
    assert "column 'more'" in (message := bench.refusal("avro"))
    assert "no nested columns" in message


def test_avro_without_records(bench: Bench) -> None:
    with bench.path.open("wb") as stream:
        fastavro.writer(stream, "long", [1, 2])
    assert "holds no records" in bench.refusal("avro")


# ---- uids that are there twice ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_repeated_uid(bench: Bench, form: str) -> None:
    write(bench.path, form, [1, 2, 3, 2, 1], [0.5] * 5)
    assert bench.refusal(form) == (
        f"{NAME}: column 'uid': row 4 has uid 2 of row 2 again; allowed: every uid once"
    )


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("distance", [1, 5, 12, 97])
def test_a_uid_repeated_far_away(bench: Bench, form: str, distance: int) -> None:
    uid = list(range(100, 0, -1))
    uid[1 + distance] = uid[1]
    write(bench.path, form, uid, [0.5] * 100)
    assert f"row {distance + 2} has uid 99 of row 2 again" in bench.refusal(form)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("uid", [[5, 4, 3, 2, 1, 5], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1], [1, 2, 3, 4, 4]])
def test_a_uid_repeated_in_another_batch(bench: Bench, uid: list[int]) -> None:
    """Within one run, where every batch increases, and right at the edge of a batch."""
    write(bench.path, "parquet", uid, [0.5] * len(uid))
    row = next(row for row in range(len(uid)) if uid[row] in uid[:row])
    first = uid.index(uid[row])
    assert f"row {row + 1} has uid {uid[row]} of row {first + 1} again" in bench.refusal("parquet")


@pytest.mark.usefixtures("small_runs")
def test_a_file_of_one_uid_is_not_read_to_its_end(bench: Bench) -> None:
    write(bench.path, "parquet", [7] * 50, [0.5] * 49 + [None])
    assert "row 2 has uid 7 of row 1 again" in bench.refusal("parquet")


@pytest.mark.usefixtures("small_runs")
@settings(max_examples=50, deadline=None)
@given(uid=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60), again=st.data())
def test_exactly_the_files_with_repeated_uids_are_refused(
    uid: list[int], again: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if again.draw(st.booleans()):
        uid.insert(again.draw(st.integers(0, len(uid))), again.draw(st.sampled_from(uid)))
    bench = Bench(tmp_path_factory.mktemp("uids"))
    write(bench.path, "parquet", uid, [0.0] * len(uid))
    if len(set(uid)) == len(uid):
        bench.run("parquet")
        assert bench.rows()[0] == uid
        return
    found = re.search(r"row (\d+) has uid (-?\d+) of row (\d+) again", bench.refusal("parquet"))
    assert found is not None
    second, value, first = map(int, found.groups())
    assert first < second
    assert uid[first - 1] == uid[second - 1] == value


# ---- damage, and files that claim too much ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "avro"])
@pytest.mark.parametrize("kept", [0.3, 0.9, -1])
def test_a_file_that_is_cut_short(bench: Bench, form: str, kept: float) -> None:
    data = write(bench.path, form, list(range(1000)), [0.5] * 1000).read_bytes()
    bench.path.write_bytes(data[: int(kept * len(data)) if kept > 0 else -1])
    said = {"parquet": "cut short", "avro": "is truncated: the file ends inside of it"}
    assert said[form] in bench.refusal(form)


def test_an_open_quote_does_not_swallow_rows(bench: Bench) -> None:
    bench.path.write_text('uid,score,text\n1,0.5,a\n2,0.5,"b\n3,0.5,c\n')
    assert "a quote is never closed" in bench.refusal("csv")


def test_a_row_with_too_few_fields(bench: Bench) -> None:
    bench.path.write_text("uid,score\n1,0.5\n2\n")
    assert "cannot be read as CSV" in bench.refusal("csv")


@pytest.mark.parametrize(("said", "written"), [(a, b) for a in FORMATS for b in FORMATS if a != b])
def test_a_file_of_another_format(bench: Bench, said: str, written: str) -> None:
    write(bench.path, written, [1], [0.5])
    assert "begins with" in bench.refusal(said)


def test_compressed_text(bench: Bench) -> None:
    bench.path.write_bytes(zlib.compress(b"uid,score\n1,0.5\n", wbits=31))
    assert "not compressed" in bench.refusal("csv")


@pytest.mark.parametrize("form", FORMATS)
def test_too_many_rows(bench: Bench, form: str) -> None:
    write(bench.path, form, list(range(11)), [0.5] * 11)
    found = "holds 11 rows" if form == "parquet" else "holds more than 10 rows"
    assert f"{found}; allowed are at most 10" in bench.refusal(form, max_rows=10)
    assert bench.run(form, max_rows=11).rows == 11


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows(bench: Bench, form: str) -> None:
    write(bench.path, form, [], [])
    assert bench.refusal(form) == f"{NAME}: holds no rows"


@pytest.mark.parametrize("form", FORMATS)
def test_no_bytes(bench: Bench, form: str) -> None:
    bench.path.touch()
    bench.refusal(form)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_parquet_that_grows_too_much(bench: Bench, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATIO_FREE_BYTES", 1 << 20)
    rows = 1 << 20
    table = pa.table({"uid": np.zeros(rows, np.int64), "score": np.zeros(rows)})
    pq.write_table(table, bench.path, compression=compression, use_dictionary=False)
    assert re.search(r"bytes become \d+ or more when decompressed", bench.refusal("parquet", max_rows=rows))


def test_a_parquet_page_that_is_too_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PAGE_BYTES", 1 << 10)
    write(bench.path, "parquet", [1, 2, 3], [0.5] * 3)
    bench.run("parquet")
    bench.target.unlink()
    table = pa.table({"uid": np.arange(1000), "score": np.ones(1000)})
    pq.write_table(table, bench.path, use_dictionary=False)
    assert "column 'uid': a page of 8" in bench.refusal("parquet")


def test_a_parquet_footer_that_is_too_large(bench: Bench) -> None:
    bench.path.write_bytes(b"PAR1" + bytes(100) + struct.pack("<I", 2**31) + b"PAR1")
    assert "has a footer of 2147483648 bytes" in bench.refusal("parquet")


def test_parquet_pages_with_damaged_headers(bench: Bench) -> None:
    data = bytearray(write(bench.path, "parquet", [1, 2, 3], [0.5] * 3).read_bytes())
    data[4:12] = b"\xff" * 8
    bench.path.write_bytes(data)
    assert "damaged" in bench.refusal("parquet")


def avro_file(path: Path, count: int, block: bytes, codec: str = "null") -> None:
    """Write an Avro file with one block that may lie."""
    plain = io.BytesIO()
    fastavro.writer(plain, avro_schema(uid="long", score="double"), [], codec=codec)

    def number(value: int) -> bytes:
        value = (value << 1) ^ (value >> 63)
        data = bytearray()
        while value > 0x7F:
            data.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*data, value])

    head = plain.getvalue()
    path.write_bytes(head + number(count) + number(len(block)) + block + head[-16:])


def deflated(data: bytes) -> bytes:
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflating.compress(data) + deflating.flush()


def snappied(data: bytes) -> bytes:
    return bytes(pa.Codec("snappy").compress(data, asbytes=True)) + zlib.crc32(data).to_bytes(4, "big")


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "deflate": deflated,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "snappy": snappied,
    "zstandard": lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True)),
}
RECORD = b"\x02" + struct.pack("<d", 0.5)


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_an_avro_block_that_grows_too_much(bench: Bench, codec: str) -> None:
    avro_file(bench.path, 1, PACKED[codec](RECORD), codec)
    assert bench.run("avro").rows == 1
    bench.target.unlink()
    avro_file(bench.path, 1, PACKED[codec](bytes(limits.MAX_BLOCK_BYTES + 1)), codec)
    assert "block 1 is larger than 16 MiB after decompression" in bench.refusal("avro")


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "snappy", "zstandard"])
@pytest.mark.parametrize("kept", [0, 8, -5])
def test_an_avro_block_whose_data_are_cut_short(bench: Bench, codec: str, kept: int) -> None:
    avro_file(bench.path, 1000, PACKED[codec](np.random.default_rng(5).bytes(9000))[:kept], codec)
    assert f"block 1: its {codec} data are damaged" in bench.refusal("avro")


def test_avro_blocks_that_together_grow_too_much(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATIO_FREE_BYTES", 1 << 16)
    avro_file(bench.path, 1 << 13, deflated(bytes(9 << 13)), "deflate")
    assert "or more when decompressed" in bench.refusal("avro")


def test_an_avro_block_that_claims_too_many_records(bench: Bench) -> None:
    avro_file(bench.path, 2**40, RECORD)
    assert "block 1 says that it has 1099511627776 rows in 9 bytes" in bench.refusal("avro")
    avro_file(bench.path, 2, RECORD)
    assert "cannot be read" in bench.refusal("avro")
    avro_file(bench.path, -1, RECORD)
    assert "block 1 says that it has -1 rows" in bench.refusal("avro")


def test_an_avro_block_with_more_than_its_records(bench: Bench) -> None:
    avro_file(bench.path, 1, RECORD + RECORD)
    assert "block 1 has 9 bytes left after its 1 rows" in bench.refusal("avro")
    avro_file(bench.path, 0, RECORD)
    assert "block 1 holds 9 bytes but no rows" in bench.refusal("avro")


def test_an_avro_block_that_is_too_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BLOCK_BYTES", 8)
    avro_file(bench.path, 1, RECORD)
    assert "block 1 has 9 bytes" in bench.refusal("avro")


def test_avro_with_a_damaged_mark_or_header(bench: Bench) -> None:
    avro_file(bench.path, 1, RECORD)
    data = bench.path.read_bytes()
    bench.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "block 1 ends with a wrong sync marker" in bench.refusal("avro")
    bench.path.write_bytes(data[:4] + b"\xff" * 9 + b"\x01" + data[4:])
    assert "cannot be read as Avro" in bench.refusal("avro")


def test_avro_of_another_codec(bench: Bench) -> None:
    avro_file(bench.path, 1, RECORD, "deflate")
    bench.path.write_bytes(bench.path.read_bytes().replace(b"deflate", b"inflate"))
    assert "the codec is 'inflate'; allowed: bzip2, deflate, null, " in bench.refusal("avro")


@settings(max_examples=200, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255), form=st.sampled_from(("avro", "csv"))
)
def test_a_changed_byte_is_refused_or_harmless(
    place: float, byte: int, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is wrong with a file is a DataError; Parquet is left out, for Arrow may end the process."""
    bench = Bench(tmp_path_factory.mktemp("changed"))
    data = bytearray(write(bench.path, form, list(range(20)), [0.5] * 20).read_bytes())
    data[int(place * len(data))] ^= byte
    bench.path.write_bytes(data)
    with contextlib.suppress(DataError):
        bench.run(form)
        return
    assert not bench.target.exists()


# ---- the work itself -------------------------------------------------------------------------------------


def ask(bench: Bench, form: str) -> CheckAnswer:
    request = {
        "path": str(bench.path),
        "name": NAME,
        "format": form,
        "uid_column": "uid",
        "score_column": "score",
        "target": str(bench.target),
        "max_rows": 10,
    }
    command = [sys.executable, "-m", "gdmix_core.data.uploaded_scores"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        answer = CheckAnswer(**json.load(process.stdout))
        assert process.wait() == 0
    return answer


def test_a_process_of_its_own_answers(bench: Bench) -> None:
    write(bench.path, "parquet", [1, 2], [0.5, 1.5])
    summary = {"rows": 2, "min_score": 0.5, "max_score": 1.5, "mean_score": 1.0}
    assert ask(bench, "parquet") == CheckAnswer(summary=summary)
    assert bench.rows() == ([1, 2], [0.5, 1.5])
    bench.target.unlink()
    write(bench.path, "parquet", [1, 1], [0.5, 1.5])
    refused = ask(bench, "parquet")
    assert refused.summary is None
    assert refused.refusal.startswith(f"{NAME}: column 'uid': row 2 has uid 1")
    assert list(bench.path.parent.iterdir()) == [bench.path]


def test_it_ends_with_its_parent(bench: Bench) -> None:
    """A pipe in the file's place keeps it waiting for ever."""
    os.mkfifo(bench.path)
    command = [sys.executable, "-m", "gdmix_core.data.uploaded_scores"]
    request = {"path": str(bench.path), "name": NAME, "format": "csv", "uid_column": "uid"}
    request |= {"score_column": "score", "target": str(bench.target)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps({**request, "max_rows": 1}).encode() + b"\n")
        process.stdin.close()
        assert process.wait(30) == 1


PEAK_OF_A_CHECK = """
import re, sys
from pathlib import Path
from gdmix_core.data.uploaded_scores import UploadedFile, normalise_scores
sent, form, target = sys.argv[1:]
normalise_scores(UploadedFile(path=Path(sent), name="x", format=form), Path(target), max_rows=10**7)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_memory_does_not_grow_with_the_file(bench: Bench, form: str) -> None:
    """Two and four million rows in random order, 32 and 64 MB as arrays; a process of its own for each."""

    def peak(rows: int) -> int:
        uid = np.random.default_rng(3).permutation(rows)
        table = pa.table({"uid": uid, "score": np.random.default_rng(4).normal(size=rows)})
        pa_csv.write_csv(table, bench.path) if form == "csv" else pq.write_table(table, bench.path)
        command = [sys.executable, "-c", PEAK_OF_A_CHECK, str(bench.path), form, str(bench.target)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) << 10

    small, medium, large = peak(10), peak(2_000_000), peak(4_000_000)
    assert large - small < 96 << 20
    assert large - medium < 24 << 20


def test_a_summary_is_plain_numbers(bench: Bench) -> None:
    write(bench.path, "parquet", [1], [0.5])
    summary = bench.run("parquet")
    numbers = [summary.rows, summary.min_score, summary.max_score, summary.mean_score]
    assert json.dumps(numbers, allow_nan=False) == "[1, 0.5, 0.5, 0.5]"
