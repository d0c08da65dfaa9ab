"""What the joint Hessian's systems are solved for, and what their solutions say of each group of coefficients.

Three sorts of columns: the Newton step, −g; seeded random signs on one group's coefficients, whose products with
their solutions estimate the trace of the group's posterior variances (M. F. Hutchinson, "A stochastic estimator
of the trace of the influence matrix", Commun. Stat. 18, 1989); and one group's prior gradient, from which the
average information about variances comes (`variance_components`).

Hutchinson's estimator is applied to H⁻¹ − M⁻¹ alone, and to one group at a time: the blocks' own share tr(M⁻¹) is
known, so that only what crosses entities is left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gdmix_core.solvers.joint.conjugate_gradients import column_sums

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]

ColumnKind = Literal["newton", "probe", "prior"]
_MULTIPLIERS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_INCREMENT: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One right-hand side.

    Attributes:
        kind: what it is.
        group: of the coefficients that it covers; −1 for the Newton step, which covers all.
        number: of a probe, among those of its group.
    """

    kind: ColumnKind
    group: int = -1
    number: int = 0


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A part's coefficients.

    Attributes:
        theta: float64[C].
        gradient: float64[C], of the joint objective at theta, penalty included.
        l2: float64[C], at least 0.
        scale: float64[C], what a group's l2 is multiplied by (`scale: standard`).
        group: int32[C]; −1 where nothing is estimated: unregularised, or of an entity without a part in the model.
        part: a number that no other part of the model has.
    """

    theta: Float64Array
    gradient: Float64Array
    l2: Float64Array
    scale: Float64Array
    group: Int32Array
    part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSums:
    """One part's sums over one group of coefficients; they add up over parts.

    Attributes:
        group: which.
        squares: Σ c·θ², Σ c·θ·δ and Σ c·δ² with the Newton step δ and the coefficients' scale c.
        block_trace: Σ c·(M⁻¹)_jj.
        probes: vᵀ(x − M⁻¹v) of its probes v, solved by x.
        information: ⟨group's prior gradient, solution⟩ by prior column, in their order.
    """

    group: int
    squares: tuple[float, float, float]
    block_trace: float
    probes: tuple[float, ...]
    information: tuple[float, ...]


def right_hand_sides(of: Coefficients, columns: Sequence[Column], seed: int) -> Float64Array:
    """Return the columns, float64[C, K]; the same seed gives the same signs."""
    out = np.zeros((of.theta.size, len(columns)))
    for k, column in enumerate(columns):
        if column.kind == "newton":
            out[:, k] = -of.gradient
            continue
        inside = np.flatnonzero(of.group == column.group)
        if column.kind == "probe":
            out[inside, k] = np.sqrt(of.scale[inside]) * _signs(seed, of.part, column.number, inside)
        else:
            out[inside, k] = of.l2[inside] * of.theta[inside]
    return out


def group_sums(
    of: Coefficients,
    columns: Sequence[Column],
    right_hand_side: npt.NDArray[np.floating],
    solution: npt.NDArray[np.floating],
    blockwise: Float64Array,
    inverse_diagonal: Float64Array,
) -> tuple[GroupSums, ...]:
    """Return the sums of the part's own groups, by number.

    Args:
        of: the coefficients.
        columns: what the columns are; the Newton step comes first.
        right_hand_side: float[C, K].
        solution: float[C, K], H⁻¹ times them.
        blockwise: float64[K], bᵀM⁻¹b of each right-hand side b.
        inverse_diagonal: float64[C], diag(M⁻¹).
    """
    step = solution[:, 0]
    crossing = column_sums(right_hand_side, solution) - blockwise
    prior = [k for k, column in enumerate(columns) if column.kind == "prior"]
    found = []
    for group in np.unique(of.group[of.group >= 0]).tolist():
        inside = np.flatnonzero(of.group == group)
        scale, theta, moved = of.scale[inside], of.theta[inside], step[inside]
        squares = column_sums(
            np.stack([scale * theta, scale * theta, scale * moved], axis=1),
            np.stack([theta, moved, moved], axis=1),
        )
        trace = column_sums(scale[:, None], inverse_diagonal[inside][:, None])
        own = (of.l2[inside] * theta)[:, None]
        information = column_sums(
            np.repeat(own, max(1, len(prior)), axis=1)[:, : len(prior)], solution[inside][:, prior]
        )
        found.append(
            GroupSums(
                group=int(group),
                squares=(float(squares[0]), float(squares[1]), float(squares[2])),
                block_trace=float(trace[0]),
                probes=tuple(
                    float(crossing[k])
                    for k, column in enumerate(columns)
                    if column.kind == "probe" and column.group == group
                ),
                information=tuple(information.tolist()),
            )
        )
    return tuple(found)


def unsolved_products(
    columns: Sequence[Column], x: Float32Array, r: Float32Array, u: Float32Array
) -> tuple[tuple[float, ...], ...]:
    """Return a part's share of what the residuals add to products with solutions.

    With residuals r = b − H·x and u = M⁻¹·r,

        b_kᵀH⁻¹b_l = b_kᵀx_l + x_kᵀr_l + r_kᵀH⁻¹r_l ≈ b_kᵀx_l + x_kᵀr_l + r_kᵀu_l,

    whose error is of third order in what M leaves out, where b_kᵀx_l alone is wrong in the second: a trace that is
    nearly that of the prior needs the difference.

    Returns:
        One row a column: of a probe, the product with itself; of a prior gradient, with every prior gradient; of the
        Newton step, nothing.
    """
    priors = [k for k, column in enumerate(columns) if column.kind == "prior"]
    own = column_sums(x, r) + column_sums(r, u)
    found: list[tuple[float, ...]] = []
    for k, column in enumerate(columns):
        if column.kind == "newton":
            found.append(())
        elif column.kind == "probe":
            found.append((float(own[k]),))
        else:
            repeated = np.repeat([k], len(priors))
            crossed = column_sums(x[:, repeated], r[:, priors]) + column_sums(r[:, repeated], u[:, priors])
            found.append(tuple(crossed.tolist()))
    return tuple(found)


def _signs(seed: int, part: int, number: int, places: npt.NDArray[np.int64]) -> Float64Array:
    """Return ±1 for each place: the top bit of splitmix64's finaliser over (seed, part, number, place)."""
    with np.errstate(over="ignore"):
        start = np.full(places.size, seed, np.uint64)
        for value in (np.uint64(part), np.uint64(number), places.astype(np.uint64)):
            start = _mixed(start * _INCREMENT + value)
    return np.where(start >> np.uint64(63) == 0, 1.0, -1.0)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + _INCREMENT
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))
