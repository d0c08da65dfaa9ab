"""`l2: auto` on real processes, against an exact joint Laplace approximation on simulated crossed data."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.special import expit

from gdmix_client import Client, GroupShrinkage, Job, JobState, LocalCluster, Notice
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.model import open_model
from gdmix_core.model.coefficients import read_fixed_effect, read_random_effect

from .jobs import digests, directory_of, told

Float64Array = npt.NDArray[np.float64]

ROWS, USERS, ITEMS = 8_000, 200, 100
TRUE = {"logistic_regression": (0.8, 0.3), "linear_regression": (0.8, 0.3), "poisson_regression": (0.3, 0.1)}
NOISE = 1.5
"""Standard deviation of a linear regression's rows."""


def simulated(task: str, directory: Path, alike: bool = False) -> pl.DataFrame:
    """Rows of crossed users and items of known variances, written with as many validation rows beside them.

    Where items are to be `alike`, each has the same share of every label: they vary less than chance would have it.
    """
    random = np.random.default_rng(7)
    user_variance, item_variance = TRUE[task]
    of_user = random.normal(0, user_variance**0.5, USERS)
    of_item = np.zeros(ITEMS) if alike else random.normal(0, item_variance**0.5, ITEMS)
    count = 2 * ROWS
    user, item = random.integers(0, USERS, count), random.integers(0, ITEMS, count)
    age = random.normal(size=count)
    z = 0.3 + 0.5 * age + of_user[user] + of_item[item]
    label = {
        "logistic_regression": lambda: (random.random(count) < expit(z)).astype(float),
        "linear_regression": lambda: z + NOISE * random.normal(size=count),
        "poisson_regression": lambda: random.poisson(np.exp(z)).astype(float),
    }[task]()
    if alike:
        for part in (slice(0, ROWS), slice(ROWS, None)):
            item[part][np.argsort(label[part], kind="stable")] = np.arange(ROWS) % ITEMS
    frame = pl.DataFrame(
        {"uid": np.arange(count), "user_id": user, "item_id": item, "age": age, "response": label}
    )
    directory.mkdir(parents=True, exist_ok=True)
    frame[:ROWS].write_parquet(directory / "train.parquet")
    frame[ROWS:].write_parquet(directory / "validation.parquet")
    return frame[:ROWS]


def document(data: Path, output: Path, task: str, **changes: Any) -> dict[str, Any]:
    """A job without a single l2."""
    return {
        "model": "crossed",
        "task": task,
        "data": {
            "train": str(data / "train.parquet"),
            "validation": str(data / "validation.parquet"),
            "columns": {"uid": "uid", "label": "response"},
            "shards": 3,
        },
        "features": {"row": [{"column": "age", "kind": "numeric"}]},
        "coordinates": {
            "global": {"fixed_effect": task, "features": "row"},
            "per_user": {"random_effect": "user_id", "partitions": 4},
            "per_item": {"random_effect": "item_id", "partitions": 3},
        },
        "output": str(output),
        **changes,
    }


def exact(task: str, rows: pl.DataFrame) -> tuple[float, float]:
    """The variances of users and items at the stationary point of the joint Laplace approximation, densely."""
    y, age = rows["response"].to_numpy(), rows["age"].to_numpy()
    user, item = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
    design = np.zeros((len(y), 2 + USERS + ITEMS))
    every = np.arange(len(y))
    design[:, 0], design[:, 1] = 1.0, age
    design[every, 2 + user] = 1.0
    design[every, 2 + USERS + item] = 1.0
    groups = [slice(2, 2 + USERS), slice(2 + USERS, None)]
    sizes = [USERS, ITEMS]
    theta, l2, noise = np.zeros(design.shape[1]), np.array([2.0, 2.0]), 1.0
    for _ in range(200):
        penalty = np.r_[0.0, 1.0, np.full(USERS, l2[0]), np.full(ITEMS, l2[1])]
        for _ in range(30):
            z = design @ theta
            mean = {
                "logistic_regression": expit,
                "linear_regression": lambda v: v,
                "poisson_regression": np.exp,
            }
            mu = mean[task](z)
            weight = {
                "logistic_regression": mu * (1 - mu),
                "linear_regression": np.ones(len(y)),
                "poisson_regression": mu,
            }[task]
            gradient = design.T @ (mu - y) + penalty * theta
            hessian = design.T @ (weight[:, None] * design) + np.diag(penalty)
            step = np.linalg.solve(hessian, gradient)
            theta = theta - step
            if np.abs(step).max() < 1e-9:
                break
        inverse = np.diagonal(np.linalg.inv(hessian))
        effective = np.array(
            [q - ridge * inverse[g].sum() for q, ridge, g in zip(sizes, l2, groups, strict=True)]
        )
        if task == "linear_regression":
            used = 1 + (1 - inverse[1]) + effective.sum()
            noise = float(np.sum((y - design @ theta) ** 2) / (len(y) - used))
        new = noise * effective / np.array([np.sum(theta[g] ** 2) for g in groups])
        if np.abs(np.log(new / l2)).max() < 1e-6:
            break
        l2 = new
    return noise / l2[0], noise / l2[1]


