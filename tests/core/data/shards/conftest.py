"""A small data set as Python objects, its way through the data plane, and plain answers to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xxhash

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.home_shards import HomeShardPaths, HomeShardSummary, build_home_shard
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.data.spill import EncodedRows, EntityColumn, write_spill
from gdmix_core.tasks import MAIN_SOURCE

BAG_SIZES = {"user": 5, "movie": 7}
DESIGN = DesignSpec(name="global", bags=("user", "movie"), intercept=True)
PER_USER = GroupingSpec(
    name="per_user", entity_column="user_id", partitions=3, bags=("movie", "user"), intercept=True
)
BY_USER = GroupingSpec(name="by_user", entity_column="user_id", partitions=2, bags=None, intercept=False)


@dataclass
class Row:
    uid: int
    label: float
    weight: float
    offset: float
    user: bytes | None
    bags: dict[str, dict[int, float]]


def encode(source: str, rows: list[Row]) -> EncodedRows:
    return EncodedRows(
        source=source,
        uid=np.array([row.uid for row in rows], np.int64),
        row=np.arange(len(rows), dtype=np.int64),
        numbers={
            name: np.array([getattr(row, name) for row in rows], np.float64)
            for name in ("label", "weight", "offset")
        },
        entities={
            "user_id": EntityColumn(
                ByteStrings.of([row.user or b"" for row in rows]),
                np.array([row.user is None for row in rows], np.uint8),
            )
        },
        bags={
            bag: SparseRows(
                np.cumsum([0, *(len(row.bags[bag]) for row in rows)]).astype(np.int64),
                np.array([j for row in rows for j in sorted(row.bags[bag])], np.int32),
                np.array([row.bags[bag][j] for row in rows for j in sorted(row.bags[bag])], np.float64),
            )
            for bag in BAG_SIZES
        },
    )


@dataclass
class Plane:
    """A data set cut into splits and home shards under `directory`; `rows[shard]` lists its rows by uid."""

    directory: Path
    splits: list[list[Row]]
    shards: int

    def __post_init__(self) -> None:
        self.spills = []
        for number, split in enumerate(self.splits):
            self.spills.append(self.directory / f"spill-{number}")
            write_spill(self.spills[-1], encode(f"part-{number}.csv", split), self.shards)
        self.rows: list[list[Row]] = [[] for _ in range(self.shards)]
        for row in sorted((row for split in self.splits for row in split), key=lambda row: row.uid):
            digest = xxhash.xxh64_intdigest(row.uid.to_bytes(8, "little", signed=True))
            self.rows[digest % self.shards].append(row)

    def paths(self, shard: int) -> HomeShardPaths:
        return HomeShardPaths(
            rows=self.directory / f"rows-{shard}",
            designs={"global": self.directory / f"design-{shard}"},
            groupings={name: self.directory / f"{name}-{shard}" for name in ("per_user", "by_user")},
        )

    def build(self, shard: int) -> HomeShardSummary:
        return build_home_shard(
            shard,
            {MAIN_SOURCE: self.spills},
            self.paths(shard),
            designs=[DESIGN],
            groupings=[PER_USER, BY_USER],
            bag_sizes=BAG_SIZES,
        )

    def groupings(self, name: str) -> list[Path]:
        return [self.paths(shard).groupings[name] for shard in range(self.shards)]

    def entities(self, partition: int, partitions: int) -> dict[bytes, list[tuple[int, int, Row]]]:
        """Entities of a partition sorted by id, with (shard, position, row) of their rows in row-id order."""
        found: dict[bytes, list[tuple[int, int, Row]]] = {}
        for shard, rows in enumerate(self.rows):
            for position, row in enumerate(rows):
                if row.user is not None and xxhash.xxh64_intdigest(row.user) % partitions == partition:
                    found.setdefault(row.user, []).append((shard, position, row))
        return dict(sorted(found.items()))


def dense_bag(row: Row, bags: tuple[str, ...], intercept: bool) -> np.ndarray:
    parts = [np.ones(1)] if intercept else []
    for bag in bags:
        part = np.zeros(BAG_SIZES[bag])
        for j, value in row.bags[bag].items():
            part[j] = value
        parts.append(part)
    return np.concatenate(parts)


@pytest.fixture
def dense() -> Callable[[Row, tuple[str, ...], bool], np.ndarray]:
    """Return a row's dense features in a coordinate's feature space."""
    return dense_bag


@pytest.fixture
def make_row() -> Callable[..., Row]:
    """Return a maker of plain rows."""

    def make(uid: int, user: bytes | None = b"u") -> Row:
        return Row(uid, 1.0, 1.0, 0.0, user, {bag: {} for bag in BAG_SIZES})

    return make


@pytest.fixture
def plane(tmp_path: Path) -> Callable[..., Plane]:
    """Return a maker of random data sets, or of one with the splits given."""

    def make(
        seed: int = 0,
        rows: int = 60,
        users: int = 9,
        splits: int = 3,
        shards: int = 4,
        given: list | None = None,
    ) -> Plane:
        directory = tmp_path / f"plane-{seed}-{shards}-{splits}"
        directory.mkdir()
        if given is not None:
            return Plane(directory, given, shards)
        rng = np.random.default_rng(seed)
        uids = rng.choice(10**6, rows, replace=False) - 5 * 10**5
        data = [
            Row(
                int(uid),
                float(rng.integers(2)),
                float(rng.random()),
                float(rng.normal()),
                None if rng.random() < 0.1 else f"user-{rng.integers(users)}".encode(),
                {
                    bag: {
                        int(j): float(rng.normal()) for j in rng.choice(size, rng.integers(4), replace=False)
                    }
                    for bag, size in BAG_SIZES.items()
                },
            )
            for uid in uids
        ]
        cuts = sorted(rng.integers(0, rows + 1, splits - 1))
        bounds = [0, *(int(cut) for cut in cuts), rows]
        return Plane(directory, [data[a:b] for a, b in pairwise(bounds)], shards)

    return make
