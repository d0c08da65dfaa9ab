"""Variances of groups of coefficients by the Laplace approximation of the marginal likelihood.

Coefficients of group g have the prior θ_j ~ N(0, τ²_g) and the ridge strength l2_g = σ²/τ²_g, where σ² is the noise of
a linear regression and 1 otherwise. Up to constants, the log marginal likelihood at the joint optimum θ̂ is

    L(τ²) = −J(θ̂)/σ² + ½ Σ_g q_g·log l2_g − ½ log det H,

    ∂L/∂log τ²_g = ½ (Σ_g θ̂²/τ²_g − γ_g),      γ_g = q_g − l2_g·tr_g(H⁻¹),

with q_g coefficients, of which γ_g are *effective* (D. J. C. MacKay, "Bayesian interpolation", Neural Comput. 4,
1992). The first round takes the geometric mean of MacKay's update Σθ̂²/γ and of EM's (Σθ̂² + σ²·tr)/q; the later ones
take Newton steps on log τ² with the average information (A. R. Gilmour, R. Thompson, B. R. Cullis, Biometrics 51, 1995)

    A_gh = ½ f_gᵀ·P·f_h / σ²,      f_g = X_g·θ̂_g,   P = W − W·X·H⁻¹·Xᵀ·W,

which needs no more than solutions of H·t = prior gradient. Plain Python, since the result steers a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite, log, sqrt
from typing import Final

VANISHED_RIDGE: Final = 1e12
"""The ridge strength, times the scale, of a group whose variance is 0."""
LEAST_EFFECTIVE: Final = 0.5
"""A group that shrinks and has fewer effective coefficients vanishes."""
GAIN_TOLERANCE: Final = 0.02
"""Settled: the step promises less log marginal likelihood,"""
CHANGE_TOLERANCE: Final = 0.02
"""or changes every log τ² by less, with limits that leave room for more."""
PRIOR_SHARE: Final = 0.25
"""What each group adds to the variance of a linear predictor at the start, in units of the noise."""
_FIRST_LIMIT: Final = 1.0
_LARGEST_LIMIT: Final = 1.0
_SMALLEST_LIMIT: Final = 1e-3
_SHRINK: Final = 0.4
_GROW: Final = 1.5
_FIRST_STEP: Final = 3.0
_LEAST_INFORMATION: Final = 0.05
_MOST_RIDGE: Final = 1e6
_SWEEPS: Final = 200
_INFORMED_CHANGE: Final = 0.1
"""Changes of log τ² that the average information outlives."""


@dataclass(slots=True, kw_only=True)
class VarianceGroup:
    """A group of coefficients that share a prior variance.

    Attributes:
        coordinate: whose they are.
        name: of the group, as in the config's `l2`.
        size: number of coefficients, q.
        l2: its ridge strength now.
        learned: whether its variance is estimated; False once it has vanished.
        vanished: its variance is 0.
        limit: largest change of log τ² in a round.
        gradient: ∂L/∂log τ² of the last Newton round.
        effective: γ, after a round.
        error: standard error of log τ², after a Newton round; None where the data do not tell.
    """

    coordinate: str
    name: str
    size: int
    l2: float
    learned: bool
    vanished: bool = False
    limit: float = _FIRST_LIMIT
    gradient: float | None = None
    effective: float = 0.0
    error: float | None = None

    @property
    def full_name(self) -> str:
        """`<coordinate>.<group>`."""
        return f"{self.coordinate}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a round measured of one group.

    Attributes:
        square: Σ c·θ̂².
        trace: tr_g(H⁻¹), weighted with the coefficients' scale.
        prior: Σ l2·θ² at the linearisation.
        information: ⟨prior gradient of this group, H⁻¹·prior gradient of each learned group⟩, in their order; None in
            a round that did not ask for it.
    """

    square: float
    trace: float
    prior: float
    information: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a round did.

    Attributes:
        gain: log marginal likelihood that the step promises; infinite in the first round.
        largest: largest change of a log variance.
        gained: log marginal likelihood that the step before brought, by the trapezoid rule over log τ².
        free: whether no step was cut short.
        vanished: groups whose variance became 0.
    """

    gain: float
    largest: float
    gained: float
    free: bool
    vanished: tuple[VarianceGroup, ...]

    @property
    def settled(self) -> bool:
        """Whether another round is not worth its while."""
        if self.vanished:
            return False
        return self.gain < GAIN_TOLERANCE or (self.free and self.largest < CHANGE_TOLERANCE)


def effective_coefficients(group: VarianceGroup, trace: float) -> float:
    """Return γ: how many of a group's coefficients the data decide; all of them where nothing is penalised."""
    return min(float(group.size), max(0.0, group.size - group.l2 * trace))


