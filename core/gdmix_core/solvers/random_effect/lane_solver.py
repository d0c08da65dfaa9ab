"""The fast path: small entities, `LANES` at a time, by Newton's method in coefficients or in rows.

With more rows than coefficients an entity is solved as it stands. With fewer, it is rotated first: K = X·L⁻¹·Xᵀ = R·Rᵀ
has one row per row of data, the problem in β with features R and unit l2 has the same predictors, and
θ = prior + L⁻¹·Xᵀ·α with Rᵀ·α = β gives the coefficients back (Hastie and Tibshirani, "Efficient quadratic
regularization for expression arrays", 2004). An intercept without l2 stays a coefficient of its own.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.lane_algebra import (
    ROW_BLOCK,
    TILE,
    factor,
    largest_absolute,
    matrix_times_vector,
    solve_transposed,
    solve_upper,
    transpose_times_vector,
)
from gdmix_core.solvers.random_effect.lane_newton import (
    NOISE,
    LaneCoefficients,
    LaneControl,
    LaneFactors,
    LaneRows,
    certificate_ratio,
    evaluate,
    newton,
)
from gdmix_core.solvers.random_effect.lanes import (
    LANES,
    broadcast,
    choose,
    fma,
    load,
    maximum,
    square_root,
    store,
)
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays, SolutionArrays

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

PRIMAL: Final = 0
DUAL: Final = 1
DUAL_FREE_INTERCEPT: Final = 2

_POISSON: Final = 2


class Rotation(NamedTuple):
    """Scratch for the problem in rows: R, the factor of K, reciprocal l2, α, and the rows and coefficients."""

    R: Float64Array
    K: Float64Array
    reciprocal: Float64Array
    inverse_l2: Float64Array
    alpha: Float64Array
    nothing: Float64Array


@compiled(inline=True)
def _group_shape(order: Int64Array, group: int, kind: int, p: ProblemArrays) -> tuple[int, int]:
    rows = 1
    size = 1
    for lane in range(LANES):
        e = order[group + lane]
        if e >= 0:
            rows = max(rows, p.row_ptr[e + 1] - p.row_ptr[e])
            size = max(size, p.coefficient_ptr[e + 1] - p.coefficient_ptr[e])
    block = ROW_BLOCK if kind == PRIMAL else ROW_BLOCK * TILE
    return (rows + block - 1) // block * block, (size + TILE - 1) // TILE * TILE


@compiled
def _fill_lanes(
    loss: int,
    order: Int64Array,
    group: int,
    count: int,
    size: int,
    p: ProblemArrays,
    start: Float64Array,
    X: Float64Array,
    rows: LaneRows,
    c: LaneCoefficients,
    active: Float64Array,
    allowed: Float64Array,
) -> None:
    """Bring a group's entities into the lanes; unused rows get weight 0, unused coefficients l2 = 1."""
    X[: count * size * LANES] = 0.0
    rows.y[: count * LANES] = 0.0
    rows.w[: count * LANES] = 0.0
    rows.offset[: count * LANES] = 0.0
    rows.target[: count * LANES] = 0.0
    c.ridge[: size * LANES] = 1.0
    c.prior[: size * LANES] = 0.0
    c.theta[: size * LANES] = 0.0
    for lane in range(LANES):
        e = order[group + lane]
        active[lane] = 0.0
        allowed[lane] = 1e-8
        if e < 0:
            continue
        active[lane] = 1.0
        total = 0.0
        at = lane
        base = lane
        for i in range(p.row_ptr[e], p.row_ptr[e + 1]):
            rows.y[at] = p.labels[i]
            rows.w[at] = p.weights[i]
            total += p.weights[i]
            rows.offset[at] = p.offsets[i]
            if p.intercept:
                X[base] = 1.0
            for q in range(p.indptr[i], p.indptr[i + 1]):
                X[base + p.indices[q] * LANES] = p.values[q]
            if loss == _POISSON:
                # Rounded, so that no processor's libm leaves a trace in the solution.
                rows.target[at] = math.floor(64.0 * math.log(max(p.labels[i], 0.5)) + 0.5) / 64.0
            at += LANES
            base += size * LANES
        at = lane
        for j in range(p.coefficient_ptr[e], p.coefficient_ptr[e + 1]):
            c.ridge[at] = p.l2[j]
            c.prior[at] = p.prior_mean[j]
            c.theta[at] = start[j]
            at += LANES
        allowed[lane] = 1e-8 * max(1.0, total)


