"""Fixed effects that are plugged in, on real processes: trees by LightGBM, then random effects on what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from gdmix_client import Client, Job, JobState, LocalCluster, Notice, Progress
from gdmix_core.errors import ConfigError
from gdmix_core.fixed_effects.registry import load_plugin
from gdmix_core.model import open_model
from gdmix_core.model.plugin_files import check_plugin_files
from gdmix_core.store import open_store

from .jobs import digests, directory_of, succeeded, told

pytest.importorskip("lightgbm", reason="needs LightGBM (pip install 'gdmix[lightgbm]')")

USERS, ROWS, HELD_OUT = 60, 6_000, 2_000
COLORS = ("blue", "green", "red")
TREES = {
    "fixed_effect": "lightgbm",
    "numeric": ["x", "y"],
    "categorical": ["color"],
    "rounds": 40,
    "learning_rate": 0.2,
    "early_stopping": {"rounds": 5, "fraction": 0.2},
}


def make_rows(rows: int, first_uid: int, seed: int) -> pl.DataFrame:
    """Rows with an interaction that no linear model sees, and users with levels of their own."""
    rng = np.random.default_rng(seed)
    level = np.random.default_rng(7).normal(0, 1.0, USERS)
    user, color = rng.integers(0, USERS, rows), rng.integers(0, 3, rows)
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    z = 2.0 * np.sign(x) * np.sign(y) + (color - 1) + level[user]
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "label": (rng.random(rows) < expit(z)).astype(np.int64),
            "user_id": user,
            "x": x,
            "y": pl.Series(y).scatter(np.flatnonzero(rng.random(rows) < 0.05), None),
            "color": np.array(COLORS)[color],
        }
    )


@pytest.fixture(scope="module")
def rows() -> dict[str, pl.DataFrame]:
    return {"train": make_rows(ROWS, 0, 1), "validation": make_rows(HELD_OUT, 100_000, 2)}


@pytest.fixture(scope="module")
def root(rows: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plugged")
    for role, frame in rows.items():
        frame.write_parquet(directory / f"{role}.parquet", row_group_size=1_500)
    return directory


@pytest.fixture(scope="module")
def document(root: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a job config; its keyword arguments replace top-level keys."""

    def make(output: Path, trees: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        return {
            "model": "trees",
            "task": "logistic_regression",
            "data": {
                "train": str(root / "train.parquet"),
                "validation": str(root / "validation.parquet"),
                "shards": 3,
            },
            "features": {},
            "coordinates": {
                "global": {**TREES, **(trees or {})},
                "per_user": {"random_effect": "user_id", "partitions": 3, "l2": 1},
            },
            "metrics": ["auc", "logloss"],
            "output": str(output),
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def watched(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Job, list[str]]:
    """A job, and its notices."""
    return told(client, document(tmp_path_factory.mktemp("trained") / "out"))


@pytest.fixture(scope="module")
def trained(watched: tuple[Job, list[str]]) -> Job:
    return watched[0]


def metrics_of(job: Job, coordinate: str) -> dict[str, float | None]:
    [report] = [report for report in job.coordinates if report.name == coordinate]
    return {metric.name: metric.value for metric in report.validation}


def test_trees_and_users_measure_as_scikit_learn_says(trained: Job, rows: dict[str, pl.DataFrame]) -> None:
    model = open_model(directory_of(trained))
    trees = load_plugin("lightgbm").load(model.plugin("global"))
    held_out = rows["validation"]
    scores = trees.score(
        pa.record_batch(
            [
                held_out["x"].to_arrow(),
                held_out["y"].to_arrow(),
                pa.array(held_out["color"].to_list(), pa.string()),
            ],
            names=["x", "y", "color"],
        )
    )
    measured = metrics_of(trained, "global")
    assert measured["auc"] == pytest.approx(roc_auc_score(held_out["label"], scores), abs=1e-9)
    assert measured["logloss"] == pytest.approx(log_loss(held_out["label"], expit(scores)), abs=1e-9)
    assert measured["auc"] is not None
    assert measured["auc"] > 0.8
    assert metrics_of(trained, "per_user")["auc"] > measured["auc"] + 0.01


def test_the_manifest_names_the_plug_in_its_columns_and_its_files(watched: tuple[Job, list[str]]) -> None:
    job, notices = watched
    model = open_model(directory_of(job))
    coordinate = model.manifest.coordinate("global")
    assert (coordinate.kind, coordinate.model, coordinate.rows) == ("fixed_effect", "lightgbm", ROWS)
    plugin = coordinate.plugin
    assert plugin is not None
    assert plugin.distribution == "gdmix"
    assert [(column.name, column.kind) for column in plugin.columns] == [
        ("x", "number"),
        ("y", "number"),
        ("color", "string"),
    ]
    assert sorted(plugin.files) == ["features.json", "trees.txt"]
    check_plugin_files(model.plugin("global"), coordinate)
    assert any("column coordinates.global.y: " in n and "the plug-in's to interpret" in n for n in notices)
    trees = load_plugin("lightgbm").load(model.plugin("global")).describe()["trees"]
    assert any(f"global: trees {trees:g}, features 3" in notice for notice in notices)


def test_the_published_version_holds_the_files(trained: Job) -> None:
    assert trained.published is not None
    model = open_model(directory_of(trained))
    with open_store(trained.published.store) as store:
        for name in ("features.json", "trees.txt"):
            stored = store.read_blob("trees", trained.published.version, f"global/plugin/{name}")
            assert stored == (model.plugin("global") / name).read_bytes()


def test_any_number_of_workers_gives_the_same_bytes(
    trained: Job, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with LocalCluster(workers=1, state_dir=tmp_path / "state") as cluster:
        cluster.wait_until_ready()
        with cluster.client() as client:
            alone = succeeded(client, document(tmp_path / "out"))
    assert digests(alone) == digests(trained)
    assert open_model(directory_of(alone)).manifest.content_digest == trained.published.content_digest


def test_inference_scores_as_training_did(
    client: Client, trained: Job, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wanted = document(tmp_path / "out", action="inference", initial_model=str(directory_of(trained)))
    job = succeeded(client, wanted)
    for coordinate in ("global", "per_user"):
        assert metrics_of(job, coordinate) == pytest.approx(metrics_of(trained, coordinate))


def test_strength_is_learned_around_trees_that_are_fitted_once(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wanted = document(tmp_path / "out")
    wanted["coordinates"]["per_user"]["l2"] = "auto"
    events = list(client.watch(client.submit(wanted).job_id))
    job = client.get(events[-1].job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    fits = {e.detail.stage for e in events if isinstance(e.detail, Progress) and "fitting" in e.detail.stage}
    assert fits == {"fitting lightgbm"}
    notices = [event.detail.text for event in events if isinstance(event.detail, Notice)]
    assert sum("global: trees" in notice for notice in notices) == 1
    [learned] = next(report for report in job.coordinates if report.name == "per_user").shrinkage
    assert 0.2 < learned.variance < 2.0


def test_the_joint_optimum_is_sought_around_trees_that_are_fitted_once(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wanted = document(tmp_path / "out", passes="until_converged")
    job, notices = told(client, wanted)
    assert any("global: fitted in pass 1" in notice for notice in notices)
    assert sum("global: trees" in notice for notice in notices) == 1
    assert any(notice.startswith("the joint optimum is reached") for notice in notices)
    assert job.published is not None


def test_mistakes_in_options_are_told_before_the_job_runs(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wanted = document(tmp_path / "out", {"rounds": 0, "leaves": 3})
    with pytest.raises(ConfigError) as error:
        client.submit(wanted)
    assert "coordinates.global.rounds: found 0; allowed: greater than or equal to 1" in str(error.value)
    assert "coordinates.global.leaves: unknown key; did you mean num_leaves?" in str(error.value)


def test_a_column_of_another_type_ends_the_job_with_its_name(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    job = client.wait(
        client.submit(document(tmp_path / "out", {"numeric": ["x", "color"], "categorical": []})).job_id
    )
    assert job.state is JobState.FAILED
    assert "column 'color' (coordinates.global, kind number): found type large_string" in job.error


def test_a_long_fit_is_watched_and_cancelled(
    client: Client, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wanted = document(tmp_path / "out", {"rounds": 100_000, "learning_rate": 1e-6, "early_stopping": None})
    job_id = client.submit(wanted).job_id
    seen = []
    for event in client.watch(job_id):
        fit = event.detail.fit if isinstance(event.detail, Progress) else None
        if fit is not None and not seen:
            seen.append(fit)
            client.cancel(job_id)
    assert client.get(job_id).state is JobState.CANCELLED
    [fit] = seen
    assert 0 < fit.step < fit.steps == 100_000
    assert fit.rows == ROWS * fit.step
