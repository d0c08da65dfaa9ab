"""TFRecord files, written here byte by byte: neither TensorFlow nor protobuf says what should be in them."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data import readers_tfrecord, tfrecord_frames
from gdmix_core.data.encoding import encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.inspection import inspect_data
from gdmix_core.data.readers import count_rows, read_split
from gdmix_core.data.readers_tfrecord import read_tfrecord, tfrecord_head
from gdmix_core.data.tfrecord_frames import count_tfrecords
from gdmix_core.errors import DataError, GdmixError
from gdmix_core.tasks import FEATURE_INDEX_FILE, Split

Values = Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bytes]
Row = Mapping[str, Values]


@pytest.fixture(scope="session")
def tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return pytest.importorskip(
        "tensorflow", reason='decoding needs TensorFlow: pip install "gdmix[tensorflow]"'
    )


needs_tensorflow = pytest.mark.usefixtures("tensorflow")

# ---- files -----------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: Values) -> bytes:
    """A `tf.train.Feature`; what its values are decides between the three lists, and none is no list at all."""
    if not values:
        return b""
    if isinstance(values[0], str | bytes):
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        return field(1, b"".join(field(1, text) for text in texts))  # type: ignore[arg-type]
    if isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(varint(value) for value in values)))  # type: ignore[arg-type]


def features(row: Row) -> bytes:
    return b"".join(field(1, field(1, name.encode()) + field(2, feature(row[name]))) for name in row)


def example(row: Row) -> bytes:
    return field(1, features(row))


def group(context: Row, lists: Mapping[str, Sequence[Values]] | None = None) -> bytes:
    """A `tf.train.SequenceExample`; without lists it has no second field."""
    if lists is None:
        return field(1, features(context))
    entries = [
        field(1, field(1, name.encode()) + field(2, b"".join(field(1, feature(values)) for values in column)))
        for name, column in lists.items()
    ]
    return field(1, features(context)) + field(2, b"".join(entries))


@functools.cache
def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901
        table.append(byte)
    return table


def checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ crc_table()[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(records: Iterable[bytes]) -> bytes:
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts.append(length + checksum(length) + record + checksum(record))
    return b"".join(parts)


def write(path: Path, records: Iterable[bytes]) -> str:
    data = framed(records)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix in {".deflate", ".zlib"}:
        data = zlib.compress(data)
    path.write_bytes(data)
    return str(path)


def tensor(
    name: str, dtype: str = "int", shape: Sequence[int] = (), *, sparse: bool = False
) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "isSparse": sparse}


def described(path: Path, *tensors: dict[str, Any]) -> str:
    path.write_text(json.dumps({"features": tensors}))
    return str(path)


# ---- reading ---------------------------------------------------------------------------------------------


def needed(*names: str) -> list[NeededColumn]:
    return [NeededColumn(name, ("entity",) if name == "user" else ("number",)) for name in names]


def batches(path: str, metadata: str | None, *names: str) -> list[pa.RecordBatch]:
    return list(read_tfrecord(path, metadata, needed(*names)))


def columns(path: str, metadata: str | None, *names: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in names}
    for batch in batches(path, metadata, *names):
        assert batch.schema.names == list(names)
        batch.validate(full=True)
        for name in names:
            found[name] += batch[name].to_pylist()
    return found


def fault(of: Callable[[], object], path: str) -> str:
    """Return the one line that is said of a file, without its path."""
    with pytest.raises(GdmixError) as caught:
        of()
    return told(caught.value, path)


def told(error: GdmixError, path: str) -> str:
    assert type(error) is DataError
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def reading_fails(path: str, metadata: str | None, *names: str) -> str:
    return fault(lambda: batches(path, metadata, *names), path)


ROWS: list[dict[str, Values]] = [
    {
        "uid": [7],
        "age": [0.1],
        "city": ["Zürich"],
        "bag_indices": [3, 0],
        "bag_values": [1.5, -2.0],
        "dense": [1.0, 2.0, 3.0],
        "codes": [4, -5],
        "tags": ["a", ""],
    },
    {
        "uid": [-(2**63)],
        "age": [-1e30],
        "city": [""],
        "bag_indices": [],
        "bag_values": [],
        "dense": [-0.5, 0.0, 1e-40],
        "codes": [],
        "tags": [],
    },
    {
        "uid": [2**63 - 1],
        "age": [float("inf")],
        "city": ["日本"],
        "bag_indices": [1],
        "bag_values": [0.0],
        "dense": [9.0, 8.0, 7.0],
        "codes": [2**40],
        "tags": ["ü\x00"],
    },
]
TENSORS = [
    tensor("uid", "long"),
    tensor("age", "double"),
    tensor("city", "string"),
    tensor("bag", "float", [5], sparse=True),
    tensor("dense", "float", [3]),
    tensor("codes", "int", [2]),
    tensor("tags", "bytes", [2]),
]


def single(value: float) -> float:
    """A number as a file of single precision holds it."""
    return struct.unpack("<f", struct.pack("<f", value))[0]  # type: ignore[no-any-return]


EXPECTED: dict[str, list[Any]] = {
    "uid": [7, -(2**63), 2**63 - 1],
    "age": [single(0.1), single(-1e30), float("inf")],
    "city": ["Zürich", "", "日本"],
    "bag": [
        {"indices": [3, 0], "values": [1.5, -2.0]},
        {"indices": [], "values": []},
        {"indices": [1], "values": [0.0]},
    ],
    "dense": [[1.0, 2.0, 3.0], [-0.5, 0.0, single(1e-40)], [9.0, 8.0, 7.0]],
    "codes": [[4, -5], [], [2**40]],
    "tags": [["a", ""], [], ["ü\x00"]],
}


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate", ".zlib"])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_columns_of_every_type_are_read(tmp_path: Path, ending: str, with_metadata: bool) -> None:
    path = write(tmp_path / f"a.tfrecord{ending}", map(example, ROWS))
    metadata = described(tmp_path / "meta.json", *TENSORS) if with_metadata else None
    assert columns(path, metadata, *EXPECTED) == EXPECTED
    head = tfrecord_head(path, metadata)
    (batch,) = batches(path, metadata, *head.schema.names)
    widened = {pa.large_string(): pa.string(), pa.large_list(pa.large_string()): pa.large_list(pa.string())}
    assert {field.name: widened.get(field.type, field.type) for field in batch.schema} == {
        field.name: field.type for field in head.schema
    }
    assert head.rows == 1
    assert dict(head.dimensions) == ({"bag": 5, "dense": 3, "codes": 2, "tags": 2} if with_metadata else {})


@needs_tensorflow
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int", [1, -2]),
        ("long", [2**40, 0]),
        ("float", [0.5, -1.5]),
        ("double", [0.25, 8.0]),
        ("string", ["a", "ö"]),
        ("bytes", ["", "b"]),
    ],
)
def test_every_dtype_comes_in_every_form(tmp_path: Path, dtype: str, values: Values) -> None:
    row: Row = {"one": values[:1], "two": values, "bag_indices": [4, 1], "bag_values": values}
    path = write(tmp_path / "a.tfrecord", [example(row), example({"one": values[1:]})])
    metadata = described(
        tmp_path / "m.json",
        tensor("bag", dtype, [5], sparse=True),
        tensor("two", dtype, [2]),
        tensor("one", dtype),
    )
    assert columns(path, metadata, "one", "two", "bag") == {
        "one": list(values),
        "two": [list(values), []],
        "bag": [{"indices": [4, 1], "values": list(values)}, {"indices": [], "values": []}],
    }


@needs_tensorflow
def test_files_of_several_gzip_members_are_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord.gz"
    path.write_bytes(b"".join(gzip.compress(framed([example(row)])) for row in ROWS))
    assert outcome(str(path), described(tmp_path / "m.json", *TENSORS), "uid") == {"uid": EXPECTED["uid"]}


@needs_tensorflow
def test_what_tensorflow_writes_is_read(tmp_path: Path, tensorflow: Any) -> None:
    path = tmp_path / "a.tfrecord"
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        for row in ROWS:
            made = tensorflow.train.Example()
            made.features.feature["uid"].int64_list.value.extend(row["uid"])
            made.features.feature["city"].bytes_list.value.extend(text.encode() for text in row["city"])
            made.features.feature["dense"].float_list.value.extend(row["dense"])
            made.features.feature["bag_indices"].int64_list.value.extend(row["bag_indices"])
            made.features.feature["bag_values"].float_list.value.extend(row["bag_values"])
            writer.write(made.SerializeToString())
    names = ("dense", "uid", "bag", "city")
    assert columns(str(path), None, *names) == {name: EXPECTED[name] for name in names}
    assert count_tfrecords(str(path)) == len(ROWS)


@needs_tensorflow
def test_numbers_that_are_not_packed_are_read(tmp_path: Path) -> None:
    floats = field(2, b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.5, 2.5)))
    integers = field(3, b"".join(b"\x08" + varint(value) for value in (3, -4)))
    entries = [
        field(1, field(1, name) + field(2, content)) for name, content in ((b"x", floats), (b"n", integers))
    ]
    path = write(tmp_path / "a.tfrecord", [field(1, b"".join(entries))])
    assert columns(path, None, "x", "n") == {"x": [[1.5, 2.5]], "n": [[3, -4]]}


@needs_tensorflow
def test_only_the_asked_columns_come_in_the_asked_order(tmp_path: Path) -> None:
    # The column `odd` could not even be decoded as its metadata say.
    path = write(tmp_path / "a.tfrecord", (example(row | {"odd": ["text"]}) for row in ROWS))
    metadata = described(tmp_path / "meta.json", *TENSORS, tensor("odd", "float"))
    assert columns(path, metadata, "dense", "uid") == {name: EXPECTED[name] for name in ("dense", "uid")}
    assert columns(path, metadata, "uid", "dense") == {name: EXPECTED[name] for name in ("uid", "dense")}


@needs_tensorflow
@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_batches_of_any_size_hold_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = [{"uid": [i], "bag_indices": list(range(i % 4)), "bag_values": [0.5] * (i % 4)} for i in range(20)]
    path = write(tmp_path / "a.tfrecord", map(example, rows))
    metadata = described(tmp_path / "meta.json", tensor("uid"), tensor("bag", "float", [4], sparse=True))
    monkeypatch.setattr(readers_tfrecord, "BATCH_RECORDS", size)
    split = Split(role="train", path=path, format="tfrecord", metadata=metadata)
    parts = list(read_split(split, needed("uid", "bag")))
    assert [part.first_row for part in parts] == list(range(0, 20, size))
    assert [value for part in parts for value in part.batch["uid"].to_pylist()] == list(range(20))
    lengths = [len(bag["values"]) for part in parts for bag in part.batch["bag"].to_pylist()]
    assert lengths == [i % 4 for i in range(20)]


@needs_tensorflow
@pytest.mark.parametrize("absent", [{}, {"age": [], "uid": [], "city": []}])
def test_missing_scalars_are_null(tmp_path: Path, absent: Row) -> None:
    path = write(
        tmp_path / "a.tfrecord", [example({"w": [1], **absent}), example({"w": [2], **ROWS[0]}), example({})]
    )
    metadata = described(
        tmp_path / "m.json", tensor("w"), tensor("age", "float"), tensor("uid"), tensor("city", "string")
    )
    assert columns(path, metadata, "w", "age", "uid", "city") == {
        "w": [1, 2, None],
        "age": [None, single(0.1), None],
        "uid": [None, 7, None],
        "city": [None, "Zürich", None],
    }


@needs_tensorflow
def test_a_column_that_no_record_has_is_null_or_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"uid": [1]}), example({"uid": [2]})])
    metadata = described(
        tmp_path / "m.json",
        *(tensor(name, dtype) for name, dtype in (("i", "int"), ("f", "float"), ("s", "string"))),
        tensor("bag", "float", [3], sparse=True),
        tensor("dense", "float", [3]),
    )
    empty = {"indices": [], "values": []}
    assert columns(path, metadata, "i", "f", "s", "bag", "dense") == {
        "i": [None, None],
        "f": [None, None],
        "s": [None, None],
        "bag": [empty, empty],
        "dense": [[], []],
    }


@needs_tensorflow
def test_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_tfrecord, "BATCH_RECORDS", 4)
    texts = [b"ok", "é".encode(), b"", b"x", b"y", b"\xff\xfe", b"z"]
    path = write(tmp_path / "a.tfrecord", [example({"city": [text]}) for text in texts])
    split = Split(role="train", path=path, format="tfrecord")
    assert fault(lambda: list(read_split(split, needed("city"))), path) == (
        "column 'city': row 6 is not valid UTF-8 text"
    )


# ---- without metadata ------------------------------------------------------------------------------------


@needs_tensorflow
def test_columns_are_told_by_the_first_records(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"uid": [1], "a_indices": [1], "a_values": [1.0]},
        {"uid": [2], "b_indices": [3], "c_values": ["x"], "late": [1.0, 2.0]},
        {"uid": [], "late": [1.0], "s_indices": [], "s_values": []},
        {"uid": [4], "s_indices": [1, 2], "s_values": ["p", "q"]},
    ]
    head = tfrecord_head(write(tmp_path / "a.tfrecord", map(example, rows)), None)
    lists = pa.large_list
    sparse = {
        kind: pa.struct([("indices", lists(pa.int64())), ("values", lists(kind))])
        for kind in (pa.float32(), pa.string())
    }
    assert {field.name: field.type for field in head.schema} == {
        "a": sparse[pa.float32()],
        "b_indices": pa.int64(),
        "c_values": pa.string(),
        "late": lists(pa.float32()),
        "s": sparse[pa.string()],
        "uid": pa.int64(),
    }
    assert (head.rows, dict(head.dimensions)) == (1, {})


@needs_tensorflow
def test_a_column_of_two_types_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": [1]}), example({"x": [1.0]})])
    assert fault(lambda: tfrecord_head(path, None), path) == (
        "column 'x' holds int64_list and float_list in its first records"
    )


@needs_tensorflow
def test_a_grouped_file_without_metadata_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [group({"user": [3], "uid": [1, 2]}, {"bag_indices": [[1], [2]]})])
    assert "needs its metadata" in fault(lambda: tfrecord_head(path, None), path)


# ---- grouped by entity -----------------------------------------------------------------------------------

GROUPED = [
    tensor("user", "int"),
    tensor("uid", "long"),
    tensor("y", "float"),
    tensor("city", "string"),
    tensor("bag", "float", [5], sparse=True),
]
GROUPS = [
    group(
        {"user": [30], "uid": [1, 2, 3], "y": [0.0, 1.0, 0.5], "city": ["a", "", "ç"]},
        {"bag_indices": [[0, 4], [], [2]], "bag_values": [[1.0, -1.0], [], [0.25]]},
    ),
    group(
        {"user": [-4], "uid": [9], "y": [1.0], "city": ["d"]}, {"bag_indices": [[1]], "bag_values": [[2.0]]}
    ),
    group(
        {"user": [31], "uid": [-5, 6], "y": [0.0, 0.0], "city": ["e", "f"]},
        {"bag_indices": [[], [3]], "bag_values": [[], [4.0]]},
    ),
]
UNGROUPED: dict[str, list[Any]] = {
    "user": [30, 30, 30, -4, 31, 31],
    "uid": [1, 2, 3, 9, -5, 6],
    "y": [0.0, 1.0, 0.5, 1.0, 0.0, 0.0],
    "city": ["a", "", "ç", "d", "e", "f"],
    "bag": [
        {"indices": indices, "values": values}
        for indices, values in (
            ([0, 4], [1.0, -1.0]),
            ([], []),
            ([2], [0.25]),
            ([1], [2.0]),
            ([], []),
            ([3], [4.0]),
        )
    ],
}


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate"])
@pytest.mark.parametrize("size", [1, 2, 512])
def test_groups_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, size: int) -> None:
    path = write(tmp_path / f"a.tfrecord{ending}", GROUPS)
    metadata = described(tmp_path / "m.json", *GROUPED)
    monkeypatch.setattr(readers_tfrecord, "BATCH_GROUPS", size)
    assert columns(path, metadata, *UNGROUPED) == UNGROUPED
    assert columns(path, metadata, "bag", "uid") == {name: UNGROUPED[name] for name in ("bag", "uid")}
    assert columns(path, metadata, "user", "y") == {name: UNGROUPED[name] for name in ("user", "y")}
    assert columns(path, metadata, "uid") == {"uid": UNGROUPED["uid"]}
    assert count_rows(Split(role="train", path=path, format="tfrecord", metadata=metadata), "uid") == 6


@needs_tensorflow
def test_entity_ids_may_be_strings(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tfrecord",
        [
            group(
                {"user": [name], "uid": uids},
                {"bag_indices": [[0]] * len(uids), "bag_values": [[1.0]] * len(uids)},
            )
            for name, uids in (("Zoë", [1, 2]), ("x", [3]), ("", [4, 5]))
        ],
    )
    metadata = described(
        tmp_path / "m.json", tensor("user", "string"), tensor("uid"), tensor("bag", "float", [1], sparse=True)
    )
    assert columns(path, metadata, "user", "uid") == {
        "user": ["Zoë", "Zoë", "x", "", ""],
        "uid": [1, 2, 3, 4, 5],
    }


@needs_tensorflow
@pytest.mark.parametrize("lists", [None, {}])
def test_groups_without_a_bag_are_told_by_their_lists(tmp_path: Path, lists: Any) -> None:
    """An effect that is an intercept only has no sequence features, and may have entities of one row."""
    metadata = described(tmp_path / "m.json", tensor("user"), tensor("uid"), tensor("y", "float"))
    many = [
        group({"user": [1], "uid": [10], "y": [0.5]}, lists),
        group({"user": [2], "uid": [11, 12], "y": [0.0, 1.0]}, lists),
        group({"user": [3], "uid": [13, 14, 15], "y": [1.0, 1.0, 0.0]}, lists),
    ]
    expected = {"user": [1, 2, 2, 3, 3, 3], "uid": [10, 11, 12, 13, 14, 15], "y": [0.5, 0, 1, 1, 1, 0]}
    for number, order in enumerate(([0, 1, 2], [1, 0, 2], [2, 1, 0])):
        path = write(tmp_path / f"{number}.tfrecord", [many[i] for i in order])
        found = columns(path, metadata, "user", "uid", "y")
        assert sorted(zip(*found.values(), strict=True)) == sorted(zip(*expected.values(), strict=True))
        split = Split(role="train", path=path, format="tfrecord", metadata=metadata)
        assert count_rows(split, "uid") == 6


@needs_tensorflow
def test_groups_of_one_row_are_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [GROUPS[1], GROUPS[1]])
    found = columns(path, described(tmp_path / "m.json", *GROUPED), *UNGROUPED)
    assert found == {name: UNGROUPED[name][3:4] * 2 for name in UNGROUPED}


@needs_tensorflow
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            group(
                {"user": [1], "uid": [1, 2], "y": [1.0, 1.0, 1.0], "city": ["", ""]},
                {"bag_indices": [[1], [2]], "bag_values": [[1.0], [1.0]]},
            ),
            "column 'uid' holds 2 values in a record of 3 rows",
        ),
        (
            group(
                {"user": [1], "uid": [1, 2], "y": [1.0, 1.0], "city": ["", ""]},
                {"bag_indices": [[1]], "bag_values": [[1.0], [1.0]]},
            ),
            "column 'bag' holds 1 values in a record of 2 rows",
        ),
        (
            group({"user": [1], "uid": [1, 2], "y": [1.0, 1.0], "city": ["", ""]}, {}),
            "column 'bag' holds 0 values in a record of 2 rows",
        ),
        (
            group(
                {"user": [1], "uid": [1, 2], "y": [1.0, 1.0]},
                {"bag_indices": [[1], [2]], "bag_values": [[1.0], [1.0]]},
            ),
            "column 'city' holds 0 values in a record of 2 rows",
        ),
    ],
)
def test_columns_of_different_lengths_in_a_group_are_refused(
    tmp_path: Path, record: bytes, message: str
) -> None:
    path = write(tmp_path / "a.tfrecord", [GROUPS[0], record])
    metadata = described(tmp_path / "m.json", *GROUPED)
    assert reading_fails(path, metadata, "uid", "y", "city", "user", "bag") == message


@needs_tensorflow
def test_dense_vectors_in_groups(tmp_path: Path) -> None:
    """As Spark writes them: a list of vectors is a feature list."""
    metadata = described(tmp_path / "m.json", tensor("user"), tensor("uid"), tensor("dense", "float", [2]))
    path = write(
        tmp_path / "a.tfrecord",
        [
            group({"user": [1], "uid": [1, 2]}, {"dense": [[1.0, 2.0], [3.0, 4.0]]}),
            group({"user": [2], "uid": [3]}, {"dense": [[5.0, 6.0]]}),
        ],
    )
    assert columns(path, metadata, "uid", "dense", "user") == {
        "uid": [1, 2, 3],
        "dense": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        "user": [1, 1, 2],
    }


# ---- faults ----------------------------------------------------------------------------------------------


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate", ".zlib"])
@pytest.mark.parametrize("kept", [-1, -5, -30, 5])
def test_a_file_cut_short_is_one_error(tmp_path: Path, ending: str, kept: int) -> None:
    path = write(tmp_path / f"a.tfrecord{ending}", map(example, ROWS))
    Path(path).write_bytes(Path(path).read_bytes()[:kept])
    metadata = described(tmp_path / "m.json", *TENSORS)
    assert reading_fails(path, metadata, "uid").startswith("cannot be read as TFRecord: ")
    split = Split(role="train", path=path, format="tfrecord", metadata=metadata)
    assert fault(lambda: count_rows(split, "uid"), path).startswith("cannot be read as TFRecord: ")


@pytest.mark.parametrize("ending", ["", ".gz", ".deflate"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1000])
def test_files_are_checked_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, chunk: int
) -> None:
    # Bytes that compress so well that few of them going in are many coming out.
    path = write(tmp_path / f"a.tfrecord{ending}", [example({"text": [b"x" * 700]})] * 5)
    monkeypatch.setattr(tfrecord_frames, "_CHUNK_BYTES", chunk)
    assert tfrecord_frames.count_records(path) == (5, example({"text": [b"x" * 700]}))
    assert all(tfrecord_frames.chunks(path))
    Path(path).write_bytes(Path(path).read_bytes()[:-9])
    message = fault(lambda: tfrecord_frames.count_records(path), path)
    assert message.startswith("cannot be read as TFRecord: ")


@needs_tensorflow
def test_records_that_tensorflow_passes_over_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tfrecord", map(example, ROWS))
    records = readers_tfrecord._records
    monkeypatch.setattr(readers_tfrecord, "_records", lambda *arguments: records(*arguments).take(2))
    assert reading_fails(path, described(tmp_path / "m.json", *TENSORS), "uid") == (
        "cannot be read as TFRecord: TensorFlow passes over 1 of its records"
    )


@needs_tensorflow
def test_a_wrong_checksum_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    data = bytearray(framed(map(example, ROWS)))
    for place in (9, 20, len(data) - 2):  # of a length, a record, a record's checksum
        broken = bytearray(data)
        broken[place] ^= 1
        path.write_bytes(broken)
        metadata = described(tmp_path / "m.json", *TENSORS)
        assert reading_fails(str(path), metadata, "uid").startswith("cannot be read as TFRecord: ")
        assert reading_fails(str(path), None, "uid").startswith("cannot be read as TFRecord: ")


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate"])
@pytest.mark.parametrize("content", [b"x", b"uid,label\n1,0\n" * 50, b"PAR1" * 100, bytes(range(256))])
def test_what_is_no_tfrecord_is_one_error(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"a.tfrecord{ending}"
    path.write_bytes(content)
    metadata = described(tmp_path / "m.json", *TENSORS)
    assert reading_fails(str(path), metadata, "uid").startswith("cannot be read as TFRecord: ")
    assert fault(lambda: tfrecord_head(str(path), None), str(path)).startswith("cannot be read as TFRecord: ")


@needs_tensorflow
@pytest.mark.parametrize("record", [b"plain text", b"\xff" * 20, field(1, b"\xff\xff")])
def test_records_that_are_no_examples_are_one_error(tmp_path: Path, record: bytes) -> None:
    path = write(tmp_path / "a.tfrecord", [example(ROWS[0]), record])
    metadata = described(tmp_path / "m.json", *TENSORS)
    assert reading_fails(path, metadata, "uid").startswith("cannot be read as TFRecord: ")
    assert reading_fails(path, None, "uid") == "cannot be read as TFRecord: not tf.train.Example records"
    alone = write(tmp_path / "b.tfrecord", [record])
    assert reading_fails(alone, metadata, "uid").startswith("cannot be read as TFRecord: ")


@needs_tensorflow
def test_one_label_is_not_that_of_several_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [group({"user": [1], "uid": [1, 2], "y": [1.0]}, {})])
    metadata = described(tmp_path / "m.json", *GROUPED)
    message = "column 'y' holds 1 values in a record of 2 rows"
    assert reading_fails(path, metadata, "user", "uid", "y") == message
    two = write(
        tmp_path / "b.tfrecord",
        [group({"user": [1, 1], "uid": [1, 2]}, {}), group({"user": [1], "uid": [3, 4]}, {})],
    )
    message = "column 'user' holds 1 values in a record of 2 rows"
    assert reading_fails(two, metadata, "user", "uid") == message


@needs_tensorflow
def test_columns_that_are_terms_of_the_entity_are_shared_by_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", GROUPS)
    asked = [NeededColumn("user", ("categorical",)), NeededColumn("uid", ("uid",))]
    (batch,) = read_tfrecord(path, described(tmp_path / "m.json", *GROUPED), asked)
    assert batch.to_pydict() == {name: UNGROUPED[name] for name in ("user", "uid")}


@needs_tensorflow
def test_a_group_without_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [*GROUPS, group({}, {})])
    metadata = described(tmp_path / "m.json", *GROUPED)
    assert reading_fails(path, metadata, "uid", "bag") == "a record holds none of uid, bag"


@needs_tensorflow
def test_what_tensorflow_says_is_told_without_its_inner_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"uid": [1.0]})])
    assert reading_fails(path, described(tmp_path / "m.json", *TENSORS), "uid") == (
        "cannot be read as TFRecord: Name: <unknown>, Key: uid, Index: 0.  Data types don't match. "
        "Expected type: int64, Actual type: float"
    )


@needs_tensorflow
@pytest.mark.parametrize(
    ("dtype", "values"), [("int", [1.0]), ("int", ["a"]), ("float", [1]), ("float", ["a"]), ("string", [1])]
)
@pytest.mark.parametrize("form", ["scalar", "dense", "sparse"])
def test_another_dtype_than_the_metadata_say_is_one_error(
    tmp_path: Path, dtype: str, values: Values, form: str
) -> None:
    row: Row = {"x": values} if form != "sparse" else {"x_indices": [0], "x_values": values}
    metadata = described(
        tmp_path / "m.json", tensor("x", dtype, [] if form == "scalar" else [1], sparse=form == "sparse")
    )
    path = write(tmp_path / "a.tfrecord", [example(row)])
    message = reading_fails(path, metadata, "x")
    assert message.startswith("cannot be read as TFRecord: ")
    assert "x" in message
    assert "Data types don't match" in message


@needs_tensorflow
def test_several_values_where_the_metadata_say_one_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"x": [1], "y": [1.0]}), example({"x": [1, 2, 3]})])
    metadata = described(tmp_path / "m.json", tensor("x"), tensor("y", "float"))
    assert reading_fails(path, metadata, "x") == (
        "column 'x' holds 3 values in a record; its metadata say one"
    )


@needs_tensorflow
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", map(example, ROWS))
    metadata = described(tmp_path / "m.json", tensor("uid"), tensor("age", "float"))
    assert reading_fails(path, metadata, "uid", "gone") == "column 'gone' is missing; the file has uid, age"
    assert reading_fails(path, None, "gone") == (
        "column 'gone' is missing; the file has age, bag, city, codes, dense, tags, uid"
    )


@needs_tensorflow
def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tfrecord")
    metadata = described(tmp_path / "m.json", *TENSORS)
    assert reading_fails(path, metadata, "uid") == "no such file"
    assert fault(lambda: tfrecord_head(path, None), path) == "no such file"
    assert fault(lambda: tfrecord_head(path, metadata), path) == "no such file"
    assert fault(lambda: count_tfrecords(path), path) == "no such file"
    Path(path).mkdir()
    assert reading_fails(path, metadata, "uid").startswith("cannot be read as TFRecord: ")
    assert fault(lambda: count_tfrecords(path), path).startswith("cannot be read as TFRecord: ")


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate"])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_files_without_records_have_no_rows(tmp_path: Path, ending: str, with_metadata: bool) -> None:
    path = write(tmp_path / f"a.tfrecord{ending}", [])
    metadata = described(tmp_path / "m.json", *TENSORS) if with_metadata else None
    if with_metadata:
        assert columns(path, metadata, "uid") == {"uid": []}
        split = Split(role="train", path=path, format="tfrecord", metadata=metadata)
        assert count_rows(split, "uid") == 0
    assert tfrecord_head(path, metadata).rows == 0
    label = {"label": "age", "uid": "uid"}
    with pytest.raises(DataError) as caught:
        inspect({"train": path, "metadata": metadata, "columns": label})
    assert str(caught.value) == f"data.train: no rows in {path}"


@needs_tensorflow
def test_indices_and_values_of_different_lengths_are_told_with_their_row(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"uid": [1], "label": [1.0], "bag_indices": [1], "bag_values": [1.0]},
        {"uid": [2], "label": [0.0], "bag_indices": [1, 2], "bag_values": [1.0]},
    ]
    path = write(tmp_path / "a.tfrecord", map(example, rows))
    metadata = described(
        tmp_path / "m.json", tensor("uid"), tensor("label", "float"), tensor("bag", "float", [3], sparse=True)
    )
    message = encoding_fails(path, metadata, tmp_path)
    assert message == (
        "column 'bag': 1 row is not allowed: row 2 (uid 2) holds 2 indices and 1 values; allowed: as many "
        "indices as values"
    )


@needs_tensorflow
def test_indices_outside_the_vector_are_told_with_their_row(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"uid": [i], "label": [1.0], "bag_indices": [index], "bag_values": [1.0]}
        for i, index in enumerate((0, 2, -1, 3))
    ]
    path = write(tmp_path / "a.tfrecord", map(example, rows))
    metadata = described(
        tmp_path / "m.json", tensor("uid"), tensor("label", "float"), tensor("bag", "float", [3], sparse=True)
    )
    message = encoding_fails(path, metadata, tmp_path)
    assert message == (
        "column 'bag': 2 rows are not allowed: row 3 (uid 2) holds index -1, row 4 (uid 3) holds index 3; "
        "allowed: indices from 0 to 2"
    )


def inspect(data: dict[str, Any], bags: Mapping[str, Any] | None = None) -> Any:
    features = {bag: (FeatureColumn.model_validate(column),) for bag, column in (bags or {}).items()}
    return inspect_data(DataConfig.model_validate(data), features, (), "logistic_regression")


def encoding_fails(path: str, metadata: str, directory: Path) -> str:
    """Return what is said of a file of uid, label and bag when it is indexed and encoded."""
    splits, encoding = inspect({"train": path, "metadata": metadata}, {"bag": {"column": "bag"}})
    index_split(splits[0], encoding, directory)
    merge_index(encoding, [directory], directory)
    index = FeatureIndex.load(directory / FEATURE_INDEX_FILE)
    return fault(lambda: encode_split(splits[0], encoding, index), path)


# ---- counting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 500])
@pytest.mark.parametrize("chunk", [1, 100, 4 << 20])
def test_records_are_counted_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, chunk: int
) -> None:
    monkeypatch.setattr(tfrecord_frames, "_CHUNK_BYTES", chunk)
    rows = (
        {"uid": [i], "bag_indices": list(range(i % 30)), "bag_values": [0.5] * (i % 30)} for i in range(count)
    )
    assert count_tfrecords(write(tmp_path / "a.tfrecord", map(example, rows))) == count


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 3_000_000])
def test_records_of_any_length_are_counted(tmp_path: Path, size: int) -> None:
    record = example({"text": [b"x" * size], "bag_indices": [1], "bag_values": [1.0]})
    path = tmp_path / "a.tfrecord"
    # Counting does not look at checksums, and these take long to make.
    path.write_bytes((struct.pack("<Q", len(record)) + bytes(4) + record + bytes(4)) * 3)
    assert count_tfrecords(str(path)) == 3


@pytest.mark.parametrize("ending", [".gz", ".deflate", ".zlib", ".GZ"])
def test_compressed_files_are_not_counted_by_hopping(tmp_path: Path, ending: str) -> None:
    assert count_tfrecords(write(tmp_path / f"a.tfrecord{ending}", map(example, ROWS))) is None


@pytest.mark.parametrize("records", [GROUPS, [group({"user": [1], "uid": [2]})], [b"", b""]])
def test_files_that_may_be_grouped_are_not_counted_by_hopping(tmp_path: Path, records: list[bytes]) -> None:
    assert count_tfrecords(write(tmp_path / "a.tfrecord", records)) is None


def test_cut_and_damaged_files_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    whole = framed(map(example, ROWS))
    ends = [len(framed(map(example, ROWS[:n]))) for n in range(len(ROWS) + 1)]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in ends:
            assert count_tfrecords(str(path)) == ends.index(length)
            continue
        last = max(end for end in ends if end < length)
        assert fault(lambda: count_tfrecords(str(path)), str(path)) == (
            f"cannot be read as TFRecord: cut short or damaged at byte {last}"
        )
    for length in (b"\xff" * 8, struct.pack("<Q", 2**63), struct.pack("<Q", len(whole))):
        path.write_bytes(length + whole[8:])
        assert "cut short or damaged at byte 0" in fault(lambda: count_tfrecords(str(path)), str(path))


# ---- damage at random ------------------------------------------------------------------------------------


def outcome(path: str, metadata: str | None, *names: str) -> dict[str, list[Any]] | str:
    """Return what is read of a file, or the one line that refuses it; anything else that happens is a fault."""
    split = Split(role="train", path=path, format="tfrecord", metadata=metadata)
    refusal = None
    parts: list[pa.RecordBatch] = []
    try:
        parts = [part.batch for part in read_split(split, needed(*names))]
    except GdmixError as error:
        refusal = error
    if refusal is not None:
        return told(refusal, path)
    return {name: [value for part in parts for value in part[name].to_pylist()] for name in names}


@needs_tensorflow
@pytest.mark.parametrize("grouped", [False, True])
def test_a_file_cut_anywhere_gives_its_first_rows_or_one_error(tmp_path: Path, grouped: bool) -> None:
    records = GROUPS if grouped else [example(row) for row in ROWS]
    metadata = described(tmp_path / "m.json", *(GROUPED if grouped else TENSORS))
    names = list(UNGROUPED if grouped else EXPECTED)
    ends = [len(framed(records[:n])) for n in range(len(records) + 1)]
    whole = framed(records)
    path = tmp_path / "a.tfrecord"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in ends:
            found = columns(str(path), metadata, *names)
            rows = {0: 0, 1: 3, 2: 4}[ends.index(length)] if grouped else ends.index(length)
            expected = UNGROUPED if grouped else EXPECTED
            assert found == {name: expected[name][:rows] for name in names}
        else:
            message = reading_fails(str(path), metadata, *names)
            assert message.startswith("cannot be read as TFRecord: ")


@needs_tensorflow
@pytest.mark.parametrize("ending", ["", ".gz", ".deflate"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_flipped_bit_of_the_file_is_noticed(tmp_path: Path, grouped: bool, ending: str) -> None:
    """Checksums cover every byte; only gzip's header has some that say nothing of the contents."""
    records = GROUPS if grouped else [example(row) for row in ROWS]
    metadata = described(tmp_path / "m.json", *(GROUPED if grouped else TENSORS))
    expected = UNGROUPED if grouped else EXPECTED
    path = tmp_path / f"a.tfrecord{ending}"
    write(path, records)
    whole = path.read_bytes()
    random_bits = random.Random(5)
    for place in random_bits.sample(range(len(whole)), 100):
        broken = bytearray(whole)
        broken[place] ^= 1 << random_bits.randrange(8)
        path.write_bytes(broken)
        found = outcome(str(path), metadata, *expected)
        assert isinstance(found, str) or (ending and found == expected)


