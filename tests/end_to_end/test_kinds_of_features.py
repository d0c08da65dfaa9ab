"""Every kind of feature through a real cluster, against scikit-learn on a matrix that plain Python makes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gdmix_client import CoordinateReport, Job, JobEvent, JobState, LocalCluster, Notice
from gdmix_core.model import open_model
from gdmix_core.store import open_store

USERS, CONTENT = 30, 4
WORDS = ("alpha", "Beta", "gamma", "été", "rare")
TAGS = ("x", "y", "z")
L2 = 0.5


def make_rows(rows: int, first_uid: int, seed: int) -> list[dict[str, Any]]:
    """Rows whose label depends on every column; users below CONTENT like everything."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(rows):
        words = list(rng.choice(WORDS[:4], rng.integers(0, 5)))
        tags = list(rng.choice(TAGS, rng.integers(0, 3)))
        dense = rng.normal(size=3)
        sparse = {int(i): float(rng.normal()) for i in rng.choice(5, 2, replace=False)}
        year, user = 1990 + 10 * rng.random(), int(rng.integers(0, USERS))
        z = words.count("alpha") - words.count("été") + ("x" in tags) + dense[0] - sparse.get(3, 0.0)
        label = user < CONTENT or rng.random() < 1 / (1 + np.exp(-z - (year - 1995) / 3))
        made.append(
            {
                "uid": first_uid + number,
                "label": int(label),
                "user_id": user,
                "words": ", ".join(words) if words else None,
                "tags": " | ".join(tags),
                "dense": [None if number % 50 == 7 else float(dense[0]), *map(float, dense[1:])],
                "sparse": {"indices": list(sparse), "values": list(sparse.values())},
                "year": float(year),
                "flag": bool(rng.random() < 0.5),
            }
        )
    made[0]["words"] = WORDS[4]  # in one training row only: below min_df, and unknown in validation
    return made


TYPES = pa.schema(
    [
        ("uid", pa.int64()),
        ("label", pa.int64()),
        ("user_id", pa.int64()),
        ("words", pa.string()),
        ("tags", pa.string()),
        ("dense", pa.list_(pa.float64())),
        ("sparse", pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))])),
        ("year", pa.float64()),
        ("flag", pa.bool_()),
    ]
)
FEATURES = {
    "text": [{"column": "words", "kind": "text", "weighting": "tfidf", "min_df": 2}],
    "rest": [
        {"column": "tags", "kind": "list", "separator": "|"},
        {"column": "dense", "kind": "vector", "dimension": 3},
        {"column": "sparse", "kind": "vector", "dimension": 5},
        {"column": "year", "kind": "numeric", "scale": "standard"},
        "flag",
    ],
}


def plain_features(
    rows: list[dict[str, Any]], frequency: Counter[str], train_rows: int
) -> list[dict[Any, float]]:
    """Return each row's features by (column, term), as docs/specs/feature-index.md says."""
    found = []
    for row in rows:
        cell: dict[Any, float] = {("year", ""): row["year"], ("flag", str(row["flag"]).lower()): 1.0}
        for word, count in Counter(tokens(row)).items():
            if frequency[word] >= 2:
                cell["words", word] = count * (math.log((1 + train_rows) / (1 + frequency[word])) + 1)
        for tag, count in Counter(tag.strip() for tag in row["tags"].split("|") if tag.strip()).items():
            cell["tags", tag] = float(count)
        cell.update({("dense", str(i)): value or 0.0 for i, value in enumerate(row["dense"])})
        pairs = zip(row["sparse"]["indices"], row["sparse"]["values"], strict=True)
        cell.update({("sparse", str(i)): value for i, value in pairs})
        found.append(cell)
    return found


def tokens(row: dict[str, Any]) -> list[str]:
    return row["words"].lower().replace(",", " ").split() if row["words"] else []


