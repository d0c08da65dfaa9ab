"""Encoded splits: the rows of one piece of input as arrays, spilled to disk by home shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, Arrays, write_arrays
from gdmix_core.data.byte_strings import ByteStrings, check_byte_strings
from gdmix_core.data.csr import SparseRows, place_rows
from gdmix_core.data.hashing import home_shards
from gdmix_core.errors import InternalError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

SPILL_FORMAT: Final = 2


@dataclass(frozen=True, slots=True)
class EntityColumn:
    """The entity ids of n rows.

    Attributes:
        ids: n ids as UTF-8; empty where missing.
        missing: uint8[n], 1 where the row has no entity.
    """

    ids: ByteStrings
    missing: UInt8Array


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """n rows of one input file after encoding, in input order.

    Attributes:
        source: The input file, as messages name it.
        uid: int64[n].
        row: int64[n], the row's number in the input file, from 0.
        numbers: float64[n] each: `label`, `weight`, `offset` of the main source, `score` of external scores.
        entities: Entity ids by column name.
        bags: Features by bag name; indices count inside the bag.
        passive: Whether the rows are scored only, not trained on.
    """

    source: str
    uid: Int64Array
    row: Int64Array
    numbers: Mapping[str, Float64Array]
    entities: Mapping[str, EntityColumn]
    bags: Mapping[str, SparseRows]
    passive: bool = False

    def __len__(self) -> int:
        return len(self.uid)


def write_spill(path: str | Path, rows: EncodedRows, shards: int) -> None:
    """Write encoded rows as an array file of `shards` segments: segment s holds home shard s, in input order.

    Arrays: `uid`, `row`; the numbers, by name; for each entity column `entity:<column>_bytes`,
    `entity:<column>_ptr`, `entity:<column>_missing`; for each bag `bag:<bag>_indptr`, `bag:<bag>_indices`,
    `bag:<bag>_values`.

    Raises:
        DataError: The file cannot be written.
        InternalError: The arrays of `rows` do not fit each other.
    """
    _check(rows)
    metadata = {
        "format": SPILL_FORMAT,
        "source": rows.source,
        "rows": len(rows),
        "passive": rows.passive,
        "entities": list(rows.entities),
        "bags": list(rows.bags),
    }
    write_arrays(path, _segments(rows, shards), metadata)


@dataclass(frozen=True, slots=True)
class SpillSegment:
    """One home shard's rows of one spill; see `EncodedRows`."""

    path: Path
    source: str
    entity_columns: tuple[str, ...]
    bag_names: tuple[str, ...]
    passive: bool
    arrays: Arrays

    def __len__(self) -> int:
        return len(self.arrays["uid"])

    def entity(self, column: str) -> EntityColumn:
        """Return an entity column; raise InternalError when the spill has none of this name."""
        if column not in self.entity_columns:
            raise InternalError(f"{self.path}: holds no entity column {column!r}")
        name = f"entity:{column}"
        return EntityColumn(ByteStrings.from_arrays(self.arrays, name), self.arrays[f"{name}_missing"])

    def bag(self, bag: str) -> SparseRows:
        """Return a bag's features; raise InternalError when the spill has none of this name."""
        if bag not in self.bag_names:
            raise InternalError(f"{self.path}: holds no feature bag {bag!r}")
        return SparseRows.from_arrays(self.arrays, f"bag:{bag}_")


def read_spill(path: str | Path, shard: int) -> SpillSegment:
    """Map one home shard's rows of a spill.

    Raises:
        DataError: The file cannot be read.
        InternalError: It is of another format, or has no such shard.
    """
    with ArrayFile(path) as file:
        metadata = file.metadata
        if metadata.get("format") != SPILL_FORMAT or "source" not in metadata:
            raise InternalError(f"{path}: is not an encoded split of format {SPILL_FORMAT}")
        entities, bags = tuple(metadata["entities"]), tuple(metadata["bags"])
        passive = bool(metadata["passive"])
        return SpillSegment(file.path, metadata["source"], entities, bags, passive, file.segment(shard))


def shard_order(uid: Int64Array, shards: int) -> tuple[Int64Array, Int64Array]:
    """Return the rows ordered by home shard (stable), int64[n], and where each shard begins, int64[shards + 1]."""
    shard = home_shards(uid, shards)
    order = np.argsort(shard.astype(np.uint16) if shards <= 2**16 else shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(shards + 1))
    return order, bounds.astype(np.int64)


def _segments(rows: EncodedRows, shards: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Reorder every array by home shard once (stable), then cut: linear in rows for any number of shards."""
    order, bounds = shard_order(rows.uid, shards)
    destination = np.empty(len(rows), np.int64)
    destination[order] = np.arange(len(rows))
    flat: dict[str, npt.NDArray[Any]] = {"uid": rows.uid[order], "row": rows.row[order]}
    flat |= {name: column[order] for name, column in rows.numbers.items()}
    entities = {
        name: (column.ids.take(order), column.missing[order]) for name, column in rows.entities.items()
    }
    bags = {name: place_rows([[bag]], [destination], [0], len(rows)) for name, bag in rows.bags.items()}
    for start, stop in pairwise(bounds):
        segment: dict[str, npt.NDArray[Any]] = {name: array[start:stop] for name, array in flat.items()}
        for name, (ids, missing) in entities.items():
            segment |= ids.slice(start, stop).arrays(f"entity:{name}")
            segment[f"entity:{name}_missing"] = missing[start:stop]
        for name, bag in bags.items():
            segment |= bag.slice(start, stop).arrays(f"bag:{name}_")
        yield segment


def _check(rows: EncodedRows) -> None:
    for name, array in {"row": rows.row, **rows.numbers}.items():
        if len(array) != len(rows):
            raise InternalError(f"{rows.source}: array {name!r} does not fit {len(rows)} rows")
    for name, column in rows.entities.items():
        check_byte_strings(column.ids, len(rows), f"{rows.source}: entity column {name!r}")
        if len(column.missing) != len(rows):
            raise InternalError(f"{rows.source}: entity column {name!r} does not fit {len(rows)} rows")
    for name, bag in rows.bags.items():
        bag.check(f"{rows.source}: feature bag {name!r}", len(rows))
