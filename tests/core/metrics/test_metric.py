from __future__ import annotations

import subprocess
import sys

import pytest

from gdmix_core.config.job import METRICS_OF_TASK
from gdmix_core.errors import UsageError
from gdmix_core.metrics import Metric, MetricKind, MetricValue, parse_metric
from gdmix_core.solvers.losses import Loss


@pytest.mark.parametrize(
    "name", ["auc", "aupr", "logloss", "rmse", "mse", "poisson_deviance", "auc:user_id", "mse:a:b"]
)
def test_names_round_trip(name: str) -> None:
    assert parse_metric(name).name == name


@pytest.mark.parametrize("name", ["AUC", "auc:", "", "accuracy", ":user_id"])
def test_unknown_names_are_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(
        UsageError, match="is unknown; allowed are auc, aupr, logloss, rmse, mse, poisson_deviance"
    ):
        parse_metric(name)


def test_directions() -> None:
    assert {kind for kind in MetricKind if Metric(kind).higher_is_better} == {MetricKind.AUC, MetricKind.AUPR}


@pytest.mark.parametrize("loss", list(Loss))
def test_the_config_allows_just_the_metrics_that_fit(loss: Loss) -> None:
    fitting = {kind.name.lower() for kind in MetricKind if Metric(kind).fits(loss)}
    assert fitting == set(METRICS_OF_TASK[loss.task])


@pytest.mark.parametrize(
    ("name", "value", "best", "improves"),
    [
        ("auc", 0.7, 0.6, True),
        ("auc", 0.6, 0.6, False),
        ("auc:user", 0.5, 0.6, False),
        ("rmse", 0.5, 0.6, True),
        ("logloss", 0.6, 0.6, False),
        ("auc", None, 0.6, False),
        ("auc", 0.1, None, True),
        ("auc", None, None, False),
    ],
)
def test_improves(name: str, value: float | None, best: float | None, improves: bool) -> None:
    metric = parse_metric(name)
    assert metric.improves(MetricValue(value), MetricValue(best)) is improves
    assert metric.improves(MetricValue(value), None) is (value is not None)


def test_a_coordinator_can_import_metrics_without_compiled_kernels() -> None:
    heavy = {"numba", "polars", "scipy", "pyarrow.compute"}
    code = f"import sys, gdmix_core.metrics; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
