"""From raw columns to the features of trees: numbers as they are, codes of categories, one flag for each term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.fixed_effects.plugin import RowShard


@dataclass(frozen=True, slots=True)
class Features:
    """What was learned of the columns, and how rows are encoded by it.

    Attributes:
        numeric: columns of numbers.
        categories: by categorical column, its known values; a value's code is its place.
        terms: by list column, its known terms; each is a feature.
    """

    numeric: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    terms: dict[str, tuple[str, ...]]

    @property
    def categorical_places(self) -> list[int]:
        """Which features are categorical, by their place."""
        first = len(self.numeric)
        return list(range(first, first + len(self.categories)))

    def encoded(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Return the features of some rows; numbers share the memory of their columns, what is unknown is null."""
        arrays = list(
            chain(
                (columns.column(name) for name in self.numeric),
                (
                    pc.index_in(columns.column(name), value_set=pa.array(known, pa.string()))
                    for name, known in self.categories.items()
                ),
                *(_flags(columns.column(name), known) for name, known in self.terms.items()),
            )
        )
        return pa.record_batch(arrays, names=[f"f{place}" for place in range(len(arrays))])

    def matrix(self, columns: pa.RecordBatch) -> npt.NDArray[np.float64]:
        """Return the features of some rows, float64[rows, features], NaN for null."""
        encoded = self.encoded(columns)
        matrix = np.empty((encoded.num_rows, encoded.num_columns))
        for place, array in enumerate(encoded.columns):
            matrix[:, place] = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return matrix


def learn_features(
    shards: Sequence[RowShard],
    numeric: Sequence[str],
    categorical: Sequence[str],
    lists: Sequence[str],
    *,
    max_categories: int,
    max_terms: int,
) -> Features:
    """Return the features of some columns: the most frequent categories and terms of all shards."""
    return Features(
        numeric=tuple(numeric),
        categories={
            name: _most_frequent((shard.read().columns.column(name) for shard in shards), max_categories)
            for name in categorical
        },
        terms={
            name: _most_frequent(
                (pc.list_flatten(shard.read().columns.column(name)) for shard in shards), max_terms
            )
            for name in lists
        },
    )


def _most_frequent(arrays: Iterator[pa.Array], most: int) -> tuple[str, ...]:
    """Return the most frequent values in their own order; of equally frequent ones the first."""
    counts = [array.drop_null().value_counts() for array in arrays]
    values = pa.chunked_array([count.field("values") for count in counts], pa.string())
    numbers = pa.chunked_array([count.field("counts") for count in counts], pa.int64())
    table = pa.table({"value": values, "count": numbers}).group_by("value").aggregate([("count", "sum")])
    table = table.sort_by([("count_sum", "descending"), ("value", "ascending")]).slice(0, most)
    return tuple(sorted(table.column("value").to_pylist()))


def _flags(lists: pa.Array, known: Sequence[str]) -> list[pa.Array]:
    """Return for each known term whether a row's list has it; null lists have none."""
    rows = pc.list_parent_indices(lists).to_numpy()
    codes = pc.index_in(pc.list_flatten(lists), value_set=pa.array(known, pa.string()))
    codes = pc.fill_null(codes, -1).to_numpy()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(known) + 1))
    arrays = []
    for place in range(len(known)):
        flags = np.zeros(len(lists), np.uint8)
        flags[rows[order[bounds[place] : bounds[place + 1]]]] = 1
        arrays.append(pa.array(flags))
    return arrays
