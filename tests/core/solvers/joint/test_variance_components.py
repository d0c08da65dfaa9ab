"""Learned variances against likelihoods written down densely and maximised without derivatives.

Three references, each for crossed users and items with an intercept that is not penalised:

    linear     y ~ N(X₀β, σ²I + Σ τ²_g·X_g·X_gᵀ), its restricted likelihood over τ² and σ²;
    working    the restricted likelihood of the working response η + (y − μ)/w, whose weights w = ℓ'' are held fixed,
               and taken anew at its maximum until they stay: penalised quasi-likelihood (N. E. Breslow and
               D. G. Clayton, J. Am. Stat. Assoc. 88, 1993);
    Laplace    −J(θ̂) + ½ Σ q·log l2 − ½ log det H, whose weights follow the variances.

The updates' fixed point is the working one. For a linear regression all three are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from gdmix_core.blas import pin_blas_threads
from gdmix_core.solvers.joint.variance_components import (
    GAIN_TOLERANCE,
    VANISHED_RIDGE,
    Evidence,
    Update,
    VarianceComponents,
    VarianceGroup,
    box_newton,
    effective_coefficients,
    inverse_of,
)
from gdmix_core.solvers.losses import Loss, loss_terms

GROUPS = 2


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Matrices are small: BLAS threads would wait for each other most of the time."""
    pin_blas_threads()


class Crossed(NamedTuple):
    """Rows of users and items: features, labels, and each coefficient's group, −1 for the intercept."""

    loss: Loss
    X: np.ndarray
    y: np.ndarray
    group: np.ndarray

    def l2(self, log_variances: np.ndarray) -> np.ndarray:
        return np.where(self.group < 0, 0.0, np.exp(-np.asarray(log_variances))[self.group])


def crossed(
    loss: Loss,
    users: int,
    items: int,
    rows: int,
    variances: tuple[float, float],
    seed: int,
    deviation: float = 1.0,
) -> Crossed:
    """Draw coefficients with these variances, and labels."""
    random = np.random.default_rng(seed)
    user, item = random.integers(users, size=rows), random.integers(items, size=rows)
    effects = [math.sqrt(v) * random.normal(size=n) for v, n in zip(variances, (users, items), strict=True)]
    eta = 0.3 + effects[0][user] + effects[1][item]
    if loss is Loss.LOGISTIC:
        y = (random.random(rows) < 1.0 / (1.0 + np.exp(-eta))).astype(float)
    elif loss is Loss.POISSON:
        y = random.poisson(np.exp(eta)).astype(float)
    else:
        y = eta + deviation * random.normal(size=rows)
    X = np.concatenate([np.ones((rows, 1)), np.eye(users)[user], np.eye(items)[item]], axis=1)
    return Crossed(loss, X, y, np.repeat([-1, 0, 1], [1, users, items]))


class Optimum(NamedTuple):
    theta: np.ndarray
    objective: float
    hessian: np.ndarray
    eta: np.ndarray


def optimum(of: Crossed, l2: np.ndarray, start: np.ndarray) -> Optimum:
    """Return the joint optimum by Newton's method with halved steps."""

    def objective(theta: np.ndarray) -> float:
        return float(loss_terms(of.loss, of.y, of.X @ theta).value.sum() + 0.5 * l2 @ (theta * theta))

    theta = start
    for _ in range(50):
        terms = loss_terms(of.loss, of.y, of.X @ theta)
        gradient = of.X.T @ terms.first + l2 * theta
        step = -np.linalg.solve((of.X.T * terms.second) @ of.X + np.diag(l2), gradient)
        length = 1.0
        while objective(theta + length * step) > objective(theta) and length > 1e-4:
            length *= 0.5
        theta = theta + length * step
        if -gradient @ step < 1e-14:
            break
    eta = of.X @ theta
    hessian = (of.X.T * loss_terms(of.loss, of.y, eta).second) @ of.X + np.diag(l2)
    return Optimum(theta, objective(theta), hessian, eta)


