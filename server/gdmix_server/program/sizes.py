"""How many home shards and partitions: from row counts alone, so that every cluster cuts the same ones."""

from __future__ import annotations

ROWS_PER_SHARD = 262_144
ROWS_PER_PARTITION = 262_144
SMALLEST_CUT_ROWS = 4_096
LEAST_PIECES = 2
USUAL_PIECES = 4
ROWS_OF_A_SMALL_PIECE = 32_768
"""Few rows are cut into fewer pieces than usual: each costs its files, whatever is in them."""
MOST_PIECES = 65_536


def shard_count(rows: int, wanted: int | None = None) -> int:
    """Number of home shards for `rows` rows: as configured, else enough for several workers to share."""
    return wanted if wanted is not None else _pieces(rows, ROWS_PER_SHARD)


def partition_count(rows: int, wanted: int | None = None) -> int:
    """Number of partitions of a random effect, or of a per-entity metric."""
    return wanted if wanted is not None else _pieces(rows, ROWS_PER_PARTITION)


def _pieces(rows: int, rows_per_piece: int) -> int:
    if rows < SMALLEST_CUT_ROWS:
        return 1
    least = min(USUAL_PIECES, max(LEAST_PIECES, rows // ROWS_OF_A_SMALL_PIECE))
    return min(MOST_PIECES, max(least, -(-rows // rows_per_piece)))
