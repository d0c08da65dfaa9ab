"""Several numbers per row on their way between home shards (row order) and partitions (entity order).

The same ways that scores and offsets take (`scores`), for float32[rows, K]. A partition's file holds the numbers of
each home shard one after another, a home shard's file those of each partition, both in the order of the shard's
partition spill. They are written and read again many times over, so that a file is one segment: `numbers`, and
`ptr`, where each shard's or partition's rows begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input
from gdmix_core.data.array_file import ArrayFile, write_arrays
from gdmix_core.data.partitions import ScoringPartition
from gdmix_core.errors import InternalError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

EXCHANGE_FORMAT: Final = 1
_KEPT_POSITIONS: Final = 16


def write_rows_of_partition(path: str | Path, partition: ScoringPartition, rows: Float32Array) -> None:
    """Write a partition's numbers, cut by home shard.

    Args:
        path: the file.
        partition: the partition.
        rows: float32[N, K], row i of the partition at `partition.order[i]`.
    """
    _write(path, "partition", partition.shard_ptr, rows)


def add_rows_of_partitions(
    total: Float32Array, shard: int, partition_spill: str | Path, paths: Sequence[str | Path]
) -> None:
    """Add what all partitions of a grouping wrote for one home shard to `total`, float32[rows, K].

    Args:
        total: changed in place; rows without an entity get nothing.
        shard: the home shard's number.
        partition_spill: the shard's partition spill of the grouping.
        paths: the files of all partitions, in order.
    """
    position, ptr = _positions(str(partition_spill))
    for number, path in enumerate(paths):
        places = position[ptr[number] : ptr[number + 1]]
        numbers = _read(path, "partition", shard, len(places), total.shape[1])
        _add_at(total, places, kernel_input(numbers, np.float32))


def write_rows_of_shard(
    path: str | Path, rows: Float32Array, weights: Float64Array | None, partition_spill: str | Path
) -> None:
    """Write a home shard's numbers, cut by partition.

    Args:
        path: the file.
        rows: float32[rows, K].
        weights: float64[rows], what each row is multiplied by; None for 1.
        partition_spill: the shard's partition spill of the grouping.
    """
    position, ptr = _positions(str(partition_spill))
    factors = np.ones(len(rows)) if weights is None else weights
    out = np.empty((len(position), rows.shape[1]), np.float32)
    _take(rows, kernel_input(factors, np.float64), position, out)
    _write(path, "shard", ptr, out)


def rows_of_shards(
    number: int, paths: Sequence[str | Path], partition: ScoringPartition, columns: int
) -> Float32Array:
    """Return what all home shards wrote for one partition, float32[N, K]; its row i is at `partition.order[i]`."""
    lengths = np.diff(partition.shard_ptr)
    parts = [
        _read(path, "shard", number, int(length), columns)
        for path, length in zip(paths, lengths, strict=True)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@lru_cache(maxsize=_KEPT_POSITIONS)
def _positions(partition_spill: str) -> tuple[Int64Array, Int64Array]:
    """Return a spill's row positions, partition after partition, and where each partition's begin.

    A spill belongs to one attempt and never changes, so its name is enough of a key; some stay in memory, 8 bytes a
    row.
    """
    with ArrayFile(partition_spill) as spill:
        parts = [spill.segment(p, ["position"])["position"] for p in range(spill.segments)]
    ptr = np.cumsum([0, *map(len, parts)])
    return kernel_input(np.concatenate(parts), np.int64), ptr


@compiled
def _add_at(total: Float32Array, position: Int64Array, numbers: Float32Array) -> None:
    for i in range(position.size):
        row = total[position[i]]
        for k in range(total.shape[1]):
            row[k] += numbers[i, k]


@compiled
def _take(rows: Float32Array, factors: Float64Array, position: Int64Array, out: Float32Array) -> None:
    for i in range(position.size):
        factor = np.float32(factors[position[i]])
        row = rows[position[i]]
        for k in range(rows.shape[1]):
            out[i, k] = factor * row[k]


def _facts(kind: str, columns: int) -> dict[str, object]:
    return {"format": EXCHANGE_FORMAT, "kind": kind, "columns": columns}


def _write(path: str | Path, kind: str, ptr: Int64Array, rows: Float32Array) -> None:
    write_arrays(path, [{"ptr": ptr, "numbers": rows.reshape(-1)}], _facts(kind, rows.shape[1]))


def _read(path: str | Path, kind: str, number: int, rows: int, columns: int) -> Float32Array:
    with ArrayFile(path) as file:
        expected = _facts(kind, columns)
        if file.metadata != expected:
            raise InternalError(f"{path}: holds {file.metadata}, expected {expected}")
        held = file.segment(0)
    first, last = held["ptr"][number], held["ptr"][number + 1]
    if last - first != rows:
        raise InternalError(f"{path}: part {number} has {last - first} rows; expected {rows}")
    numbers: Float32Array = held["numbers"][first * columns : last * columns]
    return numbers.reshape(rows, columns)
