"""Linear algebra on `LANES` matrices at once, one matrix in each lane.

A matrix of lanes is a flat float64 array: entry (i, j) of all lanes' matrices lies at (i·columns + j)·LANES. Rows are
padded with zeros to a multiple of `ROW_BLOCK`, coefficients to a multiple of `TILE`; adding zeros is exact, so padding
changes no result. Sums run over rows in a fixed order that does not depend on the padding.

`factor` is the heart: it forms the Gram matrix and factors it in one go, three by three entries in registers, and never
writes the Gram matrix to memory (nine independent sums hide the latency of the fused multiply-add).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.lanes import (
    LANES,
    absolute,
    broadcast,
    choose,
    fma,
    fused_less,
    load,
    maximum,
    square_root,
    store,
    where_less,
)

Float64Array = npt.NDArray[np.float64]

TILE: Final = 3
ROW_BLOCK: Final = 4
PIVOT_FLOOR: Final = 1e-13
"""A pivot below this share of its diagonal entry counts as zero: the rest is rounding."""


@compiled
def matrix_times_vector(
    X: Float64Array, rows: int, columns: int, vector: Float64Array, offsets: Float64Array, out: Float64Array
) -> None:
    """Compute out = offsets + X·vector; even and odd columns are summed apart."""
    stride = columns * LANES
    for i in range(0, rows, ROW_BLOCK):
        row0 = i * stride
        row1 = row0 + stride
        row2 = row1 + stride
        row3 = row2 + stride
        a0 = load(offsets, i * LANES)
        a1 = load(offsets, (i + 1) * LANES)
        a2 = load(offsets, (i + 2) * LANES)
        a3 = load(offsets, (i + 3) * LANES)
        b0 = broadcast(0.0)
        b1 = b0
        b2 = b0
        b3 = b0
        at = 0
        while at + LANES < stride:
            v = load(vector, at)
            a0 = fma(load(X, row0 + at), v, a0)
            a1 = fma(load(X, row1 + at), v, a1)
            a2 = fma(load(X, row2 + at), v, a2)
            a3 = fma(load(X, row3 + at), v, a3)
            at += LANES
            v = load(vector, at)
            b0 = fma(load(X, row0 + at), v, b0)
            b1 = fma(load(X, row1 + at), v, b1)
            b2 = fma(load(X, row2 + at), v, b2)
            b3 = fma(load(X, row3 + at), v, b3)
            at += LANES
        if at < stride:
            v = load(vector, at)
            a0 = fma(load(X, row0 + at), v, a0)
            a1 = fma(load(X, row1 + at), v, a1)
            a2 = fma(load(X, row2 + at), v, a2)
            a3 = fma(load(X, row3 + at), v, a3)
        store(out, i * LANES, a0 + b0)
        store(out, (i + 1) * LANES, a1 + b1)
        store(out, (i + 2) * LANES, a2 + b2)
        store(out, (i + 3) * LANES, a3 + b3)


@compiled
def transpose_times_vector(
    X: Float64Array, rows: int, columns: int, vector: Float64Array, out: Float64Array
) -> None:
    """Compute out = Xᵀ·vector; the rows' four residue classes modulo `ROW_BLOCK` are summed apart."""
    stride = columns * LANES
    for j in range(0, stride, TILE * LANES):
        a0 = broadcast(0.0)
        a1 = a0
        a2 = a0
        b0 = a0
        b1 = a0
        b2 = a0
        c0 = a0
        c1 = a0
        c2 = a0
        d0 = a0
        d1 = a0
        d2 = a0
        at = j
        for i in range(0, rows * LANES, ROW_BLOCK * LANES):
            v = load(vector, i)
            a0 = fma(load(X, at), v, a0)
            a1 = fma(load(X, at + LANES), v, a1)
            a2 = fma(load(X, at + 2 * LANES), v, a2)
            at += stride
            v = load(vector, i + LANES)
            b0 = fma(load(X, at), v, b0)
            b1 = fma(load(X, at + LANES), v, b1)
            b2 = fma(load(X, at + 2 * LANES), v, b2)
            at += stride
            v = load(vector, i + 2 * LANES)
            c0 = fma(load(X, at), v, c0)
            c1 = fma(load(X, at + LANES), v, c1)
            c2 = fma(load(X, at + 2 * LANES), v, c2)
            at += stride
            v = load(vector, i + 3 * LANES)
            d0 = fma(load(X, at), v, d0)
            d1 = fma(load(X, at + LANES), v, d1)
            d2 = fma(load(X, at + 2 * LANES), v, d2)
            at += stride
        store(out, j, (a0 + b0) + (c0 + d0))
        store(out, j + LANES, (a1 + b1) + (c1 + d1))
        store(out, j + 2 * LANES, (a2 + b2) + (c2 + d2))


