"""Newton's method on `LANES` generalised linear models at once, one in each lane.

Every lane minimises  Σ_i w_i·ℓ(y_i, offset_i + x_i·θ) + ½ Σ_j ridge_j·(θ_j − prior_j)²  with its own steps: a lane that
is finished, failed or shortens its step is masked, and does what it would do alone.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.random_effect.lane_algebra import (
    absolute_transpose_times_vector,
    dot,
    factor,
    largest_absolute,
    matrix_times_vector,
    solve_transposed,
    solve_upper,
    transpose_times_vector,
)
from gdmix_core.solvers.random_effect.lanes import (
    LANES,
    absolute,
    any_lane,
    broadcast,
    choose,
    exponential,
    fma,
    fused_less,
    load,
    maximum,
    store,
    where_less,
)

Float64Array = npt.NDArray[np.float64]

NOISE: Final = 64.0 * float(np.finfo(np.float64).eps)
"""Share of Σ w|x|(|y|+|μ|) that counts as float64's own noise in a gradient."""

_LOGISTIC: Final = 0
_SQUARED: Final = 1
_POISSON_LINEAR_BEYOND: Final = 500.0
_REUSE_BELOW: Final = 3e-3  # a decrement this small lets the factor of the last iteration serve again
_MAX_SHORTENINGS: Final = 20


class LaneRows(NamedTuple):
    """What belongs to rows, one lane vector each: data (fixed while solving), then scratch.

    `target` is where Poisson predictors should be about: it shapes the first step from a cold start.
    At the end of a solve `magnitude` holds w·(|y| + |μ|).
    """

    y: Float64Array
    w: Float64Array
    offset: Float64Array
    target: Float64Array
    z: Float64Array
    residual: Float64Array
    curvature: Float64Array
    magnitude: Float64Array


class LaneCoefficients(NamedTuple):
    """What belongs to coefficients, one lane vector each; `theta` is start and result, `gradient` is left at theta."""

    ridge: Float64Array
    prior: Float64Array
    theta: Float64Array
    gradient: Float64Array
    step: Float64Array
    trial: Float64Array
    noise: Float64Array


class LaneFactors(NamedTuple):
    """Scratch for the Hessian's factor: one in use and one spare (size × size), and the scaled columns of `factor`."""

    U: Float64Array
    reciprocal: Float64Array
    spare_factor: Float64Array
    spare_reciprocal: Float64Array
    scaled: Float64Array


class LaneControl(NamedTuple):
    """One lane vector each: the gradient to stop at, the mask of lanes that hold a problem, and results.

    `failed` is set where the lane needs a more careful method; `allowed`, `norm` and `ratio` belong to the certificate.
    """

    tolerance: Float64Array
    active: Float64Array
    iterations: Float64Array
    failed: Float64Array
    allowed: Float64Array
    norm: Float64Array
    ratio: Float64Array


@compiled(inline=True)
def set_derivatives(loss: int, count: int, rows: LaneRows) -> None:
    """Fill w·(μ − y), w·dμ/dz and w·(|y| + |μ|) of the first `count` rows."""
    zero = broadcast(0.0)
    one = broadcast(1.0)
    if loss == _LOGISTIC:
        far = broadcast(700.0)
        for i in range(0, count * LANES, LANES):
            z = load(rows.z, i)
            y = load(rows.y, i)
            w = load(rows.w, i)
            size = absolute(z)
            small = exponential(zero - where_less(size, far, size, far))
            upper = one / (one + small)
            lower = small * upper
            mean = where_less(z, zero, lower, upper)
            store(rows.residual, i, w * (mean - y))
            store(rows.curvature, i, w * (lower * upper))
            store(rows.magnitude, i, w * (absolute(y) + mean))
    elif loss == _SQUARED:
        for i in range(0, count * LANES, LANES):
            z = load(rows.z, i)
            y = load(rows.y, i)
            w = load(rows.w, i)
            store(rows.residual, i, w * (z - y))
            store(rows.curvature, i, w)
            store(rows.magnitude, i, w * (absolute(y) + absolute(z)))
    else:
        highest = broadcast(_POISSON_LINEAR_BEYOND)
        lowest = broadcast(-700.0)
        for i in range(0, count * LANES, LANES):
            z = load(rows.z, i)
            y = load(rows.y, i)
            w = load(rows.w, i)
            mean = exponential(maximum(where_less(z, highest, z, highest), lowest))
            store(rows.residual, i, w * (mean - y))
            store(rows.curvature, i, w * mean)
            store(rows.magnitude, i, w * (absolute(y) + mean))


@compiled(inline=True)
def set_gradient(
    X: Float64Array, count: int, size: int, rows: LaneRows, c: LaneCoefficients, theta: Float64Array
) -> None:
    """Compute gradient = Xᵀ·residual + ridge·(theta − prior)."""
    transpose_times_vector(X, count, size, rows.residual, c.gradient)
    for j in range(0, size * LANES, LANES):
        penalty = load(theta, j) - load(c.prior, j)
        store(c.gradient, j, fma(load(c.ridge, j), penalty, load(c.gradient, j)))


@compiled
def evaluate(
    loss: int,
    X: Float64Array,
    count: int,
    size: int,
    rows: LaneRows,
    c: LaneCoefficients,
    theta: Float64Array,
) -> None:
    """Fill the rows' predictors and derivatives, and the objective's gradient, at `theta`."""
    matrix_times_vector(X, count, size, theta, rows.offset, rows.z)
    set_derivatives(loss, count, rows)
    set_gradient(X, count, size, rows, c, theta)


