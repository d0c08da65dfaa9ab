"""LMDB files: building an immutable one from spills, sharing open ones in a process, reading one back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile
from gdmix_core.store import keys
from gdmix_core.store.publication import PublishedPart, StoredPairs

if TYPE_CHECKING:
    import lmdb

SPILL_FILE: Final = "store_part"
_SCAN_ENTITIES: Final = 4_096
_SPARE_MAP_BYTES: Final = 64 << 20


@dataclass(slots=True)
class SharedEnvironment:
    """A version's file, opened once in a process (LMDB's rule) and shared by all stores that read it."""

    identity: tuple[int, int]
    environment: lmdb.Environment
    users: int = 0

    @classmethod
    def acquire(cls, path: Path) -> SharedEnvironment:
        """Open a file, or share it when this process has it open.

        Raises:
            FileNotFoundError: it is not there.
        """
        with _shared_lock:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            reader = _shared.get(identity)
            if reader is None:
                reader = _shared[identity] = cls(identity, open_reader(path))
            reader.users += 1
            return reader

    def retain(self) -> None:
        """Count one more user."""
        with _shared_lock:
            self.users += 1

    def release(self) -> None:
        """Close the file when this was its last user."""
        with _shared_lock:
            self.users -= 1
            if self.users == 0:
                del _shared[self.identity]
                self.environment.close()


_shared: dict[tuple[int, int], SharedEnvironment] = {}
_shared_lock = threading.Lock()


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that took its name; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def open_reader(path: Path) -> lmdb.Environment:
    """Open a complete file for reading, without locks: nobody ever writes to it."""
    import lmdb

    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False, max_dbs=0)


def open_growing(
    path: Path, parts: Iterable[PublishedPart], pairs: Iterable[tuple[bytes, bytes]]
) -> lmdb.Environment:
    """Open a new file for writing. Nothing is synced: until it is complete and copied, nobody needs it."""
    import lmdb

    size = sum((Path(part.spill) / SPILL_FILE).stat().st_size for part in parts)
    size += sum(len(value) for _, value in pairs)
    return lmdb.open(
        str(path),
        subdir=False,
        lock=False,
        sync=False,
        metasync=False,
        meminit=False,
        max_dbs=0,
        map_size=_SPARE_MAP_BYTES + 2 * size,
    )


def fill(
    environment: lmdb.Environment, parts: Iterable[PublishedPart], pairs: Sequence[tuple[bytes, bytes]]
) -> None:
    """Put the records of all spills and some pairs of key and value into a file."""
    for part in parts:
        with ArrayFile(Path(part.spill) / SPILL_FILE) as file:
            for number in range(file.segments):
                arrays = file.segment(number)
                _put(environment, arrays["data"], arrays["bounds"])
    for key, value in pairs:
        data = np.frombuffer(key + value, np.uint8)
        _put(environment, data, np.array([0, len(key), len(data)], np.int64))


def _put(environment: lmdb.Environment, data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64]) -> None:
    """Put pairs, key data[b[2i]:b[2i+1]] and value data[b[2i+1]:b[2i+2]]; grow the map when it is full."""
    import lmdb

    view = data.data
    edges = bounds.tolist()
    starts, middles, ends = edges[0:-1:2], edges[1::2], edges[2::2]
    while True:
        items = zip(
            map(view.__getitem__, map(slice, starts, middles)),
            map(view.__getitem__, map(slice, middles, ends)),
            strict=True,
        )
        try:
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(items)
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
        else:
            return


def copy_compact(environment: lmdb.Environment, path: Path) -> None:
    """Copy a file without its free pages, and see it on the disk."""
    with path.open("wb") as file:
        environment.copyfd(file.fileno(), compact=True)
        os.fsync(file.fileno())


def scan_records(environment: lmdb.Environment) -> Iterator[StoredPairs]:
    """Read back all records of a file, coordinate by coordinate."""
    with environment.begin() as transaction, transaction.cursor() as cursor:
        found = cursor.set_range(b"e:")
        while found and cursor.key().startswith(b"e:"):
            prefix = cursor.key()[: cursor.key().index(b":", 2) + 1]
            end = prefix[:-1] + b";"  # the byte after the colon
            items = cursor.iternext(keys=True, values=True)
            while batch := list(islice(items, _SCAN_ENTITIES)):
                inside = len(batch)
                if batch[-1][0] >= end:
                    inside = next(number for number, (key, _) in enumerate(batch) if key >= end)
                if inside:
                    names, values = zip(*batch[:inside], strict=True)
                    yield StoredPairs(keys.unescape(prefix[2:-1]).decode(), names, values, len(prefix))
                if inside < len(batch):
                    break
            found = cursor.set_range(end)
