from __future__ import annotations

import bz2
import json
import lzma
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdmix_core.data import avro_decoder, readers_avro
from gdmix_core.data.avro_columns import NAME_TERM_VALUE, SPARSE_VECTOR
from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.readers_avro import avro_head, read_avro
from gdmix_core.errors import DataError

SYNC = bytes(range(16))
FEATURE = {
    "type": "record",
    "name": "FeatureAvro",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "term", "type": ["null", "string"]},
        {"name": "value", "type": ["null", "float", "double", "int", "long"]},
    ],
}


def record(*fields: tuple[str, Any], name: str = "Row") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": kind} for field, kind in fields],
    }


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def mapping(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


def write(path: Path, schema: Any, rows: Sequence[Any], codec: str = "null", **options: Any) -> Path:
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, rows, codec, **options)
    return path


def long(value: int) -> bytes:
    """Encode an integer as Avro does."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return long(len(data)) + data


def header(schema: Any, codec: str | None = None) -> bytes:
    entries = {"avro.schema": schema if isinstance(schema, bytes) else json.dumps(schema).encode()}
    if codec is not None:
        entries["avro.codec"] = codec.encode()
    listed = b"".join(text(key) + text(value) for key, value in entries.items())
    return b"Obj\x01" + long(len(entries)) + listed + long(0) + SYNC


def block(rows: int, data: bytes, sync: bytes = SYNC) -> bytes:
    return long(rows) + long(len(data)) + data + sync


def needed(*names: str) -> list[NeededColumn]:
    return [NeededColumn(name, ("text",)) for name in names]


def columns_of(path: Path, *names: str) -> dict[str, list[Any]]:
    batches = list(read_avro(str(path), needed(*names)))
    assert all(batch.schema.names == list(names) for batch in batches)
    for batch in batches:
        batch.validate(full=True)
    return pa.Table.from_batches(batches).to_pydict()


def reading_fails(path: Path, *names: str) -> str:
    with pytest.raises(DataError) as caught:
        list(read_avro(str(path), needed(*names)))
    return told(path, caught.value)


def told(path: Path, error: DataError) -> str:
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def put(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


# ---- types ----------------------------------------------------------------------------------------------

ENUM = {"type": "enum", "name": "Color", "symbols": ["red", "green"]}
CASES: list[tuple[str, Any, pa.DataType, list[Any], list[Any]]] = [
    ("int", "int", pa.int64(), [0, -1, 2**31 - 1, -(2**31)], [0, -1, 2**31 - 1, -(2**31)]),
    ("long", "long", pa.int64(), [2**63 - 1, -(2**63), 64, -65], [2**63 - 1, -(2**63), 64, -65]),
    ("date", {"type": "int", "logicalType": "x"}, pa.int64(), [3], [3]),
    ("float", "float", pa.float64(), [0.5, float("-inf")], [0.5, float("-inf")]),
    ("double", "double", pa.float64(), [0.1, -1e300], [0.1, -1e300]),
    ("boolean", "boolean", pa.bool_(), [True, False] * 5, [True, False] * 5),
    ("string", "string", pa.string(), ["", "añb", "x" * 300], ["", "añb", "x" * 300]),
    ("bytes", "bytes", pa.string(), [b"a", "ñ".encode()], ["a", "ñ"]),
    ("enum", ENUM, pa.string(), ["green", "red"], ["green", "red"]),
    ("null", "null", pa.null(), [None, None], [None, None]),
    ("nullable", ["null", "long"], pa.int64(), [None, 5, None], [None, 5, None]),
    ("null last", ["double", "null"], pa.float64(), [None, 5.5], [None, 5.5]),
    ("null bool", ["null", "boolean"], pa.bool_(), [None, True], [None, True]),
    ("integers", ["null", "int", "long"], pa.int64(), [1, None, 2**40], [1, None, 2**40]),
    ("numbers", ["null", "int", "float", "double"], pa.float64(), [1, 2.5, None], [1.0, 2.5, None]),
    ("texts", ["null", "string", ENUM], pa.string(), ["red", "other", None], ["red", "other", None]),
    ("ints", array("int"), pa.list_(pa.int64()), [[], [1, 2], [3]], [[], [1, 2], [3]]),
    ("null ints", ["null", array("long")], pa.list_(pa.int64()), [None, [1], []], [None, [1], []]),
    ("ints null", array(["null", "long"]), pa.list_(pa.int64()), [[None, 1], []], [[None, 1], []]),
    ("floats", array("float"), pa.list_(pa.float64()), [[0.5]], [[0.5]]),
    ("doubles", array(["int", "double"]), pa.list_(pa.float64()), [[1, 0.1]], [[1.0, 0.1]]),
    ("strings", array("string"), pa.list_(pa.string()), [["a", ""], []], [["a", ""], []]),
    ("booleans", array("boolean"), pa.list_(pa.bool_()), [[True, False]], [[True, False]]),
    (
        "features",
        ["null", array(FEATURE)],
        pa.list_(NAME_TERM_VALUE),
        [
            None,
            [],
            [{"name": "a", "term": None, "value": 2}, {"name": "b", "term": "t", "value": 0.5}],
            [{"name": "ñ", "term": "", "value": None}],
        ],
        [
            None,
            [],
            [{"name": "a", "term": None, "value": 2.0}, {"name": "b", "term": "t", "value": 0.5}],
            [{"name": "ñ", "term": "", "value": None}],
        ],
    ),
]


@pytest.mark.parametrize(
    ("kind", "expected", "values", "found"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_types(kind: Any, expected: pa.DataType, values: list[Any], found: list[Any], tmp_path: Path) -> None:
    rows = [{"before": "b", "x": value, "after": 1.5} for value in values]
    schema = record(("before", "string"), ("x", kind), ("after", "double"))
    path = write(tmp_path / "a.avro", schema, rows)
    head, count = avro_head(str(path))
    assert head.names == ["before", "x", "after"]
    assert head.field("x").type == expected
    assert count == len(values)
    assert next(read_avro(str(path), needed("x"))).schema.field("x").type == expected
    assert columns_of(path, "after", "x") == {"after": [1.5] * len(values), "x": found}
    assert columns_of(path, "after", "before") == {
        "after": [1.5] * len(values),
        "before": ["b"] * len(values),
    }


UNSUPPORTED: list[tuple[Any, Any, str]] = [
    ({"type": "fixed", "name": "F", "size": 3}, b"abc", "fixed(3)"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\x01", "decimal"),
    (array(array("int")), [[1, 2], [], [3]], "array<array<int>>"),
    (array(mapping("int")), [{"a": 1}], "array<map<int>>"),
    (array(record(("name", "string"), name="Inner")), [{"name": "a"}], "array<record Inner>"),
    (array("null"), [None] * 5, "array<null>"),
    (mapping(array("int")), {"a": [1]}, "map<array<int>>"),
    (["null", "boolean", "long"], 5, "union<null, boolean, long>"),
    (["null", "string", array("string")], ["a"], "union<null, string, array<string>>"),
    (record(("next", ["null", "Row"]), name="Inner"), {"next": None}, None),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("kind", "value", "name"), UNSUPPORTED)
def test_other_types_have_a_name_and_are_skipped(kind: Any, value: Any, name: str, tmp_path: Path) -> None:
    schema = record(("x", kind), ("after", "long"))
    path = tmp_path / "a.avro"
    with path.open("wb") as stream:
        schema["fields"][0]["type"] = kind
        fastavro.writer(stream, schema, [{"x": value, "after": i} for i in range(3)])
    assert columns_of(path, "after") == {"after": [0, 1, 2]}
    if name is None:
        assert (
            reading_fails(path, "x.next")
            == "column 'x.next' is of Avro type union<null, Row>, which cannot be read"
        )
        return
    assert reading_fails(path, "after", "x") == f"column 'x' is of Avro type {name}, which cannot be read"
    head, _ = avro_head(str(path))
    assert not pa.types.is_null(head.field("x").type)
    assert name in str(head.field("x").type)


def test_columns_in_any_order_and_missing_ones(tmp_path: Path) -> None:
    schema = record(("a", "long"), ("b", "string"), ("c", ["null", "double"]))
    path = write(tmp_path / "a.avro", schema, [{"a": i, "b": str(i), "c": None} for i in range(3)])
    assert columns_of(path, "c", "a", "b") == {"c": [None] * 3, "a": [0, 1, 2], "b": ["0", "1", "2"]}
    assert reading_fails(path, "a", "d") == "column 'd' is missing"
    assert reading_fails(path, "a.b") == "column 'a.b' is missing"
    assert reading_fails(tmp_path / "b.avro", "a") == "no such file"


def test_nested_records_are_columns_with_dots(tmp_path: Path) -> None:
    inner = record(
        ("x", "long"), ("y", array("string")), ("z", record(("w", "string"), name="Deep")), name="In"
    )
    schema = record(("o", ["null", inner]), ("p", "In"), ("q", "long"))
    value = {"x": 1, "y": ["a"], "z": {"w": "deep"}}
    rows = [{"o": None, "p": value, "q": 1}, {"o": value, "p": value | {"x": 2}, "q": 2}]
    path = write(tmp_path / "a.avro", schema, rows)
    assert avro_head(str(path))[0].names == ["o.x", "o.y", "o.z.w", "p.x", "p.y", "p.z.w", "q"]
    assert columns_of(path, "q", "p.x", "o.z.w", "o.y", "o.x") == {
        "q": [1, 2],
        "p.x": [1, 2],
        "o.z.w": [None, "deep"],
        "o.y": [None, ["a"]],
        "o.x": [None, 1],
    }


def test_a_type_that_holds_itself_is_skipped(tmp_path: Path) -> None:
    tree = record(("children", array("Tree")), ("more", mapping("Tree")), ("value", "long"), name="Tree")
    leaf: dict[str, Any] = {"children": [], "more": {}, "value": 1}
    value = leaf
    for _ in range(30):
        value = {"children": [leaf, value, leaf], "more": {"a": leaf}, "value": 2}
    rows = [{"tree": value, "x": i} for i in range(3)]
    path = write(tmp_path / "a.avro", record(("tree", tree), ("x", "long")), rows)
    assert columns_of(path, "x", "tree.value") == {"x": [0, 1, 2], "tree.value": [2, 2, 2]}


def test_a_schema_that_doubles_with_every_level_stays_small(tmp_path: Path) -> None:
    fields: list[tuple[str, Any]] = [("t0", record(("x", "long"), name="T0"))]
    for i in range(1, 40):
        inner = f"T{i - 1}"
        fields.append(
            (f"t{i}", ["null", record(("a", ["null", inner]), ("b", ["null", inner]), name=f"T{i}")])
        )
    rows = [{"t0": {"x": 1}, "last": 7}]
    path = write(tmp_path / "a.avro", record(*fields, ("last", "long")), rows)
    with pytest.raises(DataError, match="more than 20000 columns"):
        avro_head(str(path))


def test_records_nested_without_end_are_no_columns(tmp_path: Path) -> None:
    deep = record(("x", "long"), name="T0")
    fields = [("t0", ["null", deep, "string"])]
    fields += [
        (f"t{i}", ["null", record(("a", f"T{i - 1}"), name=f"T{i}"), "string"]) for i in range(1, 1500)
    ]
    nulls = long(0) * 1500
    schema = record(*fields, ("r", "T20"), ("y", "string"))
    path = put(tmp_path / "a.avro", header(schema), block(1, nulls + long(5) + text("b")))
    deepest = "r" + 20 * ".a" + ".x"
    assert deepest in avro_head(str(path))[0].names
    assert columns_of(path, "y", deepest) == {"y": ["b"], deepest: [5]}
    schema = record(*fields, ("s", "T1499"), ("y", "string"))
    path = put(tmp_path / "b.avro", header(schema), block(1, nulls + long(5) + text("b")))
    assert "is of Avro type T1467, which cannot be read" in reading_fails(path, "s" + 32 * ".a")
    assert reading_fails(path, "y") == "row 1 (block 1): values are nested more than 1024 levels deep"
    schema = record(*fields, ("l", array("T1499")), ("y", "string"))
    path = put(tmp_path / "c.avro", header(schema), block(1, nulls + long(0) + text("b")))
    assert reading_fails(path, "y") == "the schema's records are nested too deeply"


def test_names_are_looked_up_in_their_namespaces(tmp_path: Path) -> None:
    inner = record(("e", {"type": "enum", "name": "E", "symbols": ["inner"]}), ("f", "E"), name="In")
    inner["namespace"] = "other.place"
    schema = record(
        ("e", {"type": "enum", "name": "E", "symbols": ["outer"]}),
        ("i", inner),
        ("j", "other.place.In"),
        ("l", "own.E"),
        ("m", "other.place.E"),
        name="own.Row",
    )
    value = {"e": "inner", "f": "inner"}
    row = {"e": "outer", "i": value, "j": value, "l": "outer", "m": "inner"}
    path = write(tmp_path / "a.avro", schema, [row])
    found = columns_of(path, "e", "i.f", "j.e", "l", "m")
    assert [values[0] for values in found.values()] == ["outer", "inner", "inner", "outer", "inner"]
    assert columns_of(path, "m") == {"m": ["inner"]}


# ---- maps, pairs, numbers and strings -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [mapping("string"), ["null", mapping(["null", "string"])]])
def test_keys_of_maps_are_columns(kind: Any, tmp_path: Path) -> None:
    maps: list[Any] = [{"userId": "u1", "other": "x"}, {"item.id": "i", "userId": ""}, {}]
    if isinstance(kind, list):
        maps += [None, {"userId": None}]
    rows = [{"m": value, "x": i} for i, value in enumerate(maps)]
    path = write(tmp_path / "a.avro", record(("m", kind), ("x", "long")), rows)
    head, _ = avro_head(str(path))
    assert head == pa.schema(
        [("m.item.id", pa.string()), ("m.other", pa.string()), ("m.userId", pa.string()), ("x", pa.int64())]
    )
    found = columns_of(path, "x", "m.userId", "m.nowhere", "m.item.id")
    rest = [None] * (len(maps) - 3)
    assert found == {
        "x": list(range(len(maps))),
        "m.userId": ["u1", "", None, *rest],
        "m.nowhere": [None, None, None, *rest],
        "m.item.id": [None, "i", None, *rest],
    }
    assert reading_fails(path, "m") == "column 'm' is a map in Avro; ask for one of its keys, as 'm.<key>'"


def test_maps_of_other_values_and_repeated_keys(tmp_path: Path) -> None:
    schema = record(("m", mapping(["null", "int", "double"])), ("o", mapping("long")))
    first = text("k") + long(0) + text("k") + long(2) + struct.pack("<d", 1.5)
    second = text("j") + long(1) + long(3)
    entries = long(-2) + long(len(first)) + first + long(1) + second + long(0)
    nulls = long(2) + text("k") + long(1) + long(7) + text("k") + long(0) + long(0)
    other = long(1) + text("q") + long(9) + long(0)
    path = put(tmp_path / "a.avro", header(schema), block(2, entries + other + nulls + other))
    assert columns_of(path, "m.k", "m.j", "o.q") == {"m.k": [1.5, None], "m.j": [3.0, None], "o.q": [9, 9]}
    assert columns_of(path, "o.q") == {"o.q": [9, 9]}


def test_pairs_of_lists_are_sparse_vectors(tmp_path: Path) -> None:
    schema = record(
        ("x_indices", ["null", array("int")]),
        ("x_values", ["null", array("float")]),
        ("y_indices", array("long")),
        ("y_values", array("int")),
        ("y", "string"),
        ("z_indices", array("long")),
        ("z_values", array("int")),
        ("v_indices", array("double")),
        ("v_values", array("double")),
    )
    empty: dict[str, Any] = {"y_indices": [], "y_values": [], "v_indices": [], "v_values": [], "y": "own"}
    rows = [
        {"x_indices": [1, 2], "x_values": [0.5, 1.5], "z_indices": [1], "z_values": [2], **empty},
        {"x_indices": None, "x_values": None, "z_indices": [], "z_values": [], **empty},
        {"x_indices": [1], "x_values": None, "z_indices": [1], "z_values": [2, 3], **empty},
    ]
    path = write(tmp_path / "a.avro", schema, rows)
    head, _ = avro_head(str(path))
    assert head.names[-2:] == ["x", "z"]
    assert head.field("x").type == head.field("z").type == SPARSE_VECTOR
    assert head.field("y").type == pa.string()
    found = columns_of(path, "z", "x_indices", "x", "y")
    assert found["x"] == [
        {"indices": [1, 2], "values": [0.5, 1.5]},
        None,
        {"indices": [1], "values": None},
    ]
    assert found["z"] == [
        {"indices": [1], "values": [2.0]},
        {"indices": [], "values": []},
        {"indices": [1], "values": [2.0, 3.0]},
    ]
    assert found["x_indices"] == [[1, 2], None, [1]]
    assert found["y"] == ["own"] * 3
    assert reading_fails(path, "v") == "column 'v' is missing"


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["7", None, "b"], pa.string(), ["7", None, "b"]),
        ([None, 7, 8], pa.int64(), [None, 7, 8]),
        ([None, None], pa.null(), [None, None]),
    ],
)
def test_numbers_and_strings_are_what_the_file_holds(
    values: list[Any], kind: pa.DataType, expected: list[Any], tmp_path: Path
) -> None:
    schema = record(("uid", ["null", "string", "long"]), ("x", "int"))
    path = write(tmp_path / "a.avro", schema, [{"uid": value, "x": 1} for value in values])
    assert avro_head(str(path))[0].field("uid").type == kind
    assert columns_of(path, "uid") == {"uid": expected}
    batch = next(read_avro(str(path), [NeededColumn("uid", ("uid",))]))
    assert batch.schema.field("uid").type == (pa.string() if kind == pa.string() else pa.int64())
    if kind == pa.null():
        assert next(read_avro(str(path), needed("uid"))).schema.field("uid").type == pa.string()


@pytest.mark.parametrize("values", [["a", "b", 3, "c"], [1, 2, "3", 4]])
def test_numbers_among_strings_are_named(values: list[Any], tmp_path: Path) -> None:
    schema = record(("r", ["null", "int", "double", "float", "long", "string"]))
    path = write(tmp_path / "a.avro", schema, [{"r": value} for value in values])
    assert reading_fails(path, "r") == (
        "column 'r': row 3 holds a value of another type than the file's first rows; "
        "allowed: either strings or numbers, in all rows"
    )


def test_photon_rows(tmp_path: Path) -> None:
    schema = {
        "type": "record",
        "name": "TrainingExampleAvro",
        "namespace": "com.linkedin.photon.avro.generated",
        "fields": [
            {"name": "uid", "type": ["null", "string", "long", "int"], "default": None},
            {"name": "response", "type": "double"},
            {"name": "offset", "type": ["null", "double"], "default": None},
            {"name": "weight", "type": ["null", "double"], "default": None},
            {"name": "metadataMap", "type": ["null", mapping("string")], "default": None},
            {"name": "features", "type": array(FEATURE)},
            {"name": "userFeatures", "type": ["null", array("FeatureAvro")]},
        ],
    }
    bag = [{"name": f"f{k}", "term": f"t{k}", "value": k / 4} for k in range(5)]
    rows = [
        {
            "uid": i,
            "response": i % 2,
            "weight": None if i % 3 else 2.0,
            "metadataMap": {"userId": f"u{i}", "songId": "s"},
            "features": bag[: i % 5],
            "userFeatures": bag if i % 2 else None,
        }
        for i in range(500)
    ]
    path = write(tmp_path / "a.avro", schema, rows, "deflate", sync_interval=1000)
    names = ["uid", "response", "weight", "metadataMap.userId", "features", "userFeatures"]
    found = columns_of(path, *names)
    assert found["metadataMap.userId"] == [f"u{i}" for i in range(500)]
    for name in {*names} - {"metadataMap.userId"}:
        assert found[name] == [row[name] for row in rows]
    head, count = avro_head(str(path))
    assert {"metadataMap.songId", "metadataMap.userId"} <= set(head.names)
    assert head.field("features").type == pa.list_(NAME_TERM_VALUE)
    assert 0 < count < 500


# ---- against fastavro -----------------------------------------------------------------------------------

INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False)
WORDS = st.text(max_size=12)
BAG = st.lists(
    st.fixed_dictionaries(
        {"name": WORDS, "term": st.none() | WORDS, "value": st.none() | NUMBER | st.integers(-9, 9)}
    ),
    max_size=4,
)
INNER = record(("a", "string"), ("b", array("long")), name="Inner")
# Avro type, values, and what becomes of a value that fastavro reads; None: the field is only skipped.
KINDS: list[tuple[Any, st.SearchStrategy[Any], Any]] = [
    ("int", st.integers(-(2**31), 2**31 - 1), int),
    ("long", INT64, int),
    ("float", st.floats(width=32, allow_nan=False), float),
    ("double", NUMBER, float),
    ("boolean", st.booleans(), bool),
    ("string", WORDS, str),
    ("bytes", WORDS.map(str.encode), bytes.decode),
    (["null", "string"], st.none() | WORDS, lambda value: value),
    (
        ["double", "null", "int"],
        st.none() | NUMBER | st.integers(-9, 9),
        lambda v: None if v is None else float(v),
    ),
    (array("long"), st.lists(INT64, max_size=5), list),
    (array(["null", "string"]), st.lists(st.none() | WORDS, max_size=5), list),
    (["null", array("double")], st.none() | st.lists(NUMBER, max_size=5), lambda value: value),
    (["null", array({**FEATURE, "name": "Feature{i}"})], st.none() | BAG, lambda value: value),
    ({"type": "fixed", "name": "Fixed{i}", "size": 3}, st.binary(min_size=3, max_size=3), None),
    (array(array("string")), st.lists(st.lists(WORDS, max_size=3), max_size=3), None),
    (mapping(array("int")), st.dictionaries(WORDS, st.lists(st.integers(-9, 9)), max_size=3), None),
    (
        array({**INNER, "name": "Inner{i}"}),
        st.lists(st.fixed_dictionaries({"a": WORDS, "b": st.lists(INT64, max_size=3)}), max_size=3),
        None,
    ),
]


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], list[str]]:
    chosen = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    names = [f"f{i}" for i in range(len(chosen))]
    types = [json.loads(json.dumps(kind).replace("{i}", str(i))) for i, (kind, _, _) in enumerate(chosen)]
    values = {name: strategy for name, (_, strategy, _) in zip(names, chosen, strict=True)}
    rows = draw(st.lists(st.fixed_dictionaries({"id": INT64, **values}), max_size=12))
    takes = {"id": int} | {name: take for name, (_, _, take) in zip(names, chosen, strict=True) if take}
    asked = draw(st.lists(st.sampled_from(sorted(takes)), min_size=1, unique=True))
    return record(("id", "long"), *zip(names, types, strict=True)), rows, takes, asked


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=files(), codec=st.sampled_from(["null", "deflate", "bzip2", "xz"]), interval=st.integers(1, 200))
def test_the_same_as_fastavro(file: Any, codec: str, interval: int, tmp_path: Path) -> None:
    schema, rows, takes, asked = file
    path = write(tmp_path / "a.avro", schema, rows, codec, sync_interval=interval)
    with path.open("rb") as stream:
        expected = list(fastavro.reader(stream))
    found = [row for batch in read_avro(str(path), needed(*asked)) for row in batch.to_pylist()]
    assert found == [{name: takes[name](row[name]) for name in asked} for row in expected]
    assert list(avro_head(str(path))[0].names) == ["id", *(f"f{i}" for i in range(len(schema["fields"]) - 1))]


PARTS = record(
    ("id", "long"),
    ("u", ["null", "string", "long"]),
    ("l", ["null", array(["null", "double"])]),
    ("m", mapping("string")),
    ("f", array(FEATURE)),
    ("e", ENUM),
    ("t", record(("c", array("Tree")), ("d", mapping("Tree")), ("b", "boolean"), name="Tree")),
    ("x_indices", array("int")),
    ("x_values", array("float")),
)
TREE = {"c": [{"c": [], "d": {}, "b": True}], "d": {"k": {"c": [], "d": {}, "b": False}}, "b": True}
PART = {
    "u": "text",
    "l": [None, 0.5],
    "m": {"k": "v", "j": "w"},
    "f": [{"name": "n", "term": None, "value": 1}, {"name": "n", "term": "t", "value": 0.5}],
    "e": "green",
    "t": TREE,
    "x_indices": [1, 300],
    "x_values": [0.5, 1.5],
}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["id", "u", "l", "m.k", "f", "e", "t.b", "x"]), min_size=1, unique=True),
)
def test_changed_bytes_are_other_values_or_one_error(
    changes: list[tuple[int, int]], names: list[str], tmp_path: Path
) -> None:
    rows = [{"id": i, **PART} for i in range(5)]
    path = write(tmp_path / "a.avro", PARTS, rows, sync_interval=150)
    data = bytearray(path.read_bytes())
    start = data.index(b"null", data.index(b"avro.codec")) + 4
    for place, byte in changes:
        data[start + place % (len(data) - start)] = byte
    path.write_bytes(data)
    try:
        found = columns_of(path, *names)
    except DataError as error:
        told(path, error)
    else:
        assert len(found[names[0]]) <= len(data)


# ---- blocks and codecs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_codecs_of_fastavro(codec: str, tmp_path: Path) -> None:
    rows = [{"x": i, "s": f"text {i}" * 5} for i in range(2000)]
    schema = record(("x", "long"), ("s", "string"))
    path = write(tmp_path / "a.avro", schema, rows, codec, sync_interval=3000)
    assert columns_of(path, "x", "s") == {"x": list(range(2000)), "s": [row["s"] for row in rows]}


def packed(codec: str, data: bytes) -> bytes:
    if codec == "snappy":
        return bytes(pa.Codec("snappy").compress(data, asbytes=True)) + zlib.crc32(data).to_bytes(4, "big")
    if codec == "zstandard":
        return bytes(pa.Codec("zstd").compress(data, asbytes=True))
    if codec == "deflate":
        return zlib.compress(data)[2:-1]  # with the part of the checksum that old writers leave
    return {"null": bytes, "bzip2": bz2.compress, "xz": lzma.compress}[codec](data)


@pytest.mark.parametrize("codec", ["snappy", "zstandard", "deflate"])
def test_codecs_made_by_others(codec: str, tmp_path: Path) -> None:
    data = b"".join(long(i) for i in range(5000))
    path = put(
        tmp_path / "a.avro",
        header(record(("x", "long")), codec),
        block(5000, packed(codec, data)),
        block(5000, packed(codec, data)),
    )
    assert columns_of(path, "x") == {"x": [*range(5000)] * 2}


@pytest.mark.parametrize("codec", ["snappy", "zstandard", "deflate", "bzip2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_damaged_compressed_blocks_are_named(codec: str, damage: str, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(600)
    whole = packed(codec, data)
    if damage == "cut":
        whole = whole[:-20]
    elif damage == "changed":
        whole = whole[:6] + bytes(20) + whole[26:]
    else:
        whole = b""
    path = put(tmp_path / "a.avro", header(record(("x", "long")), codec), block(1, whole))
    message = reading_fails(path, "x")
    if codec == "deflate" and damage == "changed":
        assert message.startswith("block 1")  # deflate has no checksum: the rows may be what is wrong
    else:
        assert message.startswith(f"block 1: its {codec} data are damaged: ")


@pytest.mark.parametrize("codec", ["null", "snappy", "zstandard", "deflate", "bzip2", "xz"])
def test_decompression_bombs_are_refused(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_avro, "LARGEST_BLOCK", 1 << 20)
    data = bytes((1 << 20) + 1)
    path = put(
        tmp_path / "a.avro", header(record(("x", "long")), codec), block(len(data), packed(codec, data))
    )
    refused = (
        "has 1048577 bytes; allowed are 1 MiB" if codec == "null" else "larger than 1 MiB after decompression"
    )
    assert refused in reading_fails(path, "x")
    monkeypatch.setattr(readers_avro, "LARGEST_BLOCK", len(data))
    assert len(columns_of(path, "x")["x"]) == len(data)


@pytest.mark.parametrize("codec", ["zstandard", "deflate", "bzip2", "xz"])
def test_decompression_stops_at_the_bound(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_avro, "LARGEST_BLOCK", 1 << 20)
    whole = packed(codec, bytes(random.Random(0).choices((0, 1), k=4 << 20)))[
        :-5000
    ]  # the damage is never come upon
    path = put(tmp_path / "a.avro", header(record(("x", "long")), codec), block(1, whole))
    assert reading_fails(path, "x") == "block 1 is larger than 1 MiB after decompression"


def test_snappy_that_promises_too_much_is_refused_beforehand(tmp_path: Path) -> None:
    whole = b"\xff\xff\xff\xff\x7f" + packed("snappy", b"abc")
    path = put(tmp_path / "a.avro", header(record(("x", "long")), "snappy"), block(1, whole))
    assert reading_fails(path, "x") == "block 1 is larger than 1024 MiB after decompression"


def test_unknown_codecs_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.avro", header(record(("x", "long")), "lz4"))
    assert reading_fails(path, "x") == (
        "the codec is 'lz4'; allowed: bzip2, deflate, null, snappy, xz, zstandard"
    )


def test_batches_are_bounded_and_small_blocks_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro_decoder, "BATCH_ROWS", 100)
    monkeypatch.setattr(readers_avro, "BATCH_ROWS", 100)
    schema = record(("x", "long"), ("s", "string"))
    rows = [{"x": i, "s": "s" * (i % 7)} for i in range(1050)]
    small = write(tmp_path / "a.avro", schema, rows, sync_interval=64)
    large = write(tmp_path / "b.avro", schema, rows, sync_interval=1 << 20)
    for path in (small, large):
        batches = list(read_avro(str(path), needed("s", "x")))
        assert pa.Table.from_batches(batches).select(["x", "s"]).to_pylist() == rows
        sizes = [batch.num_rows for batch in batches]
        assert max(sizes) <= 100
        assert len(sizes) < 25
    monkeypatch.setattr(avro_decoder, "BATCH_BYTES", 60)
    sizes = [batch.num_rows for batch in read_avro(str(large), needed("s"))]
    assert sum(sizes) == 1050
    assert max(sizes) <= 30


def test_files_without_rows(tmp_path: Path) -> None:
    schema = record(("x", "long"), ("m", mapping("string")), ("u", ["string", "long"]))
    path = put(tmp_path / "a.avro", header(schema))
    assert list(read_avro(str(path), needed("x", "u", "m.a"))) == []
    assert avro_head(str(path)) == (pa.schema([("x", pa.int64()), ("u", pa.null())]), 0)
    empty = block(0, b"")
    row = long(4) + long(0) + long(1) + long(5)
    path = put(tmp_path / "b.avro", header(schema), empty, block(1, row), empty, block(2, row + row), empty)
    assert columns_of(path, "x", "u") == {"x": [4] * 3, "u": [5] * 3}
    assert avro_head(str(path))[1] == 1


def test_lists_in_several_blocks_with_and_without_sizes(tmp_path: Path) -> None:
    schema = record(("l", array("long")), ("b", array(FEATURE)), ("x", "long"))
    items = long(2) + long(1) + long(300) + long(-1) + long(1) + long(-9) + long(1) + long(5) + long(0)
    item = text("n") + long(1) + text("t") + long(3) + long(8)
    bags = long(1) + item + long(-2) + long(2 * len(item)) + item + item + long(0)
    path = put(tmp_path / "a.avro", header(schema), block(2, (items + bags + long(7)) * 2))
    bag = [{"name": "n", "term": "t", "value": 8.0}] * 3
    assert columns_of(path, "l", "b") == {"l": [[1, 300, -9, 5]] * 2, "b": [bag] * 2}
    assert columns_of(path, "x") == {"x": [7, 7]}


# ---- faults ---------------------------------------------------------------------------------------------

ROW = record(("x", "long"), ("s", "string"))
GOOD = long(1) + text("a")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b""], "is not an Avro file: it does not begin as one"),
        ([b"PAR1 and so on"], "is not an Avro file: it does not begin as one"),
        ([header(ROW)[:40]], "the header is damaged: a length goes beyond the file"),
        ([b"Obj\x01"], "the file ends inside of a number"),
        ([b"Obj\x01" + b"\xff" * 20], "a number has more than 64 bits"),
        ([b"Obj\x01" + long(0) + SYNC], "the header holds no schema"),
        ([header(b"{")], "the schema is not JSON: "),
        ([header(b"[" * 100_000)], "the schema is not JSON: "),
        ([header(b"[" * 100 + b"]" * 100)], "the schema is nested more than 64 levels deep"),
        ([header("long")], "rows are of Avro type long; allowed: records"),
        ([header("Row")], "the schema names a type 'Row' that it does not define"),
        ([header(record(("x", "Other")))], "the schema names a type 'Other' that it does not define"),
        ([header(record(("x", "int"), ("x", "int")))], "the schema holds field 'x' of record 'Row' twice"),
        ([header(record(("x", ["null", ["int"]])))], "the schema holds a union directly inside of a union"),
        ([header(record(("x", 5)))], "the schema holds 5 where a type should be"),
        ([header({"type": "record", "name": "R"})], "the schema holds a record 'R' without fields"),
        ([header({"type": "record", "fields": []})], "the schema holds a type record without a name"),
        ([header(record(("x", record(name="Row"))))], "the schema defines type 'Row' twice"),
        (
            [header({"type": "record", "name": "R", "fields": [5]})],
            "the schema holds a field of record 'R' without",
        ),
        (
            [header(record(("x", {"type": "enum", "name": "E"})))],
            "the schema holds an enum 'E' without symbols",
        ),
        (
            [header(record(("x", {"type": "fixed", "name": "F"})))],
            "the schema holds a fixed type 'F' without a size",
        ),
        ([header(ROW), b"\x02"], "block 1: the file ends inside of a number"),
        ([header(ROW), b"\xff" * 9 + b"\x02"], "block 1: a number has more than 64 bits"),
        ([header(ROW), long(-1), long(0), SYNC], "block 1 says that it has -1 rows in 0 bytes"),
        (
            [header(ROW), block(1, GOOD), block(1, GOOD)[:-1]],
            "block 2 is truncated: the file ends inside of it",
        ),
        ([header(ROW), long(1), long(2**62)], "block 1 is truncated: the file ends inside of it"),
        ([header(ROW), block(1, GOOD), block(1, GOOD, bytes(16))], "block 2 ends with a wrong sync marker"),
        ([header(ROW), block(4, GOOD)], "block 1 says that it has 4 rows in 3 bytes"),
        ([header(ROW), block(2**60, GOOD)], f"block 1 says that it has {2**60} rows in 3 bytes"),
        ([header(ROW), block(0, GOOD)], "block 1 holds 3 bytes but no rows"),
        ([header(ROW), block(1, GOOD + b"12345")], "block 1 has 5 bytes left after its 1 rows"),
        (
            [header(ROW), block(1, GOOD), block(2, GOOD), block(1, GOOD)],
            "row 3 (block 2): a value goes beyond the end of its block",
        ),
    ],
)
def test_broken_files_are_one_error(parts: list[bytes], expected: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.avro", *parts)
    assert reading_fails(path, "x", "s").startswith(expected)
    assert "\n" not in reading_fails(path, "x")


BEYOND = "a length is negative or goes beyond the end of its block"
CUT = "a value goes beyond the end of its block"


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("long", b"\x80", CUT),
        ("long", b"\xff" * 9 + b"\x02", "a number has more than 64 bits"),
        ("long", b"\xff" * 10, "a number has more than 64 bits"),
        (["int", "double"], b"\x00\x80", CUT),
        ("double", bytes(7), CUT),
        ("float", bytes(3), CUT),
        ("boolean", b"\x02", "a boolean is 2"),
        ("string", text("ab")[:-1], BEYOND),
        ("string", long(-1), BEYOND),
        ("string", long(2**62), BEYOND),
        ("bytes", b"\x80", CUT),
        (ENUM, long(2), "an enum has no symbol 2"),
        (ENUM, long(-1), "an enum has no symbol -1"),
        (["null", "long"], long(2), "a union has no branch 2"),
        (["null", "long"], long(-1), "a union has no branch -1"),
        (array("long"), long(2) + long(1), BEYOND),
        (array("long"), long(1) + long(1), CUT),
        (array("long"), long(2**40), BEYOND),
        (array("long"), long(-1) + long(9) + long(1) + long(0), BEYOND),
        (array("long"), long(-1) + long(-1) + long(1) + long(0), BEYOND),
        (array("long"), long(-(2**63)) + long(1) + long(1) + long(0), BEYOND),
    ],
)
def test_broken_values_are_named_by_their_row(kind: Any, data: bytes, expected: str, tmp_path: Path) -> None:
    schema = record(("n", "string"), ("x", kind))
    path = put(tmp_path / "a.avro", header(schema), block(1, text("a") + data))
    assert reading_fails(path, "x") == f"row 1 (block 1): {expected}"


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("long", b"\x80", CUT),
        ("long", b"\xff" * 10, "a number has more than 64 bits"),
        ("double", bytes(7), CUT),
        ("string", long(5) + b"a", BEYOND),
        ("string", long(-1), BEYOND),
        ("string", b"\x80", CUT),
        ({"type": "fixed", "name": "F", "size": 2}, b"a", CUT),
        (array("long"), long(-1) + long(9) + long(1) + long(0), BEYOND),
        (array("long"), long(2**40), BEYOND),
        (mapping("long"), long(1) + long(9), BEYOND),
        (["null", "long"], long(2), "a union has no branch 2"),
        (
            record(("r", ["null", "Deep"]), name="Deep"),
            long(1) * 2000,
            "values are nested more than 1024 levels deep",
        ),
    ],
)
def test_broken_values_among_the_skipped_are_named_too(
    kind: Any, data: bytes, expected: str, tmp_path: Path
) -> None:
    path = put(tmp_path / "a.avro", header(record(("n", "string"), ("x", kind))), block(1, text("a") + data))
    assert reading_fails(path, "n") == f"row 1 (block 1): {expected}"


@pytest.mark.parametrize(
    ("key", "expected"), [(long(5) + b"k", BEYOND), (long(-1), BEYOND), (b"\x80", CUT), (text("k"), CUT)]
)
def test_broken_keys_are_named_by_their_row(key: bytes, expected: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.avro", header(record(("m", mapping("long")))), block(1, long(1) + key))
    assert reading_fails(path, "m.k") == f"row 1 (block 1): {expected}"


def test_items_without_bytes_are_skipped_however_many(tmp_path: Path) -> None:
    data = long(2**60) + long(0) + text("a")
    path = put(tmp_path / "a.avro", header(record(("x", array("null")), ("s", "string"))), block(1, data))
    assert columns_of(path, "s") == {"s": ["a"]}


@pytest.mark.parametrize("kind", ["string", "bytes", array("string"), mapping("string")])
def test_text_that_is_not_utf8_is_named(kind: Any, tmp_path: Path) -> None:
    def value(data: bytes) -> bytes:
        if isinstance(kind, str):
            return text(data)
        return long(1) + (text("k") if kind["type"] == "map" else b"") + text(data) + long(0)

    good, bad = value(b"ok"), value(b"a\xffb")
    name = "x.k" if isinstance(kind, dict) and kind["type"] == "map" else "x"
    path = put(
        tmp_path / "a.avro",
        header(record(("x", kind), ("y", "long"))),
        block(2, (good + long(1)) * 2),
        block(3, good + long(1) + bad + long(1) + bad + long(1)),
    )
    assert reading_fails(path, "y", name) == f"column {name!r}: row 4 is not valid UTF-8 text"
    assert columns_of(path, "y") == {"y": [1] * 5}


def test_the_head_does_not_read_what_it_need_not(tmp_path: Path) -> None:
    path = put(tmp_path / "a.avro", header(ROW, "deflate"), block(5, b"no deflate"))
    assert avro_head(str(path)) == (pa.schema([("x", pa.int64()), ("s", pa.string())]), 5)
    path = put(
        tmp_path / "b.avro", header(record(("m", mapping("string"))), "deflate"), block(5, b"no deflate")
    )
    with pytest.raises(DataError) as caught:
        avro_head(str(path))
    assert told(path, caught.value).startswith("block 1: its deflate data are damaged")
