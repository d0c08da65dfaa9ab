"""Score blocks: a coordinate's scores of one home shard, float64[rows], aligned to the shard's rows.

So an offset is a sum of arrays and never a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, write_arrays
from gdmix_core.errors import InternalError

Float64Array = npt.NDArray[np.float64]

SCORES_FORMAT: Final = 1


def write_score_block(path: str | Path, shard: int, scores: Float64Array) -> None:
    """Write a coordinate's scores of one home shard, float64[rows] in row order."""
    write_arrays(path, [{"score": scores}], {"format": SCORES_FORMAT, "kind": "block", "shard": shard})


def read_score_block(path: str | Path, shard: int) -> Float64Array:
    """Map the scores of one home shard.

    Raises:
        DataError: The file cannot be read.
        InternalError: It is not that shard's score block.
    """
    with ArrayFile(path) as file:
        check_scores(file, "block", shard=shard)
        scores: Float64Array = file.segment(0)["score"]
        return scores


def total_offset(offset: Float64Array, blocks: Sequence[str | Path], shard: int) -> Float64Array:
    """Return the rows' own offset plus the score blocks, added one after another in the order given.

    Args:
        offset: float64[rows], the shard's own offset column.
        blocks: Score blocks of this shard, in coordinate order.
        shard: The home shard's number.

    Raises:
        InternalError: A block is of another shard or length.
    """
    total = offset.copy()
    for path in blocks:
        scores = read_score_block(path, shard)
        if len(scores) != len(total):
            raise InternalError(f"{path}: holds {len(scores)} scores for a home shard of {len(total)} rows")
        total += scores
    return total


def check_scores(file: ArrayFile, kind: str, **facts: int) -> None:
    """Raise InternalError unless the file holds scores of this kind, with these facts."""
    expected = {"format": SCORES_FORMAT, "kind": kind, **facts}
    if any(file.metadata.get(key) != value for key, value in expected.items()):
        raise InternalError(f"{file.path}: holds {file.metadata}, expected {expected}")