def groups_of(job: Job) -> dict[str, GroupShrinkage]:
    return {f"{report.name}.{group.name}": group for report in job.coordinates for group in report.shrinkage}


@pytest.mark.parametrize("task", list(TRUE))
def test_the_variances_are_those_of_the_exact_joint_laplace(
    task: str, client: Client, tmp_path: Path
) -> None:
    rows = simulated(task, tmp_path)
    job, notices = told(client, document(tmp_path, tmp_path / "out", task))
    found = groups_of(job)
    users, items = found["per_user.intercept"], found["per_item.intercept"]
    assert users.variance is not None
    assert items.variance is not None
    assert (users.variance, items.variance) == pytest.approx(exact(task, rows), rel=0.03)
    for group, true in zip((users, items), TRUE[task], strict=True):
        assert group.variance is not None
        assert group.error is not None
        assert abs(np.log(group.variance / true)) < 3 * group.error + 0.05
        assert group.learned
        assert 0 < group.effective < group.coefficients
        assert group.shrinkage == pytest.approx(1 - group.effective / group.coefficients)
    assert not found["global.default"].learned
    assert found["global.default"].l2 == 1.0
    assert any(notice.startswith("shrinkage, round 2: objective") for notice in notices)
    manifest = open_model(directory_of(job)).manifest
    (stored,) = (group for group in manifest.coordinate("per_user").shrinkage if group.name == "intercept")
    assert (stored.variance, stored.learned) == (users.variance, True)
    assert manifest.coordinate("per_user").l2 == {"default": 1.0, "intercept": users.l2}


def test_posterior_variances_know_of_the_other_coordinates(client: Client, tmp_path: Path) -> None:
    task = "logistic_regression"
    rows = simulated(task, tmp_path)
    job = document(tmp_path, tmp_path / "out", task)
    for coordinate in job["coordinates"].values():
        coordinate["variance"] = "full"
    done, _ = told(client, job)
    model = open_model(directory_of(done))
    fixed = read_fixed_effect(model.fixed_effect("global"))
    theta, stored = [fixed.coefficients], [fixed.variances]
    for name, count in (("per_user", USERS), ("per_item", ITEMS)):
        both = np.zeros((2, count))
        for part in model.parts(name):
            block = read_random_effect(part).block
            ids = [int(entity) for entity in ByteStrings(block.ids_bytes, block.ids_ptr).to_list()]
            both[:, ids] = block.coefficients, block.variances
        theta.append(both[0])
        stored.append(both[1])
    user, item = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
    design = np.zeros((len(rows), 2 + USERS + ITEMS))
    design[:, 0], design[:, 1] = 1.0, rows["age"].to_numpy()
    every = np.arange(len(rows))
    design[every, 2 + user] = design[every, 2 + USERS + item] = 1.0
    mu = expit(design @ np.concatenate(theta))
    l2 = {name: group.l2 for name, group in groups_of(done).items()}
    penalty = np.r_[
        0.0, 1.0, np.full(USERS, l2["per_user.intercept"]), np.full(ITEMS, l2["per_item.intercept"])
    ]
    hessian = design.T @ ((mu * (1 - mu))[:, None] * design) + np.diag(penalty)
    exactly = np.diagonal(np.linalg.inv(hessian))
    alone = 1.0 / np.diagonal(hessian)
    found = np.concatenate(stored)
    # The fixed effect's own Hessian knows nothing of what users and items explain: its intercept is far less certain.
    assert alone[0] < 0.1 * exactly[0]
    assert found[:2] == pytest.approx(exactly[:2], rel=0.01)
    # The others' chances cancel: what their own Hessians lack is made up for on average.
    assert np.mean(alone[2:] / exactly[2:]) < 0.97
    assert np.mean(found[2:] / exactly[2:]) == pytest.approx(1.0, abs=0.01)
    assert np.mean(np.abs(found[2:] / exactly[2:] - 1.0)) < 0.04
    assert np.all(found[2:] >= alone[2:] * (1 - 1e-3))