@needs_tensorflow
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("with_metadata", [False, True])
def test_damaged_records_with_good_checksums_are_read_or_refused(
    tmp_path: Path, grouped: bool, with_metadata: bool
) -> None:
    records = list(GROUPS) if grouped else [example(row) for row in ROWS]
    metadata = described(tmp_path / "m.json", *(GROUPED if grouped else TENSORS)) if with_metadata else None
    names = list(UNGROUPED if grouped else EXPECTED)
    path = tmp_path / "a.tfrecord"
    damage = random.Random(7)
    for number in range(80):
        record = bytearray(records[number % len(records)])
        for _ in range(damage.choice([1, 1, 2, 5])):
            record[damage.randrange(len(record))] = damage.randrange(256)
        if damage.random() < 0.2:
            del record[damage.randrange(len(record)) :]
        path.write_bytes(framed([bytes(record), records[0]]))
        found = outcome(str(path), metadata, *names)
        assert isinstance(found, str) or len({len(column) for column in found.values()}) == 1


# ---- without TensorFlow ----------------------------------------------------------------------------------

WITHOUT_TENSORFLOW = """\
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
HOW_TO_GET_IT = 'TFRecord files need TensorFlow, which is not installed here: pip install "gdmix[tensorflow]"'


def without_tensorflow(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def test_without_tensorflow_reading_says_how_to_get_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", map(example, ROWS))
    metadata = described(tmp_path / "m.json", *TENSORS)
    done = without_tensorflow(
        """
