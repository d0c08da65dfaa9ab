"""The random-effect solver on a catalogue of problem classes, against independent solvers and certificates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from gdmix_core.solvers.losses import Loss, loss_terms
from gdmix_core.solvers.random_effect import EntityProblems, EntitySolutions, EntityStatus, solve

LOSSES = list(Loss)


@dataclass(frozen=True)
class Shape:
    """How to draw the entities of one class of problems."""

    rows: tuple[int, int]
    features: tuple[int, int]
    density: float = 1.0
    entities: int = 9
    intercept: bool = True
    l2: tuple[float, float] = (1.0, 1.0)
    free_intercept: bool = False
    weighted: bool = False
    offsets: bool = False
    prior: bool = False


CATALOGUE = {
    "more_rows": Shape((20, 40), (3, 9)),
    "many_rows": Shape((150, 300), (2, 6), entities=5),
    "fewer_rows": Shape((2, 9), (12, 40)),
    "fewer_rows_free_intercept": Shape((4, 12), (15, 40), free_intercept=True),
    "fewer_rows_no_intercept": Shape((2, 9), (12, 40), intercept=False, weighted=True, prior=True),
    "sparse": Shape((30, 60), (10, 30), density=0.1),
    "weighted_offsets": Shape((10, 40), (3, 12), weighted=True, offsets=True),
    "one_row": Shape((1, 1), (1, 8)),
    "one_row_free_intercept_prior": Shape((1, 3), (1, 8), prior=True, offsets=True),
    "prior_and_uneven_l2": Shape((5, 40), (4, 14), l2=(1e-2, 1e3), prior=True, weighted=True),
    "free_intercept": Shape((15, 50), (3, 10), free_intercept=True, offsets=True),
    "no_intercept": Shape((15, 50), (3, 10), intercept=False),
    "too_large_for_lanes": Shape((420, 450), (215, 220), density=0.2, entities=2),
    "rows_too_large_for_lanes": Shape((205, 215), (300, 340), density=0.3, entities=2),
    "rows_too_large_free_intercept": Shape(
        (205, 215), (300, 340), density=0.3, entities=2, free_intercept=True
    ),
}


def draw(shape: Shape, loss: Loss, seed: int) -> EntityProblems:
    """Draw entities of a shape, with labels from a model of their own."""
    random = np.random.default_rng(seed)
    row_ptr, indptr, coefficient_ptr = [0], [0], [0]
    indices: list[np.ndarray] = []
    values: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    l2: list[np.ndarray] = []
    prior: list[np.ndarray] = []
    shift = 1 if shape.intercept else 0
    for _ in range(shape.entities):
        n = int(random.integers(shape.rows[0], shape.rows[1] + 1))
        d = int(random.integers(shape.features[0], shape.features[1] + 1)) + shift
        X = random.normal(size=(n, d - shift)) * (random.random((n, d - shift)) < shape.density)
        truth = random.normal(size=d - shift) * (0.8 / np.sqrt(max(1.0, shape.density * (d - shift) / 4)))
        offset = random.normal(size=n) if shape.offsets else np.zeros(n)
        z = X @ truth + offset
        if loss is Loss.LOGISTIC:
            y = (random.random(n) < 1 / (1 + np.exp(-z))).astype(float)
            if shape.free_intercept and n > 1:
                y[0], y[-1] = 0.0, 1.0
        elif loss is Loss.SQUARED:
            y = z + random.normal(size=n)
        else:
            y = random.poisson(np.exp(np.minimum(z, 3.0))).astype(float)
            if shape.free_intercept:
                y[0] += 1.0
        for row in X:
            nonzero = np.flatnonzero(row)
            indices.append(nonzero + shift)
            values.append(row[nonzero])
            indptr.append(indptr[-1] + nonzero.size)
        weight = random.choice([0.0, 0.3, 1.0, 2.5], size=n) if shape.weighted else np.ones(n)
        if shape.weighted:
            weight[0] = 1.0
        low, high = np.log(shape.l2)
        penalty = np.exp(random.uniform(low, high, size=d))
        if shape.free_intercept:
            penalty[0] = 0.0
        labels.append(y)
        weights.append(weight)
        offsets.append(offset)
        l2.append(penalty)
        prior.append(random.normal(size=d) * 0.5 if shape.prior else np.zeros(d))
        row_ptr.append(row_ptr[-1] + n)
        coefficient_ptr.append(coefficient_ptr[-1] + d)
    return EntityProblems(
        row_ptr=np.array(row_ptr),
        indptr=np.array(indptr),
        indices=np.concatenate(indices).astype(np.int32),
        values=np.concatenate(values),
        labels=np.concatenate(labels),
        weights=np.concatenate(weights),
        offsets=np.concatenate(offsets),
        coefficient_ptr=np.array(coefficient_ptr),
        intercept=shape.intercept,
        l2=np.concatenate(l2),
        prior_mean=np.concatenate(prior),
    )


@dataclass(frozen=True)
class Dense:
    """One entity's problem as dense numpy arrays."""

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    offset: np.ndarray
    l2: np.ndarray
    prior: np.ndarray
    loss: Loss

    def objective(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        terms = loss_terms(self.loss, self.y, self.offset + self.X @ theta)
        away = theta - self.prior
        return (
            float(np.sum(self.w * terms.value) + 0.5 * np.sum(self.l2 * away**2)),
            self.X.T @ (self.w * terms.first) + self.l2 * away,
        )

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        terms = loss_terms(self.loss, self.y, self.offset + self.X @ theta)
        return (self.X.T * (self.w * terms.second)) @ self.X + np.diag(self.l2)

    def allowed(self, theta: np.ndarray) -> np.ndarray:
        mu = loss_terms(self.loss, self.y, self.offset + self.X @ theta).mean
        noise = 64 * np.finfo(float).eps * (np.abs(self.X).T @ (self.w * (np.abs(self.y) + np.abs(mu))))
        return np.maximum(1e-8 * max(1.0, self.w.sum()), noise)


def dense(problems: EntityProblems, loss: Loss, e: int) -> Dense:
    rows = slice(problems.row_ptr[e], problems.row_ptr[e + 1])
    columns = slice(problems.coefficient_ptr[e], problems.coefficient_ptr[e + 1])
    X = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    if problems.intercept and X.size:
        X[:, 0] = 1.0
    for i in range(X.shape[0]):
        stored = slice(problems.indptr[rows.start + i], problems.indptr[rows.start + i + 1])
        X[i, problems.indices[stored]] = problems.values[stored]
    return Dense(
        X,
        problems.labels[rows],
        problems.weights[rows],
        problems.offsets[rows],
        problems.l2[columns],
        problems.prior_mean[columns],
        loss,
    )


def theta_of(problems: EntityProblems, solutions: EntitySolutions, e: int) -> np.ndarray:
    return solutions.coefficients[problems.coefficient_ptr[e] : problems.coefficient_ptr[e + 1]]


def check_certificates(problems: EntityProblems, solutions: EntitySolutions, loss: Loss) -> None:
    """Recompute every gradient in plain numpy and hold it against the certificate and the reported numbers."""
    assert np.isfinite(solutions.coefficients).all()
    for e in range(problems.entities):
        entity = dense(problems, loss, e)
        theta = theta_of(problems, solutions, e)
        gradient = np.abs(entity.objective(theta)[1])
        allowed = entity.allowed(theta)
        assert np.all(gradient <= 1.001 * allowed), (e, EntityStatus(solutions.status[e]))
        assert solutions.tolerance_ratio[e] <= 1.0
        ratio = float(np.max(gradient / allowed))
        assert abs(solutions.tolerance_ratio[e] - ratio) <= 0.05
        assert abs(solutions.gradient_norm[e] - gradient.max()) <= 0.05 * allowed.max()


def optimum(entity: Dense, start: np.ndarray) -> np.ndarray:
    """Return the optimum found by SciPy, polished by exact Newton steps."""
    theta = minimize(
        entity.objective, start, jac=True, hess=entity.hessian, method="trust-exact", options={"gtol": 1e-9}
    ).x
    for _ in range(3):
        theta = theta - np.linalg.solve(entity.hessian(theta), entity.objective(theta)[1])
    return theta


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_meets_certificate_and_agrees_with_scipy(name: str, loss: Loss) -> None:
    shape = CATALOGUE[name]
    problems = draw(shape, loss, seed=len(name))
    solutions = solve(problems, loss, threads=2)
    check_certificates(problems, solutions, loss)
    assert set(solutions.status) == {EntityStatus.CONVERGED}
    for e in range(min(problems.entities, 5)):
        entity = dense(problems, loss, e)
        if entity.X.shape[1] > 100 and e > 0:
            break
        theta = theta_of(problems, solutions, e)
        expected = optimum(entity, entity.prior.copy())
        if np.linalg.cond(entity.hessian(expected)) < 1e8:
            np.testing.assert_allclose(theta, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "estimator"), [(Loss.LOGISTIC, "logistic"), (Loss.SQUARED, "ridge"), (Loss.POISSON, "poisson")]
)
def test_agrees_with_scikit_learn(loss: Loss, estimator: str) -> None:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

    problems = draw(Shape((60, 60), (5, 5), entities=4, free_intercept=True, l2=(2.0, 2.0)), loss, seed=3)
    solutions = solve(problems, loss)
    for e in range(problems.entities):
        entity = dense(problems, loss, e)
        if estimator == "logistic":
            model = LogisticRegression(C=0.5, tol=1e-12, solver="newton-cholesky")
        elif estimator == "ridge":
            model = Ridge(alpha=2.0, solver="cholesky")
        else:
            model = PoissonRegressor(alpha=2.0 / 60, tol=1e-12, solver="newton-cholesky")
        model.fit(entity.X[:, 1:], entity.y)
        expected = np.concatenate([np.ravel(model.intercept_), np.ravel(model.coef_)])
        np.testing.assert_allclose(theta_of(problems, solutions, e), expected, rtol=1e-6, atol=1e-6)