class VarianceComponents:
    """The variances of a model's groups, round after round."""

    def __init__(self, groups: Sequence[VarianceGroup]) -> None:
        self.groups = list(groups)
        self._rounds = 0
        self._moved: dict[int, float] = {}
        """What the last step changed log τ² by."""
        self._slopes: dict[int, float] = {}
        """The gradient before that step."""
        self._information: list[list[float]] = []
        """The average information that was measured last, over `_informed`."""
        self._informed: list[int] = []

    @property
    def learned(self) -> list[int]:
        """Numbers of the groups that are estimated."""
        return [number for number, group in enumerate(self.groups) if group.learned]

    @property
    def needs_information(self) -> bool:
        """Whether the next round has to measure the average information.

        It is that of the variances, which the last steps have to have left about where they were. The first round
        cannot: it begins without coefficients.
        """
        if self._rounds == 0:
            return False
        return self._informed != self.learned or any(
            abs(step) > _INFORMED_CHANGE for step in self._moved.values()
        )

    def update(self, evidence: Sequence[Evidence], noise: float) -> Update:
        """Move the learned groups' l2 by what a round measured.

        Args:
            evidence: of every group.
            noise: σ²; 1 unless the task is linear.
        """
        numbers = self.learned
        effective = [effective_coefficients(g, e.trace) for g, e in zip(self.groups, evidence, strict=True)]
        for group, value in zip(self.groups, effective, strict=True):
            group.effective = 0.0 if group.vanished else value
        gradient = [0.5 * (evidence[n].square * self.groups[n].l2 / noise - effective[n]) for n in numbers]
        gained = fsum(
            0.5 * (self._slopes[n] + slope) * self._moved[n]
            for n, slope in zip(numbers, gradient, strict=True)
            if n in self._moved
        )
        if self._rounds == 0:
            steps = [_first_step(self.groups[n], evidence[n], effective[n], noise) for n in numbers]
            gain = float("inf")
        else:
            information = self._informed_by(numbers, evidence, noise)
            self._adapt_limits(numbers, gradient)
            steps = box_newton(information, gradient, [self.groups[n].limit for n in numbers])
            gain = abs(0.5 * fsum(g * s for g, s in zip(gradient, steps, strict=True)))
        self._rounds += 1
        self._slopes = dict(zip(numbers, gradient, strict=True))
        self._moved = dict(zip(numbers, steps, strict=True))
        vanished = []
        for number, step in zip(numbers, steps, strict=True):
            group = self.groups[number]
            group.l2 *= exp(-step)
            if step < 0.0 and effective[number] < LEAST_EFFECTIVE:
                group.learned, group.vanished = False, True
                group.l2, group.effective, group.error = VANISHED_RIDGE, 0.0, None
                vanished.append(group)
        largest = max((abs(step) for step in steps), default=0.0)
        limits = [self.groups[n].limit for n in numbers]
        free = all(abs(step) < limit for step, limit in zip(steps, limits, strict=True))
        return Update(gain=gain, largest=largest, gained=gained, free=free, vanished=tuple(vanished))

    def _informed_by(
        self, numbers: list[int], evidence: Sequence[Evidence], noise: float
    ) -> list[list[float]]:
        """Return the average information: as the round measured it, or the last one."""
        if all(evidence[n].information is not None for n in numbers):
            self._information, self._informed = _average_information(numbers, evidence, noise), numbers
            self._set_errors(numbers, self._information)
        return self._information

    def _adapt_limits(self, numbers: list[int], gradient: list[float]) -> None:
        """Halve the room of a variance that overshot, widen the others'."""
        for number, slope in zip(numbers, gradient, strict=True):
            group = self.groups[number]
            if group.gradient is not None:
                if group.gradient * slope < 0.0:
                    group.limit = max(_SMALLEST_LIMIT, _SHRINK * group.limit)
                else:
                    group.limit = min(_LARGEST_LIMIT, _GROW * group.limit)
            group.gradient = slope

    def _set_errors(self, numbers: list[int], information: list[list[float]]) -> None:
        """Take standard errors from A⁻¹; along directions that the data do not tell, A is too small or negative."""
        size = len(numbers)
        inverse, ridge = inverse_of(information), _LEAST_INFORMATION
        while inverse is None and ridge < _MOST_RIDGE:
            inverse = inverse_of(
                [[information[i][j] + ridge * (i == j) for j in range(size)] for i in range(size)]
            )
            ridge *= 2.0
        for place, number in enumerate(numbers):
            self.groups[number].error = None if inverse is None else sqrt(inverse[place][place])


