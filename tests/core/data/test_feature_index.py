from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data import feature_index_partial
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.inspection import inspect_data
from gdmix_core.errors import DataError
from gdmix_core.tasks import FEATURE_INDEX_FILE, PARTIAL_INDEX_FILE, Regularization

FEATURES: dict[str, list[Any]] = {
    "user": [
        {"column": "zip", "kind": "categorical"},
        {"column": "age", "kind": "numeric", "scale": "standard"},
    ],
    "movie": [
        {"column": "tags", "kind": "list", "min_df": 2},
        {"column": "title", "kind": "text", "weighting": "tfidf"},
        {"column": "vector", "kind": "vector", "dimension": 12},
    ],
}
TYPES = pa.schema(
    [
        ("uid", pa.int64()),
        ("label", pa.float64()),
        ("zip", pa.string()),
        ("age", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("title", pa.string()),
        ("vector", pa.list_(pa.float64())),
    ]
)
ROWS: list[dict[str, Any]] = [
    {"zip": "9", "age": 1.0, "tags": ["b", "a", "b"], "title": "Big fish", "vector": [1.0] * 12},
    {"zip": "10", "age": None, "tags": ["a"], "title": "big BIG", "vector": None},
    {"zip": None, "age": 5.0, "tags": ["c", None], "title": None, "vector": None},
    {"zip": "9", "age": 2.0, "tags": None, "title": "Fish é", "vector": None},
]


def indexed(
    directory: Path,
    rows: list[dict[str, Any]],
    features: dict[str, list[Any]] = FEATURES,
    cuts: tuple[int, ...] = (),
) -> FeatureIndex:
    """Index `rows` written as one file for each piece between `cuts`."""
    bounds = [0, *cuts, len(rows)]
    numbered = [{**row, "uid": i, "label": 0.0} for i, row in enumerate(rows)]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        pq.write_table(pa.Table.from_pylist(numbered[start:stop], TYPES), directory / f"{number:03}.parquet")
    bags = {
        bag: tuple(FeatureColumn.model_validate(column) for column in columns)
        for bag, columns in features.items()
    }
    data = DataConfig.model_validate({"train": str(directory / "*.parquet")})
    splits, encoding = inspect_data(data, bags, (), "logistic_regression")
    partials = []
    for number, split in enumerate(splits):
        partial = directory / f"partial-{number}"
        partial.mkdir()
        index_split(split, encoding, partial)
        partials.append(partial)
    out = directory / "index"
    out.mkdir()
    sizes, fingerprint = merge_index(encoding, partials, out)
    index = FeatureIndex.load(out)
    assert index.bag_sizes == sizes
    assert index.schema_fingerprint == fingerprint
    return index


def test_index_file_numbers_features_by_bag_name_and_term(tmp_path: Path) -> None:
    index = indexed(tmp_path, ROWS)
    table = pq.read_table(tmp_path / "index" / FEATURE_INDEX_FILE)
    rows = [(r["bag"], r["name"], r["term"], r["kind"], r["index"]) for r in table.to_pylist()]
    assert rows == [
        ("movie", "tags", "a", "list", 0),
        ("movie", "title", "big", "text", 1),
        ("movie", "title", "fish", "text", 2),
        ("movie", "title", "é", "text", 3),
        *[("movie", "vector", str(i), "vector", 4 + i) for i in range(12)],
        ("user", "age", "", "numeric", 0),
        ("user", "zip", "10", "categorical", 1),
        ("user", "zip", "9", "categorical", 2),
    ]
    assert index.bag_sizes == {"user": 3, "movie": 16}
    assert table.column("document_frequency").to_pylist() == [2, 2, 2, 1, *[None] * 12, None, 1, 2]
    ages = [1.0, 0.0, 5.0, 2.0]
    assert table.column("mean").to_pylist()[16] == pytest.approx(np.mean(ages))
    assert table.column("standard_deviation").to_pylist()[16] == pytest.approx(np.std(ages))
    assert table.column("idf").to_pylist()[1] == pytest.approx(math.log(5 / 3) + 1)
    assert index.rows == 4


def test_loaded_index_is_the_merged_one(tmp_path: Path) -> None:
    index = indexed(tmp_path, ROWS)
    index.save(tmp_path / "again.parquet")
    again = FeatureIndex.load(tmp_path / "again.parquet")
    first, second = (tmp_path / "index" / FEATURE_INDEX_FILE), tmp_path / "again.parquet"
    assert first.read_bytes() == second.read_bytes()
    zips = again.columns_of("user")[1]
    assert zips.terms is not None
    assert zips.terms.to_list() == [b"10", b"9"]
    assert zips.document_frequency is not None
    assert zips.document_frequency.tolist() == [1, 2]
    title = again.columns_of("movie")[1]
    assert title.column.weighting == "tfidf"
    assert title.idf is not None
    assert title.idf.tolist() == pytest.approx([math.log(5 / 3) + 1] * 2 + [math.log(5 / 2) + 1])


values = st.fixed_dictionaries(
    {
        "zip": st.none() | st.sampled_from(["", "1", "10", "9", "é"]),
        "age": st.none() | st.floats(-1e3, 1e3),
        "tags": st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "c"]), max_size=4),
        "title": st.none() | st.sampled_from(["One two", "two, TWO", "zwölf é", "..."]),
        "vector": st.none() | st.just([0.5] * 12),
    }
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(values, min_size=1, max_size=20), data=st.data())
def test_cutting_rows_into_splits_changes_only_last_bits_of_moments(
    rows: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cuts = data.draw(st.lists(st.integers(1, max(1, len(rows) - 1)), max_size=3, unique=True).map(sorted))
    cuts = [cut for cut in cuts if cut < len(rows)]
    whole = indexed(tmp_path_factory.mktemp("whole"), rows)
    pieces = indexed(tmp_path_factory.mktemp("pieces"), rows, cuts=tuple(cuts))
    assert pieces.schema_fingerprint == whole.schema_fingerprint
    assert pieces.rows == whole.rows
    for ours, theirs in zip(pieces.columns, whole.columns, strict=True):
        assert (ours.bag, ours.column, ours.start, ours.size) == (
            theirs.bag,
            theirs.column,
            theirs.start,
            theirs.size,
        )
        if ours.terms is not None and theirs.terms is not None:
            assert ours.terms.to_list() == theirs.terms.to_list()
            np.testing.assert_array_equal(ours.document_frequency, theirs.document_frequency)
            np.testing.assert_array_equal(ours.idf, theirs.idf)
        if ours.mean is not None:
            assert ours.mean == pytest.approx(theirs.mean, rel=1e-12, abs=1e-9)
            assert ours.standard_deviation == pytest.approx(theirs.standard_deviation, rel=1e-9, abs=1e-6)


def test_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        indexed(tmp_path / name, ROWS, cuts=(2,))
        for file in (f"partial-0/{PARTIAL_INDEX_FILE}", f"index/{FEATURE_INDEX_FILE}"):
            digests.add((file, hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest()))
    assert len(digests) == 2


def test_counting_many_terms_keeps_memory_to_the_distinct_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_index_partial, "_COMPACT_FROM", 10)
    counter = feature_index_partial.TermCounter(_limit=10)
    from gdmix_core.data.byte_strings import ByteStrings

    for _ in range(20):
        counter.add(ByteStrings.of(["b", "a", "b"]), np.array([1, 2, 3]))
        assert sum(len(strings) for strings in counter._strings) <= 13
    strings, counts = counter.result()
    assert (strings.to_list(), counts.tolist()) == ([b"a", b"b"], [40, 80])