@compiled
def _rotate(
    kind: int,
    X: Float64Array,
    count: int,
    size: int,
    c: LaneCoefficients,
    offset: Float64Array,
    reduced_offset: Float64Array,
    reduced: LaneCoefficients,
    rotation: Rotation,
    scaled: Float64Array,
    active: Float64Array,
    warm: bool,
) -> int:
    """Set up the problem in rows: matrix rotation.R, start and offsets. Returns its number of coefficients."""
    free = TILE if kind == DUAL_FREE_INTERCEPT else 0
    width = count + free
    zero = broadcast(0.0)
    one = broadcast(1.0)
    for at in range(0, count * LANES, LANES):
        store(rotation.nothing, at, zero)
    for at in range(0, size * LANES, LANES):
        l2 = load(c.ridge, at)
        store(rotation.inverse_l2, at, choose(l2, one / l2, zero))
    factor(
        X, active.size, size * LANES, size, count, rotation.inverse_l2, rotation.nothing,
        scaled, rotation.K, rotation.reciprocal,
    )  # fmt: skip
    R = rotation.R
    for i in range(count):
        for at in range(i * width * LANES, (i + 1) * width * LANES, LANES):
            store(R, at, zero)
        if free > 0:
            store(R, i * width * LANES, one)
        for k in range(i + 1):
            store(R, (i * width + free + k) * LANES, load(rotation.K, (k * count + i) * LANES))
    matrix_times_vector(X, count, size, c.prior, offset, reduced_offset)
    for at in range(0, width * LANES, LANES):
        store(reduced.ridge, at, one)
        store(reduced.prior, at, zero)
        store(reduced.theta, at, zero)
    if free > 0:
        store(reduced.ridge, 0, one - load(active, 0))
    if warm:
        for at in range(0, size * LANES, LANES):
            store(c.step, at, load(c.theta, at) - load(c.prior, at))
        if free > 0:
            store(reduced.theta, 0, load(c.step, 0))
            store(c.step, 0, zero)
        matrix_times_vector(X, count, size, c.step, rotation.nothing, rotation.alpha)
        solve_transposed(rotation.K, rotation.reciprocal, count, rotation.alpha)
        for at in range(0, count * LANES, LANES):
            store(reduced.theta, free * LANES + at, load(rotation.alpha, at))
    return width


@compiled(inline=True)
def _rotate_back(
    kind: int,
    X: Float64Array,
    count: int,
    size: int,
    c: LaneCoefficients,
    reduced_theta: Float64Array,
    rotation: Rotation,
) -> None:
    """Turn the solution of the problem in rows into coefficients."""
    free = TILE if kind == DUAL_FREE_INTERCEPT else 0
    for at in range(0, count * LANES, LANES):
        store(rotation.alpha, at, load(reduced_theta, free * LANES + at))
    solve_upper(rotation.K, rotation.reciprocal, count, rotation.alpha)
    transpose_times_vector(X, count, size, rotation.alpha, c.step)
    for at in range(0, size * LANES, LANES):
        moved = fma(load(rotation.inverse_l2, at), load(c.step, at), load(c.prior, at))
        store(c.theta, at, moved)
    if free > 0:
        store(c.theta, 0, load(c.prior, 0) + load(reduced_theta, 0))


@compiled(inline=True)
def _set_stop(
    kind: int, count: int, size: int, ridge: Float64Array, allowed: Float64Array, stop: Float64Array
) -> None:
    """Set the gradient at which Newton's method stops, so that the certificate holds with room to spare."""
    if kind == PRIMAL:
        store(stop, 0, broadcast(0.5) * load(allowed, 0))
        return
    steepest = broadcast(1.0)
    for at in range(0, size * LANES, LANES):
        steepest = maximum(load(ridge, at), steepest)
    # |g_j| ≤ √l2_j·‖reduced gradient‖₂
    store(stop, 0, broadcast(0.1) * load(allowed, 0) / square_root(steepest * broadcast(float(count))))


