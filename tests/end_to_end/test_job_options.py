"""Options of a job on real processes: bounds on rows, variances, warm starts, scoring jobs, searches, sources."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest
import xxhash

from gdmix_client import Client, CoordinateReport, Job, JobState, LocalCluster
from gdmix_core.store import open_store

from .jobs import digests, directory_of, succeeded, told

PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))
USERS, L2 = 25, 0.8
GENRES = ("action", "comedy", "drama")
MAX_ROWS, MIN_ROWS = 30, 12

Make = Callable[..., dict[str, Any]]


def make_rows(rows: int, first_uid: int, seed: int, users: tuple[int, int] = (0, USERS)) -> pl.DataFrame:
    """Rows of users of whom some have many and some have few."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(11)
    taste, level = truth.normal(0, 1, (USERS, 3)), truth.normal(0, 1, USERS)
    share = np.arange(1, USERS + 1)[users[0] : users[1]] ** 2.0
    user = rng.choice(np.arange(*users), rows, p=share / share.sum())
    genre, x = rng.integers(0, 3, rows), rng.normal(size=rows)
    z = 0.6 * x + level[user] + taste[user, genre]
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "label": (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int64),
            "user_id": user,
            "x": x,
            "genre": np.array(GENRES)[genre],
            "other": rng.normal(size=rows),
        }
    )


@pytest.fixture(scope="module")
def rows() -> dict[str, pl.DataFrame]:
    return {"train": make_rows(2500, 0, 1), "validation": make_rows(900, 100_000, 2)}