def test_validation_splits_are_only_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": [1, 2], "label": [0, 1]}), tmp_path / "a.parquet", row_group_size=1)
    (tmp_path / "b.csv").write_text("uid,label\n1,0\n2,1\n3,1\n")
    data = DataConfig.model_validate(
        {"train": str(tmp_path / "a.parquet"), "validation": [str(tmp_path / "*.csv"), str(tmp_path / "*t")]}
    )
    splits, encoding = inspect_data(data, {}, (), "logistic_regression")
    out = tmp_path / "out"
    out.mkdir()
    counts = [index_split(split, encoding, out) for split in splits if split.role == "validation"]
    assert counts == [2, 3]
    assert list(out.iterdir()) == []


# ---- names and ridge ------------------------------------------------------------------------------------


def test_names_follow_the_coordinates_order_of_bags(tmp_path: Path) -> None:
    index = indexed(tmp_path, ROWS)
    names = index.coordinate_names(["user", "movie"], intercept=True)
    assert [len(array) for array in names] == [20, 20, 20] == [index.dimension(["user", "movie"], True)] * 3
    rows = list(zip(*(array.to_pylist() for array in names), strict=True))
    assert rows[:5] == [
        ("", "(INTERCEPT)", ""),
        ("user", "age", ""),
        ("user", "zip", "10"),
        ("user", "zip", "9"),
        ("movie", "tags", "a"),
    ]
    assert rows[-1] == ("movie", "vector", "11")
    assert [len(array) for array in index.coordinate_names([], intercept=True)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("groups", "regularized", "expected"),
    [
        ({"default": 2.0}, True, [2.0, 2.0, 2.0, 2.0]),
        ({}, True, [1.0, 1.0, 1.0, 1.0]),
        ({"default": 2.0}, False, [0.0, 2.0, 2.0, 2.0]),
        ({"default": 2.0, "intercept": 7.0}, True, [7.0, 2.0, 2.0, 2.0]),
        ({"intercept": 7.0}, False, [0.0, 1.0, 1.0, 1.0]),
        ({"default": 2.0, "user": 3.0, "user.zip": 5.0}, True, [2.0, 3.0, 5.0, 5.0]),
        ({"user.age": 0.0, "movie": 9.0}, True, [1.0, 0.0, 1.0, 1.0]),
    ],
)
def test_the_most_specific_group_decides_the_ridge(
    groups: dict[str, float], regularized: bool, expected: list[float], tmp_path: Path
) -> None:
    features = {**FEATURES, "user": ["age", {"column": "zip", "kind": "categorical"}]}
    index = indexed(tmp_path, ROWS, features)
    strengths = index.ridge(["user"], True, Regularization(groups=groups, regularize_intercept=regularized))
    assert strengths.dtype == np.float64
    assert strengths.tolist() == expected
    assert index.ridge(["user"], False, Regularization(groups=groups, regularize_intercept=regularized))[
        0
    ] == pytest.approx(expected[1])


