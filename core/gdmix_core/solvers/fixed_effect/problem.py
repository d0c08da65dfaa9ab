"""A fixed effect's optimisation problem, the certificate of its optimum, and the dialogue with a driver.

    minimise  Σ_i w_i · ℓ(y_i, z_i)  +  ½ Σ_j l2_j · (θ_j − prior_j)²,      z_i = offset_i + x_i·θ

A driver asks for evaluations of the first term and is told the sums; it never sees data:

    step = driver.ask()
    while isinstance(step, EvaluationRequest):
        step = driver.tell(<sums over all shards at step.theta, with a Hessian if step.hessian>)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError, UsageError
from gdmix_core.solvers.fixed_effect.shard import FixedEffectSums
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.variance import Variance

Float64Array = npt.NDArray[np.float64]

GRADIENT_TOLERANCE: Final = 1e-8
"""Allowed |g_j| per unit of total weight."""
NOISE_UNITS: Final = 64 * float(np.finfo(np.float64).eps)
"""Allowed |g_j| relative to the sum of the sizes of its terms: what float64 can tell from zero."""


@dataclass(frozen=True, slots=True)
class FixedEffectProblem:
    """What is fixed during a solve: D coefficients, the intercept first where there is one.

    Attributes:
        dimension: D ≥ 1.
        intercept: whether coefficient 0 is the intercept.
        l2: float64[D] ≥ 0; a free intercept has l2[0] = 0.
        prior_mean: float64[D], where regularisation pulls to; also the starting point.
        loss: the loss ℓ.
    """

    dimension: int
    intercept: bool
    l2: Float64Array
    prior_mean: Float64Array
    loss: Loss

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise UsageError(f"a fixed effect needs at least one coefficient, got dimension {self.dimension}")
        for name in ("l2", "prior_mean"):
            vector = np.asarray(getattr(self, name), dtype=np.float64)
            if vector.shape != (self.dimension,) or not np.isfinite(vector).all():
                raise UsageError(f"{name} must be {self.dimension} finite numbers, got shape {vector.shape}")
            object.__setattr__(self, name, vector)
        if (self.l2 < 0.0).any():
            raise UsageError(f"l2 must not be negative, found {self.l2.min()}")


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRequest:
    """Evaluate the sums over all rows at θ; `number` counts a driver's requests from 0."""

    number: int
    theta: Float64Array
    hessian: bool


class FixedEffectStatus(IntEnum):
    """How a solve ended."""

    CONVERGED = 0
    SINGULAR = 1
    UNBOUNDED = 2
    STALLED = 3
    MAX_ITERATIONS = 4
    NUMERICAL_FAILURE = 5

    @property
    def advice(self) -> str:
        """Return what the status means and what can be changed."""
        return _ADVICE[self]


_ADVICE: Final = {
    FixedEffectStatus.CONVERGED: "The gradient is zero within the tolerance.",
    FixedEffectStatus.SINGULAR: "The optimum is not unique; this is the one of minimum norm. Set l2 above 0 "
    "or remove features that others determine.",
    FixedEffectStatus.UNBOUNDED: "The loss falls towards coefficients at infinity (labels that features "
    "separate, or all alike); these are where the gradient vanishes in float64. Set l2 above 0.",
    FixedEffectStatus.STALLED: "No step improves the objective although the gradient is not zero yet. Scale "
    "the features or raise l2.",
    FixedEffectStatus.MAX_ITERATIONS: "The iterations ran out. Raise l2, scale the features, or use "
    "solver: newton.",
    FixedEffectStatus.NUMERICAL_FAILURE: "Objective or derivatives are not finite. Look for extreme feature "
    "values, weights or offsets.",
}


@dataclass(frozen=True, slots=True, eq=False)
class FixedEffectSolution:
    """The result of a solve.

    Attributes:
        theta: float64[D].
        status: how it ended.
        iterations: accepted steps.
        evaluations: evaluations told.
        value: the objective, regularisation included.
        gradient_norm: max_j |g_j|.
        tolerance_ratio: max_j |g_j| / allowed_j; the certificate holds if and only if it is ≤ 1.
        variances: diag(H⁻¹), or 1 / diag(H) (`simple`, and L-BFGS always), or None if not asked for.
    """

    theta: Float64Array
    status: FixedEffectStatus
    iterations: int
    evaluations: int
    value: float
    gradient_norm: float
    tolerance_ratio: float
    variances: Float64Array | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The whole objective at one θ: the sums of the loss plus the regularisation."""

    theta: Float64Array
    value: float
    gradient: Float64Array
    tolerance_ratio: float
    sums: FixedEffectSums

    @classmethod
    def of(cls, problem: FixedEffectProblem, theta: Float64Array, sums: FixedEffectSums) -> Evaluation:
        """Add the regularisation to the sums of the loss at θ."""
        deviation = theta - problem.prior_mean
        pull = problem.l2 * deviation
        gradient = sums.gradient + pull
        allowed = np.maximum(
            GRADIENT_TOLERANCE * max(1.0, sums.weight_sum), NOISE_UNITS * sums.gradient_scale
        )
        ratio = float(np.max(np.abs(gradient) / allowed))
        return cls(
            theta=theta,
            value=sums.value + 0.5 * float(np.sum(pull * deviation)),
            gradient=gradient,
            tolerance_ratio=ratio,
            sums=sums,
        )

    @property
    def converged(self) -> bool:
        """Return whether the certificate holds."""
        return self.tolerance_ratio <= 1.0

    @property
    def finite(self) -> bool:
        """Return whether value, gradient and second derivatives are numbers: squares overflow first."""
        sums = self.sums
        second = (sums.curvature,) if sums.hessian is None else (sums.curvature, sums.hessian)
        return bool(
            np.isfinite(self.value) and all(np.isfinite(array).all() for array in (self.gradient, *second))
        )


_POISSON_START_STEPS: Final = 50
_POISSON_LARGEST_SHIFT: Final = 30.0  # beyond, Σwy is lost in the rounding of Σwμ


def _poisson_intercept_shift(sums: FixedEffectSums) -> float:
    """Return log(Σwy / Σwμ), bounded: the intercept's distance from its optimum when all else stays."""
    rate = float(sums.curvature[0])
    counts = rate - float(sums.gradient[0])
    if not rate > 0.0:
        return 0.0
    if counts <= 0.0:
        return -_POISSON_LARGEST_SHIFT
    return float(np.clip(np.log(counts / rate), -_POISSON_LARGEST_SHIFT, _POISSON_LARGEST_SHIFT))