@compiled
def solve_lanes(
    loss: int,
    order: Int64Array,
    methods: npt.NDArray[np.int8],
    p: ProblemArrays,
    start: Float64Array,
    warm: bool,
    max_iterations: int,
    solution: SolutionArrays,
    unsolved: npt.NDArray[np.uint8],
    X: Float64Array,
    rows: LaneRows,
    c: LaneCoefficients,
    reduced_offset: Float64Array,
    reduced: LaneCoefficients,
    rotation: Rotation,
    factors: LaneFactors,
    control: LaneControl,
) -> None:
    """Solve the entities of `order`, and mark in `unsolved` those that need more care.

    Args:
        loss: number of the loss.
        order: entity numbers in groups of `LANES`, −1 for an empty lane (never the first of a group).
        methods: `PRIMAL`, `DUAL` or `DUAL_FREE_INTERCEPT` of each group.
        p: the problems.
        start: coefficients where the iteration starts.
        warm: `start` is a previous solution rather than the prior.
        max_iterations: most Newton steps.
        solution: output.
        unsolved: output, uint8 per entity.
        X: workspace made by `LaneWorkspace`, as are the others that follow.
        rows: workspace.
        c: workspace.
        reduced_offset: workspace.
        reduced: workspace.
        rotation: workspace.
        factors: workspace.
        control: workspace.
    """
    reduced_rows = LaneRows(
        rows.y, rows.w, reduced_offset, rows.target, rows.z, rows.residual, rows.curvature, rows.magnitude
    )
    norm = control.norm
    for group in range(0, order.size, LANES):
        kind = int(methods[group // LANES])
        count, size = _group_shape(order, group, kind, p)
        _fill_lanes(loss, order, group, count, size, p, start, X, rows, c, control.active, control.allowed)
        _set_stop(kind, count, size, c.ridge, control.allowed, control.tolerance)
        width = size
        matrix = X
        problem_rows = rows
        problem = c
        if kind != PRIMAL:
            width = _rotate(
                kind, X, count, size, c, rows.offset, reduced_offset, reduced, rotation, factors.scaled,
                control.active, warm,
            )  # fmt: skip
            matrix = rotation.R
            problem_rows = reduced_rows
            problem = reduced
        newton(loss, matrix, count, width, problem_rows, problem, factors, control, warm, max_iterations)
        if kind != PRIMAL:
            _rotate_back(kind, X, count, size, c, reduced.theta, rotation)
            evaluate(loss, X, count, size, rows, c, c.theta)
        store(norm, 0, largest_absolute(c.gradient, size))
        store(control.ratio, 0, certificate_ratio(X, count, size, load(control.allowed, 0), NOISE, rows, c))
        for lane in range(LANES):
            e = order[group + lane]
            if e < 0:
                continue
            at = lane
            for j in range(p.coefficient_ptr[e], p.coefficient_ptr[e + 1]):
                solution.coefficients[j] = c.theta[at] + 0.0
                at += LANES
            solution.iterations[e] = int(control.iterations[lane])
            solution.gradient_norm[e] = norm[lane]
            solution.tolerance_ratio[e] = control.ratio[lane]
            unsolved[e] = 1 if control.failed[lane] > 0.0 or not control.ratio[lane] <= 1.0 else 0


def lane_workspace(rows: int, size: int, entries: int, dual_rows: int, hessian_size: int) -> tuple[Any, ...]:
    """Allocate the workspace of `solve_lanes`, in its order.

    Args:
        rows: most padded rows of a group.
        size: most padded coefficients of a group.
        entries: most padded rows × coefficients of a group.
        dual_rows: most padded rows of a group that is solved in rows; 0 without one.
        hessian_size: most padded coefficients of a group that is solved in coefficients; 0 without one.
    """
    width = dual_rows + TILE
    hessian_size = max(hessian_size, width)

    def lanes(count: int) -> Float64Array:
        return np.empty(count * LANES)

    return (
        lanes(entries),
        LaneRows(*(lanes(rows) for _ in LaneRows._fields)),
        LaneCoefficients(*(lanes(size) for _ in LaneCoefficients._fields)),
        lanes(rows),
        LaneCoefficients(*(lanes(width) for _ in LaneCoefficients._fields)),
        Rotation(
            R=lanes(dual_rows * width),
            K=lanes(dual_rows * dual_rows),
            reciprocal=lanes(dual_rows),
            inverse_l2=lanes(size),
            alpha=lanes(rows),
            nothing=lanes(rows),
        ),
        LaneFactors(
            U=lanes(hessian_size * hessian_size),
            reciprocal=lanes(hessian_size),
            spare_factor=lanes(hessian_size * hessian_size),
            spare_reciprocal=lanes(hessian_size),
            scaled=lanes(max(rows, size) * TILE),
        ),
        LaneControl(*(lanes(1) for _ in LaneControl._fields)),
    )
