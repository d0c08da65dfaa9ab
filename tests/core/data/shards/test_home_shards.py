from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from gdmix_core.data.array_file import ArrayFile, read_segment
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows, bag_shifts
from gdmix_core.data.home_shards import build_home_shard
from gdmix_core.data.layout import GroupingSpec
from gdmix_core.data.spill import EncodedRows, read_spill, write_spill
from gdmix_core.errors import DataError, InternalError


def to_dense(matrix: SparseRows, dimension: int) -> np.ndarray:
    return csr_array((matrix.values, matrix.indices, matrix.indptr), (matrix.rows, dimension)).toarray()


def test_spill_keeps_input_order_inside_a_shard(plane) -> None:
    data = plane(splits=1)
    seen = []
    for shard in range(data.shards):
        segment = read_spill(data.spills[0], shard)
        assert segment.source == "part-0.csv"
        rows = segment.arrays["row"]
        assert np.all(np.diff(rows) > 0)
        assert [data.splits[0][row].uid for row in rows] == segment.arrays["uid"].tolist()
        assert set(segment.arrays["uid"]) == {row.uid for row in data.rows[shard]}
        column = segment.entity("user_id")
        assert column.missing.tolist() == [data.splits[0][row].user is None for row in rows]
        assert column.ids.to_list() == [data.splits[0][row].user or b"" for row in rows]
        assert to_dense(segment.bag("movie"), 7)[:, 3].tolist() == [
            data.splits[0][row].bags["movie"].get(3, 0.0) for row in rows
        ]
        seen += rows.tolist()
    assert sorted(seen) == list(range(60))


def test_shard_file_holds_rows_by_uid(plane) -> None:
    data = plane()
    for shard, rows in enumerate(data.rows):
        summary = data.build(shard)
        arrays = read_segment(data.paths(shard).rows)
        for name in ("uid", "label", "weight", "offset"):
            assert arrays[name].tolist() == [getattr(row, name) for row in rows]
        assert summary.rows == len(rows)
        assert summary.weight == pytest.approx(sum(row.weight for row in rows), rel=1e-14)
        missing = sum(row.user is None for row in rows)
        assert summary.without_entity == {"per_user": missing, "by_user": missing}


def test_design_joins_the_bags_behind_the_intercept(plane, dense) -> None:
    data = plane()
    for shard, rows in enumerate(data.rows):
        summary = data.build(shard)
        with ArrayFile(data.paths(shard).designs["global"]) as file:
            matrix = SparseRows.from_arrays(file.segment(0))
            assert file.metadata["dimension"] == 13
            assert file.metadata["intercept"] is True
        matrix.check("design", len(rows), 13)
        expected = np.array([dense(row, ("user", "movie"), True) for row in rows])
        expected[:, 0] = 0.0  # the intercept is implicit
        assert np.array_equal(to_dense(matrix, 13), expected)
        assert summary.nonzeros["global"] == len(matrix.indices)


@pytest.mark.parametrize("name", ["per_user", "by_user"])
def test_groupings_cut_the_rows_by_entity(plane, dense, name: str) -> None:
    data = plane()
    bags = ("movie", "user") if name == "per_user" else None
    for shard, rows in enumerate(data.rows):
        data.build(shard)
        with ArrayFile(data.paths(shard).groupings[name]) as file:
            assert file.segments == file.metadata["partitions"] == (3 if bags else 2)
            for partition in range(file.segments):
                arrays = file.segment(partition)
                expected = [
                    (position, row)
                    for entity in data.entities(partition, file.segments).values()
                    for where, position, row in entity
                    if where == shard
                ]
                expected.sort(key=lambda found: found[0])
                assert arrays["position"].tolist() == [position for position, _ in expected]
                assert ByteStrings.from_arrays(arrays, "entity").to_list() == [
                    row.user for _, row in expected
                ]
                assert arrays["label"].tolist() == [row.label for _, row in expected]
                assert arrays["weight"].tolist() == [row.weight for _, row in expected]
                if bags is None:
                    assert "indptr" not in arrays
                elif expected:
                    found = to_dense(SparseRows.from_arrays(arrays), 13)
                    found[:, 0] = 1.0
                    assert np.array_equal(found, [dense(row, bags, True) for _, row in expected])
        assert len(rows) >= sum(row.user is not None for row in rows)