def test_scale_standard_penalises_the_coefficient_of_the_scaled_column(tmp_path: Path) -> None:
    index = indexed(tmp_path, ROWS)
    regularization = Regularization(groups={"user.age": 3.0}, regularize_intercept=True)
    variance = np.var([1.0, 0.0, 5.0, 2.0])
    assert index.ridge(["user"], True, regularization)[1] == pytest.approx(3.0 * variance)


def test_a_constant_column_keeps_the_plain_ridge(tmp_path: Path) -> None:
    rows = [{**row, "age": 0.1} for row in ROWS]
    index = indexed(tmp_path, rows, cuts=(1, 3))
    assert index.columns_of("user")[0].standard_deviation == 0.0
    regularization = Regularization(groups={"default": 3.0}, regularize_intercept=True)
    assert index.ridge(["user"], True, regularization)[1] == 3.0


# ---- what goes wrong ------------------------------------------------------------------------------------


def test_bad_features_are_found_while_indexing(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "age": math.nan}, *ROWS]
    with pytest.raises(DataError) as caught:
        indexed(tmp_path, rows)
    text = str(caught.value)
    assert "column 'age': 1 row is not allowed: row 1 (uid 0) holds nan; allowed: finite numbers" in text
    assert not (tmp_path / "partial-0" / PARTIAL_INDEX_FILE).exists()


def test_a_variance_that_overflows_is_refused(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "age": 1e200}, {**ROWS[1], "age": -1e200}]
    with pytest.raises(DataError, match="column 'age' holds values too large for scale standard"):
        indexed(tmp_path, rows)


def test_damaged_index_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        FeatureIndex.load(tmp_path / "none.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(DataError, match="not a feature index written by GDMix"):
        FeatureIndex.load(tmp_path / "other")
    indexed(tmp_path, ROWS)
    file = tmp_path / "index" / FEATURE_INDEX_FILE
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 5), file)
    with pytest.raises(DataError, match="5 features do not match the file's header"):
        FeatureIndex.load(file)
    terms = pa.array(["?", *table.column("term").to_pylist()[1:]], pa.large_string())
    pq.write_table(table.set_column(2, table.schema.field(2), terms), file)
    with pytest.raises(DataError, match="do not match the file's fingerprint"):
        FeatureIndex.load(file)
    file.write_bytes(b"PAR1 and more")
    with pytest.raises(DataError, match="cannot be read as a feature index"):
        FeatureIndex.load(file)


def test_another_numbering_has_another_fingerprint(tmp_path: Path) -> None:
    prints = set()
    scaled = {**FEATURES, "user": [{"column": "age", "kind": "numeric"}, FEATURES["user"][0]]}
    for number, (rows, features) in enumerate(
        [(ROWS, FEATURES), (ROWS[:3], FEATURES), (ROWS, {"user": FEATURES["user"]}), (ROWS, scaled)]
    ):
        (tmp_path / str(number)).mkdir()
        prints.add(indexed(tmp_path / str(number), rows, features).schema_fingerprint)
    assert len(prints) == 4
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in prints)
