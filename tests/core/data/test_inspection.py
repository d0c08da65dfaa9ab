from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data import inspection
from gdmix_core.data.inspection import inspect_data
from gdmix_core.errors import ConfigError, DataError, GdmixError
from gdmix_core.tasks import EncodingSpec, Split

ROWS: dict[str, Any] = {"uid": [1, 2], "label": [0.0, 1.0]}


def parquet(path: Path, columns: dict[str, Any] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**ROWS, **(columns or {})}), path, **options)
    return path


def inspected(
    train: Any,
    feature_columns: tuple[Any, ...] = (),
    entities: tuple[str, ...] = (),
    **data: Any,
) -> tuple[tuple[Split, ...], EncodingSpec]:
    config = DataConfig.model_validate({"train": train, **data})
    features = (
        {"b": tuple(FeatureColumn.model_validate(column) for column in feature_columns)}
        if feature_columns
        else {}
    )
    return inspect_data(config, features, entities, "logistic_regression")


def message(error: type[GdmixError], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        inspected(*args, **options)
    assert type(caught.value) is error
    return str(caught.value)


# ---- files ----------------------------------------------------------------------------------------------


def test_directories_and_globs_give_sorted_files_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("d/b.parquet", "d/a.parquet", "d/sub/c.parquet", "d/.hidden.parquet", "d/_tmp/x.parquet"):
        parquet(tmp_path / name)
    (tmp_path / "d/_SUCCESS").touch()
    (tmp_path / "d/.a.parquet.crc").touch()
    splits, _ = inspected(str(tmp_path / "d"), validation=str(tmp_path / "d" / "*.parquet"))
    names = [(split.role, Path(split.path).relative_to(tmp_path / "d").as_posix()) for split in splits]
    assert names == [
        ("train", "a.parquet"),
        ("train", "b.parquet"),
        ("train", "sub/c.parquet"),
        ("validation", "a.parquet"),
        ("validation", "b.parquet"),
    ]


def test_a_file_named_twice_is_read_once_and_odd_names_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = parquet(tmp_path / "_a[1].parquet")
    splits, _ = inspected([str(odd), str(odd)])
    assert [split.path for split in splits] == [str(odd)]


def test_formats_go_by_the_ending_or_by_the_config(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uid,label\n1,0\n")
    (tmp_path / "b.ndjson").write_text('{"uid": 1, "label": 0}\n')
    parquet(tmp_path / "c.PARQUET")
    splits, _ = inspected([str(tmp_path)])
    assert [split.format for split in splits] == ["csv", "jsonl", "parquet"]
    parquet(tmp_path / "part-0")
    text = message(ConfigError, str(tmp_path / "part-0"))
    assert "the format cannot be told from the name; allowed endings: .parquet, .csv" in text
    splits, _ = inspected(str(tmp_path / "part-0"), format="parquet")
    assert splits[0].format == "parquet"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sources = [str(tmp_path / "nope.csv"), str(tmp_path / "empty"), str(tmp_path / "*.x"), "s3://bucket/a"]
    text = message(ConfigError, sources, validation=str(tmp_path / "gone"))
    assert "5 problems" in text
    assert f"data.train: '{tmp_path}/nope.csv': no such file or directory" in text
    assert f"'{tmp_path}/empty': the directory holds no files" in text
    assert f"'{tmp_path}/*.x': no file matches" in text
    assert "'s3://bucket/a' is not on a file system" in text
    assert f"data.validation: '{tmp_path}/gone': no such file" in text


# ---- splits ---------------------------------------------------------------------------------------------


def test_row_groups_are_put_together_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SPLIT_ROWS", 10)
    columns = {"uid": range(28), "label": [0.0] * 28}
    splits, _ = inspected(str(parquet(tmp_path / "a.parquet", columns, row_group_size=4)))
    pieces = [(split.first_row_group, split.row_groups, split.first_row) for split in splits]
    assert pieces == [(0, 2, 0), (2, 2, 8), (4, 2, 16), (6, 1, 24)]
    splits, _ = inspected(str(parquet(tmp_path / "b.parquet", columns, row_group_size=15)))
    assert [(split.first_row_group, split.row_groups, split.first_row) for split in splits] == [
        (0, 1, 0),
        (1, 1, 15),
    ]


@pytest.mark.parametrize("role", ["train", "validation"])
@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.jsonl"])
def test_a_data_set_without_rows_is_an_error(role: str, name: str, tmp_path: Path) -> None:
    full, empty = parquet(tmp_path / "full.parquet"), tmp_path / name
    if name == "e.parquet":
        pq.write_table(pa.table(ROWS).slice(0, 0), empty)
    else:
        empty.write_text("uid,label\n" if name == "e.csv" else "")
    roles = {"train": str(full), "validation": str(full), role: str(empty)}
    assert message(DataError, roles["train"], validation=roles["validation"]) == (
        f"data.{role}: no rows in {empty}"
    )


def test_files_without_rows_beside_others_are_passed_over(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    pq.write_table(pa.table(ROWS).slice(0, 0), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("uid,label\n")
    splits, _ = inspected(str(tmp_path))
    assert [Path(split.path).name for split in splits] == ["a.parquet"]


def test_unreadable_files_are_all_named(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(good.read_bytes()[:50])
    (tmp_path / "c.jsonl").write_text("{]\n")
    text = message(DataError, str(tmp_path))
    assert f"{tmp_path}/b.parquet: cannot be read as Parquet" in text
    assert f"{tmp_path}/c.jsonl: row 1 is not JSON" in text


# ---- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "dimension"),
    [
        (pa.array([1, 2], pa.int8()), "numeric", None),
        (pa.array([1.0, 2.0], pa.float32()), "numeric", None),
        (pa.array(["a", "b"]), "categorical", None),
        (pa.array([True, False]), "categorical", None),
        (pa.array(["a", "b"]).dictionary_encode(), "categorical", None),
        (pa.array([["a"], []]), "list", None),
        (pa.array([[1], []], pa.list_(pa.int64())), "list", None),
        (pa.array([None, [1.0, 2.0]], pa.list_(pa.float32())), "vector", 2),
        (pa.array([[1.0, 2.0, 3.0]] * 2, pa.list_(pa.float64(), 3)), "vector", 3),
    ],
)
def test_auto_goes_by_the_type(values: pa.Array, kind: str, dimension: int | None, tmp_path: Path) -> None:
    _, encoding = inspected(str(parquet(tmp_path / "a.parquet", {"x": values})), ("x",))
    (column,) = encoding.columns
    assert (column.column.kind, column.dimension) == (kind, dimension)


def test_auto_looks_at_text_files_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("uid,label,n,word,half,flag\n1,0,3,a,0.5,True\n2,1,,b,1,False\n")
    _, encoding = inspected(str(path), ("n", "word", "half", "flag"))
    assert [c.column.kind for c in encoding.columns] == ["numeric", "categorical", "numeric", "categorical"]
    path = tmp_path / "a.jsonl"
    row = {"uid": 1, "label": 0, "n": 1, "day": "2020-01-01", "tags": ["a"], "v": [0.5, 1]}
    path.write_text(json.dumps(row) + "\n")
    _, encoding = inspected(str(path), ("n", "day", "tags", "v"))
    assert [c.column.kind for c in encoding.columns] == ["numeric", "categorical", "list", "vector"]
    assert encoding.columns[3].dimension == 2


def test_all_misfits_of_a_parquet_file_come_in_one_message(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        {
            "uid": [1.0, 2.0],
            "label": ["no", "yes"],
            "user": [1.5, 2.5],
            "text": [1, 2],
            "cat": [1.0, 2.0],
            "num": ["a", "b"],
            "vec": [[1.0, 2.0]] * 2,
            "sparse": [{"indices": [1], "values": [1.0]}] * 2,
            "when": pa.array([0, 1], pa.timestamp("ms")),
        },
    )
    text = message(
        ConfigError,
        str(path),
        (
            {"column": "text", "kind": "text"},
            {"column": "cat", "kind": "categorical"},
            {"column": "num", "kind": "numeric"},
            {"column": "num", "kind": "list"},
            {"column": "vec", "kind": "vector", "dimension": 3},
            {"column": "sparse", "kind": "vector"},
            "when",
            "gone",
        ),
        ("user",),
        columns={"weight": "w"},
    )
    assert "11 problems" in text
    for expected in (
        "column 'uid' (columns.uid): found type double; allowed: integers",
        "column 'label' (columns.label): found type string; allowed: numbers and booleans",
        "column 'w' (columns.weight) is missing; the file has uid, label, user, text",
        "column 'user' (entity id): found type double; allowed: strings and integers",
        "column 'text' (features.b, kind text): found type int64; allowed: strings",
        "column 'cat' (features.b, kind categorical): found type double; allowed: strings, integers and bool",
        "column 'num' (features.b, kind numeric): found type string; allowed: numbers and booleans",
        "column 'num' (features.b, kind list): found type string; allowed: lists of",
        "column 'sparse' (features.b, kind vector): a sparse vector needs a dimension",
        "column 'when' (features.b): kind auto cannot tell what to make of type timestamp[ms]; give its kind",
        "column 'gone' (features.b, kind auto) is missing; the file has",
    ):
        assert f"{path}: {expected}" in text
    assert text.count("column 'vec'") == 0, "lists of free length are checked row by row"


def test_vectors_of_another_length_than_the_config_says_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"v": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float64(), 2))})
    text = message(ConfigError, str(path), ({"column": "v", "kind": "vector", "dimension": 3},))
    assert "found vectors of 2 numbers; the config says dimension 3" in text
    path = parquet(tmp_path / "b.parquet", {"v": pa.array([None, []], pa.list_(pa.float64()))})
    text = message(DataError, str(path), ("v",))
    assert "column 'v' holds no vector in any training row to read a dimension off" in text


