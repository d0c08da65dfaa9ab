"""Home shards: the rows whose uid hashes to one number, sorted by uid, laid out for all that read them.

`build_home_shard` reads one segment of every encoded split and writes

- the shard file: uid, label, weight, offset of every row;
- for each fixed effect a design file: the CSR rows of its bags in the coordinate's feature space;
- for each grouping (a random effect, or a per-entity metric) a partition spill: the rows that have an entity,
  cut into the partitions that the entities hash to, with the coordinate's CSR rows.

Memory depends on the shard's size only. A row's id is (shard, position); layouts: `docs/specs/data-plane.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import write_arrays
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows, bag_shifts, place_rows
from gdmix_core.data.hashing import entity_partitions
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.data.spill import SpillSegment, read_spill
from gdmix_core.errors import DataError, InternalError

Int64Array = npt.NDArray[np.int64]

SHARD_FORMAT: Final = 1
DESIGN_FORMAT: Final = 1
PARTITION_SPILL_FORMAT: Final = 1
_NAMED_DUPLICATES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeShardPaths:
    """Where a home shard's files go; designs and groupings by their names."""

    rows: Path
    designs: Mapping[str, Path]
    groupings: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class HomeShardSummary:
    """What a home shard holds.

    Attributes:
        rows: Number of rows.
        weight: Sum of the rows' weights, added in row order.
        nonzeros: Stored entries by design.
        without_entity: Rows that have no entity, by grouping.
    """

    rows: int
    weight: float
    nonzeros: dict[str, int]
    without_entity: dict[str, int]


