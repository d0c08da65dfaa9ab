"""Jobs that go on from models in the layout of LinkedIn GDMix, on real processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest

from gdmix_client import Client, Job, JobState

from .jobs import told

USERS, GONE = 30, 8
NAMES = {
    "all": [("year", ""), ("genre", "drama"), ("genre", "comédie"), ("price", "a,b")],
    "own": [("genre", "drama"), ("genre", "comédie")],
}
INTERCEPT = ("(INTERCEPT)", "")

Make = Callable[..., dict[str, Any]]
Model = dict[tuple[str, str], float]


def make_rows(rows: int, first_uid: int, seed: int, first_user: int = 0) -> pl.DataFrame:
    """Rows with two vectors, of users from `first_user` on."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(5)
    taste, level = truth.normal(0, 1, (USERS, 2)), truth.normal(0, 1, USERS)
    user = rng.integers(first_user, USERS, rows)
    vectors = {bag: rng.normal(size=(rows, len(names))) for bag, names in NAMES.items()}
    z = vectors["all"] @ [0.5, -0.8, 0.3, 0.6] + level[user] + np.sum(vectors["own"] * taste[user], axis=1)
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "response": (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int64),
            "user": [f"user {number} é" for number in user],
            **{bag: vector.tolist() for bag, vector in vectors.items()},
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of one day, rows of a later one without the first users, and the names of the features."""
    directory = tmp_path_factory.mktemp("data")
    for number, (day, first_user) in enumerate((("first", 0), ("later", GONE))):
        (directory / day).mkdir()
        make_rows(2000, number * 10**6, number, first_user).write_parquet(directory / day / "train.parquet")
        validation = make_rows(700, number * 10**6 + 10**5, number + 10, first_user)
        validation.write_parquet(directory / day / "validation.parquet")
    for bag, names in NAMES.items():
        text = "".join(f'{name},"{term}"\n' for name, term in names)
        (directory / f"{bag}.txt").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def config(root: Path) -> Make:
    def make(output: Path, day: str = "first", **changes: Any) -> dict[str, Any]:
        return {
            "model": "movies",
            "task": "logistic_regression",
            "data": {
                "train": str(root / day / "train.parquet"),
                "validation": str(root / day / "validation.parquet"),
                "columns": {"label": "response"},
                "shards": 2,
            },
            "features": {
                # The kind is for the data to tell, as in what upstream's configs for Avro files become.
                "all": [{"column": "all", "names": str(root / "all.txt")}],
                "own": [{"column": "own", "kind": "vector", "names": str(root / "own.txt")}],
            },
            "coordinates": {
                "global": {"fixed_effect": "logistic_regression", "features": ["all"]},
                "per-user": {"random_effect": "user", "features": ["own"], "l2": 0.7, "partitions": 3},
            },
            "metrics": ["auc", "logloss", "auc:user"],
            "output": str(output),
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def old(client: Client, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job whose results others begin with."""
    return told(client, config(tmp_path_factory.mktemp("old") / "out", results="gdmix"))[0]


def failed(client: Client, document: dict[str, Any]) -> str:
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.FAILED
    return job.error


def records(directory: Path) -> list[dict[str, Any]]:
    found: list[Any] = []
    for path in sorted(directory.glob("*.avro")):
        with path.open("rb") as file:
            found += list(fastavro.reader(file))
    return found


def models(job: Job, coordinate: str) -> dict[str, Model]:
    """Every model of a coordinate by its id."""
    return {
        record["modelId"]: {(item["name"], item["term"]): item["value"] for item in record["means"]}
        for record in records(Path(job.output, coordinate, "models"))
    }


def coefficients(job: Job) -> dict[str, list[Any]]:
    """The numbers of the published model; how a solve went is known of a model version alone."""
    assert job.published is not None
    root = Path(job.published.directory)
    found: dict[str, list[Any]] = {"global": pl.read_parquet(root / "global" / "coefficients.parquet").rows()}
    for path in sorted((root / "per-user").glob("part-*.parquet")):
        found[path.name] = pl.read_parquet(path).select("entity_id", "indices", "coefficients").rows()
    return found


def scores(job: Job, coordinate: str, role: str) -> pl.DataFrame:
    return pl.DataFrame(records(Path(job.output, coordinate, f"{role}_scores"))).sort("uid")


def values(job: Job, coordinate: str) -> dict[str, float | None]:
    [report] = [report for report in job.kept_coordinates if report.name == coordinate]
    return {metric.name: metric.value for metric in report.validation}


def with_models(root: Path, coordinate: str, changed: list[dict[str, Any]], schema_of: Path) -> None:
    """Write the models of a coordinate by fastavro."""
    with schema_of.open("rb") as file:
        schema: Any = fastavro.reader(file).writer_schema
    path = root / coordinate / "models" / "part-00000.avro"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        fastavro.writer(file, schema, changed)


# ---- warm starts -------------------------------------------------------------------------------------------