def test_a_mean_that_is_not_zero_goes_into_the_fixed_effect(client: Client, tmp_path: Path) -> None:
    """Slopes of users around 0.9 with variance 0.09: around 0, they would have one of 0.9."""
    random = np.random.default_rng(3)
    user, x = random.integers(0, USERS, 2 * ROWS), random.normal(size=2 * ROWS)
    slope = random.normal(0.9, 0.3, USERS)
    label = (random.random(2 * ROWS) < expit(slope[user] * x)).astype(float)
    frame = pl.DataFrame({"uid": np.arange(2 * ROWS), "user_id": user, "x": x, "response": label})
    frame[:ROWS].write_parquet(tmp_path / "train.parquet")
    frame[ROWS:].with_columns(user_id=pl.lit(-1)).write_parquet(tmp_path / "validation.parquet")
    variances, aucs = [], []
    for center in (False, True):
        job = document(tmp_path, tmp_path / str(center), "logistic_regression")
        job["features"] = {"row": [{"column": "x", "kind": "numeric"}]}
        job["coordinates"] = {
            "global": {"fixed_effect": "logistic_regression"},
            "per_user": {"random_effect": "user_id", "features": "row", "partitions": 2, "center": center},
        }
        done, notices = told(client, job)
        group = groups_of(done)["per_user.row.x"]
        assert group.variance is not None
        variances.append(group.variance)
        aucs.append(done.coordinates[-1].validation[0].value)
        change = "center: per_user's mean coefficients are fitted by global: bag row added"
        assert (change in notices) is center
    assert variances[0] > 0.6
    assert variances[1] == pytest.approx(0.09, rel=0.5)
    assert aucs[0] == 0.5
    assert aucs[1] is not None
    assert aucs[1] > 0.65
    fixed = read_fixed_effect(open_model(directory_of(done)).fixed_effect("global"))
    assert fixed.coefficients[1] == pytest.approx(0.9, abs=0.1)


def test_a_coordinate_without_variance_vanishes_and_says_so(client: Client, tmp_path: Path) -> None:
    task = "logistic_regression"
    simulated(task, tmp_path, alike=True)
    job, notices = told(client, document(tmp_path, tmp_path / "out", task))
    group = groups_of(job)["per_item.intercept"]
    assert (group.variance, group.effective, group.shrinkage) == (0.0, 0.0, 1.0)
    assert f"per_item.intercept: the data show no variance; its {ITEMS} coefficients are 0" in notices
    assert "per_item: the whole coordinate vanishes, it would improve nothing" in notices
    model = open_model(directory_of(job))
    for part in model.parts("per_item"):
        assert not read_random_effect(part).block.coefficients.any()
    assert job.coordinates[-1].validation == job.coordinates[-2].validation


def run(job: dict[str, Any], workers: int, kill: bool = False) -> Job:
    """Train; with `kill`, SIGKILL a worker after the second round and the coordinator after the third."""
    output = Path(job["output"])
    killed: list[str] = []
    with (
        LocalCluster(workers=workers, state_dir=output / "state") as cluster,
        cluster.client() as client,
    ):
        cluster.wait_until_ready()
        submitted = client.submit(job)
        for event in client.watch(submitted.job_id):
            text = event.detail.text if isinstance(event.detail, Notice) else ""
            for start, role in (
                ("shrinkage, round 2:", "worker-1"),
                ("shrinkage, round 3:", "coordinator"),
            ):
                if kill and text.startswith(start) and role not in killed:
                    os.kill(cluster.pids()[role], signal.SIGKILL)
                    killed.append(role)
        done = client.get(submitted.job_id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert len(killed) == (2 if kill else 0)
    return done


def test_the_same_bytes_with_any_number_of_workers_and_deaths(tmp_path: Path) -> None:
    task = "logistic_regression"
    simulated(task, tmp_path)
    jobs = [
        run(document(tmp_path, tmp_path / str(workers), task), workers, kill)
        for workers, kill in ((1, False), (2, False), (3, True))
    ]
    assert len({tuple(digests(job).items()) for job in jobs}) == 1
    assert len({str(groups_of(job)) for job in jobs}) == 1
