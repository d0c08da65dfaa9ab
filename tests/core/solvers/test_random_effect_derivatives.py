"""Linear predictors, Hessian-vector products and variances of random effects against dense numpy."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.solvers.losses import Loss, loss_terms
from gdmix_core.solvers.random_effect import (
    EntityProblems,
    hessian_vector_product,
    linear_predictor,
    solve,
)

LOSSES = list(Loss)


def problems_of(
    loss: Loss,
    rows: tuple[int, ...],
    features: tuple[int, ...],
    *,
    intercept: bool,
    free: bool,
    seed: int = 0,
) -> tuple[EntityProblems, list[np.ndarray]]:
    """Return entities with these numbers of rows and features, and their dense matrices."""
    random = np.random.default_rng(seed)
    shift = 1 if intercept else 0
    matrices = []
    for n, k in zip(rows, features, strict=True):
        X = random.normal(size=(n, k + shift)) * (random.random((n, k + shift)) < 0.7)
        if intercept:
            X[:, 0] = 1.0
        matrices.append(X)
    stored = [X.copy() for X in matrices]
    if intercept:
        for X in stored:
            X[:, 0] = 0.0
    N = sum(rows)
    d = np.array(features) + shift
    l2 = random.uniform(0.2, 3.0, size=int(d.sum()))
    if free:
        l2[np.concatenate([[0], np.cumsum(d)[:-1]])] = 0.0
    y = random.poisson(1.0, size=N).astype(float) if loss is Loss.POISSON else np.arange(N) % 2 * 1.0
    return (
        EntityProblems(
            row_ptr=np.concatenate([[0], np.cumsum(rows)]),
            indptr=np.concatenate([[0], np.cumsum([np.count_nonzero(row) for X in stored for row in X])]),
            indices=np.concatenate([np.flatnonzero(row) for X in stored for row in X]).astype(np.int32),
            values=np.concatenate([row[row != 0] for X in stored for row in X]),
            labels=y,
            weights=random.uniform(0.5, 2.0, size=N),
            offsets=0.3 * random.normal(size=N),
            coefficient_ptr=np.concatenate([[0], np.cumsum(d)]),
            intercept=intercept,
            l2=l2,
            prior_mean=np.zeros(int(d.sum())),
        ),
        matrices,
    )


def dense_hessian(p: EntityProblems, X: np.ndarray, e: int, loss: Loss, theta: np.ndarray) -> np.ndarray:
    rows = slice(p.row_ptr[e], p.row_ptr[e + 1])
    columns = slice(p.coefficient_ptr[e], p.coefficient_ptr[e + 1])
    terms = loss_terms(loss, p.labels[rows], p.offsets[rows] + X @ theta[columns])
    return (X.T * (p.weights[rows] * terms.second)) @ X + np.diag(p.l2[columns])


SHAPES = ((30, 3, 7, 1), (5, 12, 7, 4))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize(("intercept", "free"), [(True, False), (True, True), (False, False)])
def test_variances_are_the_diagonal_of_the_inverse_hessian(loss: Loss, intercept: bool, free: bool) -> None:
    p, matrices = problems_of(loss, *SHAPES, intercept=intercept, free=free)
    solutions = solve(p, loss, variance="full", threads=2)
    assert solutions.variances is not None
    for e, X in enumerate(matrices):
        columns = slice(p.coefficient_ptr[e], p.coefficient_ptr[e + 1])
        if free and loss is not Loss.SQUARED and solutions.status[e] != 0:
            continue
        expected = np.diag(np.linalg.inv(dense_hessian(p, X, e, loss, solutions.coefficients)))
        np.testing.assert_allclose(solutions.variances[columns], expected, rtol=1e-8)


def test_no_variances_unless_asked() -> None:
    p, _ = problems_of(Loss.LOGISTIC, *SHAPES, intercept=True, free=False)
    assert solve(p, Loss.LOGISTIC).variances is None


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("intercept", [True, False])
def test_hessian_vector_product(loss: Loss, intercept: bool) -> None:
    p, matrices = problems_of(loss, *SHAPES, intercept=intercept, free=False)
    random = np.random.default_rng(4)
    theta = 0.3 * random.normal(size=p.l2.size)
    vectors = random.normal(size=(p.l2.size, 3))
    products = hessian_vector_product(p, loss, theta, vectors)
    assert products.shape == vectors.shape
    for e, X in enumerate(matrices):
        columns = slice(p.coefficient_ptr[e], p.coefficient_ptr[e + 1])
        expected = dense_hessian(p, X, e, loss, theta) @ vectors[columns]
        np.testing.assert_allclose(products[columns], expected, rtol=1e-10, atol=1e-12)
    one = hessian_vector_product(p, loss, theta, vectors[:, 1])
    assert one.tobytes() == np.ascontiguousarray(products[:, 1]).tobytes()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.lower())
def test_hessian_vector_product_is_the_gradients_derivative(loss: Loss) -> None:
    p, matrices = problems_of(loss, *SHAPES, intercept=True, free=False)
    random = np.random.default_rng(9)
    theta = 0.3 * random.normal(size=p.l2.size)
    vector = random.normal(size=p.l2.size)

    def gradient(at: np.ndarray) -> np.ndarray:
        z = p.offsets + linear_predictor(p, at)
        slope = p.weights * loss_terms(loss, p.labels, z).first
        pieces = [X.T @ slope[p.row_ptr[e] : p.row_ptr[e + 1]] for e, X in enumerate(matrices)]
        return np.concatenate(pieces) + p.l2 * at

    step = 1e-6
    expected = (gradient(theta + step * vector) - gradient(theta - step * vector)) / (2 * step)
    np.testing.assert_allclose(hessian_vector_product(p, loss, theta, vector), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("intercept", [True, False])
def test_linear_predictor(intercept: bool) -> None:
    p, matrices = problems_of(Loss.SQUARED, *SHAPES, intercept=intercept, free=False)
    theta = np.random.default_rng(1).normal(size=p.l2.size)
    expected = np.concatenate(
        [X @ theta[p.coefficient_ptr[e] : p.coefficient_ptr[e + 1]] for e, X in enumerate(matrices)]
    )
    np.testing.assert_allclose(linear_predictor(p, theta), expected, rtol=1e-12)
