"""L-BFGS on the problem scaled by its Hessian's diagonal: for dimensions beyond an exact Hessian.

SciPy's L-BFGS-B does the work. Its line search compares objective values, whose rounding hides the last
digits of the descent, so it may end before the certificate holds: then rounds whose line search looks at the
slope alone finish. Along a line the slope of a convex function only rises, so its zero can be bracketed
whatever the noise in the values.

SciPy calls back from a thread of its own; the dialogue hands each call out as a request. Restarting SciPy
from an iterate would take another path: a resumed solve starts anew and is told the recorded evaluations
first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.blas import pin_blas_threads
from gdmix_core.errors import InternalError
from gdmix_core.solvers.fixed_effect.problem import (
    Dialogue,
    Driver,
    Evaluation,
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectStatus,
)
from gdmix_core.solvers.fixed_effect.shard import FixedEffectSums
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.variance import Variance

Float64Array = npt.NDArray[np.float64]
Steps = Generator[EvaluationRequest, FixedEffectSums, Evaluation]

_MEMORY: Final = 20
_SLOPE_REDUCTION: Final = 0.5
_LINE_SEARCH_STEPS: Final = 40
_SATURATED: Final = 1e-6
_LEAST_CURVATURE: Final = 1e-3
_NO_CURVATURE: Final = 1e-150


class LbfgsDriver(Driver):
    """SciPy's L-BFGS-B, stopped by the gradient's certificate, then slope-driven rounds where it stalls."""

    def __init__(
        self, problem: FixedEffectProblem, *, variance: Variance = "none", max_iterations: int = 2000
    ) -> None:
        super().__init__(problem, variance=variance, max_iterations=max_iterations)
        self._iterations = 0

    def _run(self) -> Dialogue:
        pin_blas_threads()
        at = yield from self._start(hessian=False)
        if not at.finite:
            return self._solution(at, FixedEffectStatus.NUMERICAL_FAILURE, 0, None)
        if not at.converged:
            at = yield from self._scipy_rounds(at)
        if not at.converged:
            at = yield from self._slope_rounds(at)
        return self._solution(at, self._verdict(at), self._iterations, self._simple_variances(at))

    def _verdict(self, at: Evaluation) -> FixedEffectStatus:
        if not at.converged:
            exhausted = self._iterations >= self.max_iterations
            return FixedEffectStatus.MAX_ITERATIONS if exhausted else FixedEffectStatus.STALLED
        free_intercept = self.problem.intercept and self.problem.l2[0] == 0.0
        if free_intercept and at.sums.curvature[0] < _SATURATED * at.sums.weight_sum:
            return FixedEffectStatus.UNBOUNDED
        return FixedEffectStatus.CONVERGED

    def _scale(self, at: Evaluation) -> Float64Array:
        """Return the preconditioner 1 / sqrt(diag(H)), float64[D]."""
        curvature = at.sums.curvature
        if self.problem.loss is Loss.LOGISTIC and at.sums.weight_sum > 0.0:
            # Rows may all be saturated at the start; (Σ w|x|)² / Σw is a lower bound of Σ w x².
            bound = at.sums.gradient_scale**2 / at.sums.weight_sum
            curvature = np.maximum(curvature, _LEAST_CURVATURE * bound)
        diagonal = curvature + self.problem.l2
        curved = diagonal > _NO_CURVATURE
        return np.where(curved, 1.0 / np.sqrt(np.where(curved, diagonal, 1.0)), 1.0)

    def _scipy_rounds(self, start: Evaluation) -> Steps:
        """Run SciPy from `start` until the certificate holds or it ends; return the best point seen."""
        scale = self._scale(start)
        best = start
        session = _ScipySession(start.theta.size, self.max_iterations)
        try:
            while (point := session.next_point()) is not None:
                theta = start.theta + scale * point
                if np.array_equal(theta, start.theta):
                    at = start
                else:
                    at = yield from self._evaluate(theta, hessian=False)
                if at.finite and (at.converged or at.value < best.value):
                    best = at
                if best.converged:
                    break
                session.answer(at.value, scale * at.gradient)
        finally:
            session.close()
        self._iterations = session.iterations
        return best

    def _slope_rounds(self, start: Evaluation) -> Steps:
        """Go on by L-BFGS with a line search on the slope; return the last point."""
        scale = self._scale(start)
        at = start
        pairs: deque[tuple[Float64Array, Float64Array]] = deque(maxlen=_MEMORY)
        while not at.converged and self._iterations < self.max_iterations:
            gradient = scale * at.gradient
            direction = _two_loop_direction(gradient, pairs)
            if not float(np.sum(direction * gradient)) < 0.0:
                pairs.clear()
                direction = -gradient
            reached = yield from self._slope_search(at, scale * direction)
            if reached is None:
                if not pairs:
                    break
                pairs.clear()
                continue
            moved = (reached.theta - at.theta) / scale
            change = scale * reached.gradient - gradient
            if float(np.sum(moved * change)) > 0.0:
                pairs.append((moved, change))
            at = reached
            self._iterations += 1
        return at

    def _slope_search(
        self, at: Evaluation, step: Float64Array
    ) -> Generator[EvaluationRequest, FixedEffectSums, Evaluation | None]:
        """Bracket the zero of the slope along `step` until it has halved; None if it never does."""
        slope = float(np.sum(at.gradient * step))
        low, low_slope = 0.0, slope
        high: float | None = None
        high_slope = 0.0
        length = 1.0
        for _ in range(_LINE_SEARCH_STEPS):
            theta = at.theta + length * step
            if np.array_equal(theta, at.theta):
                return None
            trial = yield from self._evaluate(theta, hessian=False)
            trial_slope = float(np.sum(trial.gradient * step)) if trial.finite else np.inf
            if trial.finite and (trial.converged or abs(trial_slope) <= _SLOPE_REDUCTION * -slope):
                return trial
            if trial_slope < 0.0:
                low, low_slope = length, trial_slope
            else:
                high, high_slope = length, trial_slope
            if high is None:
                length *= 3.0
            else:
                # The secant's zero, kept away from the bracket's ends so that it shrinks by a tenth at least.
                share = low_slope / (low_slope - high_slope) if np.isfinite(high_slope) else 0.1
                length = low + min(max(share, 0.1), 0.9) * (high - low)
        return None


def _two_loop_direction(
    gradient: Float64Array, pairs: deque[tuple[Float64Array, Float64Array]]
) -> Float64Array:
    """Return −H̃g by the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
    direction = -gradient
    weights: list[float] = []
    for moved, change in reversed(pairs):
        weight = float(np.sum(moved * direction)) / float(np.sum(moved * change))
        weights.append(weight)
        direction -= weight * change
    if pairs:
        moved, change = pairs[-1]
        direction *= float(np.sum(moved * change)) / float(np.sum(change * change))
    for (moved, change), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - float(np.sum(change * direction)) / float(np.sum(moved * change))) * moved
    return direction


