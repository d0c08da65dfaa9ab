from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.compiled import compiled
from gdmix_core.errors import UsageError
from gdmix_core.solvers.loss_kernels import (
    exp,
    log1p_unit,
    loss_mean_and_curvature,
    loss_terms_block,
    loss_value,
)
from gdmix_core.solvers.losses import Loss, loss_terms, mean

LABELS = {Loss.LOGISTIC: [0.0, 1.0], Loss.SQUARED: [-3.5, 0.0, 2.0], Loss.POISSON: [0.0, 1.0, 7.0]}


@compiled(cache=False)
def exp_of_all(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = exp(x[i])


@compiled(cache=False)
def log1p_of_all(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = log1p_unit(x[i])


def kernel_terms(loss: Loss, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, mu, second = np.empty((3, z.size))
    loss_terms_block(int(loss), z.size, y, z, value, mu, second)
    return value, mu, second


def test_numbers_and_task_names() -> None:
    assert [int(loss) for loss in Loss] == [0, 1, 2]
    assert [loss.task for loss in Loss] == ["logistic_regression", "linear_regression", "poisson_regression"]
    assert all(Loss.from_task(loss.task) is loss for loss in Loss)
    with pytest.raises(
        UsageError, match=r"'hinge'.*logistic_regression, linear_regression, poisson_regression"
    ):
        Loss.from_task("hinge")


def test_exp_and_log1p_are_accurate_to_the_last_places() -> None:
    x = np.concatenate([np.linspace(-708, 709, 100_001), np.linspace(-1, 1, 10_001)])
    out = np.empty_like(x)
    exp_of_all(x, out)
    assert np.max(np.abs(out - np.exp(x)) / np.spacing(np.exp(x))) <= 2.0
    u = np.concatenate([np.linspace(0, 1, 100_001), np.logspace(-300, 0, 3_001)])
    out = np.empty_like(u)
    log1p_of_all(u, out)
    assert np.max(np.abs(out - np.log1p(u)) / np.spacing(np.log1p(u))) <= 4.0
    assert math.isnan(exp(math.nan))
    assert math.isnan(log1p_unit(math.nan))
    assert exp(1e9) == exp(709.0) < math.inf
    assert 0.0 < exp(-1e9) < 1e-300


@pytest.mark.parametrize("loss", Loss)
def test_kernels_agree_with_numpy(loss: Loss) -> None:
    z = np.concatenate([np.linspace(-40, 40, 801), [-1e4, -700.0, 499.0, 0.0]])
    for label in LABELS[loss]:
        y = np.full_like(z, label)
        expected = loss_terms(loss, y, z)
        value, mu, second = kernel_terms(loss, y, z)
        for found, wanted in ((value, expected.value), (mu, expected.mean), (second, expected.second)):
            np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-300)
        np.testing.assert_array_equal(expected.first, expected.mean - y)
        np.testing.assert_array_equal(mean(loss, z), expected.mean)
        scalars = [loss_value(int(loss), label, float(t)) for t in z]
        np.testing.assert_allclose(scalars, expected.value, rtol=1e-13, atol=1e-300)
        pairs = np.array([loss_mean_and_curvature(int(loss), float(t)) for t in z])
        np.testing.assert_allclose(
            pairs, np.stack([expected.mean, expected.second], 1), rtol=1e-14, atol=1e-300
        )


@settings(max_examples=100, deadline=None)
@given(loss=st.sampled_from(list(Loss)), z=st.floats(-20, 20), choice=st.integers(0, 1))
def test_derivatives_are_finite_differences(loss: Loss, z: float, choice: int) -> None:
    y = LABELS[loss][choice]
    step = 1e-5
    at = loss_terms(loss, np.full(3, y), z + step * np.arange(-1.0, 2.0))
    size = max(1.0, abs(at.value).max(), abs(at.mean).max())
    assert (at.value[2] - at.value[0]) / (2 * step) == pytest.approx(at.first[1], abs=2e-8 * size)
    assert (at.first[2] - at.first[0]) / (2 * step) == pytest.approx(at.second[1], abs=2e-8 * size)


@pytest.mark.parametrize("loss", Loss)
def test_no_finite_predictor_overflows_and_a_nan_stays(loss: Loss) -> None:
    z = np.array([-1e6, -710.0, -700.0, 700.0, 710.0, 1e6])
    for label in LABELS[loss]:
        y = np.full_like(z, label)
        for terms in (loss_terms(loss, y, z), kernel_terms(loss, y, z)):
            assert all(np.isfinite(column).all() for column in terms)
        assert all(column[0] >= 0.0 for column in (loss_terms(loss, y, z).second,))
        with np.errstate(invalid="ignore"):
            assert np.isnan(kernel_terms(loss, y[:1], np.array([np.nan]))[0]).all()
