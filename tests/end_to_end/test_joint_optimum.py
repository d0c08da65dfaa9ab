"""`passes: until_converged` on real processes: crossed effects reach the joint optimum, with the same bytes always."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest
from scipy import sparse
from scipy.special import expit

from gdmix_client import Job, JobState, LocalCluster, Notice

from .jobs import digests, directory_of

Make = Callable[..., dict[str, Any]]
L2 = {"global": 0.5, "per_user": 2.0, "per_item": 1.0}


def job(make: Make, output: Path, **changes: Any) -> dict[str, Any]:
    """Crossed users and items of ages and genres."""
    data = {**make()["data"], "shards": 3}
    return make(
        data=data,
        features={"user": ["age"], "item": ["genre"]},
        coordinates={
            "global": {
                "fixed_effect": "logistic_regression",
                "features": ["user", "item"],
                "regularize_bias": True,
                "l2": L2["global"],
            },
            "per_user": {
                "random_effect": "user_id",
                "features": ["item"],
                "partitions": 8,
                "l2": L2["per_user"],
            },
            "per_item": {
                "random_effect": "item_id",
                "features": ["user"],
                "partitions": 3,
                "l2": L2["per_item"],
            },
        },
        metrics=["auc"],
        results="gdmix",
        output=str(output),
        **changes,
    )


def train(document: dict[str, Any], workers: int, kill: bool = False) -> tuple[Job, list[str]]:
    """Train; with `kill`, SIGKILL a worker after the second pass and the coordinator after the third."""
    output = Path(document["output"])
    killed = []
    notices = []
    with (
        LocalCluster(workers=workers, state_dir=output / "state") as cluster,
        cluster.client() as client,
    ):
        cluster.wait_until_ready()
        submitted = client.submit(document)
        for event in client.watch(submitted.job_id):
            if not isinstance(event.detail, Notice):
                continue
            notices.append(event.detail.text)
            for start, role in (("pass 2:", "worker-1"), ("pass 3:", "coordinator")):
                if kill and event.detail.text.startswith(start) and role not in killed:
                    os.kill(cluster.pids()[role], signal.SIGKILL)
                    killed.append(role)
        done = client.get(submitted.job_id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert len(killed) == (2 if kill else 0)
    return done, notices


def designs(data: Path) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.float64]]]:
    """The coordinates' features of the training rows by uid, and labels."""
    rows = pl.read_parquet(data / "train.parquet").sort("uid")
    count = len(rows)
    genre = rows["genre"].cast(pl.Categorical).to_physical().to_numpy()
    user = rows["user_id"].rank("dense").to_numpy().astype(int) - 1
    item = rows["item_id"].rank("dense").to_numpy().astype(int) - 1
    one, every = np.ones(count), np.arange(count)
    age = rows["age"].to_numpy()
    genres = sparse.csr_matrix((one, (every, genre)))
    users = sparse.csr_matrix((one, (every, user)))
    items = sparse.csr_matrix((one, (every, item)))
    of_user = [users.multiply(column) for column in [one[:, None], *genres.T.toarray()[:, :, None]]]
    blocks = {
        "global": sparse.hstack([one[:, None], age[:, None], genres]),
        "per_user": sparse.hstack(of_user),
        "per_item": sparse.hstack([items, items.multiply(age[:, None])]),
    }
    return blocks, rows["response"].to_numpy()


def exact(data: Path) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
    """Linear predictors by uid and objective at the joint optimum, by Newton's method on all coefficients at once."""
    blocks, label = designs(data)
    design = sparse.hstack(list(blocks.values())).tocsr()
    ridge = np.concatenate([np.full(block.shape[1], L2[name]) for name, block in blocks.items()])
    theta = np.zeros(design.shape[1])
    for _ in range(30):
        mean = expit(design @ theta)
        gradient = design.T @ (mean - label) + ridge * theta
        if np.abs(gradient).max() < 1e-9:
            break
        weighted = design.multiply((mean * (1 - mean))[:, None])
        theta -= np.linalg.solve((design.T @ weighted).toarray() + np.diag(ridge), gradient)
    z = design @ theta
    return z, float(np.sum(np.logaddexp(0, z) - label * z) + 0.5 * np.sum(ridge * theta**2))


def scores(done: Job, name: str = "per_item") -> np.ndarray[Any, np.dtype[np.float64]]:
    """The training scores by uid of the model up to a coordinate."""
    found = {}
    for part in sorted(directory_of(done).parents[1].glob(f"{name}/train_scores/*.avro")):
        with part.open("rb") as stream:
            found |= {record["uid"]: record["predictionScore"] for record in fastavro.reader(stream)}
    return np.array([found[uid] for uid in sorted(found)])


def apart(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


@pytest.fixture(scope="module")
def optimum(data: Path) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
    return exact(data)


def test_the_joint_optimum_is_reached_whatever_happens(
    config: Make, tmp_path: Path, optimum: tuple[np.ndarray[Any, np.dtype[np.float64]], float]
) -> None:
    z, objective = optimum
    done, notices = train(job(config, tmp_path / "one", passes="until_converged"), workers=1)
    assert apart(scores(done), z) < 5e-4
    reported = [re.match(r"pass \d+: joint objective ([\d,.]+),", notice) for notice in notices]
    values = [float(found[1].replace(",", "")) for found in reported if found]
    assert values[-1] == pytest.approx(objective, rel=1e-7)
    assert values[0] > values[1] > values[2] > objective + 1
    assert 3 < len(values) < 50
    gradients = [
        float(notice.split("largest gradient ")[1].split()[0]) for notice in notices if "norm" in notice
    ]
    assert len(gradients) == len(values)
    assert gradients[-1] < 0.03 * gradients[0]
    assert notices[-1] == f"the joint optimum is reached in pass {len(values)}"

    disturbed, _ = train(job(config, tmp_path / "two", passes="until_converged"), workers=2, kill=True)
    assert digests(disturbed) == digests(done)


def test_plain_passes_stop_short_of_it(
    config: Make, tmp_path: Path, data: Path, optimum: tuple[np.ndarray[Any, np.dtype[np.float64]], float]
) -> None:
    done, _ = train(job(config, tmp_path / "out", passes=1), workers=1)
    assert apart(scores(done), optimum[0]) > 0.05
    # What a coordinate's gradient is after the others have moved: its own has been 0.
    blocks, _ = designs(data)
    slope = {name: expit(scores(done, name)) for name in blocks}
    gradients = [blocks[name].T @ (slope["per_item"] - slope[name]) for name in ("global", "per_user")]
    _, notices = train(job(config, tmp_path / "more", passes="until_converged"), workers=1)
    found = next(
        re.search(r"largest gradient (\S+) \(norm (\S+)\)", text) for text in notices if "norm" in text
    )
    assert found is not None
    every = np.concatenate(gradients)
    assert float(found[1]) == pytest.approx(np.abs(every).max(), rel=0.06)
    assert float(found[2]) == pytest.approx(np.linalg.norm(every), rel=0.06)
