"""Which rows are whose: a gang member's share of the shards, and the part that is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.hashing import hash_integers
from gdmix_core.fixed_effects.plugin import RowShard

Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

_SHARD_STEP: Final = 2**40
_HASHES: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` ≤ position < `stop` of a shard.

    Attributes:
        shard: where they are.
        number: of the shard.
        start: first position.
        stop: behind the last one.
    """

    shard: RowShard
    number: int
    start: int
    stop: int


def parts_of(shards: Sequence[RowShard], rank: int, size: int) -> list[Part]:
    """Return a member's share of the rows.

    Every member has its own shards; where there are fewer of them than members, each has a piece of every shard.
    """
    numbered = list(enumerate(shards))
    if len(shards) >= size:
        return [Part(shard, number, 0, shard.rows) for number, shard in numbered[rank::size]]
    return [
        Part(shard, number, shard.rows * rank // size, shard.rows * (rank + 1) // size)
        for number, shard in numbered
    ]


@dataclass(frozen=True, slots=True)
class Selection:
    """A share of rows drawn by a hash of seed, shard and position, or all the others.

    Attributes:
        seed: other seeds, other rows.
        share: of the rows that is drawn.
        drawn: whether those, or the others, are selected.
    """

    seed: int
    share: float
    drawn: bool

    def positions(self, part: Part) -> Int64Array:
        """Return the positions of a part's rows that are selected, counted from the part's start."""
        place = np.arange(part.start, part.stop) + part.number * _SHARD_STEP
        hashes = hash_integers(hash_integers(place).view(np.int64) ^ np.int64(self.seed))
        drawn = hashes.astype(np.float64) < self.share * _HASHES
        return np.flatnonzero(drawn == self.drawn)

    def count(self, parts: Sequence[Part]) -> int:
        """Return how many rows are selected."""
        return sum(len(self.positions(part)) for part in parts)