def maximum(value: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
    """Return where a function of a few numbers is largest, by Nelder and Mead's method."""
    options = {"xatol": 1e-4, "fatol": 1e-7, "maxiter": 2000}
    found = minimize(lambda at: -value(at), start, method="Nelder-Mead", options=options)
    assert found.success
    return found.x


def log_determinants(of: Crossed, log_variances: np.ndarray, hessian: np.ndarray) -> float:
    """Return ½ Σ q·log l2 − ½ log det H."""
    sizes = np.bincount(of.group[of.group >= 0])
    return float(-0.5 * sizes @ log_variances - 0.5 * np.linalg.slogdet(hessian)[1])


def laplace_variances(of: Crossed, start: np.ndarray) -> np.ndarray:
    """Return where the Laplace approximation is largest; every optimum begins at the one before."""
    theta = np.zeros(of.group.size)

    def value(log_variances: np.ndarray) -> float:
        at = optimum(of, of.l2(log_variances), theta)
        theta[:] = at.theta
        return log_determinants(of, log_variances, at.hessian) - at.objective

    return np.exp(maximum(value, np.log(start)))


def working_value(of: Crossed, eta: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the restricted log likelihood, by log τ², of the working response at these linear predictors."""
    terms = loss_terms(of.loss, of.y, eta)
    w, response = terms.second, eta - terms.first / terms.second
    gram, product, square = (of.X.T * w) @ of.X, of.X.T @ (w * response), w @ np.square(response)

    def value(log_variances: np.ndarray) -> float:
        H = gram + np.diag(of.l2(log_variances))
        # Σ w(z − x·θ)² + θᵀLθ at its least is Σ wz² − (XᵀWz)ᵀθ̂.
        objective = 0.5 * (square - product @ np.linalg.solve(H, product))
        return log_determinants(of, log_variances, H) - float(objective)

    return value


def working_variances(of: Crossed) -> np.ndarray:
    at, theta = np.full(GROUPS, -0.5), np.zeros(of.group.size)
    for _ in range(30):
        joint = optimum(of, of.l2(at), theta)
        theta = joint.theta
        before, at = at, maximum(working_value(of, joint.eta), at)
        if np.abs(at - before).max() < 2e-4:
            return np.exp(at)
    raise AssertionError("the working response does not settle")


def restricted_value(of: Crossed, logs: np.ndarray) -> float:
    """Return a linear regression's restricted log likelihood of log τ² by group and log σ², by its covariance."""
    V = np.exp(logs[-1]) * np.eye(of.y.size)
    for g, log_variance in enumerate(logs[:-1]):
        Z = of.X[:, of.group == g]
        V += np.exp(log_variance) * (Z @ Z.T)
    factor = np.linalg.cholesky(V)
    whitened = solve_triangular(factor, np.column_stack([of.X[:, of.group < 0], of.y]), lower=True)
    A, y = whitened[:, :-1], whitened[:, -1]
    r = y - A @ np.linalg.lstsq(A, y)[0]
    return float(-np.log(np.diag(factor)).sum() - 0.5 * np.linalg.slogdet(A.T @ A)[1] - 0.5 * r @ r)


def restricted_estimates(of: Crossed) -> np.ndarray:
    """Return τ² by group and σ², where the restricted likelihood is largest."""
    return np.exp(maximum(lambda logs: restricted_value(of, logs), np.zeros(GROUPS + 1)))


def components_of(of: Crossed, l2: float = 1.0) -> VarianceComponents:
    return VarianceComponents(
        [
            VarianceGroup(
                coordinate=name, name="intercept", size=int((of.group == g).sum()), l2=l2, learned=True
            )
            for g, name in enumerate(("per_user", "per_item"))
        ]
    )


def ridge(of: Crossed, components: VarianceComponents) -> np.ndarray:
    return of.l2(-np.log([group.l2 for group in components.groups]))


def measured(of: Crossed, components: VarianceComponents) -> tuple[list[Evidence], float]:
    """Return the exact evidence at the joint optimum, and the noise: RSS/(N − effective) if linear, 1 otherwise.

    Nothing is measured of a group that has vanished.
    """
    l2 = ridge(of, components)
    at = optimum(of, l2, np.zeros(of.group.size))
    inverse = np.linalg.inv(at.hessian)
    gradients = [np.where(of.group == g, l2 * at.theta, 0.0) for g in range(GROUPS)]
    evidence = [
        Evidence(
            square=float(np.square(at.theta[of.group == g]).sum()),
            trace=float(np.diag(inverse)[of.group == g].sum()),
            prior=float(gradients[g] @ at.theta),
            information=tuple(float(gradients[g] @ inverse @ gradients[h]) for h in components.learned),
        )
        if not group.vanished
        else Evidence(square=0.0, trace=0.0, prior=0.0, information=(0.0,) * len(components.learned))
        for g, group in enumerate(components.groups)
    ]
    if of.loss is not Loss.SQUARED:
        return evidence, 1.0
    used = 1 + sum(
        effective_coefficients(group, e.trace)
        for group, e in zip(components.groups, evidence, strict=True)
        if not group.vanished
    )
    return evidence, float(np.square(of.y - at.eta).sum() / (of.y.size - used))


def learned(of: Crossed) -> tuple[VarianceComponents, float, list[Update]]:
    """Make rounds until nothing moves any more; return the groups, the noise, and what the rounds did."""
    components, updates = components_of(of), []
    for _ in range(30):
        evidence, noise = measured(of, components)
        updates.append(components.update(evidence, noise))
        if updates[-1].largest < 1e-6:
            return components, noise, updates
    raise AssertionError("the variances do not settle")


def variances_of(components: VarianceComponents, noise: float = 1.0) -> np.ndarray:
    return np.array([noise / group.l2 for group in components.groups])


LOGISTIC = [(40, 25, 1500, (1.0, 0.5), 1), (40, 25, 1500, (0.3, 2.0), 3), (80, 30, 4000, (1.0, 0.5), 2)]
SPARSE = (80, 30, 600, (1.0, 1.0), 3)
POISSON = (40, 25, 1500, (0.5, 0.3), 4)


@pytest.mark.parametrize(
    ("loss", "problem"),
    [*((Loss.LOGISTIC, problem) for problem in (*LOGISTIC, SPARSE)), (Loss.POISSON, POISSON)],
    ids=["40x25", "40x25 apart", "80x30", "few rows", "poisson"],
)
def test_variances_are_those_of_the_working_response(loss: Loss, problem: tuple) -> None:
    of = crossed(loss, *problem)
    components, _, updates = learned(of)
    np.testing.assert_allclose(variances_of(components), working_variances(of), rtol=1e-3)
    assert len(updates) <= 10
    assert not any(group.vanished for group in components.groups)


@pytest.mark.parametrize(
    ("loss", "problem", "below"),
    [
        *((Loss.LOGISTIC, problem, 0.10) for problem in LOGISTIC),
        (Loss.LOGISTIC, SPARSE, 0.30),
        (Loss.POISSON, POISSON, 0.02),
    ],
    ids=["40x25", "40x25 apart", "80x30", "few rows", "poisson"],
)
def test_variances_are_somewhat_below_those_of_the_laplace_approximation(
    loss: Loss, problem: tuple, below: float
) -> None:
    """The gradient holds ℓ'' fixed; what that costs grows as rows of a coefficient become few."""
    of = crossed(loss, *problem)
    components, _, _ = learned(of)
    found = variances_of(components)
    ratio = found / laplace_variances(of, found)
    assert np.all(ratio < 1.0)
    assert np.all(ratio > 1.0 - below)
    errors = np.array([group.error for group in components.groups])
    assert np.all(np.abs(np.log(ratio)) < 0.9 * errors)


@pytest.mark.parametrize(
    ("problem", "deviation"),
    [((30, 15, 300, (1.0, 0.4), 1), 0.5), ((25, 20, 250, (0.6, 0.8), 2), 1.5)],
    ids=["little noise", "much noise"],
)
def test_a_linear_regressions_variances_are_those_of_the_restricted_likelihood(
    problem: tuple, deviation: float
) -> None:
    of = crossed(Loss.SQUARED, *problem, deviation=deviation)
    components, noise, _ = learned(of)
    found = [*variances_of(components, noise), noise]
    np.testing.assert_allclose(found, restricted_estimates(of), rtol=1e-3)


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name.lower())
def test_the_gradient_is_the_likelihoods_with_curvatures_held_fixed(loss: Loss) -> None:
    of = crossed(loss, 20, 12, 400, (0.6, 0.4), 5)
    components = components_of(of, l2=2.0)
    components.update(measured(of, components)[0], 1.0)
    logs = -np.log([group.l2 for group in components.groups])
    value = working_value(of, optimum(of, of.l2(logs), np.zeros(of.group.size)).eta)
    components.update(measured(of, components)[0], 1.0)
    for g, group in enumerate(components.groups):
        ahead = np.where(np.arange(GROUPS) == g, 1e-4, 0.0)
        slope = value(logs + ahead) - value(logs - ahead)
        assert group.gradient == pytest.approx(slope / 2e-4, rel=1e-5, abs=1e-6)


def test_standard_errors_are_those_of_the_average_information() -> None:
    """Dense, A_gh = ½ yᵀ·P·V_g·P·V_h·P·y with V_g = τ²_g·X_g·X_gᵀ."""
    of = crossed(Loss.SQUARED, 30, 15, 300, (1.0, 0.4), 1, 0.5)
    components, noise, _ = learned(of)
    V = noise * np.eye(of.y.size)
    pieces = []
    for g, variance in enumerate(variances_of(components, noise)):
        Z = of.X[:, of.group == g]
        pieces.append(variance * (Z @ Z.T))
        V = V + pieces[-1]
    ones = np.linalg.solve(V, np.ones(of.y.size))
    P = np.linalg.inv(V) - np.outer(ones, ones) / ones.sum()
    images = [piece @ P @ of.y for piece in pieces]
    A = np.array([[0.5 * a @ P @ b for b in images] for a in images])
    errors = [group.error for group in components.groups]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(np.linalg.inv(A))), rtol=1e-4)


