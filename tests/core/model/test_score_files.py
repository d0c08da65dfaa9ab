"""Score files: fastavro reads what was written, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from gdmix_core.errors import DataError
from gdmix_core.model import score_files
from gdmix_core.model.score_files import ScoreRows, write_scores

UIDS = [0, 1, -1, 63, 64, -64, -65, 2**31, -(2**31), 2**63 - 1, -(2**63)]
NUMBERS = [0.0, -0.0, 1.5, -1e-308, 1e308, 0.1, 1 / 3, -7.25, 5e-324, np.inf, -2.0]


def rows_of(count: int, seed: int = 3) -> ScoreRows:
    rng = np.random.default_rng(seed)
    return ScoreRows(
        uid=rng.integers(-(2**63), 2**63 - 1, count),
        score=rng.normal(size=count),
        own_score=rng.normal(size=count),
        label=rng.integers(0, 2, count).astype(np.float64),
        weight=rng.uniform(0, 3, count),
    )


def written(
    path: Path,
    rows: ScoreRows,
    *,
    uid: str = "uid",
    label: str = "response",
    weight: str = "weight",
    integer_label: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write a file and return what fastavro finds in it: the records and the schema."""
    write_scores(path, rows, uid=uid, label=label, weight=weight, integer_label=integer_label)
    with path.open("rb") as file:
        reader = fastavro.reader(file)
        return list(reader), reader.writer_schema  # type: ignore[arg-type,return-value]


def types(schema: dict[str, Any]) -> dict[str, Any]:
    return {field["name"]: field["type"] for field in schema["fields"]}


def test_every_number_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    numbers = np.array(NUMBERS)
    rows = ScoreRows(np.array(UIDS), numbers, numbers[::-1], np.arange(11.0) % 2, numbers + 2.0)
    records, schema = written(tmp_path / "a.avro", rows)
    assert schema["name"] == "validation_result"
    assert types(schema) == {
        "uid": "long",
        "predictionScore": "double",
        "response": ["null", "int"],
        "weight": "double",
        "predictionScorePerCoordinate": "double",
    }
    assert [record["uid"] for record in records] == UIDS
    assert [record["response"] for record in records] == [i % 2 for i in range(11)]
    assert all(type(record["response"]) is int for record in records)
    for name, values in (
        ("predictionScore", rows.score),
        ("predictionScorePerCoordinate", rows.own_score),
        ("weight", rows.weight),
    ):
        assert np.array([record[name] for record in records]).tobytes() == values.tobytes()


def test_names_are_those_of_the_data(tmp_path: Path) -> None:
    _, schema = written(tmp_path / "a.avro", rows_of(3), uid="row_id", label="clicked", weight="w")
    assert list(types(schema)) == [
        "row_id",
        "predictionScore",
        "clicked",
        "w",
        "predictionScorePerCoordinate",
    ]


def test_labels_may_be_numbers_with_fractions(tmp_path: Path) -> None:
    labels = np.array([0.5, -3.0, 1e300])
    rows = ScoreRows(np.arange(3), np.zeros(3), np.zeros(3), labels, np.ones(3))
    records, schema = written(tmp_path / "a.avro", rows, integer_label=False)
    assert types(schema)["response"] == ["null", "double"]
    assert [record["response"] for record in records] == labels.tolist()


def test_without_labels_there_is_no_such_field(tmp_path: Path) -> None:
    rows = rows_of(5)
    records, schema = written(tmp_path / "a.avro", rows, label="")
    assert list(types(schema)) == ["uid", "predictionScore", "weight", "predictionScorePerCoordinate"]
    assert [record["predictionScorePerCoordinate"] for record in records] == rows.own_score.tolist()


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
@pytest.mark.parametrize("integer_label", [True, False])
def test_blocks_of_any_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, integer_label: bool
) -> None:
    monkeypatch.setattr(score_files, "_ROWS_IN_BLOCK", 10)
    rows = rows_of(count)
    path = tmp_path / "a.avro"
    records, _ = written(path, rows, integer_label=integer_label)
    assert [record["uid"] for record in records] == rows.uid.tolist()
    assert [record["predictionScore"] for record in records] == rows.score.tolist()
    assert [record["response"] for record in records] == rows.label.tolist()
    with path.open("rb") as file:
        sizes = [block.num_records for block in fastavro.block_reader(file)]
    assert sizes == [10] * (count // 10) + ([count % 10] if count % 10 else [])


def test_the_widest_rows_fit_their_block(tmp_path: Path) -> None:
    count = 40_000
    uid = np.where(np.arange(count) % 2, 2**63 - 1, -(2**63))
    numbers = np.random.default_rng(1).normal(size=count)
    for integer_label, label in ((True, np.full(count, -(2.0**31))), (False, numbers)):
        rows = ScoreRows(uid, numbers, numbers, label, numbers)
        records, _ = written(tmp_path / "a.avro", rows, integer_label=integer_label)
        assert [record["uid"] for record in records] == uid.tolist()
        assert [record["response"] for record in records] == label.tolist()


def test_columns_that_are_no_plain_arrays_are_written_as_they_are(tmp_path: Path) -> None:
    plain = rows_of(50)
    matrix = np.column_stack([plain.score, plain.own_score, plain.label, plain.weight])
    strided = ScoreRows(np.repeat(plain.uid, 2)[::2], *matrix.T)
    for array in (strided.uid, strided.score):
        assert not array.flags.c_contiguous
        array.flags.writeable = False
    assert written(tmp_path / "a.avro", plain) == written(tmp_path / "b.avro", strided)


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a.avro", "b.avro"):
        written(tmp_path / name, rows_of(100))
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    written(tmp_path / "c.avro", rows_of(100, seed=4))
    assert (tmp_path / "c.avro").read_bytes() != contents[0]


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avro"
    written(path, rows_of(30))
    before = path.read_bytes()
    monkeypatch.setattr(score_files, "_ROWS_IN_BLOCK", 10)
    encode, calls = score_files._encode, []

    def breaks_at_the_third(*arguments: Any) -> int:
        calls.append(list(tmp_path.iterdir()))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return int(encode(*arguments))

    monkeypatch.setattr(score_files, "_encode", breaks_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        written(path, rows_of(30, seed=9))
    assert len(calls[2]) == 2, "what is being written has a name of its own"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_where_nothing_can_be_written_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "a.avro"
    with pytest.raises(DataError) as caught:
        written(path, rows_of(3))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
