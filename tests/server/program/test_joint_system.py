"""Step lengths of conjugate gradients, driven by hand against dense systems, and how units are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gdmix_server.program.joint_system import MOST_ITERATIONS, TOLERANCE, StepLengths


def system(size: int = 12, seed: int = 0, mixed: float = 0.25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a Hessian without penalty, the penalty's diagonal, and the inverse of its two diagonal blocks."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(3 * size, size))
    X[:, : size // 2] += mixed * X[:, size // 2 :]
    gram, ridge = X.T @ X / size, random.uniform(0.5, 2.0, size=size)
    H = gram + np.diag(ridge)
    inverse = np.zeros_like(H)
    for block in (slice(0, size // 2), slice(size // 2, size)):
        inverse[block, block] = np.linalg.inv(H[block, block])
    return gram, ridge, inverse


def targets_of(b: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    return np.einsum("jk,jk->k", b, inverse @ b)


def iterates(
    b: np.ndarray, gram: np.ndarray, ridge: np.ndarray, inverse: np.ndarray, lengths: StepLengths, most: int
) -> list[np.ndarray]:
    """Go on until all columns are solved, and return the iterates; a solved column keeps its solution."""
    H = gram + np.diag(ridge)
    x, r = np.zeros_like(b), b.copy()
    p, s = np.zeros_like(b), np.zeros_like(b)
    found = [x]
    for _ in range(most):
        of = list(lengths.pending)
        u = inverse @ r[:, of]
        lengths.take(np.einsum("jk,jk->k", r[:, of], u).tolist(), (ridge @ np.square(u)).tolist())
        if not lengths.pending:
            break
        u = u[:, [of.index(k) for k in lengths.pending]]
        of = list(lengths.pending)
        lengths.update(np.einsum("jk,jk->k", u, gram @ u).tolist())
        alpha, beta = np.array(lengths.alpha), np.array(lengths.beta)
        p[:, of], s[:, of] = u + beta * p[:, of], H @ u + beta * s[:, of]
        x, r = x.copy(), r.copy()
        x[:, of] += alpha * p[:, of]
        r[:, of] -= alpha * s[:, of]
        found.append(x)
    return found


def test_iterates_are_the_best_of_their_krylov_space() -> None:
    gram, ridge, inverse = system()
    H = gram + np.diag(ridge)
    b = np.random.default_rng(1).normal(size=(12, 2))
    # Goals of 0 keep both columns going.
    found = iterates(b, gram, ridge, inverse, StepLengths((0.0, 0.0)), 5)
    assert len(found) == 6
    for k in range(2):
        basis = [inverse @ b[:, k]]
        for x in found[1:]:
            V, _ = np.linalg.qr(np.stack(basis, axis=1))
            expected = V @ np.linalg.solve(V.T @ H @ V, V.T @ b[:, k])
            np.testing.assert_allclose(x[:, k], expected, rtol=1e-7, atol=1e-9)
            basis.append(inverse @ (H @ basis[-1]))


def test_every_column_is_solved_to_its_goal() -> None:
    gram, ridge, inverse = system(size=40)
    H = gram + np.diag(ridge)
    b = np.random.default_rng(2).normal(size=(40, 4))
    targets = targets_of(b, inverse)
    tolerances = np.array([0.1, TOLERANCE, TOLERANCE, 0.5])
    lengths = StepLengths(tuple(tolerances**2 * targets))
    found = iterates(b, gram, ridge, inverse, lengths, 50)
    r = b - H @ found[-1]
    left = np.einsum("jk,jk->k", r, inverse @ r)
    assert np.all(np.sqrt(left / targets) <= tolerances)
    assert [lengths.left(k) for k in range(4)] == pytest.approx(left, rel=1e-6)
    assert 1 < lengths.iterations == len(found) - 1 <= MOST_ITERATIONS


def test_a_column_that_is_solved_takes_no_further_part() -> None:
    gram, ridge, inverse = system()
    H = gram + np.diag(ridge)
    b = np.random.default_rng(3).normal(size=(12, 2))
    targets = targets_of(b, inverse)
    lengths = StepLengths((1e-14 * targets[0], 1.001 * targets[1]))
    found = iterates(b, gram, ridge, inverse, lengths, 8)
    assert len(found) == 9
    assert not found[-1][:, 1].any()
    assert lengths.at_once == (1,)
    np.testing.assert_allclose(found[-1][:, 0], np.linalg.solve(H, b[:, 0]), rtol=1e-3, atol=1e-3)


def test_solved_columns_are_told_once() -> None:
    lengths = StepLengths((0.04, 0.04))
    assert lengths.take([0.5, 0.04], [1.0, 1.0]) == (1,)
    assert lengths.pending == lengths.going_on == (0,)
    lengths.update([1.0])
    assert (lengths.alpha, lengths.beta) == ((0.25,), (0.0,))
    assert lengths.take([0.041], [1.0]) == ()
    lengths.update([1.0])
    assert lengths.take([0.0], [1.0]) == (0,)
    assert lengths.pending == ()
    assert (lengths.left(0), lengths.left(1)) == (0.0, 0.04)


def test_trusted_columns_take_no_iteration_and_lose_trust_when_it_failed() -> None:
    lengths = StepLengths((0.04, 0.04, 0.04), trusted=frozenset({1, 2}))
    assert lengths.pending == (0, 1, 2)
    assert lengths.going_on == (0,)
    assert lengths.take([0.5, 0.03, 0.05], [1.0, 1.0, 1.0]) == (1, 2)
    assert lengths.pending == (0,)
    assert lengths.at_once == (1,)


def test_lengths_follow_from_inner_products() -> None:
    lengths = StepLengths((0.01,))
    assert lengths.take([0.8], [0.5]) == ()
    lengths.update([1.5])
    assert (lengths.alpha, lengths.beta, lengths.iterations) == ((0.4,), (0.0,), 1)
    assert lengths.take([0.2], [0.05]) == ()
    lengths.update([0.25])
    assert lengths.beta == pytest.approx([0.25])
    assert lengths.alpha == pytest.approx([0.2 / (0.3 - 0.25 * 0.2 / 0.4)])
    assert lengths.iterations == 2


def test_nothing_wanted_is_solved_from_the_start() -> None:
    assert StepLengths((0.0, 0.0)).take([0.0, 0.0], [0.0, 0.0]) == (0, 1)
    assert StepLengths(()).take([], []) == ()


@pytest.mark.parametrize("bend", [0.0, -1.0, math.nan])
def test_a_column_without_curvature_is_given_up(bend: float) -> None:
    lengths = StepLengths((0.01, 0.01))
    assert lengths.take([1.0, 1.0], [0.0, 1.0]) == ()
    lengths.update([bend, 1.0])
    assert lengths.alpha == (0.0, 0.5)
    assert lengths.take([1.0, 1.0], [0.0, 1.0]) == (0,)
    assert lengths.take([0.0], [1.0]) == (1,)
