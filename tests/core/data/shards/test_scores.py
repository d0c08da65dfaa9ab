from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.data.partitions import build_partition, read_partition
from gdmix_core.data.score_blocks import read_score_block, total_offset, write_score_block
from gdmix_core.data.scores import (
    assemble_scores,
    read_home_shard,
    read_partition_offsets,
    write_offsets,
    write_partition_scores,
)
from gdmix_core.errors import InternalError


@pytest.fixture
def built(plane, tmp_path):
    """A data set with its home shards and the three partitions of `per_user`."""
    data = plane(rows=90)
    for shard in range(data.shards):
        data.build(shard)
    partitions = []
    for partition in range(3):
        build_partition(partition, data.groupings("per_user"), tmp_path / f"partition-{partition}")
        partitions.append(read_partition(tmp_path / f"partition-{partition}"))
    return data, partitions


def test_scores_reach_their_rows_and_rows_without_entity_get_zero(built, tmp_path) -> None:
    data, partitions = built
    paths = []
    for number, partition in enumerate(partitions):
        scores = np.array(
            [data.rows[s][i].uid + 0.5 for s, i in zip(partition.shard, partition.position, strict=True)]
        )
        paths.append(tmp_path / f"scores-{number}")
        write_partition_scores(paths[-1], partition, scores)
    for shard, rows in enumerate(data.rows):
        found = assemble_scores(shard, len(rows), paths)
        assert found.tolist() == [0.0 if row.user is None else row.uid + 0.5 for row in rows]


def test_offsets_reach_the_partitions_rows(built, tmp_path) -> None:
    data, partitions = built
    paths = []
    for shard in range(data.shards):
        offset = read_home_shard(data.paths(shard).rows)["offset"]
        paths.append(tmp_path / f"offsets-{shard}")
        write_offsets(paths[-1], offset, data.groupings("per_user")[shard])
    for number, partition in enumerate(partitions):
        found = read_partition_offsets(number, paths, partition)
        assert found.tolist() == [
            data.rows[s][i].offset for s, i in zip(partition.shard, partition.position, strict=True)
        ]
    with pytest.raises(InternalError, match="partition 1: its offsets do not fit its rows"):
        read_partition_offsets(1, paths, partitions[0])
    with pytest.raises(InternalError, match="expected"):
        read_partition_offsets(0, paths[::-1], partitions[0])


def test_total_offset_adds_blocks_in_order(tmp_path) -> None:
    blocks = [np.array([0.1, 1e16]), np.array([0.2, -1e16])]
    for number, block in enumerate(blocks):
        write_score_block(tmp_path / f"b{number}", 3, block)
    own = np.array([0.3, 1.0])
    found = total_offset(own, [tmp_path / "b0", tmp_path / "b1"], 3)
    assert found.tolist() == [(0.3 + 0.1) + 0.2, (1.0 + 1e16) - 1e16]
    assert own.tolist() == [0.3, 1.0]
    with pytest.raises(InternalError, match="'shard': 4"):
        read_score_block(tmp_path / "b0", 4)
    with pytest.raises(InternalError, match="holds 2 scores for a home shard of 3 rows"):
        total_offset(np.zeros(3), [tmp_path / "b0"], 3)


def test_scores_that_do_not_fit_are_refused(built, tmp_path) -> None:
    data, partitions = built
    with pytest.raises(InternalError, match="2 scores for a partition of"):
        write_partition_scores(tmp_path / "s", partitions[0], np.zeros(2))
    write_partition_scores(tmp_path / "s", partitions[0], np.zeros(partitions[0].rows))
    shard = int(partitions[0].shard[0])
    with pytest.raises(InternalError, match="that another partition scored"):
        assemble_scores(shard, len(data.rows[shard]), [tmp_path / "s", tmp_path / "s"])
    with pytest.raises(InternalError, match="in a home shard of 0 rows"):
        assemble_scores(shard, 0, [tmp_path / "s"])
