from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdmix_core.data.name_term_values import name_term_values
from gdmix_core.errors import DataError

ITEM = pa.struct([("name", pa.string()), ("term", pa.string()), ("value", pa.float64())])


def bag(*features: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "term": term, "value": value} for name, term, value in features]


ROWS = [bag(("a", "x", 1.0), ("b", None, 2.0)), None, [], bag(("ñ", "", -0.5), ("a", "ü\x00", 0.0))]
KEYS = [b"a\x01x", b"b\x01", "ñ\x01".encode(), "a\x01ü\x00".encode()]


@pytest.mark.parametrize("kind", [pa.list_(ITEM), pa.large_list(ITEM)])
def test_names_and_terms_become_keys(kind: pa.DataType) -> None:
    found = name_term_values(pa.array(ROWS, kind), "f")
    assert found.ptr.tolist() == [0, 2, 2, 2, 4]
    assert found.ptr.dtype == np.int64
    assert found.keys.codes is None
    assert found.keys.strings.to_list() == KEYS
    assert found.values.tolist() == [1.0, 2.0, -0.5, 0.0]
    assert found.null_rows == 1
    assert found.faults == []


def test_slices_and_nulls_with_items_behind_them() -> None:
    array = pa.array([bag(("no", "no", 9.0)), *ROWS, bag(("no", "no", 9.0))], pa.list_(ITEM))
    found = name_term_values(array.slice(1, 4), "f")
    assert found.keys.strings.to_list() == KEYS
    assert found.ptr.tolist() == [0, 2, 2, 2, 4]
    full = pa.array([bag(("a", "b", 1.0), ("c", "d", 2.0)), bag(("e", "f", 3.0))], pa.list_(ITEM))
    hidden = pa.ListArray.from_arrays(full.offsets, full.values, mask=pa.array([True, False]))
    found = name_term_values(hidden, "f")
    assert found.ptr.tolist() == [0, 0, 1]
    assert found.keys.strings.to_list() == [b"e\x01f"]
    assert found.values.tolist() == [3.0]


TEXT = pa.string()


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ([("value", pa.int32()), ("x", pa.int8()), ("name", pa.large_string()), ("term", TEXT)], 3),
        ([("name", TEXT), ("term", pa.null()), ("value", pa.float32())], 0.5),
        ([("name", pa.dictionary(pa.int32(), TEXT)), ("term", TEXT), ("value", pa.float64())], 0.5),
    ],
)
def test_parts_of_other_types(fields: list[tuple[str, pa.DataType]], value: float) -> None:
    found = name_term_values(pa.array([bag(("a", None, value))], pa.list_(pa.struct(fields))), "f")
    assert found.keys.strings.to_list() == [b"a\x01"]
    assert found.values.tolist() == [value]


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null())])
def test_columns_of_nothing(kind: pa.DataType) -> None:
    found = name_term_values(pa.array([None, None], kind), "f")
    assert found.ptr.tolist() == [0, 0, 0]
    assert len(found.keys) == len(found.values) == 0
    assert found.null_rows == 2
    assert name_term_values(pa.array([], kind), "f").ptr.tolist() == [0]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.string(),
        ITEM,
        pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())])),
        pa.list_(pa.struct([("name", pa.int64()), ("term", pa.string()), ("value", pa.float64())])),
        pa.list_(pa.struct([("name", pa.string()), ("term", pa.int64()), ("value", pa.float64())])),
        pa.list_(pa.struct([("name", pa.string()), ("term", pa.string()), ("value", pa.string())])),
    ],
)
def test_other_types_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(DataError) as caught:
        name_term_values(pa.array([None], kind), "f")
    assert str(caught.value) == (
        f"column 'f' is of type {kind}; "
        "allowed: lists of structs of name (string), term (string) and value (number)"
    )


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_finite_numbers_are_faults(value: float | None) -> None:
    rows = [bag(("a", "x", 1.0)), None, bag(("a", "x", 1.0), ("b", "y", value), ("c", "z", float("nan")))]
    (fault,) = name_term_values(pa.array(rows, pa.list_(ITEM)), "f").faults
    assert (fault.column, fault.allowed, fault.rows.tolist()) == ("f", "finite numbers", [2])
    assert fault.found == ("null" if value is None else repr(value),)


@pytest.mark.parametrize("name", [None, ""])
def test_features_without_a_name_are_faults(name: str | None) -> None:
    rows = [bag((name, "x", 1.0)), bag(("a", "", 1.0)), bag(("a", None, 1.0), (name, "x", 1.0))]
    (fault,) = name_term_values(pa.array(rows, pa.list_(ITEM)), "f").faults
    assert (fault.column, fault.allowed, fault.rows.tolist()) == ("f", "names that are not empty", [0, 2])
    assert fault.found == (f"a name {'null' if name is None else repr(name)}",) * 2


def test_a_feature_that_is_null_is_a_fault() -> None:
    found = name_term_values(pa.array([[None], bag(("a", "", 1.0))], pa.list_(ITEM)), "f")
    assert {fault.allowed for fault in found.faults} == {"names that are not empty", "finite numbers"}
    assert all(fault.rows.tolist() == [0] for fault in found.faults)
    assert found.values.tolist() == [0.0, 1.0]


WORDS = st.text(max_size=20)
FEATURES = st.builds(
    lambda name, term, value: {"name": name, "term": term, "value": value},
    WORDS.filter(bool),
    st.none() | WORDS,
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(rows=st.lists(st.none() | st.lists(FEATURES, max_size=4), max_size=10), start=st.integers(0, 5))
def test_the_same_as_in_python(rows: list[list[dict[str, Any]] | None], start: int) -> None:
    found = name_term_values(pa.array(rows, pa.list_(ITEM)).slice(start), "f")
    rows = rows[start:]
    features = [feature for row in rows for feature in row or []]
    assert np.diff(found.ptr).tolist() == [len(row or []) for row in rows]
    assert found.keys.strings.to_list() == [
        f"{feature['name']}\x01{feature['term'] or ''}".encode() for feature in features
    ]
    assert found.values.tolist() == [feature["value"] for feature in features]
    assert found.null_rows == sum(row is None for row in rows)
    assert found.faults == []
