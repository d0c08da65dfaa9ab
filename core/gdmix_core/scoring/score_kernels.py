"""The compiled pass over all candidates of a request: features times coefficients, coordinate by coordinate."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input, register_warm_up
from gdmix_core.scoring.cache_kernels import coefficients_at
from gdmix_core.solvers.losses import POISSON_LINEAR_BEYOND, Loss

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

FIXED: Final = 0
RANDOM: Final = 1
EXTERNAL: Final = 2
LOGISTIC: Final = int(Loss.LOGISTIC)
POISSON: Final = int(Loss.POISSON)

ROWS_FALL: Final = 1
ROWS_END: Final = 2
NOT_INCREASING: Final = 3
OUTSIDE: Final = 4
NOT_FINITE: Final = 5

_SEARCH_FACTOR: Final = 8
"""From how many times more coefficients than features on it pays to search instead of merging."""

# Columns of the table of coordinates, int64[coordinates, 4 + bags].
KIND: Final = 0
INTERCEPT: Final = 1
WEIGHTS: Final = 2
"""Fixed effect: where its coefficients begin. One whose scores are given: which row of them."""
ENTITIES: Final = 3
"""Random effect: number of its entity column."""
SHIFTS: Final = 4
"""From here, one column a bag: what is added to the bag's indices; -1 where the coordinate has not the bag."""

# Columns of the table of feature blocks, int64[blocks, 4].
BAG: Final = 0
CONTEXT: Final = 1
FIRST_ROW: Final = 2
"""Where its row bounds begin in `bounds`."""
FIRST_NONZERO: Final = 3
"""Where its features begin in `indices` and `values`."""


@compiled
def check_rows(
    bounds: Int64Array, indices: Int32Array, values: Float64Array, dimension: int
) -> tuple[int, int]:
    """Check sparse rows that somebody sent; return the first fault, 0 for none, and its row."""
    if bounds[0] != 0:
        return ROWS_FALL, 0
    rows = bounds.size - 1
    for i in range(rows):
        if bounds[i + 1] < bounds[i]:
            return ROWS_FALL, i
    if bounds[rows] != indices.size:
        return ROWS_END, rows
    for i in range(rows):
        last = np.int64(-1)
        for k in range(bounds[i], bounds[i + 1]):
            index = np.int64(indices[k])
            if index < 0 or index >= dimension:
                return OUTSIDE, i
            if index <= last:
                return NOT_INCREASING, i
            last = index
            if not np.isfinite(values[k]):
                return NOT_FINITE, i
    return 0, -1


@compiled
def _random_part(
    numbers: Float64Array,
    narrow: Int32Array,
    at: int,
    count: int,
    shift: int,
    indices: Int32Array,
    values: Float64Array,
    begin: int,
    end: int,
) -> float:
    """Return the product of one row with an entity's coefficients; both sides' indices increase."""
    total = 0.0
    base = 2 * (at + count)
    if count == 0 or begin == end:
        return total
    if narrow[base + count - 1] == count - 1:  # it has all of the first `count` coefficients
        for k in range(begin, end):
            index = np.int64(indices[k]) + shift
            if index < count:
                total += numbers[at + index] * values[k]
        return total
    if count > _SEARCH_FACTOR * (end - begin):
        low = np.int64(0)
        for k in range(begin, end):
            index = np.int64(indices[k]) + shift
            high = np.int64(count)
            while low < high:
                middle = (low + high) // 2
                if narrow[base + middle] < index:
                    low = middle + 1
                else:
                    high = middle
            if low < count and narrow[base + low] == index:
                total += numbers[at + low] * values[k]
        return total
    j = np.int64(0)
    for k in range(begin, end):
        index = np.int64(indices[k]) + shift
        while j < count and narrow[base + j] < index:
            j += 1
        if j == count:
            break
        if narrow[base + j] == index:
            total += numbers[at + j] * values[k]
    return total