def test_training_goes_on_from_the_models_of_a_tree(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    cold, _ = told(client, config(tmp_path / "cold", "later", results="gdmix"))
    document = config(tmp_path / "warm", "later", results="gdmix", initial_model=old.output)
    warm, notices = told(client, document)
    assert f"per-user: {GONE} entities are taken over from the initial model" in notices
    before, after, fresh = (models(job, "per-user") for job in (old, warm, cold))
    gone = before.keys() - fresh.keys()
    assert len(gone) == GONE
    assert after.keys() == before.keys()
    assert {name: after[name] for name in gone} == {name: before[name] for name in gone}
    # The optimum of what the data show is the same, wherever solving begins.
    for name, theta in fresh.items():
        assert after[name] == pytest.approx(theta, abs=2e-5)
        assert after[name] != before[name]
    [warm_global], [cold_global] = models(warm, "global").values(), models(cold, "global").values()
    assert warm_global == pytest.approx(cold_global, abs=1e-6)
    assert warm.published is not None
    assert len(list(Path(warm.published.directory, "per-user").glob("part-*.parquet"))) == 3


def test_it_is_the_same_as_going_on_from_the_model_version(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    assert old.published is not None
    beginnings = {"tree": old.output, "version": old.published.directory}
    tree, version = (
        told(client, config(tmp_path / name, "later", initial_model=initial))[0]
        for name, initial in beginnings.items()
    )
    assert coefficients(tree) == coefficients(version)


def test_what_is_left_out_is_said(client: Client, config: Make, old: Job, tmp_path: Path) -> None:
    """Features that the lists of today do not name, and coordinates that have no models."""
    path = Path(old.output, "per-user", "models", "part-00000.avro")
    changed = records(path.parent)
    for record in changed:
        record["means"].append({"name": "genre", "term": "western", "value": 1.0})
    with_models(tmp_path / "old", "per-user", changed, path)
    document = config(tmp_path / "out", "later", initial_model=str(tmp_path / "old"), results="gdmix")
    del document["coordinates"]["per-user"]["partitions"]
    job, notices = told(client, document)
    assert (
        "per-user: features of the models in no list of names: 1 (genre,western); "
        f"{len(changed)} coefficients are left out"
    ) in notices
    assert f"global: {tmp_path}/old holds no models of it (global/models/*.avro)" in notices
    assert f"per-user: {GONE} entities are taken over from the initial model" in notices
    assert models(job, "per-user").keys() == models(old, "per-user").keys()
    # Without a number in the config, that of the models' entities says how many parts there are.
    assert len(list(Path(job.output, "per-user", "models").iterdir())) == 1


# ---- scoring jobs ------------------------------------------------------------------------------------------


def test_a_scoring_job_reproduces_the_scores_and_metrics_of_the_training(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    document = config(tmp_path / "out", action="inference", initial_model=old.output)
    job, _ = told(client, document)
    assert job.published is None
    for coordinate in ("global", "per-user"):
        for role in ("train", "validation"):
            found, expected = (scores(one, coordinate, role) for one in (job, old))
            assert found["uid"].to_list() == expected["uid"].to_list()
            for name in ("predictionScore", "predictionScorePerCoordinate"):
                assert np.abs(found[name].to_numpy() - expected[name].to_numpy()).max() < 1e-12
        assert values(job, coordinate) == pytest.approx(values(old, coordinate), abs=1e-12)
        summary = json.loads(Path(job.output, coordinate, "metric", "evalSummary.json").read_text())
        assert summary == values(job, coordinate)
    assert models(old, "global")  # nothing was cleared there


def test_scoring_needs_models_of_every_coordinate(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    path = Path(old.output, "per-user", "models", "part-00000.avro")
    with_models(tmp_path / "old", "per-user", records(path.parent), path)
    error = failed(client, config(tmp_path / "out", action="inference", initial_model=str(tmp_path / "old")))
    assert "coordinates.global: the initial model has none of it; it has per-user" in error


# ---- what is refused ---------------------------------------------------------------------------------------


def test_a_scoring_job_does_not_clear_the_models_that_it_scores_with(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    shutil.copytree(old.output, tmp_path / "same")
    document = config(tmp_path / "same", action="inference", initial_model=str(tmp_path / "same"))
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    assert len(models(job, "per-user")) == USERS


def test_models_of_another_task_are_refused(client: Client, config: Make, old: Job, tmp_path: Path) -> None:
    path = Path(old.output, "global", "models", "global_model.avro")
    changed = records(path.parent)
    changed[0]["modelClass"] = "com.linkedin.photon.ml.supervised.regression.LinearRegressionModel"
    with_models(tmp_path / "old", "global", changed, path)
    error = failed(client, config(tmp_path / "out", initial_model=str(tmp_path / "old")))
    assert "initial_model: is a model of task linear_regression; the job's is logistic_regression" in error


def test_a_directory_without_models_of_the_jobs_coordinates(
    client: Client, config: Make, old: Job, tmp_path: Path
) -> None:
    document = config(tmp_path / "out", initial_model=old.output)
    document["coordinates"] = {"users": document["coordinates"]["per-user"]}
    error = failed(client, document)
    assert f"{old.output}: holds no model version" in error
    assert "nor are there model files of LinkedIn GDMix in COORDINATE/models" in error
    assert "(users)" in error
