"""Somebody else's model in the fixed effect's place: from files and uploads, through training, to a scorer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from gdmix_client import (
    Client,
    ColumnarRequest,
    FeatureRows,
    Job,
    JobState,
    LocalScorer,
    Notice,
    Scorer,
    UploadState,
)
from gdmix_core.data.encoding import RowEncoder
from gdmix_core.data.feature_index import FeatureIndex
from gdmix_core.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "examples" / "external-scores"
USERS, L2 = 40, 0.7
COLORS = ("blue", "green", "red")


def make_rows(rows: int, first_uid: int, seed: int) -> pl.DataFrame:
    """Rows that an outside model knows something about, and whose users have tastes of their own."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(7)
    taste, level = truth.normal(0, 1, (USERS, 3)), truth.normal(0, 1, USERS)
    user, color = rng.integers(0, USERS, rows), rng.integers(0, 3, rows)
    x, known = rng.normal(size=rows), rng.normal(size=rows)
    z = known + level[user] + taste[user, color] + 0.5 * x
    return pl.DataFrame(
        {
            "uid": np.arange(first_uid, first_uid + rows),
            "label": (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int64),
            "user_id": user,
            "x": x,
            "color": np.array(COLORS)[color],
            "logit": known + rng.normal(0, 0.1, rows),
        }
    )


@pytest.fixture(scope="module")
def rows() -> dict[str, pl.DataFrame]:
    """Training and validation rows, the outside model's logits among the columns."""
    return {"train": make_rows(3000, 0, 1), "validation": make_rows(1000, 100_000, 2)}


@pytest.fixture(scope="module")
def root(rows: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the rows without the logits, and of the logits in another order."""
    directory = tmp_path_factory.mktemp("external")
    for role, frame in rows.items():
        frame.drop("logit").write_parquet(directory / f"{role}.parquet", row_group_size=700)
        shuffled = frame.select(pl.col("uid").alias("id"), "logit").sample(fraction=1.0, shuffle=True, seed=3)
        shuffled.write_parquet(directory / f"{role}-scores.parquet", row_group_size=500)
    return directory


@pytest.fixture(scope="module")
def config(root: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a job config; its arguments are keys of `outside`, and top-level ones."""

    def make(output: Path, outside: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        scores = {role: str(root / f"{role}-scores.parquet") for role in ("train", "validation")}
        return {
            "model": "personal",
            "task": "logistic_regression",
            "data": {
                "train": str(root / "train.parquet"),
                "validation": str(root / "validation.parquet"),
                "shards": 3,
            },
            "features": {"thing": ["x", "color"]},
            "coordinates": {
                "outside": {
                    "fixed_effect": "external",
                    "scores": {**scores, "uid": "id", "score": "logit"},
                    **(outside or {}),
                },
                "per_user": {
                    "random_effect": "user_id",
                    "features": ["thing"],
                    "l2": L2,
                    "partitions": 3,
                },
            },
            "metrics": ["auc", "logloss"],
            "results": "gdmix",
            "output": str(output),
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def trained(
    client: Client, config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Job:
    """A job whose scores come from files."""
    job = client.wait(client.submit(config(tmp_path_factory.mktemp("trained") / "out")).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    return job


def result_rows(job: Job, coordinate: str, role: str) -> pl.DataFrame:
    """The scores that `results: gdmix` wrote, by uid."""
    found: list[Any] = []
    for path in sorted(Path(job.output, coordinate, f"{role}_scores").glob("*.avro")):
        with path.open("rb") as file:
            found += list(fastavro.reader(file))
    return pl.DataFrame(found).sort("uid")


def metrics_of(job: Job, coordinate: str) -> dict[str, float | None]:
    [report] = [report for report in job.coordinates if report.name == coordinate]
    return {metric.name: metric.value for metric in report.validation}


# ---- training ----------------------------------------------------------------------------------------------


def test_the_outside_model_alone_measures_as_scikit_learn_says(
    trained: Job, rows: dict[str, pl.DataFrame]
) -> None:
    labels, logits = rows["validation"]["label"].to_numpy(), rows["validation"]["logit"].to_numpy()
    found = metrics_of(trained, "outside")
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert found["logloss"] == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))), rel=1e-12)
    personal = metrics_of(trained, "per_user")
    assert found["auc"] is not None
    assert personal["auc"] is not None
    assert personal["auc"] > found["auc"] + 0.02


def design(frame: pl.DataFrame) -> np.ndarray:
    """Intercept, then the features in the index's order: colors, x."""
    colors = [(frame["color"] == color).to_numpy() for color in COLORS]
    return np.column_stack([np.ones(len(frame)), *colors, frame["x"].to_numpy()])


def solved(frame: pl.DataFrame) -> np.ndarray:
    """Newton's method on Σ log(1 + exp(−(2y − 1) z)) + L2 / 2 · |θ|², z = logit + xᵀθ."""
    X, y, offset = design(frame), frame["label"].to_numpy(), frame["logit"].to_numpy()
    theta = np.zeros(X.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(offset + X @ theta)))
        gradient = X.T @ (p - y) + L2 * theta
        hessian = (X * (p * (1 - p))[:, None]).T @ X + L2 * np.eye(len(theta))
        theta -= np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-10
    return theta


