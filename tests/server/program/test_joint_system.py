"""Step lengths of conjugate gradients, driven by hand against dense systems, and how units are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gdmix_server.program.joint_system import MOST_ITERATIONS, NEWTON_TOLERANCE, TOLERANCE, StepLengths


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


def targets_of(b: np.ndarray, inverse: np.ndarray) -> list[float]:
    return np.einsum("jk,jk->k", b, inverse @ b).tolist()


def iterates(
    b: np.ndarray, gram: np.ndarray, ridge: np.ndarray, inverse: np.ndarray, lengths: StepLengths, most: int
) -> list[np.ndarray]:
    """Go on until all columns are solved, and return the iterates."""
    H = gram + np.diag(ridge)
    x, r = np.zeros_like(b), b.copy()
    p, s = np.zeros_like(b), np.zeros_like(b)
    found = [x]
    for _ in range(most):
        u = inverse @ r
        if lengths.converged(np.einsum("jk,jk->k", r, u).tolist()):
            break
        curvatures = np.einsum("jk,jk->k", u, gram @ u).tolist()
        lengths.update(curvatures, (ridge @ np.square(u)).tolist())
        p, s = u + lengths.beta * p, H @ u + lengths.beta * s
        x, r = x + lengths.alpha * p, r - lengths.alpha * s
        found.append(x)
    return found


def test_iterates_are_the_best_of_their_krylov_space() -> None:
    gram, ridge, inverse = system()
    H = gram + np.diag(ridge)
    b = np.random.default_rng(1).normal(size=(12, 2))
    # Targets of 0 keep both columns going.
    found = iterates(b, gram, ridge, inverse, StepLengths([0.0, 0.0]), 5)
    assert len(found) == 6
    for k in range(2):
        basis = [inverse @ b[:, k]]
        for x in found[1:]:
            V, _ = np.linalg.qr(np.stack(basis, axis=1))
            expected = V @ np.linalg.solve(V.T @ H @ V, V.T @ b[:, k])
            np.testing.assert_allclose(x[:, k], expected, rtol=1e-7, atol=1e-9)
            basis.append(inverse @ (H @ basis[-1]))


def test_every_column_is_solved_to_its_tolerance() -> None:
    gram, ridge, inverse = system(size=40)
    H = gram + np.diag(ridge)
    b = np.random.default_rng(2).normal(size=(40, 4))
    targets = targets_of(b, inverse)
    lengths = StepLengths(targets)
    found = iterates(b, gram, ridge, inverse, lengths, 50)
    r = b - H @ found[-1]
    norms = np.sqrt(np.einsum("jk,jk->k", r, inverse @ r) / targets)
    assert norms[0] <= NEWTON_TOLERANCE
    assert np.all(norms[1:] <= TOLERANCE)
    assert 1 < lengths.iterations == len(found) - 1 <= MOST_ITERATIONS


def test_a_column_that_is_solved_stays_where_it_is() -> None:
    gram, ridge, inverse = system()
    H = gram + np.diag(ridge)
    b = np.random.default_rng(3).normal(size=(12, 2))
    b[:6, 1] = 0.0
    easy = 1e4 * targets_of(b, inverse)[1]
    lengths = StepLengths([1e-12 * targets_of(b, inverse)[0], easy])
    found = iterates(b, gram, ridge, inverse, lengths, 8)
    assert len(found) == 9
    assert not found[-1][:, 1].any()
    assert lengths.alpha[1] == lengths.beta[1] == 0.0
    np.testing.assert_allclose(found[-1][:, 0], np.linalg.solve(H, b[:, 0]), rtol=1e-3, atol=1e-3)


def test_a_solved_column_is_not_taken_up_again() -> None:
    lengths = StepLengths([1.0, 1.0])
    assert not lengths.converged([0.5, 0.01])
    lengths.update([1.0, 1.0], [1.0, 1.0])
    assert lengths.alpha == [0.25, 0.0]
    assert not lengths.converged([0.5, 0.9])
    lengths.update([1.0, 1.0], [1.0, 1.0])
    assert lengths.alpha[1] == lengths.beta[1] == 0.0
    assert lengths.converged([0.0, 0.9])


def test_the_newton_step_is_solved_to_its_own_tolerance() -> None:
    for gamma, solved in ((1.001 * NEWTON_TOLERANCE**2, False), (NEWTON_TOLERANCE**2, True)):
        assert StepLengths([1.0]).converged([gamma]) is solved
    for gamma, solved in ((1.001 * TOLERANCE**2, False), (TOLERANCE**2, True)):
        assert StepLengths([1.0, 1.0]).converged([0.0, gamma]) is solved


def test_lengths_follow_from_inner_products() -> None:
    lengths = StepLengths([1.0])
    assert not lengths.converged([0.8])
    lengths.update([1.5], [0.5])
    assert (lengths.alpha, lengths.beta, lengths.iterations) == ([0.4], [0.0], 1)
    assert not lengths.converged([0.2])
    lengths.update([0.25], [0.05])
    assert lengths.beta == pytest.approx([0.25])
    assert lengths.alpha == pytest.approx([0.2 / (0.3 - 0.25 * 0.2 / 0.4)])
    assert lengths.iterations == 2


def test_nothing_wanted_is_solved_from_the_start() -> None:
    assert StepLengths([0.0, 0.0]).converged([0.0, 0.0])
    assert StepLengths([]).converged([])


@pytest.mark.parametrize("bend", [0.0, -1.0, math.nan])
def test_a_column_without_curvature_is_given_up(bend: float) -> None:
    lengths = StepLengths([1.0, 1.0])
    assert not lengths.converged([1.0, 1.0])
    lengths.update([bend, 1.0], [0.0, 1.0])
    assert lengths.alpha == [0.0, 0.5]
    assert not lengths.converged([1.0, 1.0])
    assert lengths.converged([1.0, 0.0])