def test_effective_coefficients_are_what_the_penalty_leaves() -> None:
    of = crossed(Loss.LOGISTIC, *LOGISTIC[0])
    components, _, _ = learned(of)
    inverse = np.linalg.inv(optimum(of, ridge(of, components), np.zeros(of.group.size)).hessian)
    for g, group in enumerate(components.groups):
        kept = group.size - group.l2 * np.diag(inverse)[of.group == g].sum()
        assert group.effective == pytest.approx(kept, rel=1e-3)
        assert 0.5 * group.size < group.effective < group.size


@pytest.mark.parametrize("loss", [Loss.SQUARED, Loss.LOGISTIC], ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("seed", [4, 5])
def test_a_group_without_variance_vanishes_and_the_other_is_estimated_as_without_it(
    loss: Loss, seed: int
) -> None:
    of = crossed(loss, 40, 25, 400, (1.0, 0.0), seed, 0.5)
    of = of._replace(y=without_items(of, loss, seed))
    components, noise, updates = learned(of)
    user, item = components.groups
    assert (item.vanished, item.learned, item.l2) == (True, False, VANISHED_RIDGE)
    assert item.error is None
    assert components.learned == [0]
    (round_of_it,) = [update for update in updates if update.vanished]
    assert round_of_it.vanished == (item,)
    assert not round_of_it.settled
    alone = of._replace(X=of.X[:, of.group < 1], group=of.group[of.group < 1])
    if loss is Loss.SQUARED:
        logs = maximum(lambda at: restricted_value(alone, at), np.zeros(2))
        np.testing.assert_allclose([noise / user.l2, noise], np.exp(logs), rtol=1e-3)
    else:
        assert not user.vanished
        assert user.error is not None


def test_a_vanished_group_has_no_effective_coefficients_in_later_rounds() -> None:
    components = VarianceComponents([group_of(size=10, l2=100.0), group_of()])
    evidence = [evidence_of(1e-6, 0.099, 1e-4, (0.0, 0.0)), evidence_of(3.0, 2.5, 9.0, (0.0, 1.0))]
    components.update(evidence, 1.0)
    group = components.groups[0]
    assert group.vanished
    assert group.effective == 0.0
    components.update([evidence_of(0.0, 0.0), evidence_of(3.0, 2.5, 9.0, (1.0,))], 1.0)
    assert group.effective == 0.0


def without_items(of: Crossed, loss: Loss, seed: int) -> np.ndarray:
    """Draw labels whose items differ less than by chance: variation among their means is taken away."""
    random = np.random.default_rng(seed)
    user = of.X[:, of.group == 0] @ random.normal(size=40)
    items = of.X[:, of.group == 1]
    if loss is Loss.SQUARED:
        noise = 0.5 * random.normal(size=of.y.size)
        return user + noise - items @ np.linalg.lstsq(items, noise)[0]
    order = np.lexsort((random.random(of.y.size), items.argmax(axis=1)))
    quantile = np.empty(of.y.size)
    quantile[order] = (np.arange(of.y.size) * 0.6180339887498949) % 1.0
    return (quantile < 1.0 / (1.0 + np.exp(-user))).astype(float)


def test_what_steps_gain_adds_up_to_the_likelihoods_gain() -> None:
    of = crossed(Loss.SQUARED, 30, 15, 300, (1.0, 0.4), 6)
    components = components_of(of)
    likelihoods, gained = [], []
    for _ in range(6):
        logs = -np.log([group.l2 for group in components.groups])
        likelihoods.append(restricted_value(of, np.append(logs, 0.0)))
        gained.append(components.update(measured(of, components)[0], 1.0).gained)
    assert gained[0] == 0.0
    assert sum(gained) == pytest.approx(likelihoods[-1] - likelihoods[0], rel=0.1)
    assert likelihoods[-1] > likelihoods[0]


def group_of(size: int = 10, l2: float = 2.0, *, is_learned: bool = True) -> VarianceGroup:
    return VarianceGroup(coordinate="c", name="g", size=size, l2=l2, learned=is_learned)


def evidence_of(
    square: float, trace: float, prior: float = 0.0, information: tuple[float, ...] | None = (0.0,)
) -> Evidence:
    return Evidence(square=square, trace=trace, prior=prior, information=information)


def test_the_first_round_takes_the_geometric_mean_of_two_updates() -> None:
    components = VarianceComponents([group_of(size=10, l2=2.0)])
    update = components.update([evidence_of(3.0, 2.5)], noise=1.5)
    mackay = 3.0 / (10.0 - 2.0 * 2.5)
    em = (3.0 + 1.5 * 2.5) / 10.0
    (group,) = components.groups
    assert 1.5 / group.l2 == pytest.approx(math.sqrt(mackay * em), rel=1e-12)
    assert group.effective == 5.0
    assert group.error is None
    assert update.gain == math.inf
    assert not update.settled
    assert update.largest == pytest.approx(abs(math.log(2.0 / group.l2)), rel=1e-12)


@pytest.mark.parametrize("square", [0.0, 1e-12, 1e12])
def test_the_first_round_moves_a_log_variance_by_three_at_most(square: float) -> None:
    components = VarianceComponents([group_of()])
    components.update([evidence_of(square, 1.0)], 1.0)
    expected = -3.0 if square < 1.0 else 3.0
    assert math.log(2.0 / components.groups[0].l2) == pytest.approx(expected, rel=1e-12)


def test_a_group_that_is_not_learned_keeps_its_strength_and_tells_how_much_it_shrinks() -> None:
    components = VarianceComponents([group_of(is_learned=False), group_of()])
    assert components.learned == [1]
    update = components.update([evidence_of(100.0, 1.0, information=()), evidence_of(3.0, 2.5)], 1.0)
    fixed, moved = components.groups
    assert (fixed.l2, fixed.effective, fixed.learned) == (2.0, 8.0, False)
    assert moved.l2 != 2.0
    assert update.vanished == ()


def test_where_nothing_is_learned_a_round_has_nothing_left_to_do() -> None:
    components = VarianceComponents([group_of(is_learned=False)])
    for _ in range(2):
        update = components.update([evidence_of(1.0, 1.0, information=())], 1.0)
        assert update.largest == 0.0
    assert update.settled


def test_later_rounds_take_newtons_step_within_its_limits() -> None:
    components = VarianceComponents([group_of()])
    components.update([evidence_of(3.0, 2.5)], 1.0)
    (group,) = components.groups
    l2 = group.l2
    gradient = 0.5 * (4.0 * l2 - (10.0 - 2.0 * l2))
    information = 0.5 * (9.0 - 1.0)
    update = components.update([evidence_of(4.0, 2.0, 9.0, (1.0,))], 1.0)
    step = gradient / information
    assert abs(step) < 1.0
    assert math.log(l2 / group.l2) == pytest.approx(step, rel=1e-9)
    assert update.gain == pytest.approx(0.5 * abs(gradient * step), rel=1e-9)
    assert update.settled is (update.gain < GAIN_TOLERANCE)
    assert group.error == pytest.approx(math.sqrt(1.0 / information), rel=1e-12)
    before = group.l2
    components.update([evidence_of(1e6, 2.0, 1.0, (0.5,))], 1.0)
    assert before / group.l2 == pytest.approx(math.e, rel=1e-9)


def test_the_average_information_outlives_small_steps() -> None:
    components = VarianceComponents([group_of()])
    assert not components.needs_information
    components.update([evidence_of(3.0, 2.5, information=None)], 1.0)
    assert components.needs_information
    (group,) = components.groups
    components.update([evidence_of((10.0 - 2.5 * group.l2) / group.l2, 2.5, 9.0, (1.0,))], 1.0)
    assert not components.needs_information
    error, l2 = group.error, group.l2
    gradient = 0.5 * (4.0 * l2 - (10.0 - 2.0 * l2))
    components.update([evidence_of(4.0, 2.0, information=None)], 1.0)
    assert math.log(l2 / group.l2) == pytest.approx(gradient / 4.0, rel=1e-9)
    assert group.error == error
    components.update([evidence_of(1e3, 2.0, information=None)], 1.0)
    assert components.needs_information


def test_groups_that_are_learned_no_more_need_another_average_information() -> None:
    components = VarianceComponents([group_of(), group_of()])
    settled = evidence_of(2.5, 2.5, 9.0, (1.0, 0.0))
    components.update([settled, settled], 1.0)
    for group in components.groups:
        group.l2 = 2.0
    components.update([settled, evidence_of(0.0, 4.9, 0.5, (0.0, 0.1))], 1.0)
    assert components.learned == [0]
    assert components.groups[1].vanished
    assert components.needs_information


def test_a_variance_that_overshoots_gets_less_room_and_then_more_again() -> None:
    components = VarianceComponents([group_of()])
    limits = []
    for square in (3.0, 30.0, 0.01, 30.0, 30.0, 30.0):
        components.groups[0].l2 = 2.0
        components.update([evidence_of(square, 2.5, 9.0, (1.0,))], 1.0)
        limits.append(components.groups[0].limit)
    assert limits == pytest.approx([1.0, 1.0, 0.4, 0.16, 0.24, 0.36])


@pytest.mark.parametrize(
    ("prior", "information"),
    [(0.0, ((0.0, 0.0), (0.0, 0.0))), (1.0, ((3.0, 0.0), (0.0, 0.5))), (1.0, ((0.0, -4.0), (-4.0, 0.0)))],
    ids=["nothing told", "negative", "indefinite"],
)
def test_standard_errors_are_finite_where_the_data_tell_nothing(
    prior: float, information: tuple[tuple[float, ...], ...]
) -> None:
    components = VarianceComponents([group_of(), group_of()])
    for _ in range(2):
        components.update([evidence_of(3.0, 2.5, prior, row) for row in information], 1.0)
    for group in components.groups:
        assert group.error is not None
        assert 0.0 < group.error < 10.0


def test_there_are_no_standard_errors_of_what_is_not_a_number() -> None:
    components = VarianceComponents([group_of()])
    for _ in range(2):
        components.update([evidence_of(3.0, 2.5, math.nan, (0.0,))], 1.0)
    assert components.groups[0].error is None


def test_effective_coefficients_stay_between_none_and_all() -> None:
    assert effective_coefficients(group_of(size=10, l2=2.0), 2.5) == 5.0
    assert effective_coefficients(group_of(size=10, l2=2.0), 7.0) == 0.0
    assert effective_coefficients(group_of(size=10, l2=2.0), -1.0) == 10.0
    assert effective_coefficients(group_of(size=10, l2=0.0), 1e9) == 10.0


def definite(size: int, seed: int) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(size, size + 2))
    return A @ A.T


