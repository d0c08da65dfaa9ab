"""Anderson acceleration: its weights, and what they do to a linear iteration."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.solvers.anderson import mixing_weights


def test_one_iterate_stays() -> None:
    assert mixing_weights([[3.0]]) == (1.0,)


def test_weights_are_those_of_the_smallest_residual_of_sum_one() -> None:
    residuals = np.random.default_rng(1).normal(size=(4, 50))
    weights = np.array(mixing_weights((residuals @ residuals.T).tolist()))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    # Stationary on the plane: every residual has the same product with the mixture.
    products = residuals @ (weights @ residuals)
    assert np.ptp(products) < 1e-10
    assert products[0] <= min(np.square(residuals).sum(axis=1))


def test_only_the_lower_triangle_is_read() -> None:
    assert mixing_weights([[4.0], [1.0, 2.0]]) == mixing_weights([[4.0, 1.0], [1.0, 2.0]])


def test_a_linear_iteration_ends_after_as_many_steps_as_it_has_dimensions() -> None:
    """Plainly it would need 1,400 steps for the same; Walker and Ni, theorem 2.2: it is GMRES."""
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    matrix = basis @ np.diag([0.99, 0.9, 0.5, 0.2, -0.3, -0.6]) @ basis.T
    target = rng.normal(size=6)
    x, mapped, residuals = np.zeros(6), [], []
    for _ in range(8):
        mapped.append(matrix @ (x - target) + target)
        residuals.append(mapped[-1] - x)
        stacked = np.array(residuals)
        x = np.array(mixing_weights((stacked @ stacked.T).tolist())) @ np.array(mapped)
    assert np.abs(x - target).max() < 1e-5


@pytest.mark.parametrize(
    "products",
    [
        [[float("nan"), 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [0.0, float("inf")]],
        [[1.0, 3.0], [3.0, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ],
    ids=["nan", "inf", "no Gram matrix", "zero"],
)
def test_what_cannot_be_mixed_leaves_the_last_iterate(products: list[list[float]]) -> None:
    assert mixing_weights(products) == (0.0, 1.0)


def test_residuals_that_are_the_same_share_the_weight() -> None:
    assert mixing_weights([[1.0, 1.0], [1.0, 1.0]]) == pytest.approx((0.5, 0.5), abs=1e-3)