def coefficients_of(job: Job) -> dict[int, np.ndarray]:
    assert job.published is not None
    found = {}
    for part in sorted(Path(job.published.directory, "per_user").glob("part-*.parquet")):
        for row in pl.read_parquet(part).iter_rows(named=True):
            theta = np.zeros(5)
            theta[row["indices"]] = row["coefficients"]
            found[int(row["entity_id"])] = theta
    return found


def test_what_follows_is_fitted_with_the_scores_as_its_offset(
    trained: Job, rows: dict[str, pl.DataFrame]
) -> None:
    found = coefficients_of(trained)
    assert sorted(found) == list(range(USERS))
    for user, theta in found.items():
        own = rows["train"].filter(pl.col("user_id") == user)
        # The certificate allows a gradient of 1e-8 · Σw, and no curvature is below L2.
        assert np.abs(theta - solved(own)).max() < 1e-8 * len(own) * 3 / L2


def test_files_of_results_hold_the_outside_scores_and_the_sums(
    trained: Job, rows: dict[str, pl.DataFrame]
) -> None:
    theta = coefficients_of(trained)
    for role, frame in rows.items():
        outside, personal = (result_rows(trained, name, role) for name in ("outside", "per_user"))
        own = np.array([x @ theta[u] for x, u in zip(design(frame), frame["user_id"], strict=True)])
        assert outside["uid"].to_list() == personal["uid"].to_list() == frame["uid"].to_list()
        assert outside["predictionScore"].to_list() == frame["logit"].to_list()
        assert outside["predictionScorePerCoordinate"].to_list() == frame["logit"].to_list()
        assert np.abs(personal["predictionScorePerCoordinate"].to_numpy() - own).max() < 1e-9
        assert np.abs(personal["predictionScore"].to_numpy() - own - frame["logit"].to_numpy()).max() < 1e-9
        assert personal["label"].to_list() == frame["label"].to_list()
    assert not (Path(trained.output) / "outside" / "models" / "global_model.avro").exists()


# ---- scores that do not cover the rows ---------------------------------------------------------------------


def scores_file(
    path: Path, frame: pl.DataFrame, *, without: int = 0, extra: int = 0, **columns: pl.Expr
) -> str:
    """Write an outside model's file without the first rows, and with rows that the data do not have."""
    table = frame.select(pl.col("uid").alias("id"), "logit").slice(without)
    if extra:
        more = pl.DataFrame({"id": np.arange(-extra, 0), "logit": np.ones(extra)})
        table = pl.concat([table, more])
    table = table.with_columns(**columns)
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)
    return str(path)


def failed(client: Client, document: dict[str, Any]) -> Job:
    """Run a job that must fail, and check that nothing of it was published."""
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.FAILED
    assert job.published is None
    assert not Path(job.output, "models").exists()
    assert not Path(job.output, "store").exists()
    assert not Path(job.output, "outside").exists()
    return job