def test_squared_loss_takes_one_step() -> None:
    problems = draw(CATALOGUE["weighted_offsets"], Loss.SQUARED, seed=8)
    assert set(solve(problems, Loss.SQUARED).iterations) == {1}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    loss=st.sampled_from(LOSSES),
    most_rows=st.integers(1, 40),
    most_features=st.integers(1, 30),
    density=st.floats(0.05, 1.0),
    intercept=st.booleans(),
    l2=st.sampled_from([(1.0, 1.0), (1e-3, 1e-3), (1e-2, 1e4)]),
    weighted=st.booleans(),
    offsets=st.booleans(),
    prior=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_random_problems_meet_certificate(
    loss: Loss,
    most_rows: int,
    most_features: int,
    density: float,
    intercept: bool,
    l2: tuple[float, float],
    weighted: bool,
    offsets: bool,
    prior: bool,
    seed: int,
) -> None:
    shape = Shape(
        (1, most_rows), (1, most_features), density, 6, intercept, l2, False, weighted, offsets, prior
    )
    problems = draw(shape, loss, seed)
    solutions = solve(problems, loss)
    check_certificates(problems, solutions, loss)
    assert set(solutions.status) == {EntityStatus.CONVERGED}


# ------------------------------------------------------------------------------------ every entity on its own


