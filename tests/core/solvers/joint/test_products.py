"""Products of a part's features with several vectors at once, against dense numpy."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.solvers.joint.products import (
    add_products,
    design_of,
    multiply_transposed,
    weighted_square_sums,
    weighted_squares,
)

from .parts import part_of

ROWS = (7, 0, 3, 5, 1, 12)
COEFFICIENTS = (3, 2, 6, 0, 1, 4)
"""One entity has no rows, one no coefficients, and one with an intercept nothing else."""

several = pytest.mark.parametrize("columns", [1, 31])
with_intercept = pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "no intercept"])
ordered = pytest.mark.parametrize("in_order", [True, False], ids=["in order", "shuffled"])


def order_of(rows: int, in_order: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the order to hand over, and the places that it means."""
    if in_order:
        return None, np.arange(rows)
    order = np.random.default_rng(8).permutation(rows)
    return order, order


@several
@with_intercept
@ordered
def test_products_are_added_to_what_is_there(columns: int, intercept: bool, in_order: bool) -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    random = np.random.default_rng(1)
    vectors = random.normal(size=(design.coefficients, columns))
    before = random.normal(size=(design.rows, columns)).astype(np.float32)
    order, places = order_of(design.rows, in_order)
    total = before.copy()
    add_products(design, vectors, total, order)
    expected = before.astype(np.float64)
    expected[places] += X @ vectors
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=3e-6)


@several
@with_intercept
@ordered
def test_transposed_products(columns: int, intercept: bool, in_order: bool) -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    rows = np.random.default_rng(2).normal(size=(design.rows, columns)).astype(np.float32)
    order, places = order_of(design.rows, in_order)
    found = multiply_transposed(design, rows, order)
    assert found.dtype == np.float64
    assert found.shape == (design.coefficients, columns)
    np.testing.assert_allclose(found, X.T @ rows[places].astype(np.float64), rtol=1e-12, atol=1e-12)


@with_intercept
def test_a_product_and_its_transpose_have_the_same_inner_product(intercept: bool) -> None:
    design, _ = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    random = np.random.default_rng(3)
    vectors = random.normal(size=(design.coefficients, 5)).astype(np.float32)
    rows = random.normal(size=(design.rows, 5)).astype(np.float32)
    order = random.permutation(design.rows)
    image = np.zeros_like(rows)
    add_products(design, vectors, image, order)
    ahead = np.einsum("ik,ik->k", image.astype(np.float64), rows)
    back = np.einsum("jk,jk->k", vectors.astype(np.float64), multiply_transposed(design, rows, order))
    np.testing.assert_allclose(ahead, back, rtol=1e-5, atol=1e-5)


@with_intercept
def test_columns_do_not_depend_on_their_neighbours(intercept: bool) -> None:
    design, _ = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    random = np.random.default_rng(4)
    vectors = random.normal(size=(design.coefficients, 31))
    together = np.zeros((design.rows, 31), np.float32)
    add_products(design, vectors, together)
    back = multiply_transposed(design, together)
    for k in (0, 17, 30):
        alone = np.zeros((design.rows, 1), np.float32)
        add_products(design, vectors[:, k : k + 1], alone)
        np.testing.assert_allclose(alone[:, 0], together[:, k], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(multiply_transposed(design, alone)[:, 0], back[:, k], rtol=1e-5, atol=1e-5)


@with_intercept
def test_weighted_squares_are_the_diagonal_of_the_weighted_gram_matrix(intercept: bool) -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    weights = np.random.default_rng(5).uniform(0.0, 2.0, size=design.rows)
    found = weighted_squares(design, weights)
    np.testing.assert_allclose(found, np.diag((X.T * weights) @ X), rtol=1e-12, atol=1e-14)


@several
def test_weighted_square_sums_of_columns(columns: int) -> None:
    random = np.random.default_rng(6)
    rows = random.normal(size=(40, columns)).astype(np.float32)
    weights = random.uniform(0.0, 2.0, size=40)
    expected = weights @ np.square(rows.astype(np.float64))
    np.testing.assert_allclose(weighted_square_sums(rows, weights), expected, rtol=1e-12)


def test_a_part_without_rows_adds_nothing() -> None:
    design, _ = part_of((0, 0), (2, 3), intercept=True)
    assert (design.rows, design.coefficients) == (0, 5)
    total = np.zeros((0, 2), np.float32)
    add_products(design, np.ones((5, 2)), total)
    assert multiply_transposed(design, total).tolist() == [[0.0, 0.0]] * 5
    assert weighted_squares(design, np.empty(0)).tolist() == [0.0] * 5
    assert weighted_square_sums(total, np.empty(0)).tolist() == [0.0, 0.0]


def test_arrays_of_other_types_and_read_only_ones_are_taken() -> None:
    design, X = part_of((4, 3), (2, 3), intercept=True)
    arrays = [np.array(array) for array in design[:5]]
    for array in arrays:
        array.flags.writeable = False
    arrays[0] = arrays[0].astype(np.int32)
    again = design_of(*arrays, np.bool_(True))
    vectors = np.arange(10.0).reshape(5, 2)
    vectors.flags.writeable = False
    total = np.zeros((7, 2), np.float32)
    add_products(again, vectors, total)
    np.testing.assert_allclose(total, X @ vectors, rtol=1e-5, atol=1e-5)