@compiled
def absolute_transpose_times_vector(
    X: Float64Array, rows: int, columns: int, vector: Float64Array, out: Float64Array
) -> None:
    """Compute out = |X|ᵀ·vector."""
    stride = columns * LANES
    for j in range(0, stride, LANES):
        total = broadcast(0.0)
        at = j
        for i in range(0, rows * LANES, LANES):
            total = fma(absolute(load(X, at)), load(vector, i), total)
            at += stride
        store(out, j, total)


@compiled
def dot(a: Float64Array, b: Float64Array, count: int) -> Any:
    """Return Σ a_j·b_j over the first `count` entries."""
    total = broadcast(0.0)
    for j in range(0, count * LANES, LANES):
        total = fma(load(a, j), load(b, j), total)
    return total


@compiled
def largest_absolute(a: Float64Array, count: int) -> Any:
    """Return max_j |a_j|; infinite where any entry is NaN."""
    largest = broadcast(0.0)
    infinite = broadcast(np.inf)
    for j in range(0, count * LANES, LANES):
        size = absolute(load(a, j))
        size = where_less(size, infinite, size, infinite)
        largest = maximum(size, largest)
    return largest


@compiled
def factor(
    X: Float64Array,
    inner_stride: int,
    outer_stride: int,
    count: int,
    size: int,
    scale: Float64Array,
    ridge: Float64Array,
    scaled: Float64Array,
    U: Float64Array,
    reciprocal: Float64Array,
) -> Any:
    """Factor G = Uᵀ·U with G_ab = Σ_s scale_s·X_sa·X_sb + [a = b]·ridge_a, and return a mask of lost pivots.

    X_sa lies at s·inner_stride + a·outer_stride, so the same code forms XᵀWX (s runs over rows) and X·L⁻¹·Xᵀ (s runs
    over coefficients). The reciprocals of U's diagonal go to `reciprocal`; a lost pivot (see `PIVOT_FLOOR`) gets the
    reciprocal 0 and an empty row of U, so that its coefficient takes no part.

    Args:
        X: the matrices.
        inner_stride: distance between consecutive s, in numbers.
        outer_stride: distance between consecutive a, in numbers.
        count: number of terms s.
        size: number of rows and columns of G, a multiple of `TILE`.
        scale: lanes[count].
        ridge: lanes[size].
        scaled: scratch for lanes[count · TILE].
        U: lanes[size, size]; only its upper triangle is written.
        reciprocal: lanes[size].
    """
    zero = broadcast(0.0)
    one = broadcast(1.0)
    floor = broadcast(PIVOT_FLOOR)
    lost = zero
    row = size * LANES
    step = TILE * LANES
    for i in range(0, size, TILE):
        column = i * outer_stride
        at = column
        to = 0
        for s in range(0, count * LANES, LANES):
            c = load(scale, s)
            store(scaled, to, c * load(X, at))
            store(scaled, to + LANES, c * load(X, at + outer_stride))
            store(scaled, to + 2 * LANES, c * load(X, at + 2 * outer_stride))
            at += inner_stride
            to += step
        # the tile on the diagonal
        g00 = load(ridge, i * LANES)
        g11 = load(ridge, (i + 1) * LANES)
        g22 = load(ridge, (i + 2) * LANES)
        g01 = zero
        g02 = zero
        g12 = zero
        at = column
        for s in range(0, count * step, step):
            x0 = load(X, at)
            x1 = load(X, at + outer_stride)
            x2 = load(X, at + 2 * outer_stride)
            v0 = load(scaled, s)
            v1 = load(scaled, s + LANES)
            g00 = fma(v0, x0, g00)
            g01 = fma(v0, x1, g01)
            g02 = fma(v0, x2, g02)
            g11 = fma(v1, x1, g11)
            g12 = fma(v1, x2, g12)
            g22 = fma(load(scaled, s + 2 * LANES), x2, g22)
            at += inner_stride
        floor0 = floor * g00
        floor1 = floor * g11
        floor2 = floor * g22
        above = i * LANES
        for _ in range(i):
            x0 = load(U, above)
            x1 = load(U, above + LANES)
            x2 = load(U, above + 2 * LANES)
            g00 = fused_less(x0, x0, g00)
            g01 = fused_less(x0, x1, g01)
            g02 = fused_less(x0, x2, g02)
            g11 = fused_less(x1, x1, g11)
            g12 = fused_less(x1, x2, g12)
            g22 = fused_less(x2, x2, g22)
            above += row
        kept = where_less(floor0, g00, one, zero)
        r0 = choose(kept, one / square_root(g00), zero)
        lost = choose(kept, lost, one)
        u01 = g01 * r0
        u02 = g02 * r0
        g11 = fused_less(u01, u01, g11)
        g12 = fused_less(u01, u02, g12)
        g22 = fused_less(u02, u02, g22)
        kept = where_less(floor1, g11, one, zero)
        r1 = choose(kept, one / square_root(g11), zero)
        lost = choose(kept, lost, one)
        u12 = g12 * r1
        g22 = fused_less(u12, u12, g22)
        kept = where_less(floor2, g22, one, zero)
        r2 = choose(kept, one / square_root(g22), zero)
        lost = choose(kept, lost, one)
        here = i * row + i * LANES
        store(U, here, g00 * r0)
        store(U, here + LANES, u01)
        store(U, here + 2 * LANES, u02)
        store(U, here + row + LANES, g11 * r1)
        store(U, here + row + 2 * LANES, u12)
        store(U, here + 2 * row + 2 * LANES, g22 * r2)
        store(reciprocal, i * LANES, r0)
        store(reciprocal, (i + 1) * LANES, r1)
        store(reciprocal, (i + 2) * LANES, r2)
        # the tiles to its right
        for k in range(i + TILE, size, TILE):
            g00 = zero
            g01 = zero
            g02 = zero
            g10 = zero
            g11 = zero
            g12 = zero
            g20 = zero
            g21 = zero
            g22 = zero
            at = k * outer_stride
            for s in range(0, count * step, step):
                x0 = load(X, at)
                x1 = load(X, at + outer_stride)
                x2 = load(X, at + 2 * outer_stride)
                v = load(scaled, s)
                g00 = fma(v, x0, g00)
                g01 = fma(v, x1, g01)
                g02 = fma(v, x2, g02)
                v = load(scaled, s + LANES)
                g10 = fma(v, x0, g10)
                g11 = fma(v, x1, g11)
                g12 = fma(v, x2, g12)
                v = load(scaled, s + 2 * LANES)
                g20 = fma(v, x0, g20)
                g21 = fma(v, x1, g21)
                g22 = fma(v, x2, g22)
                at += inner_stride
            above = i * LANES
            across = k * LANES
            for _ in range(i):
                x0 = load(U, across)
                x1 = load(U, across + LANES)
                x2 = load(U, across + 2 * LANES)
                v = load(U, above)
                g00 = fused_less(v, x0, g00)
                g01 = fused_less(v, x1, g01)
                g02 = fused_less(v, x2, g02)
                v = load(U, above + LANES)
                g10 = fused_less(v, x0, g10)
                g11 = fused_less(v, x1, g11)
                g12 = fused_less(v, x2, g12)
                v = load(U, above + 2 * LANES)
                g20 = fused_less(v, x0, g20)
                g21 = fused_less(v, x1, g21)
                g22 = fused_less(v, x2, g22)
                above += row
                across += row
            g00 = g00 * r0
            g01 = g01 * r0
            g02 = g02 * r0
            g10 = fused_less(u01, g00, g10) * r1
            g11 = fused_less(u01, g01, g11) * r1
            g12 = fused_less(u01, g02, g12) * r1
            g20 = fused_less(u12, g10, fused_less(u02, g00, g20)) * r2
            g21 = fused_less(u12, g11, fused_less(u02, g01, g21)) * r2
            g22 = fused_less(u12, g12, fused_less(u02, g02, g22)) * r2
            here = i * row + k * LANES
            store(U, here, g00)
            store(U, here + LANES, g01)
            store(U, here + 2 * LANES, g02)
            store(U, here + row, g10)
            store(U, here + row + LANES, g11)
            store(U, here + row + 2 * LANES, g12)
            store(U, here + 2 * row, g20)
            store(U, here + 2 * row + LANES, g21)
            store(U, here + 2 * row + 2 * LANES, g22)
    return lost