from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.readers_tfrecord import read_tfrecord, tfrecord_head
from gdmix_core.data.tfrecord_frames import count_tfrecords
from gdmix_core.errors import MissingDependency

path, metadata = sys.argv[1:]
print(count_tfrecords(path))
for attempt in (
    lambda: tfrecord_head(path, None),
    lambda: list(read_tfrecord(path, metadata, [NeededColumn("uid", ("uid",))])),
):
    try:
        attempt()
    except MissingDependency as error:
        print(error, error.exit_code)
""",
        path,
        metadata,
    )
    assert done.stdout.splitlines() == ["3", *[f"{HOW_TO_GET_IT} 2"] * 2], done.stderr


@pytest.mark.parametrize("with_metadata", [False, True])
def test_without_tensorflow_validate_ends_with_a_usage_error(tmp_path: Path, with_metadata: bool) -> None:
    write(tmp_path / "a.tfrecord", map(example, ROWS))
    described(tmp_path / "m.json", *TENSORS)
    job = {
        "model": "m",
        "task": "linear_regression",
        "data": {"train": "a.tfrecord", "columns": {"label": "age"}},
        "features": {
            "bag": ["bag" if with_metadata else {"column": "bag", "kind": "vector", "dimension": 5}]
        },
        "coordinates": {"global": {"fixed_effect": "linear_regression", "features": ["bag"]}},
        "output": "out",
    }
    if with_metadata:
        job["data"]["metadata"] = "m.json"
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    done = without_tensorflow(
        "from gdmix_client.cli import main\nsys.argv[0] = 'gdmix-cli'\nmain()\n",
        "validate",
        tmp_path / "job.yaml",
        "--data",
    )
    assert done.returncode == 2, done.stderr
    assert HOW_TO_GET_IT in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
