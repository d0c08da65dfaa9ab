"""Several numbers per row on their way from partitions to home shards and back, through real files."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.data.array_file import write_arrays
from gdmix_core.data.partitions import build_partition, read_partition
from gdmix_core.data.row_exchange import (
    add_rows_of_partitions,
    rows_of_shards,
    write_rows_of_partition,
    write_rows_of_shard,
)
from gdmix_core.errors import InternalError

PARTITIONS = 3


@pytest.fixture
def built(plane, tmp_path):
    """A data set of two home shards, and the three partitions of `per_user`."""
    data = plane(rows=70, shards=2)
    for shard in range(data.shards):
        data.build(shard)
    partitions = []
    for partition in range(PARTITIONS):
        build_partition(partition, data.groupings("per_user"), tmp_path / f"partition-{partition}")
        partitions.append(read_partition(tmp_path / f"partition-{partition}"))
    assert sum(partition.rows for partition in partitions) > 40
    return data, partitions


def numbers_of(row, columns: int) -> np.ndarray:
    """Return what a row is known by in these tests."""
    return (row.uid / 2.0 + np.arange(columns)).astype(np.float32)


def rows_in_order(data, partition, columns: int) -> np.ndarray:
    """Return the numbers of a partition's rows, row i's at order[i]."""
    rows = np.zeros((partition.rows, columns), np.float32)
    for i, (shard, position) in enumerate(zip(partition.shard, partition.position, strict=True)):
        rows[partition.order[i]] = numbers_of(data.rows[shard][position], columns)
    return rows


def write_partitions(data, partitions, columns: int, directory) -> list:
    paths = [directory / f"from-partition-{number}" for number in range(PARTITIONS)]
    for path, partition in zip(paths, partitions, strict=True):
        write_rows_of_partition(path, partition, rows_in_order(data, partition, columns))
    return paths


@pytest.mark.parametrize("columns", [1, 31])
def test_what_partitions_write_is_added_to_the_shards_rows(built, tmp_path, columns: int) -> None:
    data, partitions = built
    paths = write_partitions(data, partitions, columns, tmp_path)
    for shard, rows in enumerate(data.rows):
        total = np.full((len(rows), columns), 0.5, np.float32)
        for _ in range(2):
            add_rows_of_partitions(total, shard, data.groupings("per_user")[shard], paths)
        expected = [
            0.5 + (0.0 if row.user is None else 2.0) * numbers_of(row, columns).astype(float) for row in rows
        ]
        assert any(row.user is None for row in rows)
        np.testing.assert_array_equal(total, np.array(expected, np.float32))


@pytest.mark.parametrize("columns", [1, 31])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "as they are"])
def test_what_shards_write_reaches_the_partitions_rows(built, tmp_path, columns: int, weighted: bool) -> None:
    data, partitions = built
    paths = []
    for shard, rows in enumerate(data.rows):
        paths.append(tmp_path / f"from-shard-{shard}")
        numbers = np.array([numbers_of(row, columns) for row in rows])
        weights = np.array([row.weight for row in rows]) if weighted else None
        write_rows_of_shard(paths[-1], numbers, weights, data.groupings("per_user")[shard])
    for number, partition in enumerate(partitions):
        found = rows_of_shards(number, paths, partition, columns)
        assert (found.dtype, found.shape) == (np.float32, (partition.rows, columns))
        for i, (shard, position) in enumerate(zip(partition.shard, partition.position, strict=True)):
            row = data.rows[shard][position]
            factor = np.float32(row.weight if weighted else 1.0)
            np.testing.assert_array_equal(found[partition.order[i]], factor * numbers_of(row, columns))


def test_numbers_come_back_from_the_shards_as_the_partitions_sent_them(built, tmp_path) -> None:
    data, partitions = built
    paths = write_partitions(data, partitions, 4, tmp_path)
    back = []
    for shard, rows in enumerate(data.rows):
        spill = data.groupings("per_user")[shard]
        total = np.zeros((len(rows), 4), np.float32)
        add_rows_of_partitions(total, shard, spill, paths)
        back.append(tmp_path / f"back-{shard}")
        write_rows_of_shard(back[-1], total, None, spill)
    for number, partition in enumerate(partitions):
        found = rows_of_shards(number, back, partition, 4)
        np.testing.assert_array_equal(found, rows_in_order(data, partition, 4))


def test_one_home_shard_and_partitions_without_rows_are_no_exception(plane, make_row, tmp_path) -> None:
    data = plane(given=[[make_row(1, b"a"), make_row(2, None), make_row(3, b"a")]], shards=1)
    data.build(0)
    (spill,) = data.groupings("per_user")
    partitions = []
    for number in range(PARTITIONS):
        build_partition(number, [spill], tmp_path / f"partition-{number}")
        partitions.append(read_partition(tmp_path / f"partition-{number}"))
    assert sorted(partition.rows for partition in partitions) == [0, 0, 2]
    total = np.zeros((3, 2), np.float32)
    add_rows_of_partitions(total, 0, spill, write_partitions(data, partitions, 2, tmp_path))
    assert total.tolist() == [[0.5, 1.5], [0.0, 0.0], [1.5, 2.5]]
    write_rows_of_shard(tmp_path / "back", total, None, spill)
    for number, partition in enumerate(partitions):
        found = rows_of_shards(number, [tmp_path / "back"], partition, 2)
        np.testing.assert_array_equal(found, rows_in_order(data, partition, 2))


def test_files_that_do_not_fit_are_refused(built, tmp_path) -> None:
    data, partitions = built
    spill = data.groupings("per_user")[0]
    from_partitions = write_partitions(data, partitions, 2, tmp_path)
    size = len(data.rows[0])
    with pytest.raises(InternalError, match=r"'columns': 2.*expected.*'columns': 3"):
        add_rows_of_partitions(np.zeros((size, 3), np.float32), 0, spill, from_partitions)
    from_shards = []
    for shard, rows in enumerate(data.rows):
        from_shards.append(tmp_path / f"from-shard-{shard}")
        write_rows_of_shard(
            from_shards[-1],
            np.zeros((len(rows), 2), np.float32),
            None,
            data.groupings("per_user")[shard],
        )
    with pytest.raises(InternalError, match=r"'columns': 2.*expected.*'columns': 1"):
        rows_of_shards(0, from_shards, partitions[0], 1)
    with pytest.raises(InternalError, match=r"'kind': 'shard'.*expected.*'kind': 'partition'"):
        add_rows_of_partitions(np.zeros((size, 2), np.float32), 0, spill, [from_shards[0]] * PARTITIONS)
    with pytest.raises(InternalError, match=r"'kind': 'partition'.*expected.*'kind': 'shard'"):
        rows_of_shards(0, from_partitions[:2], partitions[0], 2)


def test_files_of_other_rows_are_refused(built, tmp_path) -> None:
    data, partitions = built
    spill = data.groupings("per_user")[0]
    paths = write_partitions(data, partitions, 2, tmp_path)
    with pytest.raises(InternalError, match=r"part 0 has \d+ rows; expected \d+"):
        add_rows_of_partitions(np.zeros((len(data.rows[0]), 2), np.float32), 0, spill, paths[::-1])
    write_rows_of_shard(tmp_path / "shard", np.zeros((len(data.rows[0]), 2), np.float32), None, spill)
    with pytest.raises(InternalError, match=r"part 0 has \d+ rows; expected \d+"):
        rows_of_shards(0, [tmp_path / "shard"] * 2, partitions[0], 2)


def test_a_file_of_another_format_is_refused(built, tmp_path) -> None:
    _, partitions = built
    facts = {"format": 0, "kind": "shard", "columns": 1}
    write_arrays(
        tmp_path / "old", [{"ptr": np.zeros(4, np.int64), "numbers": np.zeros(0, np.float32)}], facts
    )
    with pytest.raises(InternalError, match=r"'format': 0.*expected"):
        rows_of_shards(0, [tmp_path / "old"] * 2, partitions[0], 1)