class _Abandoned(Exception):
    """Ends SciPy's thread from inside its objective."""


class _ScipySession:
    """`scipy.optimize.minimize` turned around: it is asked for points and given values and gradients."""

    def __init__(self, dimension: int, max_iterations: int) -> None:
        self.iterations = 0
        self._points: SimpleQueue[Float64Array | BaseException | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[float, Float64Array] | None] = SimpleQueue()
        self._max_iterations = max_iterations
        self._thread = threading.Thread(
            target=self._minimise, args=(dimension,), name="gdmix-lbfgs", daemon=True
        )
        self._thread.start()

    def next_point(self) -> Float64Array | None:
        """Return the next point to evaluate, or None when SciPy has ended."""
        point = self._points.get()
        if isinstance(point, BaseException):
            raise InternalError(f"SciPy's L-BFGS-B failed: {point}") from point
        return point

    def answer(self, value: float, gradient: Float64Array) -> None:
        """Give value and gradient at the last point."""
        self._answers.put((value, gradient))

    def close(self) -> None:
        """End the thread, in the middle of a call if need be."""
        self._answers.put(None)
        self._thread.join()

    def _objective(self, point: Float64Array) -> tuple[float, Float64Array]:
        self._points.put(point.copy())
        answer = self._answers.get()
        if answer is None:
            raise _Abandoned
        return answer

    def _count(self, intermediate_result: Any) -> None:  # noqa: ARG002
        self.iterations += 1

    def _minimise(self, dimension: int) -> None:
        try:
            from scipy.optimize import minimize

            minimize(
                self._objective,
                np.zeros(dimension),
                jac=True,
                method="L-BFGS-B",
                callback=self._count,
                options={
                    "maxcor": _MEMORY,
                    "ftol": 0.0,
                    "gtol": 0.0,
                    "maxiter": self._max_iterations,
                    "maxfun": 3 * self._max_iterations,
                    "maxls": 40,
                },
            )
            self._points.put(None)
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the next point
            self._points.put(error)
