"""How each entity is solved: one pass that looks at its shape and data and estimates the cost of every way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.lane_algebra import ROW_BLOCK, TILE
from gdmix_core.solvers.random_effect.lane_solver import DUAL, DUAL_FREE_INTERCEPT, PRIMAL
from gdmix_core.solvers.random_effect.lanes import LANES
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

CAREFUL: Final = 3
"""One at a time: too large for the lanes, or with unregularised features."""
NOTHING_TO_FIT: Final = 4
"""No rows, or no weight on any: the prior mean is the solution."""
BROKEN: Final = 5
"""Numbers that no model can be fitted to."""

_LOGISTIC: Final = 0
_POISSON: Final = 2

# Beyond this a group's matrix (LANES · 8 bytes an entry) or Hessian falls out of the second-level cache for good.
_MOST_ENTRIES: Final = 65536
_MOST_HESSIAN_SIZE: Final = 192


@compiled
def survey(
    loss: int,
    p: ProblemArrays,
    method: npt.NDArray[np.int8],
    unbounded: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    cost: Float64Array,
) -> None:
    """Choose each entity's method, and note whose optimum lies at infinity and what the solve will cost.

    Args:
        loss: number of the loss.
        p: the problems.
        method: output, int8[E].
        unbounded: output, uint8[E]: an unregularised intercept with labels that are all at one end of their range.
        free: output, int32[E], the number of coefficients without l2.
        cost: output, float64[E], about the number of multiply-adds.
    """
    for e in range(p.row_ptr.size - 1):
        first = p.row_ptr[e]
        last = p.row_ptr[e + 1]
        c0 = p.coefficient_ptr[e]
        n = last - first
        d = p.coefficient_ptr[e + 1] - c0
        sane = 0.0  # stays 0 unless something is NaN, infinite or negative
        weight = 0.0
        lowest = np.inf
        highest = -np.inf
        for i in range(first, last):
            sane += 0.0 * (p.labels[i] + p.offsets[i] + p.weights[i])
            weight += p.weights[i]
            if p.weights[i] > 0.0:
                lowest = min(lowest, p.labels[i])
                highest = max(highest, p.labels[i])
            elif p.weights[i] < 0.0:
                sane += 1.0
        for q in range(p.indptr[first], p.indptr[last]):
            sane += 0.0 * p.values[q]
        without = 0
        for j in range(d):
            l2 = p.l2[c0 + j]
            sane += 0.0 * (l2 + p.prior_mean[c0 + j])
            if l2 < 0.0:
                sane += 1.0
            if l2 == 0.0:
                without += 1
        free_intercept = p.intercept and d > 0 and p.l2[c0] == 0.0
        free_features = without > (1 if free_intercept else 0)
        free[e] = without
        unbounded[e] = 0
        cost[e] = 1.0
        if sane != 0.0:  # NaN, too
            method[e] = BROKEN
            continue
        if weight == 0.0 or d == 0:
            method[e] = NOTHING_TO_FIT
            continue
        if free_intercept and (
            (loss == _LOGISTIC and (highest <= 0.0 or lowest >= 1.0)) or (loss == _POISSON and highest <= 0.0)
        ):
            unbounded[e] = 1
        rows = float(n)
        size = float(d)
        width = rows + (1.0 if free_intercept else 0.0)
        primal = 5.0 * (0.5 * rows * size * size + size * size * size / 6.0 + 4.0 * rows * size)
        dual = 0.5 * rows * rows * size + rows * rows * rows / 6.0 + 4.0 * rows * size
        dual += 6.0 * (0.5 * rows * width * width + width * width * width / 6.0 + 4.0 * rows * width)
        in_rows = dual < primal
        cost[e] = min(primal, dual) + 20.0 * rows * size
        if unbounded[e]:
            cost[e] *= 4.0
        if free_features or rows * size > _MOST_ENTRIES or min(size, width) > _MOST_HESSIAN_SIZE:
            method[e] = CAREFUL
        elif not in_rows:
            method[e] = PRIMAL if size <= _MOST_HESSIAN_SIZE else CAREFUL
        else:
            method[e] = DUAL_FREE_INTERCEPT if free_intercept else DUAL


@dataclass(frozen=True, slots=True)
class LaneChunk:
    """Groups of entities for one call of `solve_lanes`, and the workspace sizes they need (see `lane_workspace`)."""

    order: Int64Array
    methods: npt.NDArray[np.int8]
    rows: int
    size: int
    entries: int
    dual_rows: int
    hessian_size: int


_CHUNK_COST: Final = 2e8  # multiply-adds of one call, so that threads share the work evenly


def lane_chunks(
    p: ProblemArrays, method: npt.NDArray[np.int8], unbounded: npt.NDArray[np.uint8], cost: Float64Array
) -> list[LaneChunk]:
    """Put entities of like shape into groups of `LANES`, and groups of like cost into chunks, the most costly first."""
    entities = np.flatnonzero(method <= DUAL_FREE_INTERCEPT)
    if entities.size == 0:
        return []
    rows = np.diff(p.row_ptr)[entities]
    size = np.diff(p.coefficient_ptr)[entities]
    kind = method[entities]
    # Like shapes share a group: first the Hessian's size in tiles (it costs most), then what else delays a neighbour.
    dual = kind != PRIMAL
    main = np.where(dual, rows, size)
    other = np.where(dual, size, rows)
    key = (((kind.astype(np.int64) << 1) | unbounded[entities]) << 56) | (-(-main // TILE) << 32) | other
    by_shape = entities if np.all(key[1:] >= key[:-1]) else entities[np.argsort(key, kind="stable")]
    kind = method[by_shape]
    chunks: list[LaneChunk] = []
    for which in (PRIMAL, DUAL, DUAL_FREE_INTERCEPT):
        chosen = by_shape[kind == which]
        if chosen.size:
            chunks.extend(_chunks_of(p, chosen, which, cost))
    chunks.reverse()
    return chunks


def _chunks_of(p: ProblemArrays, chosen: Int64Array, kind: int, cost: Float64Array) -> list[LaneChunk]:
    """Cut the entities of one method into chunks of about equal cost."""
    groups = -(-chosen.size // LANES)
    order = np.full(groups * LANES, -1, dtype=np.int64)
    order[: chosen.size] = chosen
    running = np.cumsum(np.add.reduceat(cost[chosen], np.arange(0, chosen.size, LANES)))
    cuts = np.flatnonzero(np.diff(running // _CHUNK_COST)) + 1
    edges = [0, *cuts.tolist(), groups]
    rows = np.diff(p.row_ptr)[chosen]
    size = np.diff(p.coefficient_ptr)[chosen]
    starts = np.arange(0, chosen.size, LANES)
    block = ROW_BLOCK if kind == PRIMAL else ROW_BLOCK * TILE
    group_rows = -(-np.maximum.reduceat(rows, starts) // block) * block
    group_size = -(-np.maximum.reduceat(size, starts) // TILE) * TILE
    chunks = []
    for low, high in pairwise(edges):
        most_rows = int(group_rows[low:high].max())
        most_size = int(group_size[low:high].max())
        chunks.append(
            LaneChunk(
                order=order[low * LANES : high * LANES],
                methods=np.full(high - low, kind, dtype=np.int8),
                rows=most_rows,
                size=most_size,
                entries=int((group_rows * group_size)[low:high].max()),
                dual_rows=0 if kind == PRIMAL else most_rows,
                hessian_size=most_size if kind == PRIMAL else 0,
            )
        )
    return chunks