Dialogue = Generator[EvaluationRequest, FixedEffectSums, FixedEffectSolution]


class Driver:
    """An optimiser as a dialogue: `ask` what to evaluate, `tell` the sums, until a solution comes.

    Its course depends on the problem and on the sums told, on nothing else: telling a new driver the same
    sums brings it to the same state. Use as a context manager, or `close`, to drop one before its end.
    """

    def __init__(self, problem: FixedEffectProblem, *, variance: Variance, max_iterations: int) -> None:
        self.problem = problem
        self.variance = variance
        self.max_iterations = max_iterations
        self._evaluations = 0
        self._dialogue = self._run()
        self._step: EvaluationRequest | FixedEffectSolution | None = None

    def ask(self) -> EvaluationRequest | FixedEffectSolution:
        """Return the pending request, the same one until it is told about, or the solution."""
        if self._step is None:
            self._step = next(self._dialogue)
        return self._step

    def tell(self, sums: FixedEffectSums) -> EvaluationRequest | FixedEffectSolution:
        """Answer the pending request and return what `ask` would return next."""
        request = self.ask()
        if isinstance(request, FixedEffectSolution):
            raise InternalError("a driver that has its solution was told about another evaluation")
        if sums.dimension != self.problem.dimension or (request.hessian and sums.hessian is None):
            raise InternalError(
                f"request {request.number} wants sums of dimension {self.problem.dimension}"
                f"{' with a Hessian' if request.hessian else ''}; told were sums of {sums.dimension}"
            )
        self._evaluations += 1
        try:
            self._step = self._dialogue.send(sums)
        except StopIteration as end:
            self._step = end.value
        return self.ask()

    def close(self) -> None:
        """Drop the solve; a finished driver needs no closing."""
        self._dialogue.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Dialogue:
        """Yield requests, receive sums, return the solution."""
        raise NotImplementedError

    def _evaluate(
        self, theta: Float64Array, *, hessian: bool
    ) -> Generator[EvaluationRequest, FixedEffectSums, Evaluation]:
        sums = yield EvaluationRequest(number=self._evaluations, theta=theta, hessian=hessian)
        return Evaluation.of(self.problem, theta, sums)

    def _start(self, *, hessian: bool) -> Generator[EvaluationRequest, FixedEffectSums, Evaluation]:
        """Evaluate the starting point; for Poisson, first move the intercept to the right total rate.

        Newton's step overshoots e^z by any factor where rates are too low and gains only 1 a step where they
        are too high; along the intercept alone the optimum is log(Σwy / Σwμ) away.
        """
        at = yield from self._evaluate(self.problem.prior_mean.copy(), hessian=hessian)
        if self.problem.loss is not Loss.POISSON or not self.problem.intercept:
            return at
        for _ in range(_POISSON_START_STEPS):
            shift = _poisson_intercept_shift(at.sums)
            if not at.finite or at.converged or abs(shift) < 1.0:
                break
            theta = at.theta.copy()
            theta[0] += shift
            moved = yield from self._evaluate(theta, hessian=hessian)
            if not (moved.finite and moved.value < at.value):
                break
            at = moved
        return at

    def _simple_variances(self, at: Evaluation) -> Float64Array | None:
        """Return 1 / diag(H), and 0 where nothing determines a coefficient; None when none are asked for."""
        if self.variance == "none":
            return None
        diagonal = at.sums.curvature + self.problem.l2
        return np.where(diagonal > 0.0, 1.0 / np.where(diagonal > 0.0, diagonal, 1.0), 0.0)

    def _solution(
        self, at: Evaluation, status: FixedEffectStatus, iterations: int, variances: Float64Array | None
    ) -> FixedEffectSolution:
        return FixedEffectSolution(
            theta=at.theta,
            status=status,
            iterations=iterations,
            evaluations=self._evaluations,
            value=at.value,
            gradient_norm=float(np.max(np.abs(at.gradient))),
            tolerance_ratio=at.tolerance_ratio,
            variances=variances,
        )
