"""From a training job to a scorer: every validation row is scored online as it was scored in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from gdmix_client import ColumnarRequest, FeatureRows, Job, JobState, LocalCluster, LocalScorer, Scorer
from gdmix_core.data.encoding import RowEncoder
from gdmix_core.data.feature_index import FeatureIndex

Make = Callable[..., dict[str, Any]]
BATCH = 500


@pytest.fixture(params=["lmdb", "redis"])
def trained(
    config: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Job, pl.DataFrame, Scorer]]:
    """A job that ended well, its validation rows, and a scorer on what it published."""
    url = f"lmdb:{tmp_path / 'store'}"
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
    settings = config(store=url, passes=2)
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.wait(client.submit(settings).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    rows = pl.read_parquet(settings["data"]["validation"])
    with LocalScorer(url) as local, local.client() as scorer:
        local.wait_until_ready()
        yield job, rows, scorer


def batches(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return (rows.slice(start, BATCH) for start in range(0, len(rows), BATCH))


def readable(scorer: Scorer, rows: pl.DataFrame) -> np.ndarray:
    columns = ["user_id", "item_id", "age", "genre", "year"]
    return np.concatenate(
        [scorer.score({}, part.select(columns).to_dict(as_series=False)).scores for part in batches(rows)]
    )


def columnar(scorer: Scorer, rows: pl.DataFrame, index: FeatureIndex) -> np.ndarray:
    encoder, found = RowEncoder(index), []
    for part in batches(rows):
        arrays = {name: part[name].to_arrow() for name in ("age", "genre", "year")}
        bags = encoder.join([encoder.encode(arrays, len(part))])
        request = ColumnarRequest(
            candidates=len(part),
            schema_fingerprint=index.schema_fingerprint,
            features=[
                FeatureRows(
                    bag=bag, indices=m.indices, values=m.values, row_offsets=m.indptr.astype(np.int32)
                )
                for bag, m in bags.items()
            ],
            entities={name: part[name].cast(pl.String).to_list() for name in ("user_id", "item_id")},
        )
        found.append(scorer.score_columnar(request).scores)
    return np.concatenate(found)


def offline(directory: Path, rows: pl.DataFrame) -> np.ndarray:
    """The scores of the model directory's files, written out: no code of the scorer's is used."""
    fixed = {(t, n): c for t, n, c in pl.read_parquet(directory / "global" / "coefficients.parquet").select(
        "term", "name", "coefficient").iter_rows()}  # fmt: skip
    genres = sorted({term for term, name in fixed if name == "genre"})
    item = [*((g, "genre") for g in genres), ("", "year")]
    user = [("", "age")]

    def value(row: dict[str, Any], feature: tuple[str, str]) -> float:
        term, name = feature
        return float(row["genre"] == term) if name == "genre" else float(row[name])

    def random(coordinate: str) -> dict[str, dict[int, float]]:
        parts = [pq.read_table(path) for path in sorted((directory / coordinate).glob("part-*.parquet"))]
        return {
            one["entity_id"].decode(): dict(zip(one["indices"], one["coefficients"], strict=True))
            for part in parts
            for one in part.to_pylist()
        }

    per_user, per_item = random("per_user"), random("per_item")
    scores = []
    for row in rows.iter_rows(named=True):
        z = fixed["", "(INTERCEPT)"] + sum(fixed[f] * value(row, f) for f in [*user, *item])
        for own, features in (
            (per_user.get(str(row["user_id"]), {}), item),
            (per_item.get(row["item_id"], {}), user),
        ):
            z += own.get(0, 0.0) + sum(own.get(i + 1, 0.0) * value(row, f) for i, f in enumerate(features))
        scores.append(z)
    return np.array(scores)


def test_offline_and_online_agree(trained: tuple[Job, pl.DataFrame, Scorer]) -> None:
    job, rows, scorer = trained
    assert job.published is not None
    directory = Path(job.published.directory)
    expected = offline(directory, rows)
    found = readable(scorer, rows)
    packed = columnar(scorer, rows, FeatureIndex.load(directory / "feature_index.parquet"))
    assert np.abs(found - expected).max() < 1e-10
    assert np.abs(packed - expected).max() < 1e-10
    # The job's own metrics, made of the scores that its workers computed, are those of the scorer's answers.
    told = {metric.name: metric.value for metric in job.kept_coordinates[-1].validation}
    labels = rows["response"].to_numpy()
    assert math.isclose(told["auc"], roc_auc_score(labels, found), rel_tol=1e-12)
    assert math.isclose(told["logloss"], log_loss(labels, 1 / (1 + np.exp(-found))), rel_tol=1e-12)
