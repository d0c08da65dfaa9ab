"""What the systems are solved for, and what is read from their solutions, against dense inverses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
from gdmix_core.solvers.joint.right_hand_sides import (
    Coefficients,
    Column,
    GroupSums,
    group_sums,
    right_hand_sides,
    unsolved_products,
)

from .parts import Part, crossed, cut, joint_hessian, preconditioners

NEWTON = Column(kind="newton")


def probe(group: int, number: int = 0) -> Column:
    return Column(kind="probe", group=group, number=number)


def prior(group: int) -> Column:
    return Column(kind="prior", group=group)


def coefficients(size: int = 600, part: int = 3) -> Coefficients:
    """Return coefficients of the groups 4, 7 and none, by turns."""
    random = np.random.default_rng(2)
    return Coefficients(
        theta=random.normal(size=size),
        gradient=random.normal(size=size),
        l2=random.uniform(0.5, 2.0, size=size),
        scale=random.uniform(0.1, 4.0, size=size),
        group=np.array([4, 7, -1], np.int32)[np.arange(size) % 3],
        part=part,
    )


def signs(of: Coefficients, number: int = 0, seed: int = 1) -> np.ndarray:
    """Return the signs of group 4's probe."""
    inside = of.group == 4
    return right_hand_sides(of, [probe(4, number)], seed)[inside, 0] / np.sqrt(of.scale[inside])


def test_the_newton_step_is_solved_for_minus_the_gradient_of_all_coefficients() -> None:
    of = coefficients()
    np.testing.assert_array_equal(right_hand_sides(of, [NEWTON], 1)[:, 0], -of.gradient)


def test_a_probe_has_a_groups_signs_times_the_root_of_their_scale() -> None:
    of = coefficients()
    found = right_hand_sides(of, [NEWTON, probe(7)], 1)[:, 1]
    inside = of.group == 7
    assert not found[~inside].any()
    np.testing.assert_allclose(np.abs(found[inside]), np.sqrt(of.scale[inside]), rtol=1e-15)


def test_a_prior_gradient_is_the_penaltys_on_one_group() -> None:
    of = coefficients()
    found = right_hand_sides(of, [prior(4)], 1)[:, 0]
    np.testing.assert_array_equal(found, np.where(of.group == 4, of.l2 * of.theta, 0.0))


def test_a_group_that_the_part_has_no_coefficients_of_gives_zeros() -> None:
    assert not right_hand_sides(coefficients(), [probe(5), prior(5)], 1).any()


def test_signs_are_plus_and_minus_one_in_balance() -> None:
    found = signs(coefficients(30_000))
    assert set(np.round(found, 12)) == {-1.0, 1.0}
    assert abs(found.mean()) < 4.0 / np.sqrt(found.size)
    assert abs((found[1:] * found[:-1]).mean()) < 4.0 / np.sqrt(found.size)


def test_the_same_seed_gives_the_same_signs_and_any_other_fact_others() -> None:
    of = coefficients(3000)
    first = signs(of)
    np.testing.assert_array_equal(first, signs(of))
    others = [signs(of, seed=2), signs(of, number=1), signs(replace(of, part=4))]
    for place, found in enumerate(others):
        assert abs((first * found).mean()) < 4.0 / np.sqrt(first.size)
        for again in others[place + 1 :]:
            assert abs((found * again).mean()) < 4.0 / np.sqrt(first.size)


def test_signs_depend_on_a_coefficients_place_alone() -> None:
    """Which other coefficients the group has must not matter: groups vanish between rounds."""
    of = coefficients()
    fewer = of.group.copy()
    fewer[:300] = -1
    assert fewer[300] == 4
    np.testing.assert_allclose(signs(of)[100:], signs(replace(of, group=fewer)), rtol=1e-15)


def test_large_part_numbers_and_seeds_are_taken() -> None:
    found = signs(replace(coefficients(), part=(7 << 20) + 5), seed=2**63 - 1)
    assert set(np.round(found, 12)) == {-1.0, 1.0}