def concatenated(parts: list[EntityProblems]) -> EntityProblems:
    """Lay the entities of several problems end to end."""

    def pointers(name: str) -> np.ndarray:
        ends = np.cumsum([0, *[int(getattr(part, name)[-1]) for part in parts]])
        pieces = [getattr(part, name)[1:] + base for part, base in zip(parts, ends, strict=False)]
        return np.concatenate([[0], *pieces])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return EntityProblems(
        row_ptr=pointers("row_ptr"),
        indptr=pointers("indptr"),
        indices=joined("indices"),
        values=joined("values"),
        labels=joined("labels"),
        weights=joined("weights"),
        offsets=joined("offsets"),
        coefficient_ptr=pointers("coefficient_ptr"),
        intercept=parts[0].intercept,
        l2=joined("l2"),
        prior_mean=joined("prior_mean"),
    )


def alone(problems: EntityProblems, e: int) -> EntityProblems:
    """Return one entity as a problem of its own."""
    rows = slice(int(problems.row_ptr[e]), int(problems.row_ptr[e + 1]))
    columns = slice(int(problems.coefficient_ptr[e]), int(problems.coefficient_ptr[e + 1]))
    first, last = int(problems.indptr[rows.start]), int(problems.indptr[rows.stop])
    return EntityProblems(
        row_ptr=np.array([0, rows.stop - rows.start]),
        indptr=problems.indptr[rows.start : rows.stop + 1] - first,
        indices=problems.indices[first:last],
        values=problems.values[first:last],
        labels=problems.labels[rows],
        weights=problems.weights[rows],
        offsets=problems.offsets[rows],
        coefficient_ptr=np.array([0, columns.stop - columns.start]),
        intercept=problems.intercept,
        l2=problems.l2[columns],
        prior_mean=problems.prior_mean[columns],
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
def test_an_entity_keeps_its_bytes_in_any_company(loss: Loss) -> None:
    names = ["more_rows", "fewer_rows", "weighted_offsets", "one_row", "prior_and_uneven_l2", "sparse"]
    shapes = [CATALOGUE[name] for name in names] + [replace(CATALOGUE["free_intercept"], entities=7)]
    pool = concatenated([draw(shape, loss, 40 + k) for k, shape in enumerate(shapes)])
    together = solve(pool, loss)
    warm = solve(pool, loss, initial=together.coefficients + 0.1)
    assert solve(pool, loss, threads=3).coefficients.tobytes() == together.coefficients.tobytes()
    order = np.random.default_rng(5).permutation(pool.entities)
    singles = [alone(pool, int(e)) for e in order]
    shuffled_pool = concatenated(singles)
    shuffled = solve(shuffled_pool, loss, threads=2)
    shuffled_warm = solve(
        shuffled_pool, loss, initial=np.concatenate([theta_of(pool, together, int(e)) for e in order]) + 0.1
    )
    chunks = [concatenated(singles[k : k + 5]) for k in range(0, len(singles), 5)]
    chunked = np.concatenate([solve(chunk, loss).coefficients for chunk in chunks])
    expected = np.concatenate([theta_of(pool, together, int(e)) for e in order])
    assert shuffled.coefficients.tobytes() == expected.tobytes()
    assert chunked.tobytes() == expected.tobytes()
    assert shuffled.status.tobytes() == together.status[order].tobytes()
    assert shuffled.tolerance_ratio.tobytes() == together.tolerance_ratio[order].tobytes()
    expected_warm = np.concatenate([theta_of(pool, warm, int(e)) for e in order])
    assert shuffled_warm.coefficients.tobytes() == expected_warm.tobytes()


def test_read_only_arrays_are_accepted() -> None:
    problems = draw(CATALOGUE["more_rows"], Loss.LOGISTIC, seed=2)
    expected = solve(problems, Loss.LOGISTIC).coefficients
    for name in ("values", "labels", "indptr", "indices", "row_ptr", "prior_mean"):
        getattr(problems, name).setflags(write=False)
    assert solve(problems, Loss.LOGISTIC).coefficients.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["more_rows", "fewer_rows", "free_intercept", "too_large_for_lanes"])
def test_warm_start_needs_no_step(name: str) -> None:
    problems = draw(CATALOGUE[name], Loss.LOGISTIC, seed=12)
    first = solve(problems, Loss.LOGISTIC)
    again = solve(problems, Loss.LOGISTIC, initial=first.coefficients)
    assert again.iterations.max() <= 1
    np.testing.assert_allclose(again.coefficients, first.coefficients, atol=1e-7)