def build_home_shard(
    shard: int,
    spills: Sequence[str | Path],
    paths: HomeShardPaths,
    *,
    designs: Sequence[DesignSpec],
    groupings: Sequence[GroupingSpec],
    bag_sizes: Mapping[str, int],
) -> HomeShardSummary:
    """Gather one home shard from the encoded splits and write its files.

    Args:
        shard: The home shard's number.
        spills: The encoded splits in split order; every one is read at this segment only.
        paths: Where the files go; each appears by atomic rename.
        designs: The fixed effects' views to write.
        groupings: The groupings to write.
        bag_sizes: Number of features by bag.

    Raises:
        DataError: Two rows have the same uid, or a file cannot be read or written.
        InternalError: A spill does not hold what the specs ask for.
    """
    gathered = _gather(shard, spills, bag_sizes)
    rows = {name: gathered.column(name) for name in ("label", "weight", "offset")}
    count = len(gathered.uid)
    metadata = {"format": SHARD_FORMAT, "shard": shard, "rows": count}
    write_arrays(paths.rows, [{"uid": gathered.uid, **rows}], metadata)
    nonzeros = {}
    for design in designs:
        shifts, dimension = bag_shifts(design.bags, bag_sizes, design.intercept)
        matrix = gathered.place(design.bags, np.arange(count), shifts, count)
        facts = {
            "format": DESIGN_FORMAT,
            "shard": shard,
            "rows": count,
            "dimension": dimension,
            "intercept": design.intercept,
        }
        write_arrays(paths.designs[design.name], [matrix.arrays()], facts)
        nonzeros[design.name] = len(matrix.indices)
    without_entity = {
        grouping.name: _write_grouping(
            shard, gathered, rows, grouping, paths.groupings[grouping.name], bag_sizes
        )
        for grouping in groupings
    }
    weight = float(np.cumsum(rows["weight"])[-1]) if count else 0.0
    return HomeShardSummary(count, weight, nonzeros, without_entity)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """One home shard's rows, still lying in the spills: `order` lists them by uid, `bounds` cuts it by spill.

    `order[position]` is a row's place in the concatenated segments of the spills, `position_of` the inverse.
    """

    spills: list[SpillSegment]
    bounds: Int64Array
    uid: Int64Array
    order: Int64Array
    position_of: Int64Array

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return a float64 column in row order."""
        joined: npt.NDArray[np.float64] = np.concatenate([spill.arrays[name] for spill in self.spills])
        return joined[self.order]

    def place(
        self, bags: Sequence[str], place_of: Int64Array, shifts: Sequence[int], rows: int
    ) -> SparseRows:
        """Join `bags` and put the row at each position to `place_of[position]`, -1 leaving it out."""
        places = place_of[self.position_of]
        destinations = [places[start:stop] for start, stop in pairwise(self.bounds)]
        blocks = [[spill.bag(bag) for bag in bags] for spill in self.spills]
        return place_rows(blocks, destinations, shifts, rows)


def _gather(shard: int, paths: Sequence[str | Path], bag_sizes: Mapping[str, int]) -> _Gathered:
    """Open the spills, check them, sort their rows by uid and refuse a uid that occurs twice."""
    if not paths:
        raise InternalError(f"home shard {shard} has no encoded splits")
    spills = [read_spill(path, shard) for path in paths]
    for spill in spills:
        for bag in spill.bag_names:
            if bag in bag_sizes:
                spill.bag(bag).check(f"{spill.path}: feature bag {bag!r}", len(spill), bag_sizes[bag])
    bounds = np.cumsum([0, *(len(spill) for spill in spills)]).astype(np.int64)
    uid: Int64Array = np.concatenate([spill.arrays["uid"] for spill in spills])
    order = np.argsort(uid, kind="stable")
    uid = uid[order]
    duplicates = np.flatnonzero(uid[1:] == uid[:-1])
    if len(duplicates):
        raise DataError(_duplicates_message(spills, bounds, uid, order, duplicates))
    position_of = np.empty(len(order), np.int64)
    position_of[order] = np.arange(len(order))
    return _Gathered(spills, bounds, uid, order, position_of)


def _duplicates_message(
    spills: list[SpillSegment], bounds: Int64Array, uid: Int64Array, order: Int64Array, duplicates: Int64Array
) -> str:
    """Name up to five uids, each with file and row number (from 1) of its first two occurrences in input order."""

    def place(position: int) -> str:
        source = order[position]
        k = int(np.searchsorted(bounds, source, side="right")) - 1
        return f"{spills[k].source} row {spills[k].arrays['row'][source - bounds[k]] + 1}"

    first = duplicates[np.concatenate([[True], uid[duplicates[1:]] != uid[duplicates[:-1]]])]
    named = [f"uid {uid[i]} ({place(i)}; {place(i + 1)})" for i in first[:_NAMED_DUPLICATES]]
    more = f"; and {len(first) - len(named)} more in this shard" if len(first) > len(named) else ""
    return f"every row needs a uid of its own, but these occur more than once: {', '.join(named)}{more}"


def _write_grouping(
    shard: int,
    gathered: _Gathered,
    rows: Mapping[str, npt.NDArray[Any]],
    spec: GroupingSpec,
    path: Path,
    bag_sizes: Mapping[str, int],
) -> int:
    """Write the partition spill of one grouping; return the number of rows without entity."""
    columns = [spill.entity(spec.entity_column) for spill in gathered.spills]
    present = np.flatnonzero(np.concatenate([column.missing for column in columns])[gathered.order] == 0)
    ids = ByteStrings.concatenate([column.ids for column in columns]).take(gathered.order[present])
    partition = entity_partitions(ids.data, ids.ptr, spec.partitions)
    by_partition = np.argsort(
        partition.astype(np.uint16) if spec.partitions <= 2**16 else partition, kind="stable"
    )
    bounds = np.searchsorted(partition[by_partition], np.arange(spec.partitions + 1))
    ids = ids.take(by_partition)
    position = present[by_partition]
    matrix, dimension = None, 0
    if spec.bags is not None:
        shifts, dimension = bag_shifts(spec.bags, bag_sizes, spec.intercept)
        place_of = np.full(len(gathered.uid), -1, np.int64)
        place_of[position] = np.arange(len(position))
        matrix = gathered.place(spec.bags, place_of, shifts, len(position))
    without_entity = len(gathered.uid) - len(position)
    metadata = {
        "format": PARTITION_SPILL_FORMAT,
        "grouping": spec.name,
        "shard": shard,
        "partitions": spec.partitions,
        "rows": len(position),
        "without_entity": without_entity,
        "dimension": dimension,
        "intercept": spec.intercept,
    }
    label, weight = rows["label"][position], rows["weight"][position]

    def segments() -> Iterator[dict[str, npt.NDArray[Any]]]:
        for start, stop in pairwise(bounds):
            yield {
                "position": position[start:stop],
                **ids.slice(start, stop).arrays("entity"),
                "label": label[start:stop],
                "weight": weight[start:stop],
                **({} if matrix is None else matrix.slice(start, stop).arrays()),
            }

    write_arrays(path, segments(), metadata)
    return without_entity
