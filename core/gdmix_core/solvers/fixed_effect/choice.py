"""Which driver suits a problem: by estimated work and memory, with a cap on the dimension."""

from __future__ import annotations

from typing import Final, Literal

from gdmix_core.errors import UsageError
from gdmix_core.solvers.fixed_effect.lbfgs import LbfgsDriver
from gdmix_core.solvers.fixed_effect.newton import NewtonDriver
from gdmix_core.solvers.fixed_effect.problem import Driver, FixedEffectProblem
from gdmix_core.solvers.variance import Variance

Solver = Literal["auto", "newton", "lbfgs"]

NEWTON_DIMENSION_CAP: Final = 2_000
"""`auto` keeps Newton's Hessian below 16 MB packed, for each sum that is held or sent."""
NEWTON_FORCED_CAP: Final = 10_000
"""`solver: newton` is refused beyond: the coordinator alone would hold several GB."""

# Seconds on one core, from benchmarks/fixed_effect_solver.py; only their ratios matter.
_GRADIENT_PER_NONZERO: Final = 3e-9
_HESSIAN_PER_PAIR: Final = 2e-9
_CHOLESKY_PER_CUBE: Final = 1e-10
_NEWTON_ROUNDS: Final = 8
_LBFGS_ROUNDS: Final = 60


def choose_driver(
    problem: FixedEffectProblem,
    rows: int,
    nonzeros: int,
    solver: Solver = "auto",
    variance: Variance = "none",
) -> Driver:
    """Return a new driver.

    Args:
        problem: the problem.
        rows: training rows in all.
        nonzeros: stored features in all, the implicit intercept not counted.
        solver: "newton" or "lbfgs" to force one.
        variance: which variances to return; only Newton has the full ones, so it wins while it is allowed.
    """
    if solver == "newton":
        if problem.dimension > NEWTON_FORCED_CAP:
            raise UsageError(
                f"solver: newton needs a Hessian of {problem.dimension}×{problem.dimension}; "
                f"allowed are up to {NEWTON_FORCED_CAP} coefficients: use lbfgs or auto"
            )
        return NewtonDriver(problem, variance=variance)
    if solver == "lbfgs":
        return LbfgsDriver(problem, variance=variance)
    if solver != "auto":
        raise UsageError(f"solver: {solver!r} is unknown; allowed are auto, newton, lbfgs")
    if problem.dimension > NEWTON_DIMENSION_CAP:
        return LbfgsDriver(problem, variance=variance)
    if variance == "full" or newton_seconds(problem.dimension, rows, nonzeros) <= lbfgs_seconds(
        rows, nonzeros
    ):
        return NewtonDriver(problem, variance=variance)
    return LbfgsDriver(problem, variance=variance)


def newton_seconds(dimension: int, rows: int, nonzeros: int) -> float:
    """Estimate a Newton solve on one core: Hessian pairs, gradient, Cholesky."""
    per_row = nonzeros / max(rows, 1) + 1
    pairs = rows * per_row * (per_row + 1) / 2
    round_seconds = _HESSIAN_PER_PAIR * pairs + _GRADIENT_PER_NONZERO * (nonzeros + rows)
    return _NEWTON_ROUNDS * (round_seconds + _CHOLESKY_PER_CUBE * dimension**3)


def lbfgs_seconds(rows: int, nonzeros: int) -> float:
    """Estimate an L-BFGS solve on one core."""
    return _LBFGS_ROUNDS * _GRADIENT_PER_NONZERO * (nonzeros + rows)