@compiled
def certificate_ratio(
    X: Float64Array,
    count: int,
    size: int,
    tolerance: Any,
    noise_share: float,
    rows: LaneRows,
    c: LaneCoefficients,
) -> Any:
    """Return max_j |g_j| / max(tolerance, noise_share·Σ_i w_i|x_ij|(|y_i|+|μ_i|)); infinite where a gradient is NaN."""
    absolute_transpose_times_vector(X, count, size, rows.magnitude, c.noise)
    share = broadcast(noise_share)
    infinite = broadcast(np.inf)
    largest = broadcast(0.0)
    for j in range(0, size * LANES, LANES):
        ratio = absolute(load(c.gradient, j)) / maximum(share * load(c.noise, j), tolerance)
        ratio = where_less(ratio, infinite, ratio, infinite)
        largest = maximum(ratio, largest)
    return largest


@compiled
def newton(
    loss: int,
    X: Float64Array,
    count: int,
    size: int,
    rows: LaneRows,
    c: LaneCoefficients,
    factors: LaneFactors,
    control: LaneControl,
    warm: bool,
    max_iterations: int,
) -> None:
    """Minimise the lanes' objectives from theta, in place.

    A step is taken whole unless the slope behind it has turned far upwards, so the objective itself is never needed.
    The factor of the last iteration serves again once the decrement is small and the steps still contract well.

    Args:
        loss: number of the loss.
        X: the lanes' matrices, count × size.
        count: number of rows, a multiple of `ROW_BLOCK`; padding has weight 0.
        size: number of coefficients, a multiple of `TILE`; padding has ridge 1.
        rows: see `LaneRows`.
        c: see `LaneCoefficients`.
        factors: see `LaneFactors`.
        control: see `LaneControl`.
        warm: theta is a previous solution rather than the prior.
        max_iterations: most Newton steps of a lane.
    """
    zero = broadcast(0.0)
    one = broadcast(1.0)
    huge = broadcast(1e300)
    tolerance = load(control.tolerance, 0)
    active = load(control.active, 0)
    failed = zero
    steps = zero
    reusable = zero
    evaluate(loss, X, count, size, rows, c, c.theta)
    fitting_targets = loss > _SQUARED and not warm
    if fitting_targets:
        for i in range(0, count * LANES, LANES):
            aim = load(rows.target, i)
            weight = load(rows.w, i) * exponential(aim)
            store(rows.curvature, i, weight)
            store(rows.residual, i, weight * (load(rows.z, i) - aim))
        set_gradient(X, count, size, rows, c, c.theta)
    for iteration in range(max_iterations + 1):
        if not fitting_targets:
            largest = largest_absolute(c.gradient, size)
            broken = choose(where_less(largest, huge, zero, one), active, zero)
            failed = choose(broken, one, failed)
            active = choose(broken, zero, active)
            above = where_less(tolerance, largest, one, zero)
            if loss != _LOGISTIC and any_lane(choose(active, above, zero)):
                # Never stricter than the test above, which alone decides when no neighbour asks for this one.
                ratio = certificate_ratio(X, count, size, tolerance, 0.5 * NOISE, rows, c)
                above = where_less(one, ratio, one, zero)
            active = choose(active, above, zero)
        if not any_lane(active):
            break
        if iteration == max_iterations:
            failed = choose(active, one, failed)
            break
        steps = steps + active
        needed = choose(reusable, zero, active)
        if any_lane(needed):
            U = factors.U
            reciprocal = factors.reciprocal
            mixed = any_lane(active - needed)
            if mixed:
                U = factors.spare_factor
                reciprocal = factors.spare_reciprocal
            lost = factor(
                X, size * LANES, control.active.size, count, size, rows.curvature, c.ridge,
                factors.scaled, U, reciprocal,
            )  # fmt: skip
            if mixed:
                for a in range(size):
                    for at in range((a * size + a) * LANES, (a + 1) * size * LANES, LANES):
                        store(factors.U, at, choose(needed, load(U, at), load(factors.U, at)))
                    at = a * LANES
                    kept = load(factors.reciprocal, at)
                    store(factors.reciprocal, at, choose(needed, load(reciprocal, at), kept))
            lost = choose(needed, lost, zero)
            failed = choose(lost, one, failed)
            active = choose(lost, zero, active)
        for j in range(0, size * LANES, LANES):
            store(c.step, j, load(c.gradient, j))
        solve_transposed(factors.U, factors.reciprocal, size, c.step)
        decrement = dot(c.step, c.step, size)
        solve_upper(factors.U, factors.reciprocal, size, c.step)
        for j in range(0, size * LANES, LANES):
            store(c.step, j, choose(active, load(c.step, j), zero))
        length = one
        slope = zero
        shortenings = 0
        while True:
            for j in range(0, size * LANES, LANES):
                store(c.trial, j, fused_less(length, load(c.step, j), load(c.theta, j)))
            evaluate(loss, X, count, size, rows, c, c.trial)
            if fitting_targets:
                break
            slope = dot(c.gradient, c.step, size)
            short = where_less(broadcast(-0.5) * decrement, slope, zero, active)
            if not any_lane(short):
                break
            shortenings += 1
            if shortenings > _MAX_SHORTENINGS:
                failed = choose(short, one, failed)
                active = choose(short, zero, active)
                break
            secant = decrement / (decrement - slope)
            secant = maximum(where_less(secant, broadcast(0.5), secant, broadcast(0.5)), broadcast(0.1))
            length = choose(short, length * secant, length)
        for j in range(0, size * LANES, LANES):
            store(c.theta, j, load(c.trial, j))
        reusable = where_less(decrement, broadcast(_REUSE_BELOW), one, zero)
        reusable = where_less(absolute(slope), broadcast(0.3) * decrement, reusable, zero)
        if fitting_targets:
            reusable = zero
        fitting_targets = False
    store(control.iterations, 0, steps)
    store(control.failed, 0, failed)