@dataclass(frozen=True)
class Trained:
    """The job, its story, and the rows that it was given."""

    job: Job
    events: list[JobEvent]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]

    @property
    def directory(self) -> Path:
        assert self.job.published is not None, self.job.error
        return Path(self.job.published.directory)

    def report(self, name: str) -> CoordinateReport:
        return next(report for report in self.job.coordinates if report.name == name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("kinds")
    train, validation = make_rows(1200, 0, 1), make_rows(400, 10_000, 2)
    for name, rows in (("train", train), ("validation", validation)):
        pq.write_table(pa.Table.from_pylist(rows, TYPES), root / f"{name}.parquet", row_group_size=500)
    config = {
        "model": "kinds",
        "task": "logistic_regression",
        "data": {
            "train": str(root / "train.parquet"),
            "validation": str(root / "validation.parquet"),
            "shards": 3,
        },
        "features": FEATURES,
        "coordinates": {
            "global": {
                "fixed_effect": "logistic_regression",
                "features": ["text", "rest"],
                "l2": L2,
            },
            "per_user": {
                "random_effect": "user_id",
                "features": ["text"],
                "l2": 1,
                "regularize_bias": False,
                "partitions": 3,
            },
        },
        "metrics": ["auc", "auc:user_id"],
        "output": str(root / "out"),
    }
    with LocalCluster(workers=1, state_dir=root / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        events = list(client.watch(client.submit(config).job_id))
        job = client.get(events[-1].job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    return Trained(job, events, train, validation)


def test_the_global_model_agrees_with_scikit_learn(trained: Trained) -> None:
    frequency = Counter(word for row in trained.train for word in set(tokens(row)))
    assert frequency["rare"] == 1
    rows = {
        role: plain_features(rows, frequency, len(trained.train))
        for role, rows in (("train", trained.train), ("validation", trained.validation))
    }
    table = pq.read_table(trained.directory / "global" / "coefficients.parquet")
    names = list(zip(table["name"].to_pylist(), table["term"].to_pylist(), strict=True))
    assert names[0] == ("(INTERCEPT)", "")
    assert set(names[1:]) == {name for cell in rows["train"] for name in cell}

    X, V = (np.array([[cell.get(name, 0.0) for name in names[1:]] for cell in rows[role]]) for role in rows)
    y = np.array([row["label"] for row in trained.train])
    # `scale: standard` penalises the coefficient of the column divided by its standard deviation.
    scale = np.ones(X.shape[1])
    scale[names.index(("year", "")) - 1] = X[:, names.index(("year", "")) - 1].std()
    model = LogisticRegression(solver="newton-cholesky", C=1 / L2, tol=1e-12, max_iter=500)
    model.fit(X / scale, y)
    expected = np.concatenate([model.intercept_, model.coef_[0] / scale])
    found = table["coefficient"].to_numpy()
    assert (np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max() < 1e-6
    auc = roc_auc_score([row["label"] for row in trained.validation], V @ found[1:])
    assert trained.report("global").validation[0].value == pytest.approx(auc, abs=1e-9)


def test_free_intercepts_of_labels_all_alike_are_flagged_and_never_nan(trained: Trained) -> None:
    by_user: dict[int, set[int]] = {}
    for row in trained.train:
        by_user.setdefault(row["user_id"], set()).add(row["label"])
    alike = {user for user, labels in by_user.items() if len(labels) == 1}
    assert alike >= set(range(CONTENT))

    report = trained.report("per_user")
    assert report.statuses == {"converged": USERS - len(alike), "unbounded": len(alike)}
    assert report.unconverged == len(alike)
    warnings = [e.detail.text for e in trained.events if isinstance(e.detail, Notice) and e.detail.warning]
    assert len(warnings) == 1
    assert f"per_user: {len(alike)} entities did not converge, among them" in warnings[0]
    assert f"{len(alike)} unbounded: The optimum lies at infinity" in warnings[0]
    assert all(metric.value is not None for metric in report.validation)

    model = open_model(trained.directory)
    assert model.manifest.coordinate("per_user").unconverged == len(alike)
    flagged = set()
    for part in model.parts("per_user"):
        for row in pq.read_table(part).to_pylist():
            assert np.isfinite(row["coefficients"]).all()
            assert np.abs(row["coefficients"]).max(initial=0.0) < 100.0
            if row["status"]:
                flagged.add(int(row["entity_id"]))
    assert flagged == alike
    published = trained.job.published
    assert published is not None
    with open_store(published.store) as store:
        assert store.verify("kinds", published.version).coordinates["per_user"].entities == USERS


def test_users_without_an_auc_are_counted(trained: Trained) -> None:
    by_user: dict[int, set[int]] = {}
    for row in trained.validation:
        by_user.setdefault(row["user_id"], set()).add(row["label"])
    undefined = sum(len(labels) == 1 for labels in by_user.values())
    assert undefined >= CONTENT
    for report in trained.job.coordinates:
        per_user = report.validation[1]
        assert (per_user.entities, per_user.entities_undefined) == (len(by_user) - undefined, undefined)
