"""Random-effect problems without a proper optimum, with hostile numbers, or with nothing to fit."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.errors import InternalError
from gdmix_core.solvers.losses import Loss, loss_terms
from gdmix_core.solvers.random_effect import EntityProblems, EntityStatus, solve

LOSSES = list(Loss)


def entity(
    X: np.ndarray,
    y: np.ndarray,
    l2: np.ndarray | float = 1.0,
    *,
    w: np.ndarray | None = None,
    offset: np.ndarray | float = 0.0,
    prior: np.ndarray | None = None,
    intercept: bool = True,
    copies: int = 1,
) -> EntityProblems:
    """Return `copies` equal entities with dense features X (without the intercept's column)."""
    n, k = X.shape
    d = k + (1 if intercept else 0)
    one = np.arange(n * copies + 1) * k
    return EntityProblems(
        row_ptr=np.arange(copies + 1) * n,
        indptr=one,
        indices=np.tile(np.arange(k, dtype=np.int32) + (1 if intercept else 0), n * copies),
        values=np.tile(X.ravel().astype(float), copies),
        labels=np.tile(np.asarray(y, dtype=float), copies),
        weights=np.tile(np.ones(n) if w is None else w, copies),
        offsets=np.tile(np.broadcast_to(np.asarray(offset, dtype=float), (n,)), copies),
        coefficient_ptr=np.arange(copies + 1) * d,
        intercept=intercept,
        l2=np.tile(np.broadcast_to(np.asarray(l2, dtype=float), (d,)), copies),
        prior_mean=np.tile(np.zeros(d) if prior is None else prior, copies),
    )


def with_ones(X: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(X.shape[0]), X])


random = np.random.default_rng(11)
X_TALL = random.normal(size=(24, 4))
X_WIDE = random.normal(size=(5, 14))


@pytest.mark.parametrize("X", [X_TALL, X_WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize(
    ("loss", "label", "sign"), [(Loss.LOGISTIC, 1.0, 1), (Loss.LOGISTIC, 0.0, -1), (Loss.POISSON, 0.0, -1)]
)
def test_free_intercept_with_one_label_is_unbounded_but_finite(
    X: np.ndarray, loss: Loss, label: float, sign: int
) -> None:
    l2 = np.ones(X.shape[1] + 1)
    l2[0] = 0.0
    solutions = solve(entity(X, np.full(X.shape[0], label), l2, copies=5), loss)
    assert set(solutions.status) == {EntityStatus.UNBOUNDED}
    assert solutions.tolerance_ratio.max() <= 1.0
    intercepts = solutions.coefficients[:: X.shape[1] + 1]
    assert np.all(sign * intercepts > 10.0)
    assert np.all(np.abs(solutions.coefficients) < 100.0)


def test_regularised_intercept_with_one_label_converges() -> None:
    solutions = solve(entity(X_TALL, np.ones(24), 1.0), Loss.LOGISTIC)
    assert solutions.status[0] == EntityStatus.CONVERGED


def test_separable_features_without_l2_are_unbounded() -> None:
    y = (X_TALL[:, 0] > 0).astype(float)
    solutions = solve(entity(X_TALL, y, 0.0), Loss.LOGISTIC)
    assert solutions.status[0] == EntityStatus.UNBOUNDED
    assert np.isfinite(solutions.coefficients).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("with_prior", [False, True])
def test_rank_deficient_without_l2_gives_the_solution_nearest_to_the_prior(
    loss: Loss, with_prior: bool
) -> None:
    base = random.normal(size=(40, 3))
    X = np.column_stack([base, base[:, 0] + base[:, 1], 2.0 * base[:, 2]])
    z = base @ np.array([0.5, -0.4, 0.3])
    y = {
        Loss.LOGISTIC: (random.random(40) < 1 / (1 + np.exp(-z))).astype(float),
        Loss.SQUARED: z + random.normal(size=40),
        Loss.POISSON: random.poisson(np.exp(z)).astype(float),
    }[loss]
    prior = random.normal(size=6) if with_prior else np.zeros(6)
    solutions = solve(entity(X, y, 0.0, prior=prior), loss)
    assert solutions.status[0] == EntityStatus.SINGULAR
    assert solutions.tolerance_ratio[0] <= 1.0
    theta = solutions.coefficients
    null = np.linalg.svd(with_ones(X))[2][4:]
    assert np.abs(null @ (theta - prior)).max() < 1e-7
    if loss is Loss.SQUARED:
        expected = prior + np.linalg.lstsq(with_ones(X), y - with_ones(X) @ prior, rcond=None)[0]
        np.testing.assert_allclose(theta, expected, atol=1e-7)


def test_fewer_rows_than_coefficients_without_l2_is_the_minimum_norm_solution() -> None:
    y = random.normal(size=5)
    solutions = solve(entity(X_WIDE, y, 0.0), Loss.SQUARED)
    assert solutions.status[0] == EntityStatus.SINGULAR
    expected = np.linalg.lstsq(with_ones(X_WIDE), y, rcond=None)[0]
    np.testing.assert_allclose(solutions.coefficients, expected, atol=1e-7)


def test_feature_that_never_occurs_keeps_its_prior() -> None:
    X = np.column_stack([X_TALL, np.zeros(24)])
    y = (random.random(24) < 0.5).astype(float)
    prior = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.75])
    regularised = solve(entity(X, y, 1.0, prior=prior), Loss.LOGISTIC)
    assert regularised.coefficients[5] == 0.75
    free = solve(entity(X, y, 0.0, prior=prior), Loss.LOGISTIC)
    assert free.status[0] == EntityStatus.SINGULAR
    assert abs(free.coefficients[5] - 0.75) < 1e-12


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("free", [False, True])
def test_no_rows_and_no_weight_give_the_prior(loss: Loss, free: bool) -> None:
    prior = np.array([0.3, -0.2, 0.1, 0.0, 2.0])
    l2 = np.ones(5)
    l2[0] = 0.0 if free else 1.0
    empty = solve(entity(np.empty((0, 4)), np.empty(0), l2, prior=prior), loss, initial=np.ones(5))
    weightless = solve(entity(X_TALL, np.ones(24), l2, prior=prior, w=np.zeros(24)), loss, initial=np.ones(5))
    for solutions in (empty, weightless):
        assert solutions.status[0] == EntityStatus.CONVERGED
        assert solutions.coefficients.tolist() == prior.tolist()
        assert solutions.tolerance_ratio[0] == 0.0


