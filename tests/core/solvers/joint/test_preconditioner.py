"""The block preconditioner against the dense inverse of every entity's block."""

from __future__ import annotations

import numpy as np
import pytest

from gdmix_core.solvers.joint.preconditioner import MOST_DENSE, BlockPreconditioner
from gdmix_core.solvers.joint.products import Design

from .parts import part_of

ROWS = (9, 2, 0, 6, 1, 4, 3)
COEFFICIENTS = (4, 5, 3, 6, 1, 0, 7)
"""Dense, in rows, in no rows at all, dense, dense, without coefficients, in rows."""

with_intercept = pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "no intercept"])


def weights_and_l2(design: Design, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(0.1, 2.0, size=design.rows), random.uniform(0.2, 3.0, size=design.coefficients)


def everybody(design: Design) -> np.ndarray:
    return np.ones(design.row_ptr.size - 1, np.bool_)


def vectors_of(design: Design, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(design.coefficients, columns))


def check_against(blocks: BlockPreconditioner, H: np.ndarray, rtol: float = 1e-9) -> None:
    """Compare the inverse of H, its diagonal and products with what the blocks give."""
    vectors = vectors_of(blocks.design)
    inverse = np.linalg.inv(H)
    atol = rtol * np.abs(inverse).max()
    np.testing.assert_allclose(blocks.solve(vectors), inverse @ vectors, rtol=rtol, atol=10 * atol)
    np.testing.assert_allclose(blocks.inverse_diagonal, np.diag(inverse), rtol=rtol, atol=atol)
    np.testing.assert_allclose(blocks.multiply(vectors), H @ vectors, rtol=rtol, atol=rtol * np.abs(H).max())
    np.testing.assert_allclose(blocks.multiply(blocks.solve(vectors)), vectors, rtol=1e-7, atol=1e-9)


@with_intercept
def test_blocks_of_few_rows_or_few_coefficients_are_exact(intercept: bool) -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    w, l2 = weights_and_l2(design)
    blocks = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    assert len(set(blocks.blocks.kind.tolist())) == 3  # dense, in rows, and the one without coefficients
    check_against(blocks, (X.T * w) @ X + np.diag(l2))


@with_intercept
def test_an_unregularised_intercept_is_allowed(intercept: bool) -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=intercept, filled=1.0)
    w, l2 = weights_and_l2(design)
    used = np.diff(design.row_ptr)[:-1] > 0
    firsts = design.coefficient_ptr[:-2][used & (np.diff(design.coefficient_ptr)[:-1] > 0)]
    l2[firsts] = 0.0
    blocks = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    check_against(blocks, (X.T * w) @ X + np.diag(l2), rtol=1e-8)


def test_no_regularisation_at_all_is_allowed_where_the_rows_decide() -> None:
    design, X = part_of((30, 20), (3, 4), intercept=True)
    w, _ = weights_and_l2(design)
    blocks = BlockPreconditioner.of_entities(design, w, np.zeros(7), everybody(design))
    check_against(blocks, (X.T * w) @ X)


def test_an_undetermined_coefficient_without_regularisation_stays_finite() -> None:
    design, _ = part_of((0, 2), (2, 4), intercept=True)
    blocks = BlockPreconditioner.of_entities(design, np.ones(2), np.zeros(6), everybody(design))
    for found in (blocks.solve(vectors_of(design)), blocks.inverse_diagonal):
        assert np.isfinite(found).all()


def test_rows_of_weight_zero_count_for_nothing() -> None:
    design, X = part_of(ROWS, COEFFICIENTS, intercept=True)
    w, l2 = weights_and_l2(design)
    w[::2] = 0.0
    blocks = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    check_against(blocks, (X.T * w) @ X + np.diag(l2))


@pytest.mark.parametrize(
    ("rows", "free", "diagonal"),
    [
        (MOST_DENSE + 8, False, True),
        (5, True, True),
        (5, False, False),
    ],
    ids=["large both ways", "few rows but a zero l2", "few rows"],
)
@with_intercept
def test_beyond_the_largest_factor_the_diagonal_stands_for_the_block(
    rows: int, free: bool, diagonal: bool, intercept: bool
) -> None:
    design, X = part_of((rows, 4), (MOST_DENSE + 9, 3), intercept=intercept, filled=0.05)
    w, l2 = weights_and_l2(design)
    if free:
        l2[0] = 0.0 if intercept else l2[0]
        l2[5] = 0.0
        X[0, 5] = 2.0  # the unregularised feature has to occur
        design = design_with(X, design)
    H = (X.T * w) @ X + np.diag(l2)
    if diagonal:
        large = slice(0, MOST_DENSE + 9)
        H[large, large] = np.diag(np.diag(H)[large])
    check_against(BlockPreconditioner.of_entities(design, w, l2, everybody(design)), H)