@compiled
def _row_part(
    dense: Float64Array,
    start: int,
    numbers: Float64Array,
    narrow: Int32Array,
    at: int,
    count: int,
    coordinates: Int64Array,
    c: int,
    blocks: Int64Array,
    bounds: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    candidate: int,
    context: bool,
) -> float:
    """Return what the context's features, or those of one candidate, add to a coordinate's score.

    The coefficients are dense[start:], or with `start` < 0 those of an entity at `at`.
    """
    total = 0.0
    for b in range(blocks.shape[0]):
        shift = coordinates[c, SHIFTS + blocks[b, BAG]]
        if shift < 0 or (blocks[b, CONTEXT] == 1) != context:
            continue
        row = blocks[b, FIRST_ROW] + (0 if context else candidate)
        begin = blocks[b, FIRST_NONZERO] + bounds[row]
        end = blocks[b, FIRST_NONZERO] + bounds[row + 1]
        if start >= 0:
            first = start + shift
            for k in range(begin, end):
                total += dense[first + indices[k]] * values[k]
        else:
            total += _random_part(numbers, narrow, at, count, shift, indices, values, begin, end)
    return total


@compiled
def _scatter_context(
    scratch: Float64Array,
    coordinates: Int64Array,
    c: int,
    blocks: Int64Array,
    bounds: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    clear: bool,
) -> None:
    """Lay the context's features, a 1 for the intercept included, out as a dense vector; or clear it again."""
    if coordinates[c, INTERCEPT] == 1:
        scratch[0] = 0.0 if clear else 1.0
    for b in range(blocks.shape[0]):
        shift = coordinates[c, SHIFTS + blocks[b, BAG]]
        if shift < 0 or blocks[b, CONTEXT] == 0:
            continue
        begin = blocks[b, FIRST_NONZERO] + bounds[blocks[b, FIRST_ROW]]
        end = blocks[b, FIRST_NONZERO] + bounds[blocks[b, FIRST_ROW] + 1]
        for k in range(begin, end):
            scratch[shift + indices[k]] = 0.0 if clear else values[k]


@compiled
def _scatter_entity(
    scratch: Float64Array, numbers: Float64Array, narrow: Int32Array, at: int, count: int, clear: bool
) -> None:
    """Lay an entity's coefficients out as a dense vector; or clear it again."""
    base = 2 * (at + count)
    for j in range(count):
        scratch[narrow[base + j]] = 0.0 if clear else numbers[at + j]


