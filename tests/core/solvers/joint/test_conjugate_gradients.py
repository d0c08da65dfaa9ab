"""Preconditioned conjugate gradients over several parts, against dense solutions of the joint Hessian's systems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gdmix_core.solvers.joint.conjugate_gradients import (
    InnerProducts,
    SolveState,
    advance,
    column_sums,
    start,
)
from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
from gdmix_core.solvers.joint.products import add_products, multiply_transposed, weighted_square_sums

from .parts import Part, crossed, cut, joint_hessian, preconditioners

COLUMNS = 5


def exchange(
    parts: Sequence[Part], vectors: Sequence[np.ndarray], weights: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each part's Xᵀ·W·(all parts' products with the vectors), and Σ w·t² of the products t."""
    total = np.zeros((weights.size, vectors[0].shape[1]), np.float32)
    for part, own in zip(parts, vectors, strict=True):
        add_products(part.design, own, total, part.order)
    curvature = weighted_square_sums(total, weights)
    total *= weights[:, None].astype(np.float32)
    return [multiply_transposed(part.design, total, part.order) for part in parts], curvature


def begin(
    parts: Sequence[Part],
    weights: np.ndarray,
    blocks: Sequence[BlockPreconditioner],
    wanted: np.ndarray,
    x: np.ndarray,
) -> tuple[list[SolveState], InnerProducts]:
    begun = cut(parts, x.astype(np.float32))
    products, _ = exchange(parts, begun, weights)
    pieces = [
        start(b, own, product, of)
        for b, own, product, of in zip(
            cut(parts, wanted.astype(np.float32)), begun, products, blocks, strict=True
        )
    ]
    return [state for state, _ in pieces], added([sums for _, sums in pieces])


def added(shares: Sequence[InnerProducts]) -> InnerProducts:
    return InnerProducts(sum(share.gamma for share in shares), sum(share.ridge for share in shares))


def solved(
    parts: Sequence[Part],
    weights: np.ndarray,
    blocks: Sequence[BlockPreconditioner],
    wanted: np.ndarray,
    x: np.ndarray,
    iterations: int,
) -> tuple[list[SolveState], InnerProducts]:
    """Make iterations; a column whose residual is down to rounding stays as it is."""
    states, sums = begin(parts, weights, blocks, wanted, x)
    alpha, beta = np.zeros(wanted.shape[1]), np.zeros(wanted.shape[1])
    first = gamma = sums.gamma
    last = np.zeros_like(gamma)
    active = gamma > 0.0
    for number in range(iterations):
        products, curvature = exchange(parts, [state.u for state in states], weights)
        bend = curvature + sums.ridge
        beta = np.where(active & (last > 0.0), gamma / np.maximum(last, 1e-300), 0.0)
        if number:
            bend = bend - np.where(active, beta * gamma / np.where(alpha > 0.0, alpha, 1.0), 0.0)
        active &= bend > 0.0
        alpha = np.where(active, gamma / np.where(bend > 0.0, bend, 1.0), 0.0)
        pieces = [
            advance(state, product, alpha, np.where(active, beta, 0.0), of)
            for state, product, of in zip(states, products, blocks, strict=True)
        ]
        states, sums = [state for state, _ in pieces], added([of_part for _, of_part in pieces])
        last, gamma = gamma, sums.gamma
        active &= gamma > 1e-13 * first
    return states, sums


def joined(states: Sequence[SolveState], name: str) -> np.ndarray:
    return np.concatenate([getattr(state, name) for state in states]).astype(np.float64)


@pytest.fixture(scope="module")
def problem() -> tuple[list[Part], np.ndarray, np.ndarray, np.ndarray]:
    """Return parts, weights, l2, and right-hand sides of which one touches a single part, and one is 0."""
    parts, weights, l2 = crossed(400, 30, 12)
    wanted = np.random.default_rng(5).normal(size=(l2.size, COLUMNS))
    wanted[parts[0].design.coefficients :, 1] = 0.0
    wanted[:, 3] = 0.0
    return parts, weights, l2, wanted


def test_all_columns_arrive_at_the_dense_solution(problem) -> None:
    parts, weights, l2, wanted = problem
    H = joint_hessian(parts, weights, l2)
    expected = np.linalg.solve(H, wanted)
    blocks = preconditioners(parts, weights, l2)
    states, _ = solved(parts, weights, blocks, wanted, np.zeros_like(wanted), 60)
    x = joined(states, "x")
    scale = np.maximum(np.linalg.norm(expected, axis=0), 1e-30)
    assert np.all(np.linalg.norm(x - expected, axis=0) <= 1e-4 * scale)
    assert np.all(x[:, 3] == 0.0)
    residual = np.linalg.norm(wanted - H @ x, axis=0)
    assert np.all(residual <= 1e-4 * np.linalg.norm(wanted, axis=0))


def test_wherever_it_begins_it_arrives_at_the_same(problem) -> None:
    parts, weights, l2, wanted = problem
    blocks = preconditioners(parts, weights, l2)
    away = np.random.default_rng(6).normal(size=wanted.shape)
    states, _ = solved(parts, weights, blocks, wanted, away, 60)
    expected = np.linalg.solve(joint_hessian(parts, weights, l2), wanted)
    np.testing.assert_allclose(joined(states, "x"), expected, rtol=1e-3, atol=3e-4 * np.abs(expected).max())


