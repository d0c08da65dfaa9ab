"""Which rows of an entity are trained on: all, none of those with too few, a sample of those with too many.

The sample is the rows with the smallest hashes of their uids: it depends on the rows alone, and grows into
itself when the bound is raised. Its weights are scaled up to all of the entity's rows, so that the prior keeps
its strength against the data (as in Photon-ML's random-effect data sets).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.data.hashing import hash_integers

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """uint8[N], 1 where a row is trained on, and float64[N], what its weight is multiplied by."""

    active: UInt8Array
    factor: Float64Array


def sample_rows(
    row_ptr: Int64Array,
    uid: Int64Array,
    active: UInt8Array,
    min_rows: int | None,
    max_rows: int | None,
) -> Sample:
    """Choose the rows of every entity that it is trained on.

    Args:
        row_ptr: int64[E + 1], rows by entity.
        uid: int64[N].
        active: uint8[N], 1 where a row may be trained on at all.
        min_rows: Entities with fewer such rows are not trained.
        max_rows: Entities with more are trained on so many.
    """
    entity = np.repeat(np.arange(len(row_ptr) - 1), np.diff(row_ptr))
    count = np.bincount(entity[active == 1], minlength=len(row_ptr) - 1)
    chosen = active.copy()
    if min_rows is not None:
        chosen[(count < min_rows)[entity]] = 0
    factor = np.ones(len(uid))
    if max_rows is not None and np.any(count > max_rows):
        # Inside an entity: rows that may be trained on first, by hash.
        order = np.lexsort((hash_integers(uid), 1 - active, entity))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - row_ptr[:-1][entity[order]]
        chosen[rank >= max_rows] = 0
        factor = np.where(count > max_rows, count / max_rows, 1.0)[entity]
    return Sample(chosen, factor)