@pytest.mark.parametrize("size", [1, 2, 6])
def test_within_wide_limits_the_step_is_newtons(size: int) -> None:
    A, g = definite(size, 1), np.random.default_rng(2).normal(size=size)
    step = box_newton(A.tolist(), g.tolist(), [1e6] * size)
    np.testing.assert_allclose(step, np.linalg.solve(A, g), rtol=1e-5, atol=1e-6)


def test_a_step_is_the_best_within_its_limits() -> None:
    A, g = definite(5, 3), 10.0 * np.random.default_rng(4).normal(size=5)
    limits = np.array([0.1, 0.5, 3.0, 0.3, 20.0])
    step = np.array(box_newton(A.tolist(), g.tolist(), limits.tolist()))
    slope = g - A @ step
    assert np.all(np.abs(step) <= limits)
    at_limit = np.abs(step) == limits
    assert 0 < np.count_nonzero(at_limit) < 5
    assert np.all(slope[at_limit] * step[at_limit] >= 0.0)
    np.testing.assert_allclose(slope[~at_limit], 0.0, atol=1e-6)


def test_without_curvature_a_step_goes_to_its_limit_uphill() -> None:
    nothing = [[0.0, 0.0], [0.0, 0.0]]
    assert box_newton(nothing, [1e-3, -2.0], [0.5, 0.25]) == [0.5, -0.25]
    assert box_newton([[-3.0]], [1.0], [0.5]) == [0.5]
    assert box_newton([[2.0, 0.0], [0.0, 0.0]], [1.0, -1.0], [1.0, 1.0]) == [0.5, -1.0]
    assert box_newton([], [], []) == []


@pytest.mark.parametrize("size", [1, 2, 7])
def test_inverses_are_numpys(size: int) -> None:
    A = definite(size, 5)
    np.testing.assert_allclose(inverse_of(A.tolist()), np.linalg.inv(A), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "matrix",
    [[[0.0]], [[-1.0]], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[math.nan]], [[math.inf]]],
    ids=["zero", "negative", "indefinite", "singular", "nan", "inf"],
)
def test_what_is_not_positive_definite_has_no_inverse(matrix: list[list[float]]) -> None:
    assert inverse_of(matrix) is None


def test_the_inverse_of_nothing_is_nothing() -> None:
    assert inverse_of([]) == []


def test_a_groups_full_name_names_its_coordinate() -> None:
    assert group_of().full_name == "c.g"
