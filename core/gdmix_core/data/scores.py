"""Scores and offsets on their way between row order (home shards) and entity order (partitions).

A coordinate's scores are one *score block* for each home shard (`score_blocks`). A random effect is computed
in partitions: a unit writes the scores of its rows cut by home shard (`write_partition_scores`), and each
shard gathers its own (`assemble_scores`). Offsets go the other way: each shard writes its rows' offsets cut
by partition (`write_offsets`), and each partition gathers its own (`read_partition_offsets`). The same way
carries any number per row, such as the linear predictors of a per-entity metric. No process ever holds all
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, Arrays, read_segment, write_arrays
from gdmix_core.data.home_shards import PARTITION_SPILL_FORMAT
from gdmix_core.data.partitions import ScoringPartition
from gdmix_core.data.score_blocks import SCORES_FORMAT, check_scores
from gdmix_core.errors import InternalError

Float64Array = npt.NDArray[np.float64]


def write_partition_scores(path: str | Path, partition: ScoringPartition, scores: Float64Array) -> None:
    """Write the scores of a partition's rows: segment s holds those of home shard s, by ascending position.

    Args:
        path: The file; arrays `position` int64 and `score` float64.
        partition: The partition whose rows were scored.
        scores: float64[N] in the partition's row order.
    """
    if len(scores) != partition.rows:
        raise InternalError(f"{path}: {len(scores)} scores for a partition of {partition.rows} rows")
    position = np.empty(partition.rows, np.int64)
    position[partition.order] = partition.position
    score = np.empty(partition.rows)
    score[partition.order] = scores

    def segments() -> Iterator[Arrays]:
        for start, stop in pairwise(partition.shard_ptr):
            yield {"position": position[start:stop], "score": score[start:stop]}

    write_arrays(path, segments(), {"format": SCORES_FORMAT, "kind": "partition"})


def assemble_scores(shard: int, rows: int, paths: Sequence[str | Path]) -> Float64Array:
    """Gather one home shard's scores from the score files of all partitions.

    Args:
        shard: The home shard's number.
        rows: Its number of rows.
        paths: The score files of all partitions, in any order.

    Returns:
        float64[rows]; 0 where a row has no entity.

    Raises:
        DataError: A file cannot be read.
        InternalError: A file names a position outside of the shard, or two name the same one.
    """
    scores = np.zeros(rows)
    scored = np.zeros(rows, np.bool_)
    for path in paths:
        with ArrayFile(path) as file:
            check_scores(file, "partition")
            block = file.segment(shard)
        position = block["position"]
        if len(position) and (position[0] < 0 or position[-1] >= rows):
            raise InternalError(f"{path}: names position {position[-1]} in a home shard of {rows} rows")
        if scored[position].any():
            raise InternalError(f"{path}: scores rows of home shard {shard} that another partition scored")
        scored[position] = True
        scores[position] = block["score"]
    return scores


def write_offsets(path: str | Path, offset: Float64Array, partition_spill: str | Path) -> None:
    """Write one home shard's offsets: segment p holds those of the rows of partition p, in the spill's order.

    Args:
        path: The file; array `offset` float64.
        offset: float64[rows of the shard] in row order.
        partition_spill: The shard's partition spill of the grouping.
    """
    with ArrayFile(partition_spill) as spill:
        if spill.metadata.get("format") != PARTITION_SPILL_FORMAT or "partitions" not in spill.metadata:
            raise InternalError(
                f"{partition_spill}: is not a partition spill of format {PARTITION_SPILL_FORMAT}"
            )
        segments = (
            {"offset": offset[spill.segment(p, ["position"])["position"]]} for p in range(spill.segments)
        )
        facts = {"format": SCORES_FORMAT, "kind": "offsets", "shard": spill.metadata["shard"]}
        write_arrays(path, segments, facts)


def read_partition_offsets(
    number: int, paths: Sequence[str | Path], partition: ScoringPartition
) -> Float64Array:
    """Gather the offsets of one partition's rows from the offset files of all home shards.

    Args:
        number: The partition's number.
        paths: The offset files of all home shards, in shard order.
        partition: The partition.

    Returns:
        float64[N] in the partition's row order.

    Raises:
        DataError: A file cannot be read.
        InternalError: The files are not those of the partition's home shards, in order.
    """
    parts: list[Float64Array] = []
    for shard, path in enumerate(paths):
        with ArrayFile(path) as file:
            check_scores(file, "offsets", shard=shard)
            parts.append(file.segment(number)["offset"])
    if not np.array_equal(np.cumsum([0, *map(len, parts)]), partition.shard_ptr):
        raise InternalError(f"partition {number}: its offsets do not fit its rows, shard by shard")
    joined: Float64Array = np.concatenate(parts)
    return joined[partition.order]


def read_home_shard(path: str | Path) -> Arrays:
    """Map a home shard's rows: `uid` int64, `label`, `weight`, `offset` float64, in row order."""
    return read_segment(path)