def test_misfits_of_csv_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("uid,label,user,word,word2\n1.5,yes,1.0,a,x\n2.5,no,2.0,b,y\n")
    text = message(
        ConfigError,
        str(path),
        (
            {"column": "word", "kind": "list"},
            {"column": "word2", "kind": "vector"},
            {"column": "user", "kind": "numeric"},
        ),
        ("user",),
    )
    for expected in (
        "column 'uid' (columns.uid): found numbers with fractions; allowed: integers",
        "column 'label' (columns.label): found text; allowed: numbers and booleans",
        "column 'user' (entity id): found numbers with fractions; allowed: strings and integers",
        "column 'word' (features.b, kind list): a list in a CSV file needs a separator",
        "column 'word2' (features.b, kind vector): a CSV file cannot hold vectors",
    ):
        assert f"{path}: {expected}" in text
    path.write_text("uid,label,label\n1,0,0\n")
    assert "column 'label' (columns.label) stands more than once in the file" in message(
        ConfigError, str(path)
    )


def test_numbers_with_a_few_mistakes_are_left_to_the_row_checks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("uid,label,x\n1,0,1\n2,oops,2\nx,1,3\n4,1,?\n")
    splits, encoding = inspected(str(path), ({"column": "x", "kind": "numeric"},))
    assert len(splits) == len(encoding.columns) == 1
    _, encoding = inspected(str(path), ("x",))
    assert encoding.columns[0].column.kind == "categorical"


