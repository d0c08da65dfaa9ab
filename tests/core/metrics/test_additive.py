from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_poisson_deviance, mean_squared_error

from gdmix_core.errors import InternalError
from gdmix_core.metrics import additive_sums, finish_additive, parse_metric
from gdmix_core.solvers.losses import Loss, mean


def value_of(name: str, loss: Loss, z: np.ndarray, label: np.ndarray, weight: np.ndarray, shards: int = 3):
    metric = parse_metric(name)
    cuts = np.array_split(np.arange(len(z)), shards)
    states = [additive_sums([metric], loss, z[cut], label[cut], weight[cut])[name] for cut in cuts]
    return finish_additive(metric, states)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_logloss_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    z, weight = rng.normal(scale=3, size=500), rng.exponential(size=500)
    label = rng.integers(0, 2, 500).astype(float)
    expected = log_loss(label, 1 / (1 + np.exp(-z)), sample_weight=weight)
    assert value_of("logloss", Loss.LOGISTIC, z, label, weight).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", list(Loss))
def test_squared_errors_compare_labels_with_means(rng: np.random.Generator, loss: Loss) -> None:
    z, weight = rng.normal(size=500), rng.exponential(size=500)
    label = rng.poisson(1.0, 500).astype(float)
    expected = mean_squared_error(label, mean(loss, z), sample_weight=weight)
    assert value_of("mse", loss, z, label, weight).value == pytest.approx(expected, rel=1e-12)
    assert value_of("rmse", loss, z, label, weight).value == pytest.approx(math.sqrt(expected), rel=1e-12)


def test_poisson_deviance_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    z, weight = rng.normal(size=500), rng.exponential(size=500)
    label = rng.poisson(1.5, 500).astype(float)
    expected = mean_poisson_deviance(label, np.exp(z), sample_weight=weight)
    found = value_of("poisson_deviance", Loss.POISSON, z, label, weight)
    assert found.value == pytest.approx(expected, rel=1e-12)


def test_logloss_of_extreme_predictors_is_exact() -> None:
    z, label, weight = np.array([800.0, -800.0, 800.0]), np.array([1.0, 0.0, 0.0]), np.ones(3)
    assert value_of("logloss", Loss.LOGISTIC, z, label, weight).value == pytest.approx(800 / 3, rel=1e-15)


def test_only_metrics_over_all_rows_have_sums() -> None:
    metrics = [parse_metric(name) for name in ("auc", "logloss", "logloss:user", "mse")]
    one = np.ones(1)
    assert list(additive_sums(metrics, Loss.LOGISTIC, one, one, one)) == ["logloss", "mse"]
    with pytest.raises(InternalError, match="metric auc is not a mean over all rows"):
        finish_additive(parse_metric("auc"), [])


def test_what_is_undefined_says_why() -> None:
    none, one = np.empty(0), np.ones(1)
    found = value_of("logloss", Loss.LOGISTIC, none, none, none)
    assert (found.value, found.reason) == (None, "there are no validation rows")
    found = value_of("rmse", Loss.SQUARED, one, one, np.zeros(1))
    assert (found.value, found.reason) == (None, "all validation rows have weight 0")
    for wild in (np.nan, np.inf, 1e200):
        found = value_of("rmse", Loss.SQUARED, np.array([wild]), one, one)
        assert found.value is None
        assert "not finite" in found.reason


def test_a_row_without_weight_adds_nothing() -> None:
    z, label, weight = np.array([np.inf, 1.0]), np.ones(2), np.array([0.0, 1.0])
    assert value_of("mse", Loss.SQUARED, z, label, weight).value == 0.0