def test_files_do_not_depend_on_how_the_input_was_cut(plane) -> None:
    first, second = plane(splits=1), plane(splits=5)
    for shard in range(first.shards):
        first.build(shard)
        second.build(shard)
        a, b = first.paths(shard), second.paths(shard)
        assert a.rows.read_bytes() == b.rows.read_bytes()
        assert a.designs["global"].read_bytes() == b.designs["global"].read_bytes()
        for name in a.groupings:
            assert a.groupings[name].read_bytes() == b.groupings[name].read_bytes()


def test_duplicate_uids_are_named_with_both_places(plane, make_row) -> None:
    data = plane(given=[[make_row(7), make_row(8)], [make_row(9), make_row(7)]], shards=1)
    with pytest.raises(DataError, match=r"uid 7 \(part-0.csv row 1; part-1.csv row 2\)$"):
        data.build(0)
    assert not data.paths(0).rows.exists()


def test_five_duplicates_are_named_and_the_others_counted(plane, make_row) -> None:
    rows = [make_row(uid) for uid in range(8)]
    data = plane(given=[rows, rows, rows[:1]], shards=1)
    with pytest.raises(DataError) as caught:
        data.build(0)
    assert str(caught.value).count("uid ") == 6  # one in the sentence itself
    assert str(caught.value).endswith("uid 4 (part-0.csv row 5; part-1.csv row 5); and 3 more in this shard")


def test_empty_splits_and_empty_shards_are_fine(plane, make_row) -> None:
    data = plane(given=[[], [make_row(1)]], shards=3)
    assert sum(data.build(shard).rows for shard in range(3)) == 1
    empty = next(shard for shard in range(3) if not data.rows[shard])
    assert read_segment(data.paths(empty).designs["global"])["indptr"].tolist() == [0]


def test_specs_must_name_what_the_spills_hold(plane, make_row) -> None:
    data = plane(given=[[make_row(1)]], shards=1)
    spec = GroupingSpec(name="by_user", entity_column="item", partitions=1, bags=None, intercept=False)
    with pytest.raises(InternalError, match="holds no entity column 'item'"):
        build_home_shard(0, {"": data.spills}, data.paths(0), designs=[], groupings=[spec], bag_sizes={})
    with pytest.raises(InternalError, match="home shard 0 has no encoded splits"):
        build_home_shard(0, {"": []}, data.paths(0), designs=[], groupings=[], bag_sizes={})


def test_features_outside_of_their_bag_are_refused(plane, make_row) -> None:
    row = make_row(1)
    row.bags["user"] = {5: 1.0}
    with pytest.raises(
        InternalError, match="feature bag 'user': features of row 0 must be strictly increasing"
    ):
        plane(given=[[row]], shards=1).build(0)


def test_spill_refuses_arrays_that_do_not_fit(tmp_path) -> None:
    column = np.zeros(2)
    numbers = np.arange(2)
    bag = SparseRows(np.array([0, 2, 2]), np.array([1, 1], np.int32), np.ones(2))
    rows = EncodedRows("x.csv", numbers, numbers, {"label": column}, {}, {"b": bag})
    with pytest.raises(InternalError, match=r"x\.csv: feature bag 'b': features of row 0"):
        write_spill(tmp_path / "spill", rows, 1)
    rows = EncodedRows("x.csv", numbers, numbers, {"label": column[:1]}, {}, {})
    with pytest.raises(InternalError, match="array 'label' does not fit 2 rows"):
        write_spill(tmp_path / "spill", rows, 1)


def test_a_feature_space_beyond_int32_is_refused() -> None:
    with pytest.raises(DataError, match="2147483650 features together; allowed: 2147483647"):
        bag_shifts(("a", "b"), {"a": 2**31 - 1, "b": 2}, intercept=True)