def test_rows_without_a_score_fail_the_job_with_counts_and_examples(
    client: Client, config: Any, rows: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    document = config(tmp_path / "out")
    document["coordinates"]["outside"]["scores"] |= {
        "train": scores_file(tmp_path / "train.csv", rows["train"], without=3, extra=2),
        "validation": scores_file(tmp_path / "validation.parquet", rows["validation"], without=700),
    }
    job = failed(client, document)
    assert job.error_code == "data"
    assert "outside: 3 of 3,000 train rows have no score (uid 0, 1, 2); set missing: zero" in job.error
    assert "outside: 700 of 1,000 validation rows have no score (uid 100000, 100001, " in job.error
    assert job.coordinates == ()


def test_rows_without_a_score_may_count_zero(
    client: Client, config: Any, rows: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    document = config(tmp_path / "out", {"missing": "zero"})
    document["coordinates"]["outside"]["scores"] |= {
        "train": scores_file(tmp_path / "train.csv", rows["train"], extra=2),
        "validation": scores_file(tmp_path / "validation.parquet", rows["validation"], without=700),
    }
    events = list(client.watch(client.submit(document).job_id))
    job = client.get(events[-1].job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    notices = [event.detail.text for event in events if isinstance(event.detail, Notice)]
    assert "outside: 2 train scores belong to no row (uid -2, -1)" in notices
    assert any("outside: 700 of 1,000 validation rows have no score; they count 0" in one for one in notices)
    logits = np.where(np.arange(1000) < 700, 0.0, rows["validation"]["logit"].to_numpy())
    expected = roc_auc_score(rows["validation"]["label"].to_numpy(), logits)
    assert metrics_of(job, "outside")["auc"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"id": pl.lit(5)}, r"every row needs a uid of its own.*: uid 5 \(.*train.parquet row 1; .*row 2\)"),
        ({"logit": pl.lit(float("nan"))}, r"train.parquet: .*'logit'.*row 1"),
        ({"logit": pl.lit(None, pl.Float64)}, r"train.parquet: .*'logit'.*row 1"),
        (
            {"logit": pl.lit("high")},
            r"train.parquet: column 'logit' \(score\): found type .*; allowed: numbers",
        ),
    ],
    ids=["repeated", "not a number", "null", "text"],
)
def test_faulty_scores_fail_the_job_and_name_the_file(
    client: Client,
    config: Any,
    rows: dict[str, pl.DataFrame],
    tmp_path: Path,
    fault: dict[str, pl.Expr],
    said: str,
) -> None:
    document = config(tmp_path / "out")
    document["coordinates"]["outside"]["scores"]["train"] = scores_file(
        tmp_path / "train.parquet", rows["train"], **fault
    )
    job = failed(client, document)
    with pytest.raises(ValueError, match=said):
        raise ValueError(job.error)


# ---- uploads -----------------------------------------------------------------------------------------------