@pytest.fixture(scope="module")
def root(rows: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("options")
    for role, frame in rows.items():
        write(directory, role, frame)
    return directory


def write(directory: Path, role: str, frame: pl.DataFrame) -> None:
    """Write rows as one file, and as two sources in other orders and pieces."""
    frame.write_parquet(directory / f"{role}.parquet", row_group_size=600)
    frame.select("uid", "label", "x").sample(fraction=1.0, shuffle=True, seed=1).write_parquet(
        directory / f"{role}-main.parquet", row_group_size=500
    )
    things = frame.select(pl.col("uid").alias("key"), "user_id", "genre", "other")
    things = things.sample(fraction=1.0, shuffle=True, seed=2)
    (directory / f"{role}-things").mkdir(exist_ok=True)
    for number, part in enumerate((things[:700], things[700:])):
        part.write_parquet(directory / f"{role}-things" / f"{number}.parquet", row_group_size=300)


@pytest.fixture(scope="module")
def config(root: Path) -> Make:
    """Return a function that makes a job config; `per_user` are keys of that coordinate."""

    def make(
        output: Path, per_user: dict[str, Any] | None = None, data: Path | None = None, **changes: Any
    ) -> dict[str, Any]:
        where = data or root
        return {
            "model": "options",
            "task": "logistic_regression",
            "data": {
                "train": str(where / "train.parquet"),
                "validation": str(where / "validation.parquet"),
                "shards": 3,
            },
            "features": {"own": ["x"], "thing": ["genre", "other"]},
            "coordinates": {
                "global": {"fixed_effect": "logistic_regression", "features": ["own", "thing"], "l2": 1.5},
                "per_user": {
                    "random_effect": "user_id",
                    "features": ["thing", "own"],
                    "l2": L2,
                    "partitions": 4,
                    **(per_user or {}),
                },
            },
            "metrics": ["auc", "logloss", "auc:user_id"],
            "output": str(output),
            **changes,
        }

    return make


def of_two_sources(document: dict[str, Any], root: Path) -> dict[str, Any]:
    """The same job with its rows in two sources."""
    data = {
        **document["data"],
        **{role: str(root / f"{role}-main.parquet") for role in ("train", "validation")},
        "sources": {
            "things": {
                "train": str(root / "train-things"),
                "validation": str(root / "validation-things"),
                "uid": "key",
            }
        },
    }
    return {**document, "data": data}


@pytest.fixture(scope="module")
def plain(client: Client, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job without any option, which others begin with."""
    return succeeded(client, config(tmp_path_factory.mktemp("plain") / "out", results="gdmix"))


def report_of(job: Job, coordinate: str) -> CoordinateReport:
    return next(report for report in job.kept_coordinates if report.name == coordinate)


def global_of(job: Job, column: str = "coefficient") -> dict[tuple[str, str], float]:
    """The fixed effect's numbers by column and term."""
    table = pl.read_parquet(directory_of(job) / "global" / "coefficients.parquet")
    return {(row["name"], row["term"]): row[column] for row in table.iter_rows(named=True)}


def users_of(job: Job, column: str = "coefficients") -> dict[int, dict[tuple[str, str], float]]:
    """Every user's numbers by column and term."""
    index = pl.read_parquet(directory_of(job) / "feature_index.parquet")
    names: list[tuple[str, str]] = [("(INTERCEPT)", "")]
    for bag in ("thing", "own"):
        names += index.filter(pl.col("bag") == bag).sort("index").select("name", "term").rows()
    return {
        int(row["entity_id"]): {names[i]: v for i, v in zip(row["indices"], row[column], strict=True)}
        for part in sorted((directory_of(job) / "per_user").glob("part-*.parquet"))
        for row in pl.read_parquet(part).iter_rows(named=True)
    }


# ---- independent solutions ---------------------------------------------------------------------------------

Features = dict[tuple[str, str], float]


def features_of(row: dict[str, Any]) -> Features:
    return {
        ("(INTERCEPT)", ""): 1.0,
        ("genre", row["genre"]): 1.0,
        ("other", ""): row["other"],
        ("x", ""): row["x"],
    }


def global_scores(job: Job, frame: pl.DataFrame) -> np.ndarray:
    theta = global_of(job)
    return np.array(
        [
            sum(theta.get(name, 0.0) * value for name, value in features_of(row).items())
            for row in frame.iter_rows(named=True)
        ]
    )


def matrix_of(frame: pl.DataFrame) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The features that occur in rows, and the rows as a dense matrix of them."""
    cells = [features_of(row) for row in frame.iter_rows(named=True)]
    names = sorted({name for cell in cells for name in cell})
    return names, np.array([[cell.get(name, 0.0) for name in names] for cell in cells])


def solved(X: np.ndarray, y: np.ndarray, offset: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method on the ridge-penalised logistic loss; the solution and the Hessian there."""
    theta = np.zeros(X.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(offset + X @ theta)))
        hessian = weight * (X * (p * (1 - p))[:, None]).T @ X + L2 * np.eye(len(theta))
        step = np.linalg.solve(hessian, weight * X.T @ (p - y) + L2 * theta)
        theta -= step
    assert np.abs(step).max() < 1e-10
    return theta, hessian


def sample_of(own: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """The rows of a user that are trained on, by plain Python, and what their weight is."""
    if len(own) <= MAX_ROWS:
        return own, 1.0
    uids = sorted(own["uid"], key=lambda uid: xxhash.xxh64_intdigest(uid.to_bytes(8, "little", signed=True)))
    return own.filter(pl.col("uid").is_in(uids[:MAX_ROWS])), len(own) / MAX_ROWS


def test_bounds_on_rows_decide_who_has_a_model_and_on_what_it_is_fitted(
    client: Client, config: Make, rows: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    document = config(tmp_path / "out", {"min_rows": MIN_ROWS, "max_rows": MAX_ROWS, "variance": "simple"})
    job, notices = told(client, document)
    sizes = dict(rows["train"]["user_id"].value_counts().iter_rows())
    few = {user for user, count in sizes.items() if count < MIN_ROWS}
    many = {user: count for user, count in sizes.items() if count > MAX_ROWS}
    assert few
    assert len(many) < len(sizes) - len(few)
    found, variances = users_of(job), users_of(job, "variances")
    assert set(found) == set(sizes) - few
    scores = dict(zip(rows["train"]["uid"], global_scores(job, rows["train"]), strict=True))
    for user in found:
        own = rows["train"].filter(pl.col("user_id") == user)
        chosen, weight = sample_of(own)
        names, X = matrix_of(chosen)
        offset = np.array([scores[uid] for uid in chosen["uid"]])
        theta, hessian = solved(X, chosen["label"].to_numpy(), offset, weight)
        # A feature of rows that are scored only has a coefficient, and nothing but its prior.
        expected = dict.fromkeys(matrix_of(own)[0], 0.0) | dict(zip(names, theta, strict=True))
        assert found[user].keys() == expected.keys()
        assert max(abs(found[user][name] - expected[name]) for name in expected) < 1e-7 * len(own)
        simple = dict.fromkeys(expected, 1 / L2) | dict(zip(names, 1 / np.diag(hessian), strict=True))
        assert variances[user] == pytest.approx(simple, rel=1e-5)
    left_out = sum(many.values()) - MAX_ROWS * len(many) + sum(sizes[user] for user in few)
    assert f"per_user: {left_out:,} rows are scored only; entities are trained on the others" in notices
    assert (
        f"per_user: {len(few):,} entities have no model, having fewer than {MIN_ROWS} rows to be trained on"
        in notices
    )
    assert report_of(job, "per_user").entities == len(found)


def test_users_with_too_few_rows_score_nothing(
    client: Client, config: Make, rows: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    document = config(tmp_path / "out", {"min_rows": MIN_ROWS, "max_rows": MAX_ROWS}, results="gdmix")
    job = succeeded(client, document)
    theta = users_of(job)
    for role, frame in rows.items():
        found = results_of(job, "per_user", role)
        expected = [
            sum(theta.get(row["user_id"], {}).get(name, 0.0) * v for name, v in features_of(row).items())
            for row in frame.iter_rows(named=True)
        ]
        assert found["uid"].to_list() == frame["uid"].to_list()
        assert np.abs(found["predictionScorePerCoordinate"].to_numpy() - expected).max() < 1e-12
        assert 0 < expected.count(0) < len(expected)


def results_of(job: Job, coordinate: str, role: str) -> pl.DataFrame:
    """The scores that `results: gdmix` wrote, by uid."""
    found: list[Any] = []
    for path in sorted(Path(job.output, coordinate, f"{role}_scores").glob("*.avro")):
        with path.open("rb") as file:
            found += list(fastavro.reader(file))
    return pl.DataFrame(found).sort("uid")


def test_simple_variances_of_a_fixed_effect_are_the_inverse_diagonal(
    client: Client, config: Make, rows: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    document = config(tmp_path / "out")
    document["coordinates"] = {"global": {**document["coordinates"]["global"], "variance": "simple"}}
    job = succeeded(client, document)
    names, X = matrix_of(rows["train"])
    z = X @ np.array([global_of(job)[name] for name in names])
    curvature = np.exp(z) / (1 + np.exp(z)) ** 2
    ridge = np.array([0.0 if name[0] == "(INTERCEPT)" else 1.5 for name in names])
    expected = 1 / (curvature @ X**2 + ridge)
    assert global_of(job, "variance") == pytest.approx(dict(zip(names, expected, strict=True)), rel=1e-9)


# ---- warm starts -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def later(rows: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of another day: without the first users, with a new genre and without one of the old ones."""
    directory = tmp_path_factory.mktemp("later")
    for role, seed, first in (("train", 5, 500_000), ("validation", 6, 600_000)):
        frame = make_rows(1500, first, seed, users=(8, USERS)).with_columns(
            pl.col("genre").replace({"comedy": "western"})
        )
        write(directory, role, frame)
    return directory


def test_a_warm_start_keeps_what_the_data_do_not_show_any_more(
    client: Client, config: Make, plain: Job, later: Path, tmp_path: Path
) -> None:
    cold = succeeded(client, config(tmp_path / "cold", data=later))
    document = config(tmp_path / "warm", data=later, initial_model=str(directory_of(plain)))
    warm, notices = told(client, document)
    before, after, fresh = users_of(plain), users_of(warm), users_of(cold)
    gone = set(before) - set(fresh)
    assert len(gone) > 4
    assert f"per_user: {len(gone)} entities are taken over from the initial model" in notices
    assert set(after) == set(before) | set(fresh)
    for user in gone:
        assert after[user] == before[user]
    comedy = ("genre", "comedy")
    # The optimum of what the data show is the same, wherever solving begins.
    for user, theta in fresh.items():
        assert comedy not in theta
        kept = {name: value for name, value in before.get(user, {}).items() if name not in theta}
        assert after[user] == pytest.approx(theta | kept, abs=2e-5)
        if comedy in before.get(user, {}):
            assert after[user][comedy] == before[user][comedy]
    theta, old, new = global_of(warm), global_of(plain), global_of(cold)
    assert theta[comedy] == old[comedy] != 0.0
    assert theta == pytest.approx(new | {comedy: old[comedy]}, abs=1e-6)
    assert ("genre", "western") in theta
    assert [m.value for m in report_of(warm, "global").validation] == pytest.approx(
        [m.value for m in report_of(cold, "global").validation], abs=1e-6
    )


def test_what_was_carried_over_is_published(
    client: Client, config: Make, plain: Job, later: Path, tmp_path: Path
) -> None:
    warm = succeeded(client, config(tmp_path / "warm", data=later, initial_model=str(directory_of(plain))))
    assert warm.published is not None
    with open_store(warm.published.store) as store:
        seal = store.verify("options", warm.published.version)
    assert seal.coordinates["per_user"].entities == len(users_of(warm)) == len(users_of(plain))


def test_a_warm_start_takes_nothing_over_that_became_too_small(
    client: Client, config: Make, plain: Job, tmp_path: Path
) -> None:
    """With the same rows every feature is seen: what is below the threshold is gone, not what it was."""
    threshold = 0.2
    document = config(
        tmp_path / "out", {"sparsity_threshold": threshold}, initial_model=str(directory_of(plain))
    )
    document["coordinates"]["global"]["sparsity_threshold"] = threshold
    job = succeeded(client, document)
    before, after = global_of(plain), global_of(job)
    small = {name for name, value in before.items() if abs(value) <= threshold and name[0] != "(INTERCEPT)"}
    assert small
    assert {name for name, value in after.items() if value == 0.0} == small
    users, sparse = users_of(plain), users_of(job)
    assert sum(map(len, sparse.values())) < sum(map(len, users.values()))
    for theta in sparse.values():
        assert ("(INTERCEPT)", "") in theta
        assert all(abs(value) > threshold for name, value in theta.items() if name[0] != "(INTERCEPT)")


def test_an_initial_model_that_does_not_fit_fails_the_job_by_name(
    client: Client, config: Make, plain: Job, tmp_path: Path
) -> None:
    document = config(tmp_path / "out", {"random_effect": "genre"}, initial_model=str(directory_of(plain)))
    document["coordinates"]["per_user"]["partitions"] = 5
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.FAILED
    assert "coordinates.per_user.random_effect: found genre, in the initial model user_id" in job.error
    assert "coordinates.per_user.partitions: found 5; the initial model has 4" in job.error
    missing = config(tmp_path / "out", initial_model=str(tmp_path / "nowhere"))
    job = client.wait(client.submit(missing).job_id)
    assert job.state is JobState.FAILED
    assert f"{tmp_path}/nowhere: holds no model version" in job.error


# ---- scoring jobs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [["genre"], ["genre", "other", "uid"]], ids=["fewer", "more"])
def test_a_bag_of_other_columns_than_the_models_is_refused(
    client: Client, config: Make, plain: Job, tmp_path: Path, columns: list[str]
) -> None:
    """Its rows would be scored without some of their features, and nobody would see it."""
    document = config(tmp_path / "out", action="inference", initial_model=str(directory_of(plain)))
    document["features"] |= {"thing": columns}
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.FAILED
    assert f"features.thing: found {', '.join(columns)}; the model has genre, other" in job.error


@pytest.mark.parametrize("sources", ["one", "two"])
def test_a_scoring_job_measures_what_training_measured(
    client: Client, config: Make, plain: Job, root: Path, tmp_path: Path, sources: str
) -> None:
    document = config(
        tmp_path / "out", action="inference", initial_model=str(directory_of(plain)), results="gdmix"
    )
    if sources == "two":
        document = of_two_sources(document, root)
    job = succeeded(client, document)
    assert job.published is None
    assert not (Path(job.output) / "models").exists()
    for name in ("global", "per_user"):
        assert report_of(job, name).validation == report_of(plain, name).validation
        for role in ("train", "validation"):
            assert results_of(job, name, role).equals(results_of(plain, name, role))
        assert not list(Path(job.output, name).glob("models/*"))
    summary = json.loads((Path(job.output) / "per_user" / "metric" / "evalSummary.json").read_text())
    assert summary == {m.name: m.value for m in report_of(plain, "per_user").validation}


def test_rows_without_labels_are_scored_and_not_measured(
    client: Client,
    config: Make,
    plain: Job,
    rows: dict[str, pl.DataFrame],
    tmp_path: Path,
) -> None:
    rows["validation"].drop("label").write_parquet(tmp_path / "new.parquet")
    document = config(tmp_path / "out", action="inference", initial_model=str(directory_of(plain)))
    document["data"] = {"validation": str(tmp_path / "new.parquet"), "columns": {"optional": ["label"]}}
    job = succeeded(client, document)
    assert [report.validation for report in job.coordinates] == [(), ()]
    found, expected = (results_of(one, "per_user", "validation") for one in (job, plain))
    assert "label" not in found.columns
    assert found["predictionScore"].to_list() == expected["predictionScore"].to_list()
    assert not (Path(job.output) / "per_user" / "metric" / "evalSummary.json").exists()


# ---- searches ----------------------------------------------------------------------------------------------


def test_a_search_publishes_its_best_trial_and_lists_them_all(
    client: Client, cluster: LocalCluster, config: Make, tmp_path: Path
) -> None:
    grid = {"coordinates.per_user.l2": [0.01, 3.0, 1000.0], "passes": [1, 2]}
    document = config(tmp_path / "out", search=grid, metrics=["logloss", "auc"])
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(document))
    options = ["--coordinator", cluster.address, "--token-file", str(cluster.token_file)]
    done = subprocess.run(
        [PROGRAM, "train", str(path), "--json", "--quiet", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    trials = result["trials"]
    assert [trial["trial"] for trial in trials] == list(range(1, 7))
    assert [trial["values"] for trial in trials] == [
        {"coordinates.per_user.l2": l2, "passes": passes} for l2 in (0.01, 3.0, 1000.0) for passes in (1, 2)
    ]
    [kept] = [trial for trial in trials if trial["kept"]]
    assert kept["validation"]["logloss"] == min(trial["validation"]["logloss"] for trial in trials)
    assert len({trial["validation"]["logloss"] for trial in trials}) > 3
    assert result["coordinates"][-1]["validation"] == kept["validation"]
    # It is the model of a job that asks for these values and searches nothing.
    single = config(tmp_path / "single", {"l2": kept["values"]["coordinates.per_user.l2"]})
    single |= {"passes": kept["values"]["passes"], "metrics": ["logloss", "auc"]}
    alone = succeeded(client, single)
    assert alone.published is not None
    searched = client.get(result["job_id"])
    assert searched.published is not None
    assert searched.published.content_digest == alone.published.content_digest
    run = json.loads((Path(result["output"]) / "run.json").read_text())
    assert (run["trial"], run["trial_values"]) == (kept["trial"], kept["values"])
    assert report_of(searched, "per_user").trial == kept["trial"]


# ---- several sources ---------------------------------------------------------------------------------------


def test_two_sources_and_any_number_of_workers_give_the_bytes_of_one(
    client: Client, config: Make, root: Path, tmp_path: Path
) -> None:
    options = {"max_rows": MAX_ROWS, "min_rows": 3, "variance": "simple"}
    one = succeeded(client, config(tmp_path / "one", options))
    two = succeeded(client, of_two_sources(config(tmp_path / "two", options), root))
    with (
        LocalCluster(workers=1, state_dir=tmp_path / "state") as alone,
        alone.client() as lonely,
    ):
        alone.wait_until_ready()
        three = succeeded(lonely, of_two_sources(config(tmp_path / "three", options), root))
    assert digests(two) == digests(three)
    # Means of columns are added up in the order of the files: the last digits of the index are theirs.
    first, second = digests(one), digests(two)
    del first["feature_index.parquet"], second["feature_index.parquet"]
    assert first == second
    assert [r.validation for r in one.coordinates] == [r.validation for r in three.coordinates]


def test_rows_that_only_one_source_has_fail_the_job_before_training(
    client: Client, config: Make, rows: dict[str, pl.DataFrame], root: Path, tmp_path: Path
) -> None:
    document = of_two_sources(config(tmp_path / "out"), root)
    things = rows["train"].select(pl.col("uid").alias("key"), "user_id", "genre", "other")
    things.filter(pl.col("key") >= 40).write_parquet(tmp_path / "fewer.parquet")
    things.slice(0, 3).with_columns(key=-pl.col("key") - 1).write_parquet(tmp_path / "more.parquet")
    document["data"]["sources"]["things"]["train"] = str(tmp_path / "*.parquet")
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.FAILED
    assert "data.sources.things: 40 train rows of data are not in it (uid 0, 1, 2, 3, 4, …)" in job.error
    assert "data.sources.things: 3 of its train rows are not in data (uid -3, -2, -1)" in job.error
    assert job.coordinates == ()
    assert not Path(job.output, "models").exists()
