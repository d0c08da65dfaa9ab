"""One home shard's rows, gathered from the spills of all sources and aligned by uid.

The main source says which rows there are. A row of a further source belongs to the row with its uid; rows
that only one of both has are counted and named (`Mismatch`), what is missing counts as empty or 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows, place_rows
from gdmix_core.data.spill import EntityColumn, SpillSegment, read_spill
from gdmix_core.errors import DataError, InternalError
from gdmix_core.tasks import MAIN_SOURCE

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Uids of a home shard that are in the main source or in another one, but not in both.

    Attributes:
        missing: int64, those that the other source lacks, ascending.
        extra: int64, those that only it has, ascending.
    """

    missing: Int64Array
    extra: Int64Array


@dataclass(frozen=True, slots=True)
class SourceRows:
    """One source's rows, still lying in the spills: `order` lists them by uid, `bounds` cuts it by spill.

    `order[i]` is the i-th row's place in the concatenated segments of the spills, `rank` the inverse.
    """

    spills: list[SpillSegment]
    bounds: Int64Array
    uid: Int64Array
    order: Int64Array
    rank: Int64Array

    @classmethod
    def gather(cls, shard: int, paths: Sequence[str | Path], bag_sizes: Mapping[str, int]) -> SourceRows:
        """Open the spills, check them, sort their rows by uid and refuse a uid that occurs twice.

        Raises:
            DataError: Two rows have the same uid, or a file cannot be read.
            InternalError: There is no spill, or one does not hold what it says.
        """
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
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return cls(spills, bounds, uid, order, rank)

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def bag_names(self) -> tuple[str, ...]:
        """The bags that the spills hold."""
        return self.spills[0].bag_names

    @property
    def entity_columns(self) -> tuple[str, ...]:
        """The entity columns that the spills hold."""
        return self.spills[0].entity_columns

    @property
    def has_passive(self) -> bool:
        """Whether any spill, of this shard or another, holds rows that are not trained on."""
        return any(spill.passive for spill in self.spills)

    def column(self, name: str) -> Float64Array:
        """Return a column of numbers by ascending uid."""
        joined: Float64Array = np.concatenate([spill.arrays[name] for spill in self.spills])
        return joined[self.order]

    def entity(self, name: str) -> EntityColumn:
        """Return an entity column by ascending uid."""
        columns = [spill.entity(name) for spill in self.spills]
        ids = ByteStrings.concatenate([column.ids for column in columns]).take(self.order)
        return EntityColumn(ids, np.concatenate([column.missing for column in columns])[self.order])

    def active(self) -> BoolArray:
        """Return which rows may be trained on, by ascending uid."""
        lengths = self.bounds[1:] - self.bounds[:-1]
        return np.repeat([not spill.passive for spill in self.spills], lengths)[self.order]

    def place(
        self, bags: Sequence[str], place_of: Int64Array, shifts: Sequence[int], rows: int
    ) -> SparseRows:
        """Join `bags` and put the i-th row by uid to `place_of[i]`, -1 leaving it out."""
        places = place_of[self.rank]
        destinations = [places[start:stop] for start, stop in pairwise(self.bounds)]
        return place_rows(
            [[spill.bag(bag) for bag in bags] for spill in self.spills], destinations, shifts, rows
        )


