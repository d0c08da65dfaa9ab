from __future__ import annotations

import itertools
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data import column_values, readers, tokens
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.encoding import EncodedSplit, encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.inspection import inspect_data
from gdmix_core.data.sparse_columns import summed_rows
from gdmix_core.data.term_table import TermTable
from gdmix_core.errors import DataError
from gdmix_core.store import keys

WORDS = ["alpha", "Beta", "gamma", "été", "x1", "новый", "क्षि"]
ROW_TYPES = pa.schema(
    [
        ("uid", pa.int64()),
        ("label", pa.float64()),
        ("user", pa.string()),
        ("number", pa.float64()),
        ("category", pa.string()),
        ("code", pa.int32()),
        ("flag", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("words", pa.string()),
        ("dense", pa.list_(pa.float64())),
        ("sparse", pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])),
    ]
)
FEATURES: dict[str, list[Any]] = {
    "b": [
        "number",
        {"column": "category", "kind": "categorical", "min_df": 2},
        {"column": "code", "kind": "categorical"},
        "flag",
        {"column": "dense", "kind": "vector", "dimension": 3},
    ],
    "a": [
        {"column": "tags", "kind": "list"},
        {"column": "words", "kind": "text", "weighting": "tfidf"},
        {"column": "sparse", "kind": "vector", "dimension": 6},
    ],
}


def columns_of(features: dict[str, list[Any]]) -> dict[str, tuple[FeatureColumn, ...]]:
    return {
        bag: tuple(FeatureColumn.model_validate(column) for column in columns)
        for bag, columns in features.items()
    }


def encoded(
    path: Path,
    features: dict[str, list[Any]],
    task: str = "logistic_regression",
    roles: dict[str, str] | None = None,
    entities: tuple[str, ...] = (),
) -> tuple[list[EncodedSplit], FeatureIndex]:
    data = DataConfig.model_validate({"train": str(path), "columns": roles or {}})
    splits, encoding = inspect_data(data, columns_of(features), entities, task)
    directories = []
    for number, split in enumerate(splits):
        directory = path.parent / f"partial-{number}"
        directory.mkdir(exist_ok=True)
        index_split(split, encoding, directory)
        directories.append(directory)
    merge_index(encoding, directories, path.parent)
    index = FeatureIndex.load(path.parent)
    return [encode_split(split, encoding, index) for split in splits], index


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    table = pa.table(columns)
    rows = table.num_rows
    for name, values in (("uid", np.arange(rows) + 100), ("label", np.arange(rows) % 2)):
        if name not in columns:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, path, **options)
    return path


def cells(split: EncodedSplit, bag: str) -> list[dict[int, float]]:
    matrix = split.rows.bags[bag]
    return [
        dict(zip(matrix.indices[a:b].tolist(), matrix.values[a:b].tolist(), strict=True))
        for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    ]


# ---- the oracle: the same encoding, row by row in plain Python ------------------------------------------


def tokenise(text: str) -> list[str]:
    word = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return word.split()


def terms_of_row(row: dict[str, Any], column: str, kind: str) -> list[str]:
    value = row[column]
    if value is None or value == "":
        return []
    if kind == "text":
        return tokenise(value)
    items = value if kind == "list" else [value]
    return [
        str(item).lower() if isinstance(item, bool) else str(item) for item in items if item not in {None, ""}
    ]


def naive(rows: list[dict[str, Any]], features: dict[str, list[Any]]) -> dict[str, list[dict[Any, float]]]:
    """Return each row's features by (column, term), for every bag."""
    result: dict[str, list[dict[Any, float]]] = {}
    for bag, columns in columns_of(features).items():
        bag_rows: list[dict[Any, float]] = [{} for _ in rows]
        for column in columns:
            name = column.column
            kind = {"number": "numeric", "flag": "categorical"}.get(name) or column.kind
            has_terms = kind not in {"numeric", "vector"}
            frequency = Counter(t for row in rows if has_terms for t in set(terms_of_row(row, name, kind)))
            for cell, row in zip(bag_rows, rows, strict=True):
                if kind == "numeric":
                    cell[name, ""] = row[name] or 0.0
                elif kind == "vector":
                    vector = row[name] or []
                    pairs = (
                        zip(vector["indices"], vector["values"], strict=True)
                        if isinstance(vector, dict)
                        else enumerate(vector)
                    )
                    for i, x in pairs:
                        cell[name, str(i)] = cell.get((name, str(i)), 0.0) + (x or 0.0)
                else:
                    for term in terms_of_row(row, name, kind):
                        if frequency[term] >= column.min_df:
                            weight = 1.0
                            if column.weighting == "tfidf":
                                weight = math.log((1 + len(rows)) / (1 + frequency[term])) + 1
                            cell[name, term] = cell.get((name, term), 0.0) + weight
        result[bag] = [{key: x for key, x in cell.items() if x != 0.0} for cell in bag_rows]
    return result


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


