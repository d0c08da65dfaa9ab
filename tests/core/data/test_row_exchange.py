"""Numbers per row on their way between home shards and partitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdmix_core.data.array_file import write_arrays
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.partitions import ScoringPartition
from gdmix_core.data.row_exchange import (
    add_rows_of_partitions,
    rows_of_shards,
    write_rows_of_partition,
    write_rows_of_shard,
)
from gdmix_core.errors import InternalError

SHARDS, PARTITIONS, ROWS, COLUMNS = 2, 3, 40, 4


def layout(directory: Path) -> tuple[list[Path], list[ScoringPartition], list[np.ndarray]]:
    """Spills of all shards, partitions of all rows that have an entity, and the rows' partitions by shard."""
    random = np.random.default_rng(0)
    of_rows = [random.integers(-1, PARTITIONS, ROWS) for _ in range(SHARDS)]  # −1: no entity
    spills = []
    for shard, of_row in enumerate(of_rows):
        spills.append(directory / f"spill-{shard}.arrow")
        segments = [{"position": np.flatnonzero(of_row == p).astype(np.int64)} for p in range(PARTITIONS)]
        write_arrays(spills[-1], segments)
    partitions = []
    for number in range(PARTITIONS):
        positions = [np.flatnonzero(of_row == number) for of_row in of_rows]
        lengths = [len(position) for position in positions]
        order = random.permutation(sum(lengths))
        shard = np.repeat(np.arange(SHARDS, dtype=np.int32), lengths)
        partitions.append(
            ScoringPartition(
                ids=ByteStrings.of([b"entity"]),
                row_ptr=np.array([0, len(order)]),
                shard=shard[order],
                position=np.concatenate(positions)[order],
                label=np.zeros(len(order)),
                weight=np.ones(len(order)),
                order=order,
                shard_ptr=np.cumsum([0, *lengths]),
                matrix=SparseRows(np.zeros(len(order) + 1, np.int64), np.empty(0, np.int32), np.empty(0)),
                intercept=True,
                dimension=1,
            )
        )
    return spills, partitions, of_rows


def test_numbers_of_partitions_reach_their_rows_and_come_back(tmp_path: Path) -> None:
    spills, partitions, of_rows = layout(tmp_path)
    random = np.random.default_rng(1)
    expected = [np.zeros((ROWS, COLUMNS), np.float32) for _ in range(SHARDS)]
    paths = []
    for number, partition in enumerate(partitions):
        own = random.normal(size=(len(partition.order), COLUMNS)).astype(np.float32)
        for row in range(len(own)):  # row i of the partition is the shard's row at its position
            expected[partition.shard[row]][partition.position[row]] = own[row]
        rows = np.empty_like(own)
        rows[partition.order] = own
        paths.append(tmp_path / f"partition-{number}.arrow")
        write_rows_of_partition(paths[-1], partition, rows)
    totals = [np.full((ROWS, COLUMNS), 2.0, np.float32) for _ in range(SHARDS)]
    for shard in range(SHARDS):
        add_rows_of_partitions(totals[shard], shard, spills[shard], paths)
        np.testing.assert_array_equal(totals[shard], expected[shard] + np.float32(2.0))
        assert np.all(totals[shard][of_rows[shard] < 0] == 2.0)
    for weighted in (False, True):
        weights = [random.uniform(size=ROWS) if weighted else None for _ in range(SHARDS)]
        back = []
        for shard in range(SHARDS):
            back.append(tmp_path / f"shard-{shard}-{weighted}.arrow")
            write_rows_of_shard(back[-1], totals[shard], weights[shard], spills[shard])
        for number, partition in enumerate(partitions):
            found = rows_of_shards(number, back, partition, COLUMNS)[partition.order]
            for row in range(len(found)):
                shard, position = partition.shard[row], partition.position[row]
                of_shard = weights[shard]
                factor = np.float32(1.0 if of_shard is None else of_shard[position])
                np.testing.assert_array_equal(found[row], totals[shard][position] * factor)


def test_files_of_another_number_of_columns_or_rows_are_refused(tmp_path: Path) -> None:
    spills, partitions, _ = layout(tmp_path)
    path = tmp_path / "partition.arrow"
    first, second = partitions[0], partitions[1]
    write_rows_of_partition(path, first, np.zeros((len(first.order), COLUMNS), np.float32))
    with pytest.raises(InternalError, match="expected"):
        add_rows_of_partitions(np.zeros((ROWS, COLUMNS + 1), np.float32), 0, spills[0], [path])
    with pytest.raises(InternalError, match="expected"):
        rows_of_shards(0, [path], first, COLUMNS)  # a partition's file, not a shard's
    back = tmp_path / "shard.arrow"
    write_rows_of_shard(back, np.zeros((ROWS, COLUMNS), np.float32), None, spills[0])
    with pytest.raises(InternalError, match=r"part 0 has \d+ rows; expected \d+"):
        rows_of_shards(0, [back], second, COLUMNS)
