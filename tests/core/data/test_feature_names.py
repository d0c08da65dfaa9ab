"""Feature lists: names for the positions of a vector, from the file through the index and back."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data.encoding import encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.feature_mapping import feature_mapping
from gdmix_core.data.feature_names import read_feature_names
from gdmix_core.data.inspection import inspect_data
from gdmix_core.errors import DataError
from gdmix_core.tasks import FEATURE_INDEX_FILE

NAMES = 'age,\ngenre,drama\n"title,long",été\nweight,kg\n'
TERMS = [b"age\x01", b"genre\x01drama", "title,long\x01été".encode(), b"weight\x01kg"]


def names_file(directory: Path, text: str = NAMES, name: str = "names.csv") -> str:
    path = directory / name
    path.write_bytes(text.encode())
    return str(path)


# ---- the file ----------------------------------------------------------------------------------------------


def test_the_line_is_the_position(tmp_path: Path) -> None:
    assert read_feature_names(names_file(tmp_path)).to_list() == TERMS


def test_line_ends_of_any_system_and_a_last_line_without_one_will_do(tmp_path: Path) -> None:
    for text in (NAMES.replace("\n", "\r\n"), NAMES.removesuffix("\n")):
        assert read_feature_names(names_file(tmp_path, text)).to_list() == TERMS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; a feature list has one name,term a line"),
        ("a,b\nc\n", "line 2 holds 'c'; allowed: name,term (the term may be empty)"),
        ("a,b\n\nc,d\n", "line 2 holds ''; allowed: name,term"),
        ("a,b,c\n", "line 1 holds 'a,b,c'; allowed: name,term"),
        ("a,b\n,term\n", "line 2 holds ',term'; allowed: name,term"),
        ("a,b\nc,\na,b\n", "lines 1 and 3 both name 'a,b'"),
        ("c,\na,\nc,\n", "lines 1 and 3 both name 'c,'"),
    ],
)
def test_what_is_no_feature_list_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = names_file(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_feature_names(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/none.csv: "):
        read_feature_names(str(tmp_path / "none.csv"))
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe,\x80\n")
    with pytest.raises(DataError, match=r"binary.csv: .*feature list"):
        read_feature_names(str(binary))
    binary.write_bytes(b'a,"' + b"x" * 200_000 + b'"\n')  # a field that csv refuses
    with pytest.raises(DataError, match=r"binary.csv: cannot be read as a feature list: field larger"):
        read_feature_names(str(binary))


# ---- the index ---------------------------------------------------------------------------------------------

VECTORS = [[1.0, 0.0, -2.0, 0.5], [0.0, 3.0, 0.0, 0.0]]


def parquet(directory: Path, vectors: Any = VECTORS, kind: pa.DataType | None = None) -> str:
    path = directory / "train.parquet"
    table = pa.table(
        {
            "uid": range(len(vectors)),
            "label": [0.0] * len(vectors),
            "v": pa.array(vectors, kind or pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, path)
    return str(path)


def indexed(directory: Path, train: str, **column: Any) -> tuple[FeatureIndex, Any, Any]:
    """Return the index of one vector column, and the split and encoding that it was made of."""
    features = {
        "b": (FeatureColumn.model_validate({"column": "v", "kind": "vector", **column}),),
        "other": (FeatureColumn.model_validate({"column": "uid", "kind": "numeric"}),),
    }
    data = DataConfig.model_validate({"train": train})
    [split], encoding = inspect_data(data, features, (), "logistic_regression")
    partial, out = directory / "partial", directory / "index"
    partial.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    index_split(split, encoding, partial)
    merge_index(encoding, [partial], out)
    return FeatureIndex.load(out), split, encoding


def test_a_named_vector_has_as_many_features_as_names(tmp_path: Path) -> None:
    index, split, encoding = indexed(tmp_path, parquet(tmp_path), names=names_file(tmp_path))
    assert encoding.columns[0].dimension == 4
    [column] = index.columns_of("b")
    assert (column.size, column.dimension, column.document_frequency) == (4, 4, None)
    assert column.terms is not None
    assert column.terms.to_list() == TERMS
    assert index.coordinate_names(("b",), True).term.to_pylist() == ["", *(t.decode() for t in TERMS)]
    # Names say nothing about values: positions keep theirs, whatever the order of the names' bytes.
    rows = encode_split(split, encoding, index).rows.bags["b"]
    dense = np.zeros((2, 4))
    for i in range(2):
        span = slice(rows.indptr[i], rows.indptr[i + 1])
        dense[i, rows.indices[span]] = rows.values[span]
    assert dense.tolist() == VECTORS


def test_a_sparse_vector_needs_no_dimension_beside_its_names(tmp_path: Path) -> None:
    kind = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))])
    vectors = [{"indices": [3, 0], "values": [1.0, 2.0]}, {"indices": [], "values": []}]
    index, split, encoding = indexed(tmp_path, parquet(tmp_path, vectors, kind), names=names_file(tmp_path))
    rows = encode_split(split, encoding, index).rows.bags["b"]
    assert (rows.indices.tolist(), rows.values.tolist()) == ([0, 3], [2.0, 1.0])
    assert index.bag_sizes["b"] == 4


def test_an_index_with_names_survives_its_file(tmp_path: Path) -> None:
    index, _, _ = indexed(tmp_path, parquet(tmp_path), names=names_file(tmp_path))
    index.save(tmp_path / "again.parquet")
    first = (tmp_path / "index" / FEATURE_INDEX_FILE).read_bytes()
    assert (tmp_path / "again.parquet").read_bytes() == first
    loaded = FeatureIndex.from_bytes(first)
    [column] = loaded.columns_of("b")
    assert column.terms is not None
    assert column.terms.to_list() == TERMS
    assert loaded.schema_fingerprint == index.schema_fingerprint


def test_other_names_are_other_features_and_where_the_file_lay_is_not_told(tmp_path: Path) -> None:
    train = parquet(tmp_path)
    index, _, _ = indexed(tmp_path, train, names=names_file(tmp_path))
    moved, _, _ = indexed(tmp_path, train, names=names_file(tmp_path, name="elsewhere.csv"))
    turned, _, _ = indexed(tmp_path, train, names=names_file(tmp_path, "".join(NAMES.splitlines(True)[::-1])))
    without, _, _ = indexed(tmp_path, train)
    prints = [one.schema_fingerprint for one in (index, moved, turned, without)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert without.columns_of("b")[0].terms is None
    assert "elsewhere" not in str((tmp_path / "index" / FEATURE_INDEX_FILE).read_bytes())


def test_positions_without_names_stay_numbers(tmp_path: Path) -> None:
    """Numbers are terms in the file as well, but no names."""
    index, _, _ = indexed(tmp_path, parquet(tmp_path))
    assert index.columns_of("b")[0].terms is None
    assert index.coordinate_names(("b",), False).term.to_pylist() == ["0", "1", "2", "3"]


def test_a_named_feature_of_an_earlier_index_is_found_by_its_name(tmp_path: Path) -> None:
    """Position 0 of the old vector is position 2 of the new one."""
    old, _, _ = indexed(tmp_path, parquet(tmp_path), names=names_file(tmp_path))
    text = "new,\nweight,kg\nage,\n"
    new, _, _ = indexed(
        tmp_path, parquet(tmp_path, [[1.0, 2.0, 3.0]]), names=names_file(tmp_path, text, "new.csv")
    )
    found = feature_mapping(old, (("b",), True), new, (("other", "b"), True))
    # Intercept; age at 2, genre and title nowhere, weight at 1; the numeric bag and the intercept before them.
    assert found.tolist() == [0, 2 + 2, -1, -1, 2 + 1]


# ---- what does not fit -------------------------------------------------------------------------------------


def test_a_file_that_is_no_feature_list_is_found_on_inspection(tmp_path: Path) -> None:
    features = {"b": (FeatureColumn(column="v", kind="vector", names=names_file(tmp_path, "a\n")),)}
    data = DataConfig.model_validate({"train": parquet(tmp_path)})
    with pytest.raises(DataError, match=r"names.csv: line 1 holds 'a'"):
        inspect_data(data, features, (), "logistic_regression")


def test_vectors_longer_than_their_names_are_refused_with_their_row(tmp_path: Path) -> None:
    index, split, encoding = indexed(
        tmp_path, parquet(tmp_path, [[1.0] * 4, [1.0] * 5]), names=names_file(tmp_path)
    )
    with pytest.raises(DataError, match=r"train.parquet: .*'v'.*row 2"):
        encode_split(split, encoding, index)


def test_a_list_that_changed_after_inspection_is_noticed(tmp_path: Path) -> None:
    names = names_file(tmp_path)
    features = {"b": (FeatureColumn(column="v", kind="vector", names=names),)}
    data = DataConfig.model_validate({"train": parquet(tmp_path)})
    [split], encoding = inspect_data(data, features, (), "logistic_regression")
    (tmp_path / "partial").mkdir()
    index_split(split, encoding, tmp_path / "partial")
    names_file(tmp_path, "a,\nb,\n")
    with pytest.raises(DataError, match=r"names.csv: names 2 features where there were 4"):
        merge_index(encoding, [tmp_path / "partial"], tmp_path)


def checksum(data: bytes) -> int:
    """CRC-32C, masked as TFRecord files hold it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def tfrecord(path: Path, vector: list[float]) -> str:
    """Write one tf.train.Example with a uid, a label and a vector."""
    values = {
        "uid": field(3, field(1, bytes([1]))),
        "label": field(3, field(1, bytes([0]))),
        "v": field(2, field(1, struct.pack(f"<{len(vector)}f", *vector))),
    }
    entries = b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in values.items())
    example = field(1, entries)
    length = struct.pack("<Q", len(example))
    path.write_bytes(
        length + struct.pack("<I", checksum(length)) + example + struct.pack("<I", checksum(example))
    )
    return str(path)


@pytest.mark.parametrize("declared", [3, 4])
def test_names_and_the_metadata_of_records_must_agree(tmp_path: Path, declared: int) -> None:
    tensors = [
        {"name": "v", "dtype": "float", "shape": [declared], "isSparse": False},
        {"name": "uid", "dtype": "long", "shape": [], "isSparse": False},
    ]
    label = {"name": "label", "dtype": "int", "shape": [], "isSparse": False}
    metadata = tmp_path / "tensor_metadata.json"
    metadata.write_text(json.dumps({"features": tensors, "labels": [label]}))
    data = DataConfig.model_validate(
        {"train": tfrecord(tmp_path / "one.tfrecord", [0.5] * declared), "metadata": str(metadata)}
    )
    names = names_file(tmp_path)
    features = {"b": (FeatureColumn(column="v", kind="vector", names=names),)}
    if declared == 4:
        splits, encoding = inspect_data(data, features, (), "logistic_regression")
        assert (splits[0].metadata, encoding.columns[0].dimension) == (str(metadata), 4)
        return
    with pytest.raises(DataError) as caught:
        inspect_data(data, features, (), "logistic_regression")
    assert str(caught.value) == (f"{names}: names 4 features; the data's metadata say that column 'v' has 3")