finite = st.floats(-1e6, 1e6, allow_nan=False)
sparse_vectors = st.lists(st.tuples(st.integers(0, 5), finite), max_size=6).map(
    lambda pairs: {"indices": [i for i, _ in pairs], "values": [x for _, x in pairs]}
)
row_values = st.fixed_dictionaries(
    {
        "number": maybe(finite),
        "category": maybe(st.sampled_from(["", "a", "b", "é", "zz"])),
        "code": maybe(st.integers(-3, 3)),
        "flag": maybe(st.booleans()),
        "tags": maybe(st.lists(maybe(st.sampled_from(["", "x", "y", "z"])), max_size=5)),
        "words": maybe(st.lists(st.sampled_from([*WORDS, "...", " "]), max_size=7).map(", ".join)),
        "dense": maybe(st.lists(maybe(finite), min_size=3, max_size=3)),
        "sparse": maybe(sparse_vectors),
        "user": maybe(st.sampled_from(["", "u1", "ü2"])),
    }
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row_values, min_size=1, max_size=12), group=st.integers(1, 5))
def test_encoding_agrees_with_plain_python(
    rows: list[dict[str, Any]], group: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("encode") / "rows.parquet"
    rows = [{**row, "uid": i, "label": i % 2} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows, ROW_TYPES), path, row_group_size=group)
    (split,), index = encoded(path, FEATURES, entities=("user",))
    expected = naive(rows, FEATURES)
    for bag in FEATURES:
        split.rows.bags[bag].check(bag, len(rows), index.bag_sizes[bag])
        _, names, terms = index.coordinate_names([bag], intercept=False)
        keys_of_bag = list(zip(names.to_pylist(), terms.to_pylist(), strict=True))
        found = [{keys_of_bag[i]: x for i, x in cell.items() if x != 0.0} for cell in cells(split, bag)]
        for found_row, expected_row in zip(found, expected[bag], strict=True):
            assert found_row == pytest.approx(expected_row, rel=1e-12, abs=1e-9)
    users = split.rows.entities["user"]
    assert users.ids.to_list() == [(row["user"] or "").encode() for row in rows]
    assert users.missing.tolist() == [int(not row["user"]) for row in rows]
    assert split.rows.row.tolist() == list(range(len(rows)))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(-1, 40), st.floats(-5, 5)), max_size=90), min_size=1, max_size=4
    )
)
def test_entries_are_sorted_and_added_up_in_order(rows: list[list[tuple[int, float]]]) -> None:
    ptr = np.cumsum([0, *(len(row) for row in rows)])
    flat = [entry for row in rows for entry in row]
    found = summed_rows(
        ptr, np.array([i for i, _ in flat], np.int32), np.array([x for _, x in flat], np.float64)
    )
    found.check("rows", len(rows), 41)
    for number, row in enumerate(rows):
        sums: dict[int, float] = {}
        for i, x in row:
            if i >= 0:
                sums[i] = sums[i] + x if i in sums else x
        part = found.slice(number, number + 1)
        assert part.indices.tolist() == sorted(sums)
        assert part.values.tolist() == [sums[i] for i in sorted(sums)]


@settings(max_examples=40, deadline=None)
@given(terms=st.sets(st.binary(max_size=12), max_size=40), others=st.lists(st.binary(max_size=12)))
def test_term_table_finds_what_it_holds_and_nothing_else(terms: set[bytes], others: list[bytes]) -> None:
    held = sorted(terms)
    wanted = held + others
    found = TermTable.of(ByteStrings.of(held)).find(ByteStrings.of(wanted))
    assert found.tolist() == [held.index(w) if w in terms else -1 for w in wanted]


def test_ascii_kernel_cuts_and_lowers_as_arrow_does_for_every_character() -> None:
    texts = [f"a{chr(c)}B" for c in range(128)] + ["", " ", "One  two,THREE.", "x"]
    array = pa.array(texts, pa.large_string())
    split = pc.split_pattern_regex(pc.utf8_lower(array), pattern=tokens.WORD_BREAK)
    expected = [[token for token in row if token] for row in split.to_pylist()]
    ptr, strings, codes = tokens.tokens(ByteStrings.of(texts))
    assert codes is None
    found = [token.decode() for token in strings.to_list()]
    assert [found[a:b] for a, b in itertools.pairwise(ptr)] == expected


def test_tokens_of_mixed_scripts_keep_the_order_of_rows() -> None:
    texts = ["Plain text", "Ünï-cödé ÀB", "", "क्षि 12", "last ONE"]
    ptr, strings, codes = tokens.tokens(ByteStrings.of(texts))
    assert codes is not None
    found = [strings[int(code)].decode() for code in codes]
    rows = [found[a:b] for a, b in itertools.pairwise(ptr)]
    assert rows == [["plain", "text"], ["ünï", "cödé", "àb"], [], ["क्षि", "12"], ["last", "one"]]