def _first_step(group: VarianceGroup, evidence: Evidence, effective: float, noise: float) -> float:
    """Return the change of log τ² to the geometric mean of MacKay's and EM's updates."""
    mackay = evidence.square / noise / max(effective, 1e-9 * group.size)
    em = (evidence.square / noise + max(evidence.trace, 0.0)) / group.size
    if not (mackay > 0.0 and em > 0.0):
        return -_FIRST_STEP
    step = log(sqrt(mackay * em) * group.l2)
    return min(_FIRST_STEP, max(-_FIRST_STEP, step))


def _average_information(
    numbers: Sequence[int], evidence: Sequence[Evidence], noise: float
) -> list[list[float]]:
    """Return A over the learned groups, symmetric."""
    raw = [
        [
            0.5 * ((evidence[n].prior if row == column else 0.0) - information) / noise
            for column, information in enumerate(evidence[n].information or ())
        ]
        for row, n in enumerate(numbers)
    ]
    return [[0.5 * (raw[i][j] + raw[j][i]) for j in range(len(numbers))] for i in range(len(numbers))]


def box_newton(
    curvature: Sequence[Sequence[float]], gradient: Sequence[float], limits: Sequence[float]
) -> list[float]:
    """Return the step d that maximises gᵀd − ½ dᵀ·A·d with |d_k| ≤ limit_k, by coordinate ascent.

    Where A has no curvature, d goes to its limit uphill.
    """
    size = len(gradient)
    ridge = 1e-12 * fsum(max(curvature[k][k], 0.0) for k in range(size))
    step = [0.0] * size
    for _ in range(_SWEEPS):
        moved = 0.0
        for k in range(size):
            slope = gradient[k] - fsum(curvature[k][j] * step[j] for j in range(size))
            bend = max(curvature[k][k], 0.0) + ridge
            wanted = step[k] + slope / bend if bend > 0.0 else limits[k] * (1.0 if slope > 0.0 else -1.0)
            wanted = min(limits[k], max(-limits[k], wanted))
            moved = max(moved, abs(wanted - step[k]))
            step[k] = wanted
        if moved < 1e-9:
            break
    return step


def inverse_of(matrix: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """Return the inverse of a symmetric matrix by Gauss–Jordan elimination; None where it is not positive definite."""
    size = len(matrix)
    rows = [[*row, *(float(i == k) for k in range(size))] for i, row in enumerate(matrix)]
    for k in range(size):
        pivot = rows[k][k]
        if not (isfinite(pivot) and pivot > 1e-12 * max(matrix[k][k], 1e-300)):
            return None
        rows[k] = [value / pivot for value in rows[k]]
        for i in range(size):
            if i != k and rows[i][k] != 0.0:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[size:] for row in rows]
