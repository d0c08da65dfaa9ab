from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdmix_core.errors import InternalError, UsageError
from gdmix_core.solvers.fixed_effect import (
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectStatus,
    LbfgsDriver,
    NewtonDriver,
    choose_driver,
)
from gdmix_core.solvers.losses import Loss

DRIVERS = [NewtonDriver, LbfgsDriver]
both = pytest.mark.parametrize("driver", DRIVERS)


def assert_close(theta: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-6) -> None:
    assert np.max(np.abs(theta - wanted) / np.maximum(1.0, np.abs(wanted))) <= tolerance


def reference(case) -> np.ndarray:
    """Minimise with SciPy's trust-exact to the rounding of float64."""
    from scipy.optimize import minimize

    result = minimize(
        case.objective,
        np.zeros(case.problem.dimension),
        jac=case.gradient,
        hess=case.hessian,
        method="trust-exact",
        options={"gtol": 1e-9, "maxiter": 500},
    )
    theta = result.x
    for _ in range(3):
        theta = theta - np.linalg.solve(case.hessian(theta), case.gradient(theta))
    return theta


@both
@pytest.mark.parametrize("loss", Loss)
def test_scikit_learn_agrees(case, driver, loss: Loss) -> None:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

    problem = case(loss, 600, 7, seed=11)
    features = problem.X[:, 1:]
    rows = problem.labels.size
    model = {
        Loss.LOGISTIC: LogisticRegression(C=1.0, tol=1e-12, solver="newton-cholesky", max_iter=200),
        Loss.SQUARED: Ridge(alpha=1.0, tol=1e-12, solver="cholesky"),
        Loss.POISSON: PoissonRegressor(alpha=1.0 / rows, tol=1e-12, solver="newton-cholesky", max_iter=200),
    }[loss]
    model.fit(features, problem.labels)
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    problem.assert_certificate(solution)
    assert_close(solution.theta, np.concatenate([np.atleast_1d(model.intercept_), np.ravel(model.coef_)]))
    assert solution.value == pytest.approx(problem.objective(solution.theta), rel=1e-12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    loss=st.sampled_from(list(Loss)),
    rows=st.sampled_from([1, 3, 20, 150]),
    features=st.integers(1, 12),
    density=st.sampled_from([0.1, 1.0]),
    weighted=st.booleans(),
    offsets=st.booleans(),
    prior=st.booleans(),
    intercept=st.booleans(),
    l2=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 100),
)
def test_every_size_class_is_solved_by_both(
    case, loss, rows, features, density, weighted, offsets, prior, intercept, l2, seed
) -> None:
    problem = case(
        loss,
        rows,
        features,
        l2=l2,
        free_intercept=False,
        density=density,
        seed=seed,
        weighted=weighted,
        offsets=offsets,
        prior=prior,
        intercept=intercept,
    )
    newton, lbfgs = (problem.solve(driver(problem.problem)) for driver in DRIVERS)
    for solution in (newton, lbfgs):
        assert solution.status is FixedEffectStatus.CONVERGED
        problem.assert_certificate(solution)
    assert_close(newton.theta, reference(problem), 1e-8)
    assert_close(lbfgs.theta, newton.theta)


def ill_conditioned(case_of, loss: Loss):
    """MovieLens's global features: dummies that add up to the intercept, and a year that nearly equals it."""
    random = np.random.default_rng(7)
    rows = 6_000
    year = (1990 + random.integers(-30, 9, rows) * (random.random(rows) < 0.5)) / 2000
    occupation = np.eye(21)[random.integers(0, 21, rows)]
    genres = (random.random((rows, 19)) < 0.12).astype(float)
    gender = np.eye(2)[random.integers(0, 2, rows)]
    X = np.column_stack([np.ones(rows), random.uniform(0.1, 0.7, rows), gender, occupation, genres, year])
    z = X @ (0.4 * random.standard_normal(X.shape[1])) - 1.0
    labels = {
        Loss.LOGISTIC: (random.random(rows) < 1 / (1 + np.exp(-z))).astype(float),
        Loss.SQUARED: z + random.standard_normal(rows),
        Loss.POISSON: random.poisson(np.exp(z)).astype(float),
    }[loss]
    l2 = np.ones(X.shape[1])
    l2[0] = 0.0
    return case_of(X=X, labels=labels, loss=loss, l2=l2)


