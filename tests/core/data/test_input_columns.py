"""Columns that plug-ins read: their values, and their way from files into home shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.config import DataConfig
from gdmix_core.data.encoding import encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.home_shards import HomeShardPaths, build_home_shard
from gdmix_core.data.input_batches import read_inputs
from gdmix_core.data.input_columns import write_input_spill
from gdmix_core.data.input_values import INPUT_TYPES, input_values
from gdmix_core.data.inspection import inspect_data
from gdmix_core.data.layout import InputSpec
from gdmix_core.data.spill import shard_order, write_spill
from gdmix_core.errors import ConfigError, DataError, InternalError

Kind = Literal["number", "string", "strings", "vector", "sparse"]
SPARSE = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])


@pytest.mark.parametrize(
    ("kind", "array", "values", "nulls"),
    [
        ("number", pa.array([1, None, 3]), [1.0, None, 3.0], 1),
        ("number", pa.array([True, False]), [1.0, 0.0], 0),
        ("string", pa.array(["a", "", None, "é"]), ["a", None, None, "é"], 2),
        ("string", pa.array([7, None, -1]), ["7", None, "-1"], 1),
        ("string", pa.array([True, None]), ["true", None], 1),
        ("string", pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"], 0),
        ("strings", pa.array([["a", None, ""], [], None, ["b", "c"]]), [["a"], [], None, ["b", "c"]], 1),
        ("strings", pa.array([[1, 2], [3]]), [["1", "2"], ["3"]], 0),
        ("vector", pa.array([[1.0, 2.0], None, [None, 4.0]]), [[1.0, 2.0], [0.0, 0.0], [0.0, 4.0]], 2),
        ("vector", pa.array([[1.5, 2.0]], pa.list_(pa.float64(), 2)), [[1.5, 2.0]], 0),
        (
            "sparse",
            pa.array([{"indices": [1, 0, 1], "values": [1.0, 2.0, 0.5]}, None], SPARSE),
            [{"indices": [0, 1], "values": [2.0, 1.5]}, None],
            1,
        ),
    ],
)
def test_values_of_a_column(kind: Kind, array: pa.Array, values: list[Any], nulls: int) -> None:
    spec = InputSpec(name="x", kind=kind, dimension=2 if kind in {"vector", "sparse"} else None)
    padded = pa.concat_arrays([array.slice(0, 1), array])
    for found in (input_values(array, spec), input_values(padded.slice(1), spec)):
        assert found.array.type == INPUT_TYPES[kind]
        assert found.array.to_pylist() == values
        assert (found.nulls, found.faults) == (nulls, [])


@pytest.mark.parametrize(
    ("kind", "array", "row"),
    [
        ("number", pa.array([1.0, float("inf")]), 1),
        ("vector", pa.array([[1.0, 2.0], [1.0, 1e300]]), 1),
        ("vector", pa.array([[1.0, 2.0, 3.0], [1.0, 2.0]]), 0),
        (
            "sparse",
            pa.array([{"indices": [0], "values": [1.0]}, {"indices": [2], "values": [1.0]}], SPARSE),
            1,
        ),
        ("sparse", pa.array([{"indices": [0], "values": [1e300]}], SPARSE), 0),
    ],
)
def test_values_that_are_not_allowed_are_faults_of_their_rows(kind: Kind, array: pa.Array, row: int) -> None:
    found = input_values(array, InputSpec(name="x", kind=kind, dimension=None if kind == "number" else 2))
    assert len(found.array) == len(array)
    assert [int(fault.rows[0]) for fault in found.faults] == [row]


@pytest.mark.parametrize(
    ("kind", "array"),
    [("string", pa.array([1.5])), ("strings", pa.array(["a"])), ("strings", pa.array([[1.5]]))],
)
def test_columns_of_another_type_are_refused(kind: Kind, array: pa.Array) -> None:
    with pytest.raises(DataError, match=r"column 'x' is of type .*; allowed for"):
        input_values(array, InputSpec(name="x", kind=kind))


def test_columns_reach_their_shard_from_any_source_in_the_order_of_uids(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    uid = rng.permutation(500)
    main = pa.table(
        {"uid": uid, "label": uid % 2, "age": uid * 0.5, "name": [f"n{u}" if u % 7 else None for u in uid]}
    )
    there = rng.permutation(uid[uid % 5 > 0])
    more = pa.table({"uid": there, "size": [[u, u + 1.0] for u in there]})
    pq.write_table(main, tmp_path / "main.parquet", row_group_size=90)
    pq.write_table(more, tmp_path / "more.parquet", row_group_size=70)
    data = DataConfig.model_validate(
        {
            "train": str(tmp_path / "main.parquet"),
            "sources": {"more": {"train": str(tmp_path / "more.parquet")}},
        }
    )
    wanted = {
        "a": (InputSpec(name="size", kind="vector"), InputSpec(name="age", kind="number")),
        "b": (InputSpec(name="name", kind="string"),),
    }
    splits, encoding = inspect_data(data, {}, (), "logistic_regression", {}, wanted)
    assert [(c.name, c.dimension, c.source) for c in encoding.inputs["a"]] == [
        ("size", 2, "more"),
        ("age", None, ""),
    ]
    index = make_index(tmp_path, splits, encoding)
    spills: dict[str, list[Path]] = {}
    input_spills: dict[str, list[Path]] = {}
    for number, split in enumerate(splits):
        encoded = encode_split(split, encoding, index)
        spills.setdefault(split.source, []).append(tmp_path / f"spill-{number}")
        input_spills.setdefault(split.source, []).append(tmp_path / f"inputs-{number}")
        write_spill(tmp_path / f"spill-{number}", encoded.rows, 3)
        if encoded.inputs:
            write_input_spill(
                tmp_path / f"inputs-{number}", encoded.inputs, *shard_order(encoded.rows.uid, 3)
            )
    seen: list[int] = []
    for shard in range(3):
        paths = HomeShardPaths(
            rows=tmp_path / f"rows-{shard}",
            designs={},
            groupings={},
            inputs={name: tmp_path / f"{name}-{shard}" for name in wanted},
        )
        build_home_shard(
            shard,
            spills,
            paths,
            designs=[],
            groupings=[],
            bag_sizes={},
            inputs=encoding.inputs,
            input_spills=input_spills,
        )
        a, b = read_inputs(paths.inputs["a"]), read_inputs(paths.inputs["b"])
        assert a.schema.names == ["size", "age"]
        here = [int(2 * age) for age in a.column("age").to_pylist()]
        assert here == sorted(here)
        assert a.column("size").to_pylist() == [[u, u + 1.0] if u % 5 else [0.0, 0.0] for u in here]
        assert b.column("name").to_pylist() == [f"n{u}" if u % 7 else None for u in here]
        seen += here
    assert sorted(seen) == list(range(500))


def make_index(directory: Path, splits: Any, encoding: Any) -> FeatureIndex:
    partial = []
    for number, split in enumerate(splits):
        partial.append(directory / f"partial-{number}")
        partial[-1].mkdir()
        index_split(split, encoding, partial[-1])
    merge_index(encoding, partial, directory)
    return FeatureIndex.load(directory)


def test_all_that_is_wrong_with_columns_is_told_at_once(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "uid": [1, 2],
                "label": [0, 1],
                "text": ["a", "b"],
                "empty": pa.array([None, None], pa.list_(pa.float32())),
            }
        ),
        tmp_path / "t.parquet",
    )
    data = DataConfig.model_validate({"train": str(tmp_path / "t.parquet")})
    wanted = {
        "trees": (
            InputSpec(name="text", kind="number"),
            InputSpec(name="empty", kind="vector"),
            InputSpec(name="absent", kind="string"),
        )
    }
    with pytest.raises(ConfigError) as caught:
        inspect_data(data, {}, (), "logistic_regression", {}, wanted)
    assert "column 'text' (coordinates.trees, kind number): found type string; allowed: numbers" in str(
        caught.value
    )
    assert "'absent'" in str(caught.value)


def test_a_file_of_columns_that_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"no arrow file")
    for name in ("broken", "absent"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_inputs(tmp_path / name)
    write_input_spill(tmp_path / "one", {"a/x": pa.array([1.0])}, np.array([0]), np.array([0, 1]))
    with pytest.raises(InternalError, match="has 1 batches, asked for number 1"):
        read_inputs(tmp_path / "one", 1)