@compiled
def solve_transposed(U: Float64Array, reciprocal: Float64Array, size: int, x: Float64Array) -> None:
    """Replace x by the solution of Uᵀ·x = (the old x)."""
    row = size * LANES
    for i in range(0, size, TILE):
        here = i * row + i * LANES
        at = i * LANES
        x0 = load(x, at) * load(reciprocal, at)
        x1 = fused_less(load(U, here + LANES), x0, load(x, at + LANES)) * load(reciprocal, at + LANES)
        x2 = fused_less(load(U, here + 2 * LANES), x0, load(x, at + 2 * LANES))
        x2 = fused_less(load(U, here + row + 2 * LANES), x1, x2) * load(reciprocal, at + 2 * LANES)
        store(x, at, x0)
        store(x, at + LANES, x1)
        store(x, at + 2 * LANES, x2)
        upper = i * row
        for k in range(at + TILE * LANES, row, LANES):
            rest = fused_less(load(U, upper + k), x0, load(x, k))
            rest = fused_less(load(U, upper + row + k), x1, rest)
            rest = fused_less(load(U, upper + 2 * row + k), x2, rest)
            store(x, k, rest)


@compiled
def solve_upper(U: Float64Array, reciprocal: Float64Array, size: int, x: Float64Array) -> None:
    """Replace x by the solution of U·x = (the old x)."""
    row = size * LANES
    for i in range(size - TILE, -1, -TILE):
        at = i * LANES
        upper = i * row
        x0 = load(x, at)
        x1 = load(x, at + LANES)
        x2 = load(x, at + 2 * LANES)
        for k in range(at + TILE * LANES, row, LANES):
            v = load(x, k)
            x0 = fused_less(load(U, upper + k), v, x0)
            x1 = fused_less(load(U, upper + row + k), v, x1)
            x2 = fused_less(load(U, upper + 2 * row + k), v, x2)
        x2 = x2 * load(reciprocal, at + 2 * LANES)
        x1 = fused_less(load(U, upper + row + at + 2 * LANES), x2, x1) * load(reciprocal, at + LANES)
        x0 = fused_less(load(U, upper + at + 2 * LANES), x2, x0)
        x0 = fused_less(load(U, upper + at + LANES), x1, x0) * load(reciprocal, at)
        store(x, at, x0)
        store(x, at + LANES, x1)
        store(x, at + 2 * LANES, x2)