@both
@pytest.mark.parametrize("loss", Loss)
def test_a_year_that_nearly_equals_the_intercept(case_of, driver, loss: Loss) -> None:
    problem = ill_conditioned(case_of, loss)
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    problem.assert_certificate(solution)
    assert solution.evaluations <= (12 if driver is NewtonDriver else 250)
    assert_close(solution.theta, reference(problem), 1e-8 if driver is NewtonDriver else 1e-3)


@both
def test_features_of_very_different_size(case, driver) -> None:
    problem = case(Loss.LOGISTIC, 500, 5, l2=0.0, density=1.0)
    scale = np.concatenate([[1.0], 10.0 ** np.array([-6, -3, 0, 3, 6])])
    wanted = problem.solve(NewtonDriver(problem.problem)).theta / scale
    problem.X = problem.X * scale
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    problem.assert_certificate(solution)
    np.testing.assert_allclose(solution.theta, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", Loss)
def test_rank_deficiency_without_l2_gives_the_minimum_norm(case, case_of, loss: Loss) -> None:
    full = case(loss, 300, 4, l2=0.0, density=1.0, seed=2)
    X = np.column_stack([full.X, full.X[:, 1], 2 * full.X[:, 2], np.zeros(300)])
    problem = case_of(X=X, labels=full.labels, loss=loss, l2=np.zeros(8), prior_mean=np.full(8, 0.3))
    solution = problem.solve(NewtonDriver(problem.problem, variance="full"))
    assert solution.status is FixedEffectStatus.SINGULAR
    problem.assert_certificate(solution)
    a, b, c, d, e = full.solve(NewtonDriver(full.problem)).theta
    assert_close(solution.theta, np.array([a, b / 2, c / 5, d, e, b / 2, 2 * c / 5, 0.0]), 1e-8)
    inverse = np.diag(np.linalg.pinv(problem.hessian(solution.theta)))
    np.testing.assert_allclose(solution.variances[[0, 3, 4]], inverse[[0, 3, 4]], rtol=1e-6)


@both
def test_labels_all_alike_with_a_free_intercept_are_flagged(case, driver) -> None:
    for loss, label in ((Loss.LOGISTIC, 1.0), (Loss.LOGISTIC, 0.0), (Loss.POISSON, 0.0)):
        problem = case(loss, 120, 3)
        problem.labels[:] = label
        solution = problem.solve(driver(problem.problem, variance="full"))
        assert solution.status is FixedEffectStatus.UNBOUNDED
        assert np.isfinite(solution.theta).all()
        assert np.abs(solution.theta).max() < 100
        assert np.isfinite(solution.variances).all()


@both
@pytest.mark.parametrize("shift", [700.0, -700.0, None])
@pytest.mark.parametrize("loss", [Loss.LOGISTIC, Loss.POISSON])
def test_extreme_offsets_neither_overflow_nor_stall(case, driver, loss: Loss, shift: float | None) -> None:
    problem = case(loss, 200, 4)
    problem.offsets = np.where(np.arange(200) % 2, 700.0, -700.0) if shift is None else np.full(200, shift)
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    assert solution.tolerance_ratio <= 1.0
    assert np.isfinite(solution.theta).all()


@both
def test_large_counts_do_not_run_away(case, driver) -> None:
    problem = case(Loss.POISSON, 300, 4)
    problem.labels = np.random.default_rng(0).poisson(1e6, 300).astype(float)
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    assert solution.theta[0] == pytest.approx(np.log(1e6), rel=1e-3)
    assert solution.evaluations < 40


@both
def test_no_rows_give_the_prior_mean(case, driver) -> None:
    problem = case(Loss.LOGISTIC, 0, 3, prior=True, free_intercept=False)
    solution = problem.solve(driver(problem.problem, variance="full"))
    assert solution.status is FixedEffectStatus.CONVERGED
    np.testing.assert_array_equal(solution.theta, problem.problem.prior_mean)
    np.testing.assert_allclose(solution.variances, 1.0)


@both
def test_a_nan_in_the_data_is_a_status_not_an_exception(case, driver) -> None:
    problem = case(Loss.SQUARED, 50, 3)
    problem.labels[7] = np.nan
    solution = problem.solve(driver(problem.problem))
    assert solution.status is FixedEffectStatus.NUMERICAL_FAILURE
    assert np.isfinite(solution.theta).all()


@both
@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("size", [1e160, 1e200, 1e300])
def test_squares_that_overflow_are_a_status_not_an_exception(case, driver, loss: Loss, size: float) -> None:
    problem = case(loss, 50, 3)
    problem.X[:, 2] *= size
    solution = problem.solve(driver(problem.problem, variance="full"))
    assert solution.status is FixedEffectStatus.NUMERICAL_FAILURE
    assert np.isfinite(solution.theta).all()


@pytest.mark.parametrize("loss", Loss)
def test_variances(case, loss: Loss) -> None:
    problem = case(loss, 300, 6, weighted=True)
    newton = problem.solve(NewtonDriver(problem.problem, variance="full"))
    hessian = problem.hessian(newton.theta)
    np.testing.assert_allclose(newton.variances, np.diag(np.linalg.inv(hessian)), rtol=1e-9)
    simple = problem.solve(LbfgsDriver(problem.problem, variance="full"))
    np.testing.assert_allclose(simple.variances, 1.0 / np.diag(hessian), rtol=1e-5)
    assert problem.solve(NewtonDriver(problem.problem)).variances is None


@both
def test_iterations_run_out_visibly(case_of, driver) -> None:
    problem = ill_conditioned(case_of, Loss.LOGISTIC)
    solution = problem.solve(driver(problem.problem, max_iterations=2))
    assert solution.status is FixedEffectStatus.MAX_ITERATIONS
    assert solution.tolerance_ratio > 1.0
    assert "solver: newton" in solution.status.advice


def test_slope_rounds_reach_the_certificate_by_themselves(case_of, monkeypatch) -> None:
    problem = ill_conditioned(case_of, Loss.LOGISTIC)

    def no_scipy(self, start):
        return start
        yield

    monkeypatch.setattr(LbfgsDriver, "_scipy_rounds", no_scipy)
    solution = problem.solve(LbfgsDriver(problem.problem))
    assert solution.status is FixedEffectStatus.CONVERGED
    problem.assert_certificate(solution)


def test_ask_repeats_the_pending_request_and_tell_checks_the_answer(case) -> None:
    problem = case(Loss.LOGISTIC)
    driver = NewtonDriver(problem.problem)
    request = driver.ask()
    assert isinstance(request, EvaluationRequest)
    assert driver.ask() is request
    assert (request.number, request.hessian) == (0, True)
    with pytest.raises(InternalError, match="with a Hessian"):
        driver.tell(problem.sums(request.theta, hessian=False))
    solution = problem.solve(driver)
    assert driver.ask() is solution
    with pytest.raises(InternalError, match="has its solution"):
        driver.tell(problem.sums(request.theta, hessian=True))


def test_a_dropped_driver_leaves_no_thread(case) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "gdmix-lbfgs"]

    problem = case(Loss.LOGISTIC)
    with LbfgsDriver(problem.problem) as driver:
        step = driver.tell(problem.sums(driver.ask().theta, hessian=False))
        assert isinstance(step, EvaluationRequest)
        assert threads()
    assert not threads()
    abandoned = LbfgsDriver(problem.problem)
    abandoned.tell(problem.sums(abandoned.ask().theta, hessian=False))
    assert threads()
    del abandoned
    gc.collect()
    assert not threads()