def test_the_start_takes_the_residual_and_its_inner_products(problem) -> None:
    parts, weights, l2, wanted = problem
    H = joint_hessian(parts, weights, l2)
    blocks = preconditioners(parts, weights, l2)
    x = np.random.default_rng(7).normal(size=wanted.shape)
    states, sums = begin(parts, weights, blocks, wanted, x)
    r, u = joined(states, "r"), joined(states, "u")
    np.testing.assert_allclose(r, wanted - H @ x, rtol=1e-4, atol=1e-4)
    expected = np.concatenate(
        [of.solve(of_part) for of, of_part in zip(blocks, cut(parts, wanted - H @ x), strict=True)]
    )
    np.testing.assert_allclose(u, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sums.gamma, np.einsum("jk,jk->k", r, u), rtol=1e-5)
    np.testing.assert_allclose(sums.ridge, l2 @ np.square(u), rtol=1e-5)
    np.testing.assert_array_equal(joined(states, "x"), x.astype(np.float32))
    assert not joined(states, "p").any()
    assert not joined(states, "s").any()


def test_an_exact_solution_leaves_no_residual(problem) -> None:
    parts, weights, l2, wanted = problem
    blocks = preconditioners(parts, weights, l2)
    _, at_zero = begin(parts, weights, blocks, wanted, np.zeros_like(wanted))
    solution = np.linalg.solve(joint_hessian(parts, weights, l2), wanted)
    _, sums = begin(parts, weights, blocks, wanted, solution)
    assert np.all(sums.gamma <= 1e-10 * at_zero.gamma)


def test_a_step_of_length_zero_changes_nothing_but_the_direction(problem) -> None:
    parts, weights, l2, wanted = problem
    blocks = preconditioners(parts, weights, l2)
    states, sums = begin(parts, weights, blocks, wanted, np.zeros_like(wanted))
    products, _ = exchange(parts, [state.u for state in states], weights)
    nothing = np.zeros(COLUMNS)
    pieces = [
        advance(state, product, nothing, nothing, of)
        for state, product, of in zip(states, products, blocks, strict=True)
    ]
    after = [state for state, _ in pieces]
    for name in ("x", "r", "u"):
        np.testing.assert_array_equal(joined(after, name), joined(states, name))
    np.testing.assert_array_equal(added([of_part for _, of_part in pieces]).gamma, sums.gamma)


def test_directions_are_followed_by_their_images(problem) -> None:
    """The recurrences keep s = H·p and r = b − H·x without ever forming either anew."""
    parts, weights, l2, wanted = problem
    H = joint_hessian(parts, weights, l2)
    blocks = preconditioners(parts, weights, l2)
    states, _ = solved(parts, weights, blocks, wanted, np.zeros_like(wanted), 4)
    p, s, x, r = (joined(states, name) for name in ("p", "s", "x", "r"))
    np.testing.assert_allclose(s, H @ p, rtol=1e-4, atol=1e-5 * np.abs(s).max())
    np.testing.assert_allclose(r, wanted - H @ x, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_the_error_shrinks_in_the_hessians_norm_at_every_iteration(problem) -> None:
    parts, weights, l2, wanted = problem
    H = joint_hessian(parts, weights, l2)
    blocks = preconditioners(parts, weights, l2)
    expected = np.linalg.solve(H, wanted)
    before = np.full(COLUMNS, np.inf)
    for iterations in range(8):
        states, _ = solved(parts, weights, blocks, wanted, np.zeros_like(wanted), iterations)
        error = joined(states, "x") - expected
        norms = np.einsum("ik,ij,jk->k", error, H, error)
        moving = [0, 1, 2, 4]
        assert np.all(norms[moving] < before[moving])
        before = norms


def test_one_part_alone_is_solved_at_once() -> None:
    """A random effect's entities share no rows: its blocks are its Hessian."""
    parts, weights, l2 = crossed(300, 20, 10)
    users = parts[:1]
    l2 = l2[: users[0].design.coefficients]
    blocks = [
        BlockPreconditioner.of_entities(
            users[0].design, weights[users[0].order], l2, np.ones(users[0].design.row_ptr.size - 1, np.bool_)
        )
    ]
    wanted = np.random.default_rng(8).normal(size=(l2.size, 2))
    states, sums = solved(users, weights, blocks, wanted, np.zeros_like(wanted), 1)
    expected = np.linalg.solve(joint_hessian(users, weights, l2), wanted)
    np.testing.assert_allclose(joined(states, "x"), expected, rtol=1e-4, atol=1e-4)
    assert np.all(sums.gamma < 1e-8 * np.einsum("jk,jk->k", wanted, expected))


def test_coefficients_of_absent_entities_stay_where_they_are() -> None:
    parts, weights, l2 = crossed(300, 20, 10)
    users = parts[0]
    present = np.ones(20, np.bool_)
    present[[3, 11]] = False
    absent = np.repeat(~present, np.diff(users.design.coefficient_ptr))
    blocks = preconditioners(parts, weights, l2)
    blocks[0] = BlockPreconditioner.of_entities(
        users.design, weights[users.order], cut(parts, l2)[0], present
    )
    wanted = np.random.default_rng(9).normal(size=(l2.size, 2))
    wanted[: absent.size][absent] = 0.0
    states, _ = solved(parts, weights, blocks, wanted, np.zeros_like(wanted), 60)
    x = joined(states, "x")
    there = np.ones(l2.size, np.bool_)
    there[: absent.size] = ~absent
    assert not x[~there].any()
    H = joint_hessian(parts, weights, l2)[np.ix_(there, there)]
    expected = np.linalg.solve(H, wanted[there])
    np.testing.assert_allclose(x[there], expected, rtol=1e-3, atol=3e-4 * np.abs(expected).max())


def test_column_sums() -> None:
    random = np.random.default_rng(10)
    a, b = random.normal(size=(50, 3)).astype(np.float32), random.normal(size=(50, 3))
    np.testing.assert_allclose(column_sums(a, b), np.einsum("jk,jk->k", a.astype(float), b), rtol=1e-12)
    assert column_sums(np.empty((0, 2)), np.empty((0, 2))).tolist() == [0.0, 0.0]