def test_uploaded_scores_give_the_model_that_the_files_give(
    client: Client, config: Any, root: Path, trained: Job, tmp_path: Path
) -> None:
    for role in ("train", "validation"):
        done = client.upload_scores(
            root / f"{role}-scores.parquet",
            f"outside-{role}",
            uid_column="id",
            score_column="logit",
            role=role,
        )
        assert done.state is UploadState.READY
    # The columns of an upload are settled: what the config says of files means nothing here.
    document = config(tmp_path / "out")
    document["coordinates"]["outside"]["scores"] |= {
        "train": "outside-train",
        "validation": "outside-validation",
    }
    job = client.wait(client.submit(document).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.published is not None
    assert trained.published is not None
    assert job.published.content_digest == trained.published.content_digest
    assert metrics_of(job, "outside") == metrics_of(trained, "outside")
    for name in ("outside", "per_user"):
        assert result_rows(job, name, "validation").equals(result_rows(trained, name, "validation"))


# ---- scoring -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(trained: Job) -> Iterator[Scorer]:
    assert trained.published is not None
    with LocalScorer(trained.published.store) as local, local.client() as opened:
        local.wait_until_ready()
        yield opened


def columnar(frame: pl.DataFrame, index: FeatureIndex, **given: Any) -> ColumnarRequest:
    encoder = RowEncoder(index)
    bags = encoder.join([encoder.encode({n: frame[n].to_arrow() for n in ("x", "color")}, len(frame))])
    return ColumnarRequest(
        candidates=len(frame),
        schema_fingerprint=index.schema_fingerprint,
        features=[
            FeatureRows(bag=bag, indices=m.indices, values=m.values, row_offsets=m.indptr.astype(np.int32))
            for bag, m in bags.items()
        ],
        entities={"user_id": frame["user_id"].cast(pl.String).to_list()},
        **given,
    )


def test_scores_of_requests_are_those_of_the_validation_rows(
    trained: Job, scorer: Scorer, rows: dict[str, pl.DataFrame]
) -> None:
    frame, expected = rows["validation"], result_rows(trained, "per_user", "validation")
    candidates = frame.select("user_id", "x", "color").to_dict(as_series=False)
    found = scorer.score({}, candidates, fixed_effect_scores=frame["logit"].to_list(), contributions=True)
    assert np.abs(found.scores - expected["predictionScore"].to_numpy()).max() < 1e-9
    assert found.contributions["outside"].tolist() == frame["logit"].to_list()
    own = expected["predictionScorePerCoordinate"].to_numpy()
    assert np.abs(found.contributions["per_user"] - own).max() < 1e-9
    assert trained.published is not None
    index = FeatureIndex.load(Path(trained.published.directory) / "feature_index.parquet")
    packed = scorer.score_columnar(columnar(frame, index, fixed_effect_scores=frame["logit"].to_numpy()))
    assert np.abs(packed.scores - expected["predictionScore"].to_numpy()).max() < 1e-9


def test_one_score_may_stand_for_all_candidates(scorer: Scorer, rows: dict[str, pl.DataFrame]) -> None:
    row = rows["validation"].row(0, named=True)
    candidates = [{"x": row["x"], "color": color} for color in COLORS]
    base = scorer.score({"user_id": row["user_id"]}, candidates, fixed_effect_scores=0.0)
    found = scorer.score({"user_id": row["user_id"]}, candidates, fixed_effect_scores=1.25)
    assert found.scores == pytest.approx(base.scores + 1.25, abs=1e-12)


def test_a_request_without_the_score_is_refused(
    trained: Job, scorer: Scorer, rows: dict[str, pl.DataFrame]
) -> None:
    frame = rows["validation"].slice(0, 2)
    candidates = frame.select("user_id", "x", "color").to_dict(as_series=False)
    said = "fixed_effect_score: version 1 of model 'personal' was trained on the scores of an outside model"
    with pytest.raises(UsageError, match=said):
        scorer.score({}, candidates)
    assert trained.published is not None
    index = FeatureIndex.load(Path(trained.published.directory) / "feature_index.parquet")
    with pytest.raises(UsageError, match=said):
        scorer.score_columnar(columnar(frame, index))
    for wrong in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(
            UsageError, match=f"fixed_effect_scores: found {len(wrong)}; there are 2 candidates"
        ):
            scorer.score({}, candidates, fixed_effect_scores=wrong)
    with pytest.raises(UsageError, match="fixed_effect_score"):
        scorer.score({}, candidates, fixed_effect_scores=[1.0, float("nan")])


# ---- the example -------------------------------------------------------------------------------------------


def test_the_example_runs_and_personalization_helps(tmp_path: Path) -> None:
    for name in ("make_data.py", "personalize.py", "job.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    told = []
    for script in ("make_data.py", "personalize.py"):
        done = subprocess.run(
            [sys.executable, str(tmp_path / script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={key: value for key, value in os.environ.items() if not key.startswith("COV_")},
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0].startswith("11,250 training and 3,750 validation rows in ")
    lines = told[1].splitlines()
    assert [line.split()[0] for line in lines] == ["outside", "per_user", "per_movie", "person"]
    auc = [float(line.split()[2]) for line in lines[:3]]
    assert auc[0] + 0.03 < auc[1] < auc[2]
    assert "(outside " in lines[3]
    # What the outside model is said to measure is what its own scores measure.
    rows = pl.read_parquet(tmp_path / "data" / "validation.parquet")
    scores = pl.read_parquet(tmp_path / "data" / "validation-scores.parquet")
    assert rows["uid"].equals(scores["uid"])
    assert auc[0] == pytest.approx(roc_auc_score(rows["response"], scores["score"]), abs=1e-4)
