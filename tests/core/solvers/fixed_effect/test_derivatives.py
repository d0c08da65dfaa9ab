from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdmix_core.errors import InternalError
from gdmix_core.solvers.fixed_effect import (
    FixedEffectShard,
    FixedEffectSums,
    evaluate,
    hessian_diagonal,
    hessian_vector_product,
    score,
)
from gdmix_core.solvers.fixed_effect.shard import packed_size, unpack_upper
from gdmix_core.solvers.losses import Loss, loss_terms

RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RELAXED
@given(
    loss=st.sampled_from(list(Loss)),
    rows=st.sampled_from([0, 1, 2, 63, 64, 65, 200]),
    features=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    intercept=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sums_agree_with_numpy(case, loss, rows, features, density, intercept, seed) -> None:
    problem = case(
        loss, rows, features, density=density, intercept=intercept, seed=seed, weighted=True, offsets=True
    )
    theta = 0.3 * np.random.default_rng(seed).standard_normal(problem.problem.dimension)
    sums = problem.sums(theta, hessian=True)
    terms = loss_terms(loss, problem.labels, problem.X @ theta + problem.offsets)
    close = {"rtol": 1e-11, "atol": 1e-10}
    np.testing.assert_allclose(sums.value, problem.weights @ terms.value, **close)
    np.testing.assert_allclose(sums.weight_sum, problem.weights.sum(), **close)
    assert sums.rows == rows
    np.testing.assert_allclose(sums.gradient, problem.X.T @ (problem.weights * terms.first), **close)
    sizes = np.abs(problem.X).T @ (problem.weights * (np.abs(problem.labels) + np.abs(terms.mean)))
    np.testing.assert_allclose(sums.gradient_scale, sizes, **close)
    hessian = (problem.X.T * (problem.weights * terms.second)) @ problem.X
    np.testing.assert_allclose(unpack_upper(sums.hessian, theta.size), hessian, **close)
    np.testing.assert_allclose(sums.curvature, np.diag(hessian), **close)
    without = problem.sums(theta, hessian=False)
    assert without.hessian is None
    assert without.gradient.tobytes() == sums.gradient.tobytes()


@pytest.mark.parametrize("loss", Loss)
def test_derivatives_are_finite_differences(case, loss: Loss) -> None:
    problem = case(loss, 150, 4, weighted=True, offsets=True, seed=3)
    random = np.random.default_rng(5)
    theta, direction = 0.2 * random.standard_normal((2, 5))
    step = 1e-5
    ahead, behind = (problem.sums(theta + s * direction, hessian=False) for s in (step, -step))
    here = problem.sums(theta, hessian=True)
    size = np.abs(here.gradient_scale).max()
    assert (ahead.value - behind.value) / (2 * step) == pytest.approx(
        here.gradient @ direction, abs=1e-7 * size
    )
    slope = (ahead.gradient - behind.gradient) / (2 * step)
    product = unpack_upper(here.hessian, 5) @ direction
    np.testing.assert_allclose(slope, product, atol=1e-7 * size)
    by_shard = sum(
        hessian_vector_product(problem.shard(k), theta, direction, loss, True) for k in range(problem.shards)
    )
    np.testing.assert_allclose(by_shard, product, rtol=1e-11, atol=1e-10)
    diagonal = sum(hessian_diagonal(problem.shard(k), theta, loss, True) for k in range(problem.shards))
    np.testing.assert_allclose(diagonal, here.curvature, rtol=1e-13)


def test_scores_leave_offsets_out(case) -> None:
    for intercept in (True, False):
        problem = case(Loss.SQUARED, 90, 5, offsets=True, intercept=intercept)
        theta = np.random.default_rng(1).standard_normal(problem.problem.dimension)
        shard = problem.shard(1)
        found = score(shard.indptr, shard.indices, shard.values, theta, intercept)
        np.testing.assert_allclose(found, (problem.X @ theta)[1::3], rtol=1e-13, atol=1e-13)


def test_threads_mapped_files_and_repetition_give_the_same_bytes(case, tmp_path: Path) -> None:
    problem = case(Loss.LOGISTIC, 500, 8, weighted=True)
    shard = problem.shard(0)
    columns = {}
    for name in ("indptr", "indices", "values", "labels", "weights", "offsets"):
        array = getattr(shard, name)
        array.tofile(tmp_path / name)
        columns[name] = np.memmap(tmp_path / name, dtype=array.dtype, mode="r")
    mapped = FixedEffectShard(**columns)
    theta = np.linspace(-1, 1, 9)
    wanted = evaluate(shard, theta, Loss.LOGISTIC, 9, True, hessian=True).to_array().tobytes()
    found: list[bytes] = []

    def run() -> None:
        found.append(evaluate(mapped, theta, Loss.LOGISTIC, 9, True, hessian=True).to_array().tobytes())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


def test_sums_cross_the_wire_and_add_exactly(case) -> None:
    problem = case(Loss.POISSON, 100, 3)
    theta = np.array([0.1, -0.2, 0.3, 0.0])
    for hessian in (False, True):
        sums = problem.sums(theta, hessian)
        array = sums.to_array()
        assert array.size == 3 + 3 * 4 + (packed_size(4) if hessian else 0)
        back = FixedEffectSums.from_array(array, 4)
        assert back.rows == 100
        assert (back.hessian is not None) == hessian
        assert back.to_array().tobytes() == array.tobytes()
        assert sums.add(back).to_array().tobytes() == (array + array).tobytes()
    with pytest.raises(InternalError, match="cannot be added"):
        problem.sums(theta, True).add(problem.sums(theta, False))
    with pytest.raises(InternalError, match="found 7"):
        FixedEffectSums.from_array(np.zeros(7), 4)


def test_arrays_that_disagree_are_refused(case) -> None:
    ones = np.ones(2)
    with pytest.raises(InternalError, match="3 row pointers"):
        FixedEffectShard(np.array([0, 1, 1]), np.array([0]), np.ones(1), np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(InternalError, match="row pointers up to 5"):
        FixedEffectShard(np.array([0, 1, 5]), np.array([0]), np.ones(1), ones, ones, ones)
    with pytest.raises(InternalError, match="dimension 9"):
        evaluate(case(Loss.SQUARED).shard(0), np.zeros(3), Loss.SQUARED, 9, True, hessian=False)


def test_a_nan_stays_visible(case) -> None:
    problem = case(Loss.LOGISTIC, 80, 3)
    problem.offsets[40] = np.nan
    sums = problem.sums(np.zeros(4), hessian=True)
    assert np.isnan(sums.value)
    assert np.isnan(sums.gradient[0])


def test_importing_drivers_needs_neither_numba_nor_scipy_optimize() -> None:
    code = (
        "import sys, gdmix_core.solvers.fixed_effect, gdmix_core.solvers.summation_tree\n"
        "print(sorted({'numba', 'scipy.optimize', 'scipy.linalg', 'pyarrow'} & set(sys.modules)))"
    )
    path = ":".join(p for p in sys.path if p)
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"
