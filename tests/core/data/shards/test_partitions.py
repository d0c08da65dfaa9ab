from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.data.array_file import ArrayFile, write_arrays
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.home_shards import PARTITION_SPILL_FORMAT
from gdmix_core.data.partitions import (
    build_partition,
    build_scoring_partition,
    read_partition,
    read_scoring_partition,
    score_partition,
)
from gdmix_core.errors import InternalError


def build_all(data) -> None:
    for shard in range(data.shards):
        data.build(shard)


def test_training_partition_groups_rows_and_numbers_features_inside_entities(plane, dense, tmp_path) -> None:
    data = plane(rows=80, users=12)
    build_all(data)
    for partition in range(3):
        summary = build_partition(partition, data.groupings("per_user"), tmp_path / "p")
        found = read_partition(tmp_path / "p")
        expected = data.entities(partition, 3)
        assert found.ids.to_list() == list(expected)
        assert np.diff(found.row_ptr).tolist() == [len(rows) for rows in expected.values()]
        assert (summary.rows, summary.entities) == (found.rows, found.entities)
        assert summary.largest_entity == max(map(len, expected.values()), default=0)
        assert (found.intercept, found.dimension) == (True, 13)
        rows = [entry for entity in expected.values() for entry in entity]
        assert list(zip(found.shard.tolist(), found.position.tolist(), strict=True)) == [
            (shard, position) for shard, position, _ in rows
        ]
        assert found.label.tolist() == [row.label for _, _, row in rows]
        assert found.weight.tolist() == [row.weight for _, _, row in rows]
        for e, entity in enumerate(expected.values()):
            start, stop = found.coefficient_ptr[e], found.coefficient_ptr[e + 1]
            features = found.features[start:stop]
            matrix = np.array([dense(row, ("movie", "user"), True) for _, _, row in entity])
            assert features.tolist() == np.flatnonzero((matrix != 0).any(axis=0)).tolist()
            local = found.matrix.slice(found.row_ptr[e], found.row_ptr[e + 1])
            local.check("local", len(entity), stop - start)
            assert np.all(local.indices >= 1)
            assert np.array_equal(features[local.indices], np.nonzero(matrix[:, 1:])[1] + 1)
            assert np.array_equal(local.values, matrix[:, 1:][matrix[:, 1:] != 0])


def test_a_partition_does_not_depend_on_how_the_input_was_cut(plane, tmp_path) -> None:
    parts = []
    for splits in (1, 4):
        data = plane(splits=splits)
        build_all(data)
        build_partition(1, data.groupings("per_user"), tmp_path / f"p{splits}")
        parts.append((tmp_path / f"p{splits}").read_bytes())
    assert parts[0] == parts[1]


def test_a_huge_feature_space_gives_the_same_partition(tmp_path) -> None:
    """Beyond some size features are numbered by occurrence first; the outcome must not show it."""
    rng = np.random.default_rng(3)
    rows, found = 50, []
    indptr = np.arange(0, 3 * rows + 1, 3)
    columns = np.sort(np.array([rng.choice(np.arange(1, 60), 3, replace=False) for _ in range(rows)]), axis=1)
    ids = ByteStrings.of([f"e{i % 7}" for i in range(rows)])
    for dimension in (60, 10**9):
        metadata = {
            "format": PARTITION_SPILL_FORMAT,
            "grouping": "g",
            "shard": 0,
            "partitions": 1,
            "dimension": dimension,
            "intercept": True,
        }
        segment = {
            "position": np.arange(rows),
            **ids.arrays("entity"),
            "label": np.zeros(rows),
            "weight": np.ones(rows),
            "indptr": indptr,
            "indices": columns.ravel().astype(np.int32),
            "values": rng.normal(size=3 * rows),
        }
        write_arrays(tmp_path / "spill", [segment], metadata)
        build_partition(0, [tmp_path / "spill"], tmp_path / "p")
        found.append(read_partition(tmp_path / "p"))
    assert found[1].dimension == 10**9
    assert np.array_equal(found[0].features, found[1].features)
    assert np.array_equal(found[0].coefficient_ptr, found[1].coefficient_ptr)
    assert np.array_equal(found[0].matrix.indices, found[1].matrix.indices)