# ---- counts, units, batches -----------------------------------------------------------------------------


def test_nulls_and_unknown_terms_are_counted_by_column(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.parquet",
        {
            "age": [1.0, None, None],
            "tags": [["x", None], None, ["y"]],
            "job": ["a", "", "b"],
            "user": ["u", None, ""],
        },
    )
    features = {"b": ["age", "tags", {"column": "job", "kind": "categorical"}]}
    (_,), index = encoded(path, features, entities=("user",))
    other = write(
        tmp_path / "other.parquet",
        {"age": [1.0], "tags": [["new", "x", "new"]], "job": ["c"], "user": ["u"]},
    )
    data = DataConfig.model_validate({"train": str(path), "validation": str(other)})
    splits, encoding = inspect_data(data, columns_of(features), ("user",), "logistic_regression")
    first, second = (encode_split(split, encoding, index) for split in splits)
    assert first.nulls == {"b.age": 2, "b.job": 1, "b.tags": 1, "user": 2}
    assert first.unknown == {}
    assert second.nulls == {}
    assert second.unknown == {"b.job": 1, "b.tags": 2}
    assert cells(second, "b") == [{0: 1.0, 3: 1.0}]


def test_many_batches_and_row_groups_give_what_one_batch_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    columns = {
        "x": np.round(rng.normal(size=500), 3),
        "job": rng.choice(["a", "b", "c", None], 500).tolist(),
        "user": rng.integers(0, 50, 500),
    }
    features = {"b": ["x", {"column": "job", "kind": "categorical"}]}
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    (whole,), _ = encoded(write(tmp_path / "one" / "r.parquet", columns), features, entities=("user",))
    monkeypatch.setattr(readers, "BATCH_ROWS", 37)
    path = write(tmp_path / "many" / "r.parquet", columns, row_group_size=111)
    (pieces,), _ = encoded(path, features, entities=("user",))
    for name in ("uid", "row"):
        np.testing.assert_array_equal(getattr(pieces.rows, name), getattr(whole.rows, name))
    for name in ("label", "weight", "offset"):
        np.testing.assert_array_equal(pieces.rows.numbers[name], whole.rows.numbers[name])
    for name in ("indptr", "indices", "values"):
        a, b = (getattr(split.rows.bags["b"], name) for split in (pieces, whole))
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert pieces.rows.entities["user"].ids.to_list() == whole.rows.entities["user"].ids.to_list()
    assert pieces.nulls == whole.nulls


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int64(), [7, None, -3], [b"7", b"", b"-3"]),
        (pa.uint64(), [2**64 - 1], [b"18446744073709551615"]),
        (pa.large_string(), ["é", None], ["é".encode(), b""]),
        (pa.dictionary(pa.int8(), pa.string()), ["b", "a", "b"], [b"b", b"a", b"b"]),
        (pa.null(), [None], [b""]),
    ],
)
def test_entity_ids_are_utf8_and_integers_in_decimal(
    kind: pa.DataType, values: list[Any], expected: list[bytes]
) -> None:
    column, faults = column_values.entity_ids(pa.array(values, kind), "user")
    assert not faults
    assert column.ids.to_list() == expected
    assert column.missing.tolist() == [int(not one) for one in expected]


def test_longest_entity_id_is_that_of_the_store() -> None:
    assert column_values.MAX_ENTITY_BYTES == keys.MAX_ENTITY_BYTES
    ids = ["x" * 256, "x" * 257, ":" * 85 + "x", ":" * 86, "\x01\x7f{}%:" * 14, "é" * 129]
    _, faults = column_values.entity_ids(pa.array(ids), "user")
    escaped = [len(keys.escape(one.encode())) > keys.MAX_ENTITY_BYTES for one in ids]
    assert faults[0].rows.tolist() == np.flatnonzero(escaped).tolist() == [1, 3, 5]


