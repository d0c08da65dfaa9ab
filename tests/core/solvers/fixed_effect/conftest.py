"""Problems, and the lines that stand for a coordinator: shards summed along the tree, told to a driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from gdmix_core.solvers.fixed_effect import (
    Driver,
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectShard,
    FixedEffectSolution,
    FixedEffectSums,
    evaluate,
)
from gdmix_core.solvers.losses import Loss, loss_terms
from gdmix_core.solvers.summation_tree import root, subtree_sum


@dataclass
class Case:
    """Rows as a dense matrix, the intercept's column of ones included, and the problem over them."""

    X: np.ndarray
    labels: np.ndarray
    loss: Loss
    l2: np.ndarray
    intercept: bool = True
    weights: np.ndarray | None = None
    offsets: np.ndarray | None = None
    prior_mean: np.ndarray | None = None
    shards: int = 3
    problem: FixedEffectProblem = field(init=False)

    def __post_init__(self) -> None:
        rows, dimension = self.X.shape
        self.weights = np.ones(rows) if self.weights is None else self.weights
        self.offsets = np.zeros(rows) if self.offsets is None else self.offsets
        prior = np.zeros(dimension) if self.prior_mean is None else self.prior_mean
        self.problem = FixedEffectProblem(dimension, self.intercept, self.l2, prior, self.loss)

    def shard(self, number: int) -> FixedEffectShard:
        rows = slice(number, None, self.shards)
        stored = self.X[rows].copy()
        if self.intercept:
            stored[:, 0] = 0.0
        row_of, indices = np.nonzero(stored)
        counts = np.bincount(row_of, minlength=stored.shape[0])
        return FixedEffectShard(
            indptr=np.concatenate([[0], np.cumsum(counts)]),
            indices=indices.astype(np.int32),
            values=stored[row_of, indices],
            labels=self.labels[rows],
            weights=self.weights[rows],
            offsets=self.offsets[rows],
        )

    def sums(self, theta: np.ndarray, hessian: bool) -> FixedEffectSums:
        def of_leaf(number: int) -> FixedEffectSums:
            return evaluate(
                self.shard(number), theta, self.loss, self.problem.dimension, self.intercept, hessian
            )

        return subtree_sum(root(self.shards), self.shards, of_leaf)

    def solve(self, driver: Driver, hook: Callable[[EvaluationRequest, FixedEffectSums], None] | None = None):
        step = driver.ask()
        while isinstance(step, EvaluationRequest):
            assert np.isfinite(step.theta).all()
            sums = self.sums(step.theta, step.hessian)
            if hook is not None:
                hook(step, sums)
            step = driver.tell(sums)
        return step

    def objective(self, theta: np.ndarray) -> float:
        value = loss_terms(self.loss, self.labels, self.X @ theta + self.offsets).value
        return float(self.weights @ value + 0.5 * self.l2 @ (theta - self.problem.prior_mean) ** 2)

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        first = loss_terms(self.loss, self.labels, self.X @ theta + self.offsets).first
        return self.X.T @ (self.weights * first) + self.l2 * (theta - self.problem.prior_mean)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        second = loss_terms(self.loss, self.labels, self.X @ theta + self.offsets).second
        return (self.X.T * (self.weights * second)) @ self.X + np.diag(self.l2)

    def assert_certificate(self, solution: FixedEffectSolution) -> None:
        """Check the certificate with numpy alone, allowing for numpy's own rounding."""
        terms = loss_terms(self.loss, self.labels, self.X @ solution.theta + self.offsets)
        sizes = np.abs(self.X).T @ (self.weights * (np.abs(self.labels) + np.abs(terms.mean)))
        noise = 64 * np.finfo(float).eps * sizes
        allowed = np.maximum(1e-8 * max(1.0, self.weights.sum()), noise)
        assert np.all(np.abs(self.gradient(solution.theta)) <= 1.01 * allowed + 0.1 * noise)
        assert solution.tolerance_ratio <= 1.0


def make_case(
    loss: Loss,
    rows: int = 400,
    features: int = 6,
    *,
    l2: float = 1.0,
    free_intercept: bool = True,
    density: float = 0.5,
    seed: int = 0,
    weighted: bool = False,
    offsets: bool = False,
    prior: bool = False,
    intercept: bool = True,
) -> Case:
    random = np.random.default_rng(seed)
    X = random.standard_normal((rows, features)) * (random.random((rows, features)) < density)
    if intercept:
        X = np.column_stack([np.ones(rows), X])
    dimension = X.shape[1]
    offset = random.standard_normal(rows) if offsets else np.zeros(rows)
    z = X @ (0.7 * random.standard_normal(dimension)) + offset
    labels = {
        Loss.LOGISTIC: lambda: (random.random(rows) < 1 / (1 + np.exp(-z))).astype(float),
        Loss.SQUARED: lambda: z + 0.3 * random.standard_normal(rows),
        Loss.POISSON: lambda: random.poisson(np.exp(np.clip(z, -5, 4))).astype(float),
    }[loss]()
    shrinkage = np.full(dimension, l2)
    if intercept and free_intercept:
        shrinkage[0] = 0.0
    return Case(
        X=X,
        labels=labels,
        loss=loss,
        l2=shrinkage,
        intercept=intercept,
        weights=random.uniform(0, 3, rows) if weighted else None,
        offsets=offset,
        prior_mean=random.standard_normal(dimension) if prior else None,
    )


@pytest.fixture
def case() -> Callable[..., Case]:
    """Make a random problem: `case(loss, rows, features, ...)`."""
    return make_case


@pytest.fixture
def case_of() -> type[Case]:
    """Make a problem of given arrays: `case_of(X=..., labels=..., ...)`."""
    return Case
