"""The rows of a partition that are trained on, as problems of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gdmix_core.solvers.random_effect import EntityProblems


def active_rows(problems: EntityProblems, active: npt.NDArray[np.uint8] | None) -> EntityProblems:
    """Return the problems without their passive rows; entities and coefficients stay as they are.

    Args:
        problems: With all rows.
        active: uint8[N], 1 for rows to keep; None keeps all.
    """
    if active is None or active.all():
        return problems
    kept = np.flatnonzero(active)
    ends = np.append(0, np.cumsum(active.astype(np.int64)))
    lengths = np.diff(problems.indptr)
    indptr = np.append(0, np.cumsum(lengths[kept]))
    entries = np.flatnonzero(np.repeat(active, lengths))
    return replace(
        problems,
        row_ptr=ends[problems.row_ptr],
        indptr=indptr,
        indices=problems.indices[entries],
        values=problems.values[entries],
        labels=problems.labels[kept],
        weights=problems.weights[kept],
        offsets=problems.offsets[kept],
    )
