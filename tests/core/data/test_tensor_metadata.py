from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gdmix_core.data.tensor_metadata import Tensor, read_tensor_metadata
from gdmix_core.errors import DataError

COLUMN: dict[str, Any] = {"name": "x", "dtype": "int", "shape": [], "isSparse": False}


def put(path: Path, document: object) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(path)


def fault(path: Path, document: object) -> str:
    """Return what is said of a document, without the path that every message begins with."""
    with pytest.raises(DataError) as caught:
        read_tensor_metadata(put(path, document))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def fault_of_column(path: Path, **changes: Any) -> str:
    return fault(path, {"features": [COLUMN | changes]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tensor_metadata.json"


def test_features_come_before_labels_in_their_order(path: Path) -> None:
    document = {
        "numberOfTrainingSamples": 179087,
        "labels": [{"name": "response", "dtype": "double", "shape": [], "isSparse": False}],
        "partitionId": None,
        "features": [
            {"name": "global", "dtype": "float", "shape": [50], "isSparse": True},
            {"name": "genre", "dtype": "string", "shape": [], "isSparse": False, "note": "ignored"},
            {"name": "dense", "dtype": "float", "shape": [3], "isSparse": False},
        ],
    }
    assert read_tensor_metadata(put(path, document)) == (
        Tensor("global", "float", (50,), True),
        Tensor("genre", "string", (), False),
        Tensor("dense", "float", (3,), False),
        Tensor("response", "float", (), False),
    )


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("int", "int"),
        ("long", "int"),
        ("float", "float"),
        ("double", "float"),
        ("string", "string"),
        ("bytes", "string"),
    ],
)
def test_every_dtype_is_one_that_tfrecord_files_know(path: Path, written: str, found: str) -> None:
    (tensor,) = read_tensor_metadata(put(path, {"features": [COLUMN | {"dtype": written}]}))
    assert tensor.dtype == found


def test_labels_or_features_may_be_left_out(path: Path, tmp_path: Path) -> None:
    assert read_tensor_metadata(put(path, {"labels": [COLUMN]}))[0].name == "x"
    assert read_tensor_metadata(put(tmp_path / "other.json", {"features": [COLUMN]}))[0].name == "x"


def test_a_file_that_was_replaced_is_read_again(path: Path) -> None:
    assert read_tensor_metadata(put(path, {"features": [COLUMN]}))[0].dtype == "int"
    assert read_tensor_metadata(put(path, {"features": [COLUMN | {"dtype": "float"}]}))[0].dtype == "float"


# ---- what is wrong with it -------------------------------------------------------------------------------


def test_what_cannot_be_read_is_one_error(path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read_tensor_metadata(str(path))
    assert str(caught.value) == f"{path}: no such file"
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read as tensor metadata: Is a directory"):
        read_tensor_metadata(str(path))
    path.rmdir()
    path.write_bytes(b'{"features": "\xff"}')
    with pytest.raises(DataError, match="cannot be read as tensor metadata: ") as caught:
        read_tensor_metadata(str(path))
    assert "utf-8" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"features": [}', "features: []", '{"a": 1} x'])
def test_what_is_no_json_is_one_error(path: Path, text: str) -> None:
    assert fault(path, text).startswith("cannot be read as tensor metadata: not JSON: ")


def test_json_nested_without_end_is_one_error(path: Path) -> None:
    assert fault(path, "[" * 100_000).startswith("cannot be read as tensor metadata: ")


@pytest.mark.parametrize("document", [[COLUMN], "x", 3, None, True])
def test_what_is_no_object_is_refused(path: Path, document: object) -> None:
    assert fault(path, json.dumps(document)) == (
        "holds no JSON object; allowed: an object with features and labels"
    )


@pytest.mark.parametrize("key", ["features", "labels"])
@pytest.mark.parametrize(("value", "kind"), [({}, "dict"), ("x", "str"), (None, "NoneType"), (3, "int")])
def test_columns_must_be_lists(path: Path, key: str, value: object, kind: str) -> None:
    assert fault(path, {key: value}) == f"{key}: found {kind}; allowed: a list"


@pytest.mark.parametrize("document", [{}, {"features": []}, {"features": [], "labels": []}])
def test_a_file_without_columns_is_refused(path: Path, document: object) -> None:
    assert fault(path, document) == "describes no columns"


@pytest.mark.parametrize("entry", ["x", 3, None, [COLUMN]])
def test_a_column_must_be_an_object(path: Path, entry: object) -> None:
    message = fault(path, {"features": [COLUMN, entry]})
    assert message == f"features[1]: found {entry!r}; allowed: an object with name, dtype, shape, isSparse"


def test_missing_fields_are_all_named(path: Path) -> None:
    entry = {"name": "x", "dtype": "int"}
    assert fault(path, {"features": [COLUMN | {"name": "a"}], "labels": [entry]}) == (
        "labels[0]: shape, isSparse missing; needed are name, dtype, shape, isSparse"
    )


@pytest.mark.parametrize("name", ["", None, 3, ["x"]])
def test_a_name_must_be_one(path: Path, name: object) -> None:
    assert fault_of_column(path, name=name) == f"features[0].name: found {name!r}; allowed: a name"


@pytest.mark.parametrize("dtype", ["int64", "Float", "", None, 3, ["int"], {"a": 1}])
def test_an_unknown_dtype_is_refused(path: Path, dtype: object) -> None:
    assert fault_of_column(path, dtype=dtype) == (
        f"features[0].dtype (x): found {dtype!r}; allowed: int, long, float, double, string, bytes"
    )


@pytest.mark.parametrize(
    "shape", [None, 3, "3", [0], [-1], [2.0], ["3"], [True], [None], [2, 3], {"0": 3}, [[3]]]
)
def test_a_shape_must_be_one_length_or_none(path: Path, shape: object) -> None:
    assert fault_of_column(path, shape=shape) == (
        f"features[0].shape (x): found {shape!r}; allowed: [] or [length]"
    )


def test_a_sparse_column_needs_its_length(path: Path) -> None:
    assert fault_of_column(path, isSparse=True) == (
        "features[0].shape (x): a sparse column needs its length; found []"
    )


@pytest.mark.parametrize("value", ["false", "no", 0, 1, None, []])
def test_whether_a_column_is_sparse_must_be_said_by_a_boolean(path: Path, value: object) -> None:
    assert fault_of_column(path, shape=[3], isSparse=value) == (
        f"features[0].isSparse (x): found {value!r}; allowed: true or false"
    )


def test_a_column_that_is_described_twice_is_refused(path: Path) -> None:
    document = {"features": [COLUMN, COLUMN | {"name": "a"}], "labels": [COLUMN | {"dtype": "float"}]}
    assert fault(path, document) == "column 'x' is described twice"