def test_auto_that_differs_between_files_must_be_settled(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"x": [1, 2]})
    parquet(tmp_path / "b.parquet", {"x": ["1", "2"]})
    text = message(ConfigError, str(tmp_path), ("x",))
    assert "column 'x' looks numeric (int64)" in text
    assert "but categorical (string)" in text
    parquet(tmp_path / "n" / "c.parquet", {"x": pa.nulls(2)})
    assert "kind auto finds no values to go by" in message(ConfigError, str(tmp_path / "n"), ("x",))


def test_keys_absent_from_one_jsonl_file_are_null_unless_no_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"uid": 1, "label": 0, "x": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"uid": 2, "label": 0}\n')
    splits, _ = inspected(str(tmp_path), ("x",))
    assert len(splits) == 2
    assert "column 'y' (features.b, kind auto) is missing" in message(ConfigError, str(tmp_path), ("y",))


def test_validation_is_held_to_the_kinds_of_training(tmp_path: Path) -> None:
    train = parquet(tmp_path / "t.parquet", {"x": [1, 2]})
    other = parquet(tmp_path / "v.parquet", {"x": ["a", "b"]})
    text = message(ConfigError, str(train), ("x",), validation=str(other))
    assert text.startswith(f"{other}: column 'x' (features.b, kind numeric): found type string")