def test_scores_equal_dense_products_and_unseen_things_add_nothing(plane, dense, tmp_path) -> None:
    train, validation = plane(seed=1, users=9, rows=40), plane(seed=2, users=14, rows=70)
    build_all(train)
    build_all(validation)
    rng = np.random.default_rng(0)
    unseen_rows = 0
    for partition in range(3):
        build_partition(partition, train.groupings("per_user"), tmp_path / "t")
        build_scoring_partition(partition, validation.groupings("per_user"), tmp_path / "v")
        trained, rows = read_partition(tmp_path / "t"), read_scoring_partition(tmp_path / "v")
        coefficients = rng.normal(size=len(trained.features))
        theta = {}
        for e, name in enumerate(trained.ids.to_list()):
            span = slice(trained.coefficient_ptr[e], trained.coefficient_ptr[e + 1])
            theta[name] = np.zeros(13)
            theta[name][trained.features[span]] = coefficients[span]
        found = score_partition(rows, trained.ids, trained.coefficient_ptr, trained.features, coefficients)
        expected, features = [], 0
        for name, entity in validation.entities(partition, 3).items():
            for _, _, row in entity:
                x = dense(row, ("movie", "user"), True)
                expected.append(x @ theta[name] if name in theta else 0.0)
                if name in theta:
                    e = trained.ids.to_list().index(name)
                    span = slice(trained.coefficient_ptr[e], trained.coefficient_ptr[e + 1])
                    features += len(set(np.flatnonzero(x)) - set(trained.features[span].tolist()))
        assert found.scores == pytest.approx(np.array(expected), rel=1e-12, abs=1e-14)
        new = [rows for name, rows in validation.entities(partition, 3).items() if name not in theta]
        assert found.unseen_entities == len(new)
        assert found.unseen_rows == sum(map(len, new))
        assert found.unseen_features == features
        unseen_rows += found.unseen_rows
    assert unseen_rows > 0


def test_metric_partitions_have_no_features(plane, tmp_path) -> None:
    data = plane()
    build_all(data)
    build_scoring_partition(1, data.groupings("by_user"), tmp_path / "p")
    found = read_scoring_partition(tmp_path / "p")
    assert found.ids.to_list() == list(data.entities(1, 2))
    assert found.matrix.rows == found.rows
    assert len(found.matrix.indices) == 0
    with pytest.raises(InternalError, match="has no features to train on"):
        build_partition(1, data.groupings("by_user"), tmp_path / "p")


def test_an_empty_partition_is_a_partition(plane, make_row, tmp_path) -> None:
    data = plane(given=[[make_row(1, None), make_row(2, None)]], shards=2)
    build_all(data)
    assert build_partition(0, data.groupings("per_user"), tmp_path / "p").rows == 0
    found = read_partition(tmp_path / "p")
    assert (found.entities, found.rows, len(found.features)) == (0, 0, 0)
    build_scoring_partition(0, data.groupings("per_user"), tmp_path / "v")
    rows = read_scoring_partition(tmp_path / "v")
    scored = score_partition(rows, found.ids, found.coefficient_ptr, found.features, np.empty(0))
    assert (len(scored.scores), scored.unseen_entities) == (0, 0)


def test_spills_must_be_those_of_all_shards_in_order(plane, tmp_path) -> None:
    data = plane()
    build_all(data)
    with pytest.raises(InternalError, match="is not the partition spill of home shard 0"):
        build_partition(0, data.groupings("per_user")[::-1], tmp_path / "p")
    mixed = [data.groupings("per_user")[0], data.groupings("by_user")[1]]
    with pytest.raises(InternalError, match="by_user-1: is not the partition spill of home shard 1"):
        build_partition(0, mixed, tmp_path / "p")
    build_partition(0, data.groupings("per_user"), tmp_path / "p")
    with pytest.raises(InternalError, match="is not a scoring partition of format 2"):
        read_scoring_partition(tmp_path / "p")


def test_partition_files_say_nothing_about_time_or_place(plane, tmp_path) -> None:
    data = plane()
    build_all(data)
    build_partition(0, data.groupings("per_user"), tmp_path / "p")
    with ArrayFile(tmp_path / "p") as file:
        assert set(file.metadata) == {
            "format", "kind", "grouping", "partition", "partitions", "dimension", "intercept",
            "min_rows", "max_rows",
        }  # fmt: skip