Problem = tuple[list[Part], np.ndarray, list[BlockPreconditioner], list[Coefficients]]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Return parts, H, M and coefficients: of users two groups, of items one, of the fixed effect one."""
    parts, weights, l2 = crossed(300, 15, 8, seed=3)
    l2[-3:] = 0.7
    random = np.random.default_rng(4)
    theta, scale = random.normal(size=l2.size), random.uniform(0.5, 2.0, size=l2.size)
    group = np.full(l2.size, 2, np.int32)
    users = parts[0].design.coefficients
    group[:users] = np.arange(users) % 3 > 0
    group[-4], group[-3:] = -1, 3
    gradient = random.normal(size=l2.size)
    cuts = [cut(parts, array) for array in (theta, gradient, l2, scale, group)]
    of_parts = [Coefficients(*arrays, part=number) for number, arrays in enumerate(zip(*cuts, strict=True))]
    return parts, joint_hessian(parts, weights, l2), preconditioners(parts, weights, l2), of_parts


def stacked(of_parts: list[Coefficients], columns: list[Column], seed: int = 1) -> np.ndarray:
    return np.concatenate([right_hand_sides(of, columns, seed) for of in of_parts])


def sums_of(
    of: Coefficients, columns: list[Column], b: np.ndarray, x: np.ndarray, M: BlockPreconditioner
) -> tuple[GroupSums, ...]:
    blockwise = np.einsum("jk,jk->k", b, M.solve(b))
    return group_sums(of, columns, b, x, blockwise, M.inverse_diagonal)


def inverse_of_blocks(blocks: list[BlockPreconditioner]) -> np.ndarray:
    """Return M⁻¹ of all parts, dense."""
    sizes = [of.design.coefficients for of in blocks]
    found = np.zeros((sum(sizes), sum(sizes)))
    first = 0
    for of, size in zip(blocks, sizes, strict=True):
        inside = slice(first, first + size)
        found[inside, inside] = of.solve(np.eye(size))
        first += size
    return found


def test_sums_over_groups_of_exact_solutions(problem: Problem) -> None:
    parts, H, blocks, of_parts = problem
    columns = [NEWTON, probe(0), probe(1), probe(1, 1), probe(2), prior(0), prior(2), prior(3)]
    b = stacked(of_parts, columns)
    x = np.linalg.solve(H, b)
    crossing = np.linalg.inv(H) - inverse_of_blocks(blocks)
    pieces = zip(of_parts, cut(parts, b), cut(parts, x), blocks, strict=True)
    found = [sums for of, own, solution, M in pieces for sums in sums_of(of, columns, own, solution, M)]
    assert [sums.group for sums in found] == [0, 1, 2, 3]
    theta, l2, scale, group = (
        np.concatenate([getattr(of, name) for of in of_parts]) for name in ("theta", "l2", "scale", "group")
    )
    for sums in found:
        inside = group == sums.group
        c, t, moved = scale[inside], theta[inside], x[inside, 0]
        assert sums.squares == pytest.approx((c @ (t * t), c @ (t * moved), c @ (moved * moved)), rel=1e-10)
        assert sums.block_trace == pytest.approx(c @ np.diag(inverse_of_blocks(blocks))[inside], rel=1e-9)
        own = [k for k, column in enumerate(columns) if column.kind == "probe" and column.group == sums.group]
        assert sums.probes == pytest.approx([b[:, k] @ crossing @ b[:, k] for k in own], rel=1e-6, abs=1e-9)
        gradient = np.where(inside, l2 * theta, 0.0)
        assert sums.information == pytest.approx([gradient @ x[:, k] for k in (5, 6, 7)], rel=1e-9)


def test_without_prior_columns_there_is_no_information(problem: Problem) -> None:
    _, _, blocks, of_parts = problem
    columns = [NEWTON, probe(0)]
    b = right_hand_sides(of_parts[0], columns, 1)
    found = sums_of(of_parts[0], columns, b, b, blocks[0])
    assert [sums.information for sums in found] == [(), ()]
    assert [len(sums.probes) for sums in found] == [1, 0]


def test_probes_average_to_the_trace_that_blocks_leave_out(problem: Problem) -> None:
    parts, H, blocks, of_parts = problem
    number = 400
    inverse, blockwise = np.linalg.inv(H), inverse_of_blocks(blocks)
    scale = np.concatenate([of.scale for of in of_parts])
    group = np.concatenate([of.group for of in of_parts])
    for place, wanted in ((0, 0), (0, 1), (1, 2), (2, 3)):
        columns = [NEWTON, *(probe(wanted, k) for k in range(number))]
        b = stacked(of_parts, columns)
        x = inverse @ b
        pieces = (of_parts[place], columns, cut(parts, b)[place], cut(parts, x)[place], blocks[place])
        sums = {found.group: found for found in sums_of(*pieces)}[wanted]
        probes = np.array(sums.probes)
        inside = group == wanted
        expected = scale[inside] @ np.diag(inverse - blockwise)[inside]
        assert probes.size == number
        assert abs(probes.mean() - expected) < 4.0 * probes.std() / np.sqrt(number) + 1e-12
        trace = sums.block_trace + probes.mean()
        assert trace == pytest.approx(scale[inside] @ np.diag(inverse)[inside], rel=0.02)


def test_one_probe_tells_the_trace_of_a_group_of_one_coefficient_exactly(problem: Problem) -> None:
    parts, H, blocks, of_parts = problem
    alone = np.full(of_parts[1].group.size, -1, np.int32)
    alone[5] = 9
    of_parts = [of_parts[0], replace(of_parts[1], group=alone), of_parts[2]]
    columns = [NEWTON, probe(9)]
    b = stacked(of_parts, columns)
    x = np.linalg.solve(H, b)
    (sums,) = sums_of(of_parts[1], columns, cut(parts, b)[1], cut(parts, x)[1], blocks[1])
    place = parts[0].design.coefficients + 5
    expected = of_parts[1].scale[5] * np.linalg.inv(H)[place, place]
    assert sums.block_trace + sums.probes[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("crossing", "left"), [(0.3, 0.1), (1.0, 0.5)], ids=["less crosses", "all of it"])
def test_residuals_make_up_for_most_of_what_the_blocks_solution_lacks(
    problem: Problem, crossing: float, left: float
) -> None:
    parts, H, blocks, of_parts = problem
    columns = [NEWTON, probe(0), probe(1), probe(2), prior(0), prior(1), prior(2), prior(3)]
    b, M = stacked(of_parts, columns), inverse_of_blocks(blocks)
    H = np.linalg.inv(M) + crossing * (H - np.linalg.inv(M))
    x = M @ b
    r = b - H @ x
    pieces = zip(*(cut(parts, array.astype(np.float32)) for array in (x, r, M @ r)), strict=True)
    shares = [unsolved_products(columns, *of_part) for of_part in pieces]
    lacking = b.T @ np.linalg.solve(H, b) - b.T @ x
    assert [share[0] for share in shares] == [(), (), ()]
    for k in (1, 2, 3):
        (correction,) = np.sum([share[k] for share in shares], axis=0)
        assert abs(lacking[k, k] - correction) < left * abs(lacking[k, k])
    corrections = np.array([np.sum([share[k] for share in shares], axis=0) for k in range(4, 8)])
    assert corrections.shape == (4, 4)
    expected = lacking[4:, 4:]
    assert np.linalg.norm(corrections - expected) < left * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("groups", "plain"), [((0, 1), 4.0), ((0, 1, 2, 3), 2.0)], ids=["of one part", "of several parts"]
)
def test_what_the_blocks_solution_lacks_is_corrected_up_to_the_third_order(
    problem: Problem, groups: tuple[int, ...], plain: float
) -> None:
    """Half of what crosses parts: the error of bᵀx shrinks by `plain`, that of the corrected product by 2³."""
    _, H, blocks, of_parts = problem
    b = stacked(of_parts, [prior(group) for group in groups]).sum(axis=1, keepdims=True)
    M = np.linalg.inv(inverse_of_blocks(blocks))
    errors = []
    for share in (0.004, 0.002):
        mixed = M + share * (H - M)
        x = np.linalg.solve(M, b)
        r = b - mixed @ x
        ((correction,),) = unsolved_products([prior(0)], x, r, np.linalg.solve(M, r))
        product, exact = (b.T @ x).item(), (b.T @ np.linalg.solve(mixed, b)).item()
        errors.append((abs(product - exact), abs(product + correction - exact)))
    assert errors[1][1] < 0.02 * errors[1][0]
    assert np.divide(*errors) == pytest.approx([plain, 8.0], rel=0.1)


def test_no_residual_adds_nothing(problem: Problem) -> None:
    columns = [NEWTON, probe(0), prior(1), prior(2)]
    x = np.ones((4, 4), np.float32)
    nothing = np.zeros((4, 4), np.float32)
    assert unsolved_products(columns, x, nothing, nothing) == ((), (0.0,), (0.0, 0.0), (0.0, 0.0))