@dataclass(frozen=True, slots=True)
class ShardRows:
    """A home shard's rows by ascending uid: those of the main source, with what the others say of them.

    Attributes:
        main: The main source.
        others: The further sources by name.
        position_of: For each further source, int64: the position here of its i-th row by uid, -1 for none.
        mismatches: Further sources whose uids are not those of the main one.
    """

    main: SourceRows
    others: Mapping[str, SourceRows]
    position_of: Mapping[str, Int64Array]
    mismatches: Mapping[str, Mismatch]

    @classmethod
    def gather(
        cls, shard: int, spills: Mapping[str, Sequence[str | Path]], bag_sizes: Mapping[str, int]
    ) -> ShardRows:
        """Gather all sources and align them; raises as `SourceRows.gather`."""
        main = SourceRows.gather(shard, spills[MAIN_SOURCE], bag_sizes)
        others = {
            name: SourceRows.gather(shard, paths, bag_sizes)
            for name, paths in spills.items()
            if name != MAIN_SOURCE
        }
        position_of: dict[str, Int64Array] = {}
        mismatches: dict[str, Mismatch] = {}
        for name, rows in others.items():
            position_of[name] = _positions(rows.uid, main.uid)
            if not np.array_equal(rows.uid, main.uid):
                missing = np.setdiff1d(main.uid, rows.uid, assume_unique=True)
                mismatches[name] = Mismatch(missing, rows.uid[position_of[name] < 0])
        return cls(main, others, position_of, mismatches)

    def __len__(self) -> int:
        return len(self.main)

    @property
    def uid(self) -> Int64Array:
        """int64[rows], ascending."""
        return self.main.uid

    def score(self, source: str) -> Float64Array:
        """Return the scores of a source of scores, 0 where it has none."""
        position = self.position_of[source]
        scores = np.zeros(len(self))
        scores[position[position >= 0]] = self.others[source].column("score")[position >= 0]
        return scores

    def places(self, source: str) -> Int64Array:
        """Return int64[rows]: where in a source's concatenated segments each row lies, -1 where it lacks the row."""
        if source == MAIN_SOURCE:
            return self.main.order
        row_of = self._row_of(source)
        return np.append(self.others[source].order, -1)[row_of]

    def entity(self, column: str) -> EntityColumn:
        """Return an entity column; rows that its source lacks have no entity."""
        source = self._holder(column, "entity_columns")
        if source == MAIN_SOURCE:
            return self.main.entity(column)
        found = self.others[source].entity(column)
        row_of = self._row_of(source)
        nothing = EntityColumn(
            ByteStrings.concatenate([found.ids, ByteStrings.of([b""])]),
            np.append(found.missing, np.uint8(1)),
        )
        return EntityColumn(nothing.ids.take(row_of), nothing.missing[row_of])

    def active(self, bags: Iterable[str], entity_column: str) -> BoolArray | None:
        """Return which rows a coordinate may be trained on; None when no source of it has passive rows."""
        holders = {self._holder(bag, "bag_names") for bag in bags}
        holders.add(self._holder(entity_column, "entity_columns"))
        active: BoolArray | None = None
        for source in sorted(holders):
            rows = self.main if source == MAIN_SOURCE else self.others[source]
            if rows.has_passive:
                of_source = rows.active()
                if source != MAIN_SOURCE:
                    of_source = np.append(of_source, False)[self._row_of(source)]
                active = of_source if active is None else active & of_source
        return active

    def place(
        self, bags: Sequence[str], place_of: Int64Array, shifts: Sequence[int], rows: int
    ) -> SparseRows:
        """Join `bags`, whatever sources hold them, and put row i to `place_of[i]`, -1 leaving it out."""
        holders = [self._holder(bag, "bag_names") for bag in bags]
        if len(set(holders)) == 1:
            return self._place_from(holders[0], bags, place_of, shifts, rows)
        here = np.arange(len(self))
        aligned = [
            self._place_from(source, [bag], here, [0], len(self))
            for bag, source in zip(bags, holders, strict=True)
        ]
        return place_rows([aligned], [place_of], shifts, rows)

    def _place_from(
        self, source: str, bags: Sequence[str], place_of: Int64Array, shifts: Sequence[int], rows: int
    ) -> SparseRows:
        if source == MAIN_SOURCE:
            return self.main.place(bags, place_of, shifts, rows)
        places = np.append(place_of, -1)[self.position_of[source]]
        return self.others[source].place(bags, places, shifts, rows)

    def _row_of(self, source: str) -> Int64Array:
        """Return int64[rows]: the row of a further source that belongs to each row, its length for none."""
        position = self.position_of[source]
        row_of = np.full(len(self), len(position), np.int64)
        row_of[position[position >= 0]] = np.flatnonzero(position >= 0)
        return row_of

    def _holder(self, name: str, kind: str) -> str:
        """Return the source that holds a bag or entity column; the main one, which then says what is wrong."""
        return next(
            (source for source, rows in self.others.items() if name in getattr(rows, kind)), MAIN_SOURCE
        )


def _positions(uid: Int64Array, main: Int64Array) -> Int64Array:
    """Return the place of each uid among those of the main source, -1 where it is not there; both ascend."""
    place = np.searchsorted(main, uid)
    found = np.append(main, 0)[place] == uid
    return np.where(found & (place < len(main)), place, -1).astype(np.int64)


def _duplicates_message(
    spills: list[SpillSegment], bounds: Int64Array, uid: Int64Array, order: Int64Array, duplicates: Int64Array
) -> str:
    """Name up to five uids, each with file and row number (from 1) of its first two occurrences in input order."""

    def place(position: int) -> str:
        source = order[position]
        k = int(np.searchsorted(bounds, source, side="right")) - 1
        return f"{spills[k].source} row {spills[k].arrays['row'][source - bounds[k]] + 1}"

    first = duplicates[np.concatenate([[True], uid[duplicates[1:]] != uid[duplicates[:-1]]])]
    named = [f"uid {uid[i]} ({place(i)}; {place(i + 1)})" for i in first[:_NAMED]]
    more = f"; and {len(first) - len(named)} more in this shard" if len(first) > len(named) else ""
    return f"every row needs a uid of its own, but these occur more than once: {', '.join(named)}{more}"
