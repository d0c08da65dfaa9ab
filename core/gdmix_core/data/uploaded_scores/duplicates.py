"""Uids that are there twice: within a batch while a file is read, and over the whole file once it is written."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.types import UploadedFile
from gdmix_core.errors import DataError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

_DUPLICATES_KEPT: Final = 1000


def check_batch(file: UploadedFile, uid: Int64Array, first_row: int) -> None:
    """Raise DataError when a uid is in the batch twice: cheap, and it ends a file of one uid at once."""
    ordered = np.sort(uid)
    if not (ordered[1:] == ordered[:-1]).any():
        return
    order = np.argsort(uid, kind="stable")
    again = np.flatnonzero(uid[order[1:]] == uid[order[:-1]])
    place = again[np.argmin(order[again + 1])]
    first, second = int(order[place]), int(order[place + 1])
    raise _repeated(file, int(uid[first]), first_row + first, first_row + second)


def check_unique(file: UploadedFile, written: Path, rows: int) -> None:
    """Raise DataError when a uid is in the written file twice.

    Uids are mapped one to one to evenly spread keys. Runs of keys are sorted and put on disk; then each bucket, a
    range of keys, is gathered from all runs. Run and bucket are as large as `RUN_ROWS`, however many there are.
    """
    mix = _mixer()
    buckets = -(-rows // limits.RUN_ROWS)
    edges = np.array([bucket * 2**64 // buckets for bucket in range(1, buckets)], np.uint64)
    bounds = np.zeros((buckets, buckets + 1), np.int32)

    def sort_and_check(keys: UInt64Array) -> None:
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]]
        if len(twice):
            raise _first_repeated(file, written, np.unique(twice)[:_DUPLICATES_KEPT], mix)

    with tempfile.TemporaryFile(dir=written.parent, buffering=0) as spill:
        for number, keys in enumerate(_runs(written, min(rows, limits.RUN_ROWS), mix)):
            sort_and_check(keys)
            bounds[number, 1:-1] = np.searchsorted(keys, edges)
            bounds[number, -1] = len(keys)
            if buckets > 1:
                _write_all(spill, keys)
        for bucket in range(buckets if buckets > 1 else 0):
            sort_and_check(_bucket(spill, bounds[:, bucket], bounds[:, bucket + 1]))


def _repeated(file: UploadedFile, uid: int, first: int, second: int) -> DataError:
    return DataError(
        f"{file.name}: column {file.uid_column!r}: row {second + 1} has uid {uid} of row {first + 1} again; "
        "allowed: every uid once"
    )


def _mixer() -> Callable[[UInt64Array], None]:
    """Return what replaces 64-bit integers by others, one to one, spread evenly in a way no sender foresees."""
    factors = [np.uint64(secrets.randbits(64) | 1) for _ in range(2)]

    def mix(keys: UInt64Array) -> None:
        for factor in factors:
            keys ^= keys >> np.uint64(31)
            keys *= factor
        keys ^= keys >> np.uint64(32)

    return mix


def _runs(written: Path, size: int, mix: Callable[[UInt64Array], None]) -> Iterator[UInt64Array]:
    """Yield the keys, `size` at a time."""
    run, filled = np.empty(size, np.uint64), 0
    for uid in _written_uids(written):
        keys, used = uid.copy(), 0
        mix(keys)
        while used < len(keys):
            taken = min(len(keys) - used, size - filled)
            run[filled : filled + taken] = keys[used : used + taken]
            used, filled = used + taken, filled + taken
            if filled == size:
                yield run
                filled = 0
    if filled:
        yield run[:filled]


def _written_uids(written: Path) -> Iterator[UInt64Array]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(written, buffer_size=1 << 20, pre_buffer=False) as opened:
        for batch in opened.iter_batches(limits.BATCH_ROWS, columns=["uid"], use_threads=False):
            yield batch.column(0).to_numpy().view(np.uint64)


def _write_all(spill: IO[bytes], keys: UInt64Array) -> None:
    left = keys.data.cast("B")
    while left:
        left = left[spill.write(left) :]


def _bucket(spill: IO[bytes], starts: Int32Array, stops: Int32Array) -> UInt64Array:
    keys = np.empty(int((stops - starts).sum()), np.uint64)
    view, at = keys.data.cast("B"), 0
    for run, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        size, offset = 8 * (stop - start), 8 * (run * limits.RUN_ROWS + start)
        if size and os.preadv(spill.fileno(), [view[at : at + size]], offset) != size:
            raise OSError("a temporary file is cut short")
        at += size
    return keys


def _first_repeated(
    file: UploadedFile, written: Path, twice: UInt64Array, mix: Callable[[UInt64Array], None]
) -> DataError:
    """Return the error for the first row whose uid, one of `twice` by its key, was there before."""
    seen: dict[int, int] = {}
    row = 0
    for batch in _written_uids(written):
        keys = batch.copy()
        mix(keys)
        for place in np.flatnonzero(np.isin(keys, twice)).tolist():
            uid = int(batch[place].view(np.int64))
            if uid in seen:
                return _repeated(file, uid, seen[uid], row + place)
            seen[uid] = row + place
        row += len(batch)
    raise AssertionError("a repeated key has no repeated uid")