def test_no_entities() -> None:
    nothing = entity(np.empty((0, 2)), np.empty(0), copies=0)
    solutions = solve(nothing, Loss.LOGISTIC, variance="full", threads=2)
    assert solutions.coefficients.size == 0
    assert solutions.status.size == 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
def test_rows_without_weight_change_nothing(loss: Loss) -> None:
    y = (random.random(24) < 0.5).astype(float)
    w = np.ones(24)
    w[20:] = 0.0
    whole = solve(entity(X_TALL, y, w=w), loss).coefficients
    part = solve(entity(X_TALL[:20], y[:20]), loss).coefficients
    np.testing.assert_allclose(whole, part, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("offset", [-700.0, -60.0, 60.0, 700.0])
@pytest.mark.parametrize("X", [X_TALL, X_WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("free", [False, True])
def test_extreme_offsets_stay_finite(loss: Loss, offset: float, X: np.ndarray, free: bool) -> None:
    n = X.shape[0]
    y = (np.arange(n) % 2).astype(float)
    l2 = np.ones(X.shape[1] + 1)
    l2[0] = 0.0 if free else 1.0
    solutions = solve(entity(X, y, l2, offset=offset), loss, variance="full")
    assert np.isfinite(solutions.coefficients).all()
    assert solutions.variances is not None
    assert np.isfinite(solutions.variances).all()
    assert not np.isnan(solutions.tolerance_ratio).any()
    if solutions.status[0] == EntityStatus.CONVERGED:
        A = with_ones(X)
        terms = loss_terms(loss, y, offset + A @ solutions.coefficients)
        gradient = A.T @ terms.first + l2 * solutions.coefficients
        noise = 64 * np.finfo(float).eps * (np.abs(A).T @ (np.abs(y) + np.abs(terms.mean)))
        assert np.all(np.abs(gradient) <= 1.01 * np.maximum(1e-8 * n, noise))


def test_extreme_poisson_offsets_converge() -> None:
    y = np.array([0.0, 1.0, 3.0, 2.0, 0.0])
    for offset in (-300.0, 300.0, 700.0):
        solutions = solve(entity(X_WIDE, y, 1.0, offset=offset), Loss.POISSON)
        assert solutions.status[0] == EntityStatus.CONVERGED, offset


@pytest.mark.parametrize("scale", [1e-6, 1e4, 1e9])
def test_badly_scaled_features(scale: float) -> None:
    X = X_TALL * np.array([1.0, scale, 1.0, 1.0])
    y = (random.random(24) < 0.5).astype(float)
    solutions = solve(entity(X, y, 1.0), Loss.LOGISTIC)
    assert solutions.status[0] == EntityStatus.CONVERGED


def test_large_labels_meet_the_certificate_at_float64_noise() -> None:
    y = 1e10 * random.normal(size=24)
    solutions = solve(entity(X_TALL, y, 1.0), Loss.SQUARED)
    assert solutions.status[0] == EntityStatus.CONVERGED


@pytest.mark.parametrize("duplicates", [2, 30])
def test_equal_rows_in_fewer_rows_than_coefficients(duplicates: int) -> None:
    X = np.repeat(random.normal(size=(2, 80)), duplicates, axis=0)
    y = (np.arange(2 * duplicates) % 2).astype(float)
    solutions = solve(entity(X, y, 1.0, copies=3), Loss.LOGISTIC)
    assert set(solutions.status) == {EntityStatus.CONVERGED}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.values.__setitem__(3, np.nan),
        lambda p: p.offsets.__setitem__(0, np.inf),
        lambda p: p.labels.__setitem__(1, np.nan),
        lambda p: p.weights.__setitem__(1, -1.0),
        lambda p: p.l2.__setitem__(2, -1.0),
        lambda p: p.prior_mean.__setitem__(2, np.nan),
    ],
    ids=["nan value", "infinite offset", "nan label", "negative weight", "negative l2", "nan prior"],
)
def test_broken_numbers_fail_alone(spoil) -> None:
    y = (np.arange(24) % 2).astype(float)
    clean = solve(entity(X_TALL, y, copies=6), Loss.LOGISTIC)
    problems = entity(X_TALL, y, copies=6)
    spoil(problems)
    solutions = solve(problems, Loss.LOGISTIC, variance="full")
    assert solutions.status.tolist() == [EntityStatus.NUMERICAL_FAILURE] + [EntityStatus.CONVERGED] * 5
    assert np.isfinite(solutions.coefficients).all()
    assert solutions.variances is not None
    assert not np.isnan(solutions.variances).any()
    assert solutions.coefficients[5:].tobytes() == clean.coefficients[5:].tobytes()
    assert np.isinf(solutions.tolerance_ratio[0])


def test_overflow_is_a_status() -> None:
    solutions = solve(entity(1e200 * X_TALL, np.ones(24)), Loss.LOGISTIC)
    assert np.isfinite(solutions.coefficients).all()
    assert solutions.status[0] != EntityStatus.CONVERGED or solutions.tolerance_ratio[0] <= 1.0


def test_too_few_iterations_is_a_status() -> None:
    y = (np.arange(24) % 3 == 0).astype(float)
    solutions = solve(entity(3.0 * X_TALL, y, 1e-3, copies=2), Loss.LOGISTIC, max_iterations=1)
    assert set(solutions.status) == {EntityStatus.MAX_ITERATIONS}
    assert solutions.count(EntityStatus.MAX_ITERATIONS) == 2
    assert solutions.tolerance_ratio.min() > 1.0


def test_more_coefficients_and_rows_than_any_hessian_holds() -> None:
    n, d, k = 1700, 1800, 12
    columns = np.sort(random.permuted(np.tile(np.arange(d), (n, 1)), axis=1)[:, :k], axis=1)
    values = random.normal(size=(n, k))
    y = (random.random(n) < 0.5).astype(float)
    problems = EntityProblems(
        row_ptr=np.array([0, n]),
        indptr=np.arange(n + 1) * k,
        indices=(columns.ravel() + 1).astype(np.int32),
        values=values.ravel(),
        labels=y,
        weights=np.ones(n),
        offsets=np.zeros(n),
        coefficient_ptr=np.array([0, d + 1]),
        intercept=True,
        l2=np.ones(d + 1),
        prior_mean=np.zeros(d + 1),
    )
    solutions = solve(problems, Loss.LOGISTIC)
    assert solutions.status[0] == EntityStatus.CONVERGED
    A = np.zeros((n, d + 1))
    A[:, 0] = 1.0
    np.put_along_axis(A, columns + 1, values, axis=1)
    z = A @ solutions.coefficients
    gradient = A.T @ (1 / (1 + np.exp(-z)) - y) + solutions.coefficients
    assert np.abs(gradient).max() <= 1.001e-8 * n


def test_every_status_has_advice() -> None:
    for status in EntityStatus:
        assert status.advice.endswith(".")


def test_shapes_are_checked() -> None:
    good = entity(X_TALL, np.ones(24))
    with pytest.raises(InternalError, match="labels"):
        EntityProblems(
            good.row_ptr, good.indptr, good.indices, good.values, good.labels[:-1], good.weights,
            good.offsets, good.coefficient_ptr, True, good.l2, good.prior_mean,
        )  # fmt: skip
    with pytest.raises(InternalError, match="initial"):
        solve(good, Loss.LOGISTIC, initial=np.zeros(3))
    with pytest.raises(InternalError, match="threads"):
        solve(good, Loss.LOGISTIC, threads=0)
