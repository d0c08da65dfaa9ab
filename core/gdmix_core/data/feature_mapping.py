"""From one feature index to another: which number a coordinate's features have there."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.csr import bag_shifts
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn
from gdmix_core.data.term_table import TermTable
from gdmix_core.errors import DataError

Int64Array = npt.NDArray[np.int64]

Space: TypeAlias = tuple[tuple[str, ...], bool]
"""Bags and intercept of a coordinate."""


def feature_mapping(old: FeatureIndex, old_space: Space, new: FeatureIndex, new_space: Space) -> Int64Array:
    """Return int64[D of the old coordinate]: each coefficient's number in the new one, -1 where it has none.

    Features are the same when bag, column and term (or position) are.

    Raises:
        DataError: A column changed its kind, or a vector without names its length.
    """
    shifts = dict(zip(new_space[0], bag_shifts(new_space[0], new.bag_sizes, new_space[1])[0], strict=True))
    pieces: list[Int64Array] = []
    if old_space[1]:
        pieces.append(np.array([0 if new_space[1] else -1], np.int64))
    columns = {(column.bag, column.column.column): column for column in new.columns}
    for bag in old_space[0]:
        for column in old.columns_of(bag):
            target = columns.get((bag, column.column.column))
            if target is None or bag not in shifts:
                pieces.append(np.full(column.size, -1, np.int64))
                continue
            places = _places(column, target)
            pieces.append(np.where(places >= 0, places + shifts[bag] + target.start, -1))
    return np.concatenate([np.empty(0, np.int64), *pieces])


def _places(old: IndexedColumn, new: IndexedColumn) -> Int64Array:
    where = f"features.{old.bag}: column {old.column.column!r}"
    if old.column.kind != new.column.kind:
        raise DataError(f"{where} is of kind {new.column.kind}; in the initial model it is {old.column.kind}")
    if old.terms is not None and new.terms is not None:
        return TermTable.of(new.terms).find(old.terms).astype(np.int64)
    if old.size != new.size:
        raise DataError(f"{where} has {new.size} features; in the initial model it has {old.size}")
    return np.arange(old.size, dtype=np.int64)