def test_offset_and_weight_come_from_their_columns_else_zero_and_one(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", {"w": [2, 0], "o": pa.array([1, -1], pa.int8())})
    (split,), _ = encoded(path, {}, roles={"weight": "w", "offset": "o"})
    assert split.rows.numbers["weight"].tolist() == [2.0, 0.0]
    assert split.rows.numbers["offset"].tolist() == [1.0, -1.0]
    (plain,), _ = encoded(path, {})
    assert plain.rows.numbers["weight"].tolist() == [1.0, 1.0]
    assert plain.rows.numbers["offset"].tolist() == [0.0, 0.0]


# ---- bad rows -------------------------------------------------------------------------------------------


def failure(path: Path, features: dict[str, list[Any]] | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        encoded(path, features or {}, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        (
            {"label": [0.0, 2.0, -1.0]},
            {},
            (
                "column 'label': 2 rows are not allowed: row 2 (uid 101) holds 2.0, row 3 (uid 102) holds "
                "-1.0; allowed: 0 or 1, for task logistic_regression"
            ),
        ),
        (
            {"label": [0.0, -1.0, math.inf]},
            {"task": "poisson_regression"},
            (
                "2 rows are not allowed: row 2 (uid 101) holds -1.0, row 3 (uid 102) holds inf; "
                "allowed: finite numbers, 0 or more, for task poisson_regression"
            ),
        ),
        (
            {"label": [0.0, math.nan]},
            {"task": "linear_regression"},
            "column 'label': 1 row is not allowed: row 2 (uid 101) holds nan; allowed: finite numbers",
        ),
        ({"label": [0.0, None]}, {}, "row 2 (uid 101) holds null; allowed: a value in every row"),
        (
            {"w": [-1.0, math.nan]},
            {"roles": {"weight": "w"}},
            (
                "column 'w': 2 rows are not allowed: row 1 (uid 100) holds -1.0, row 2 (uid 101) holds nan; "
                "allowed: finite numbers, 0 or more"
            ),
        ),
        ({"w": [1.0, None]}, {"roles": {"weight": "w"}}, "column 'w': 1 row is not allowed"),
        ({"o": [1.0, math.inf]}, {"roles": {"offset": "o"}}, "row 2 (uid 101) holds inf; allowed: finite"),
        ({"uid": [1, None]}, {}, "column 'uid': 1 row is not allowed: row 2 holds null; allowed: integers"),
        (
            {"uid": pa.array([2**63, 1], pa.uint64())},
            {},
            "column 'uid': 1 row is not allowed: row 1 holds 9223372036854775808; allowed: integers",
        ),
        (
            {"user": ["ok", "y" * 300]},
            {"entities": ("user",)},
            "column 'user': 1 row is not allowed: row 2 (uid 101) holds 'yyy",
        ),
    ],
)
def test_rows_that_break_a_rule_are_named(
    columns: dict[str, Any], options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.parquet", columns)
    message = failure(path, **options)
    assert message.startswith(f"{path}: column ")
    assert expected in message


@pytest.mark.parametrize(
    ("values", "column", "expected"),
    [
        (
            [1.0, math.nan, -math.inf],
            "x",
            "row 2 (uid 101) holds nan, row 3 (uid 102) holds -inf; allowed: fin",
        ),
        (
            [[1.0, 2.0], [1.0]],
            {"column": "x", "kind": "vector"},
            "row 2 (uid 101) holds 1 numbers; allowed: ve",
        ),
        ([[1.0, math.nan]], {"column": "x", "kind": "vector"}, "row 1 (uid 100) holds nan; allowed: finite"),
        (
            [{"indices": [0, 9], "values": [1.0, 1.0]}],
            {"column": "x", "kind": "vector", "dimension": 4},
            "row 1 (uid 100) holds index 9; allowed: indices from 0 to 3",
        ),
        (
            [{"indices": [0], "values": [1.0, 1.0]}],
            {"column": "x", "kind": "vector", "dimension": 4},
            "row 1 (uid 100) holds 1 indices and 2 values; allowed: as many indices as values",
        ),
    ],
)
def test_features_that_break_a_rule_are_named(
    values: list[Any], column: Any, expected: str, tmp_path: Path
) -> None:
    assert expected in failure(write(tmp_path / "rows.parquet", {"x": values}), {"b": [column]})


def test_all_faults_of_a_split_come_in_one_message_with_five_examples(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.parquet",
        {"label": [3.0] * 7 + [1.0], "w": [1.0] * 7 + [-2.0]},
        row_group_size=3,
    )
    message = failure(path, roles={"weight": "w"})
    first, second = message.splitlines()
    assert "7 rows are not allowed: row 1 (uid 100)" in first
    assert "row 5 (uid 104) holds 3.0, …; allowed: 0 or 1" in first
    assert "row 6" not in first
    assert second.startswith(f"{path}: column 'w': 1 row is not allowed: row 8 (uid 107) holds -2.0")


def test_a_file_that_changed_its_types_since_it_was_inspected_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", {"x": [1.0, 2.0]})
    data = DataConfig.model_validate({"train": str(path)})
    splits, encoding = inspect_data(data, columns_of({"b": ["x"]}), (), "logistic_regression")
    write(path, {"x": pa.array([0, 1], pa.timestamp("ms"))})
    with pytest.raises(DataError) as caught:
        index_split(splits[0], encoding, tmp_path)
    assert str(caught.value) == (
        f"{path}: column 'x' is of type timestamp[ms]; allowed: numbers and booleans"
    )