@compiled
def score(
    words: Int64Array,
    coordinates: Int64Array,
    weights: Float64Array,
    scratch: Float64Array,
    blocks: Int64Array,
    bounds: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    places: Int64Array,
    entity_columns: Int64Array,
    external: Float64Array,
    loss: int,
    contributions: Float64Array,
    scores: Float64Array,
    predictions: Float64Array,
) -> None:
    """Score all candidates.

    What all candidates share is laid out densely once, the context's features or the context's entity: then the other
    side only gathers. Where two sparse sides meet, they are merged.

    Args:
        words: the record cache's memory.
        coordinates: the table of coordinates.
        weights: coefficients of the fixed effects, one behind the other.
        scratch: float64, zeros, as long as the largest dimension of a random effect; zeros again afterwards. Empty:
            everything is merged.
        blocks: the table of feature blocks.
        bounds: int64, row bounds of all blocks, each block's from 0.
        indices: int32, features of all blocks, counted inside their bags.
        values: float64, their values.
        places: int64, where the entities' entries are, one random effect behind the other; negative: no entry.
        entity_columns: int64[random effects, 2]: where an effect's places begin, and 0 if it has one place for all
            candidates, 1 if one for each.
        external: float64[given, candidates], or float64[given, 1] for all: scores of fixed effects that others compute.
        loss: number of the loss, for the means.
        contributions: float64[coordinates, candidates], written.
        scores: float64[candidates], written: the sums of the contributions.
        predictions: float64[candidates], written: the means of the scores.
    """
    numbers = words.view(np.float64)
    narrow = words.view(np.int32)
    candidates = scores.size
    for i in range(candidates):
        scores[i] = 0.0
    for c in range(coordinates.shape[0]):
        kind = coordinates[c, KIND]
        if kind == EXTERNAL:
            given = external[coordinates[c, WEIGHTS]]
            step = 1 if given.size > 1 else 0
            for i in range(candidates):
                contributions[c, i] = given[step * i]
                scores[i] += given[step * i]
            continue
        first_place = np.int64(0)
        step = 0
        if kind == RANDOM:
            first_place = entity_columns[coordinates[c, ENTITIES], 0]
            step = entity_columns[coordinates[c, ENTITIES], 1]
        at: int = np.int64(0)  # type: ignore[assignment]  # one type in all branches
        count: int = np.int64(0)  # type: ignore[assignment]
        spread = kind == RANDOM and step == 1 and scratch.size > 0
        if spread:
            _scatter_context(scratch, coordinates, c, blocks, bounds, indices, values, False)
        dense = weights
        start: int = coordinates[c, WEIGHTS] if kind == FIXED else np.int64(-1)  # type: ignore[assignment]
        shared = 0.0  # intercept and context: the same for all candidates of one entity
        for i in range(candidates):
            if i == 0 or step == 1:
                if kind == RANDOM:
                    place = places[first_place + step * i]
                    count = np.int64(0)  # type: ignore[assignment]
                    if place >= 0:
                        at = coefficients_at(words, place)
                        count = np.int64(narrow[2 * place + 7])  # type: ignore[assignment]
                    fits = count > 0 and narrow[2 * (at + count) + count - 1] < scratch.size
                    if step == 0 and fits:
                        _scatter_entity(scratch, numbers, narrow, at, count, False)
                        dense = scratch
                        start = np.int64(0)  # type: ignore[assignment]
                shared = 0.0
                if spread and fits:
                    base = 2 * (at + count)
                    for j in range(count):
                        shared += numbers[at + j] * scratch[narrow[base + j]]
                else:
                    if coordinates[c, INTERCEPT] == 1:
                        if start >= 0:
                            shared = dense[start]
                        elif count > 0 and narrow[2 * (at + count)] == 0:
                            shared = numbers[at]
                    shared += _row_part(
                        dense, start, numbers, narrow, at, count, coordinates, c,
                        blocks, bounds, indices, values, i, True,
                    )  # fmt: skip
            total = shared + _row_part(
                dense, start, numbers, narrow, at, count, coordinates, c,
                blocks, bounds, indices, values, i, False,
            )  # fmt: skip
            contributions[c, i] = total
            scores[i] += total
        if spread:
            _scatter_context(scratch, coordinates, c, blocks, bounds, indices, values, True)
        elif kind == RANDOM and start >= 0:
            _scatter_entity(scratch, numbers, narrow, at, count, True)
    for i in range(candidates):
        z = scores[i]
        if loss == LOGISTIC:
            small = np.exp(-abs(z))
            predictions[i] = 1.0 / (1.0 + small) if z >= 0.0 else small / (1.0 + small)
        elif loss == POISSON:
            predictions[i] = np.exp(min(z, POISSON_LINEAR_BEYOND))
        else:
            predictions[i] = z


def _warm_up() -> None:
    whole, numbers = kernel_input([0, 0], np.int64), kernel_input([0, 0], np.float64)
    narrow, table = kernel_input([0, 0], np.int32), kernel_input(np.zeros((1, SHIFTS + 1)), np.int64)
    check_rows(whole, kernel_input([], np.int32), kernel_input([], np.float64), 1)
    score(
        np.zeros(8, np.int64), table, numbers, np.zeros(1), np.zeros((1, 4), np.int64), whole, narrow, numbers,
        kernel_input([-1, -1], np.int64), kernel_input(np.zeros((1, 2)), np.int64),
        kernel_input([[0.0]], np.float64), 0, np.zeros((1, 1)), np.zeros(1), np.zeros(1),
    )  # fmt: skip


register_warm_up("online scoring", _warm_up)