def design_with(X: np.ndarray, design: Design) -> Design:
    """Return the design with the values that a block-diagonal matrix holds now."""
    first = 1 if design.intercept else 0
    indices, values = [], []
    for e, start in enumerate(design.coefficient_ptr[:-1]):
        for row in X[design.row_ptr[e] : design.row_ptr[e + 1], start : design.coefficient_ptr[e + 1]]:
            at = first + np.flatnonzero(row[first:])
            indices.append(at)
            values.append(row[at])
    return design._replace(
        indptr=np.cumsum([0, *map(len, indices)]),
        indices=np.concatenate(indices).astype(np.int32),
        values=np.concatenate(values),
    )


@with_intercept
def test_absent_entities_give_zero_and_change_no_other(intercept: bool) -> None:
    design, _ = part_of(ROWS, COEFFICIENTS, intercept=intercept)
    w, l2 = weights_and_l2(design)
    present = np.array([True, False, True, False, True, True, True])
    blocks = BlockPreconditioner.of_entities(design, w, l2, present)
    whole = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    vectors = vectors_of(design)
    inside = np.repeat(present, np.diff(design.coefficient_ptr))
    assert 0 < np.count_nonzero(~inside) < inside.size
    for found, expected in (
        (blocks.solve(vectors), whole.solve(vectors)),
        (blocks.multiply(vectors), whole.multiply(vectors)),
        (blocks.inverse_diagonal[:, None], whole.inverse_diagonal[:, None]),
    ):
        assert np.all(found[~inside] == 0.0)
        np.testing.assert_array_equal(found[inside], expected[inside])


def test_a_vanished_group_is_held_at_zero() -> None:
    """Its ridge of 1e12 must not spoil the block's other coefficients, neither in rows nor densely."""
    design, X = part_of((3, 12), (5, 5), intercept=True)
    w, l2 = weights_and_l2(design)
    held = np.array([2, 4, 7, 9])
    l2[held] = 1e12
    blocks = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    others = np.setdiff1d(np.arange(10), held)
    H = (X.T * w) @ X + np.diag(l2)
    expected = np.linalg.inv(H[np.ix_(others, others)])
    vectors = vectors_of(design)
    solved = blocks.solve(vectors)
    np.testing.assert_allclose(solved[others], expected @ vectors[others], rtol=1e-7, atol=1e-9)
    assert np.abs(solved[held]).max() < 1e-10
    np.testing.assert_allclose(blocks.inverse_diagonal[others], np.diag(expected), rtol=1e-7)


def fixed_effect() -> tuple[Design, np.ndarray, np.ndarray]:
    """Return a fixed effect's design without rows, its Hessian without penalty, and l2."""
    design, _ = part_of((0,), (6,), intercept=True)
    _, X = part_of((40,), (6,), intercept=True)
    return design, (X.T * np.linspace(0.1, 0.9, 40)) @ X, np.array([0.0, 0.5, 0.5, 2.0, 0.1, 0.0])


def test_a_fixed_effects_hessian_is_factored() -> None:
    design, hessian, l2 = fixed_effect()
    blocks = BlockPreconditioner.of_hessian(design, hessian, l2)
    check_against(blocks, hessian + np.diag(l2), rtol=1e-7)
    upper = BlockPreconditioner.of_hessian(design, np.triu(hessian), l2)
    assert upper.solve(vectors_of(design)).tobytes() == blocks.solve(vectors_of(design)).tobytes()


def test_a_fixed_effects_diagonal_is_divided_by() -> None:
    design, hessian, l2 = fixed_effect()
    diagonal = np.diagonal(hessian).copy()
    check_against(BlockPreconditioner.of_hessian(design, diagonal, l2), np.diag(diagonal + l2))


def test_features_of_a_fixed_effect_that_determine_each_other_stay_finite() -> None:
    design, hessian, l2 = fixed_effect()
    hessian[1], hessian[:, 1] = hessian[2], hessian[:, 2]
    hessian[1, 1] = hessian[2, 2]
    hessian[5], hessian[:, 5] = 0.0, 0.0
    blocks = BlockPreconditioner.of_hessian(design, hessian, np.zeros_like(l2))
    assert np.isfinite(blocks.solve(vectors_of(design))).all()
    assert np.isfinite(blocks.inverse_diagonal).all()


def test_solving_leaves_its_argument_alone() -> None:
    design, _ = part_of(ROWS, COEFFICIENTS, intercept=True)
    w, l2 = weights_and_l2(design)
    blocks = BlockPreconditioner.of_entities(design, w, l2, everybody(design))
    vectors = vectors_of(design)
    vectors.flags.writeable = False
    before = vectors.copy()
    blocks.solve(vectors)
    blocks.multiply(vectors)
    np.testing.assert_array_equal(vectors, before)