def problem_of(dimension: int, **changes) -> FixedEffectProblem:
    settings_ = {"l2": np.ones(dimension), "prior_mean": np.zeros(dimension)} | changes
    return FixedEffectProblem(dimension=dimension, intercept=True, loss=Loss.LOGISTIC, **settings_)


def test_choice_of_the_driver() -> None:
    assert isinstance(choose_driver(problem_of(50), 80_000, 640_000), NewtonDriver)
    assert isinstance(choose_driver(problem_of(2_001), 10**6, 2 * 10**7), LbfgsDriver)
    assert isinstance(choose_driver(problem_of(1_500), 1_000_000, 400_000_000), LbfgsDriver)
    assert isinstance(choose_driver(problem_of(1_500), 1_000_000, 400_000_000, variance="full"), NewtonDriver)
    assert isinstance(choose_driver(problem_of(50), 1000, 5000, "lbfgs"), LbfgsDriver)
    assert isinstance(choose_driver(problem_of(3_000), 1000, 5000, "newton"), NewtonDriver)
    with pytest.raises(UsageError, match="use lbfgs or auto"):
        choose_driver(problem_of(20_000), 1000, 5000, "newton")
    with pytest.raises(UsageError, match="allowed are auto, newton, lbfgs"):
        choose_driver(problem_of(50), 1000, 5000, "sgd")


def test_problems_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="must not be negative, found -1"):
        problem_of(2, l2=np.array([0.0, -1.0]))
    with pytest.raises(UsageError, match="prior_mean must be 2 finite numbers"):
        problem_of(2, prior_mean=np.zeros(3))
    with pytest.raises(UsageError, match="at least one coefficient"):
        problem_of(0)
    assert all(status.advice for status in FixedEffectStatus)
