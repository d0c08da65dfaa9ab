"""Newton's method on the exact Hessian: about six rounds over the data, whatever the conditioning.

Each request asks for the Hessian, because nearly every trial point becomes the next iterate. After the
certificate holds, up to two more steps polish θ as long as they move it: convergence is quadratic, so one
more round turns a gradient of 1e-8 into coefficients good to float64's own accuracy.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError
from gdmix_core.solvers.fixed_effect.linear_algebra import NewtonSystem, factor
from gdmix_core.solvers.fixed_effect.problem import (
    GRADIENT_TOLERANCE,
    Dialogue,
    Driver,
    Evaluation,
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectStatus,
)
from gdmix_core.solvers.fixed_effect.shard import FixedEffectSums, unpack_upper
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.variance import Variance

Float64Array = npt.NDArray[np.float64]

_SUFFICIENT_DECREASE: Final = 1e-4
_SLOPE_REDUCTION: Final = 0.9
_VALUE_NOISE: Final = 1e-11  # relative rounding of a sum of very many losses, with a margin
_LINE_SEARCH_STEPS: Final = 60
_LARGEST_MOVE: Final = 50.0
_POLISHING_STEPS: Final = 2
_SETTLED: Final = 1e-10
_RUNNING_AWAY: Final = 1e-3


class NewtonDriver(Driver):
    """Damped Newton with a backtracking line search; its state is (θ, iteration)."""

    def __init__(
        self, problem: FixedEffectProblem, *, variance: Variance = "none", max_iterations: int = 200
    ) -> None:
        super().__init__(problem, variance=variance, max_iterations=max_iterations)

    def _run(self) -> Dialogue:
        at = yield from self._start(hessian=True)
        if not at.finite:
            return self._solution(at, FixedEffectStatus.NUMERICAL_FAILURE, 0, None)
        iterations = 0
        polishing = 0
        status = FixedEffectStatus.MAX_ITERATIONS
        system = self._factor(at.sums)
        while True:
            step = self._bounded(self._newton_step(system, at), at)
            movement = float(np.max(np.abs(step) / np.maximum(1.0, np.abs(at.theta))))
            if at.converged:
                status = self._verdict(system, movement)
                if movement <= _SETTLED or polishing == _POLISHING_STEPS:
                    break
                polishing += 1
                # The last Hessian serves once more, unless its inverse is part of the result.
                polished = yield from self._evaluate(at.theta + step, hessian=self.variance == "full")
                if not (polished.finite and polished.converged):
                    break
                at = polished
            elif iterations >= self.max_iterations:
                break
            else:
                better = yield from self._line_search(at, step)
                if better is None:
                    status = FixedEffectStatus.STALLED
                    break
                at = better
            if at.sums.hessian is not None:
                system = self._factor(at.sums)
            iterations += 1
        if self.variance == "full":
            return self._solution(at, status, iterations, system.inverse_diagonal())
        return self._solution(at, status, iterations, self._simple_variances(at))

    def _factor(self, sums: FixedEffectSums) -> NewtonSystem:
        if sums.hessian is None:
            raise InternalError("Newton's method was told sums without a Hessian")
        hessian = unpack_upper(sums.hessian, self.problem.dimension)
        hessian[np.diag_indices(self.problem.dimension)] += self.problem.l2
        return factor(hessian)

    def _newton_step(self, system: NewtonSystem, at: Evaluation) -> Float64Array:
        # Coefficients without regularisation are kept small by themselves, the others near their prior mean.
        origin = np.where(self.problem.l2 > 0.0, self.problem.prior_mean, 0.0)
        negligible = GRADIENT_TOLERANCE * max(1.0, at.sums.weight_sum)
        return system.step(at.gradient, at.theta - origin, negligible)

    def _bounded(self, step: Float64Array, at: Evaluation) -> Float64Array:
        """Shorten a step that would move a typical linear predictor by more than `_LARGEST_MOVE`.

        Where all rows are saturated the curvature nearly vanishes and Newton's step means nothing; a Poisson
        rate must not be multiplied by e to the power of hundreds.
        """
        scale = at.sums.gradient_scale
        if self.problem.loss is Loss.SQUARED:
            return step
        if self.problem.loss is Loss.LOGISTIC:
            terms = at.sums.weight_sum
        else:
            terms = float(scale[0]) if self.problem.intercept else 0.0
        if not terms > 0.0:
            return step
        move = float(np.max(np.abs(step) * (scale / terms)))
        return step * (_LARGEST_MOVE / move) if move > _LARGEST_MOVE else step

    def _verdict(self, system: NewtonSystem, movement: float) -> FixedEffectStatus:
        """Name what a vanishing gradient means: an optimum, one of many, or one at infinity.

        Near an optimum Newton's step vanishes together with the gradient; on the way to infinity it does not.
        """
        if system.singular:
            return FixedEffectStatus.SINGULAR
        return FixedEffectStatus.UNBOUNDED if movement > _RUNNING_AWAY else FixedEffectStatus.CONVERGED

    def _line_search(
        self, at: Evaluation, step: Float64Array
    ) -> Generator[EvaluationRequest, FixedEffectSums, Evaluation | None]:
        """Shorten the step until the objective falls; None if it never does.

        Close to the optimum the fall is lost in the rounding of the objective. There the slope along the step
        decides, which is computed without cancellation (the approximate Wolfe condition of Hager and Zhang,
        2005).
        """
        slope = float(np.sum(at.gradient * step))
        if not slope < 0.0:
            return None
        noise = _VALUE_NOISE * abs(at.value)
        length = 1.0
        for _ in range(_LINE_SEARCH_STEPS):
            trial = yield from self._evaluate(at.theta + length * step, hessian=True)
            if trial.finite:
                if trial.value <= at.value + _SUFFICIENT_DECREASE * length * slope:
                    return trial
                trial_slope = abs(float(np.sum(trial.gradient * step)))
                if trial.value <= at.value + noise and trial_slope <= _SLOPE_REDUCTION * -slope:
                    return trial
            far_off = not trial.finite or trial.value > at.value - 10.0 * slope
            length *= 0.1 if far_off else 0.5
        return None
