"""Where trained models go: stores, versions, activation and rollback, through a real cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from typer.testing import CliRunner

from gdmix_client import JobState, LocalCluster
from gdmix_client.cli.app import app
from gdmix_core.store import decode, open_store

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_train_twice_and_roll_back(
    config: Make, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path / 'store'}"
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        jobs = [client.wait(client.submit(config(store=url)).job_id) for _ in range(2)]
        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2, [job.error for job in jobs]
        first, second = (job.published for job in jobs)
        assert first is not None
        assert second is not None
        assert first.content_digest == second.content_digest
        states = {v.version: v.state for v in client.list_models("shop", store=url)}
        assert states == {first.version: "superseded", second.version: "active"}
        client.activate_model("shop", first.version, store=url)
        assert client.get_model("shop", store=url).version == first.version

    # Every coefficient in the model directory is in the store, to the last bit.
    with open_store(url) as store:
        part = pq.read_table(Path(first.directory) / "per_user" / "part-00000.parquet")
        ids = [value.as_py() for value in part["entity_id"]]
        found = store.get_many("shop", first.version, {"per_user": ids})
        assert ids
        for row, stored in enumerate(found.records["per_user"]):
            assert stored is not None
            record = decode(stored)
            assert np.array_equal(record.coefficients, part["coefficients"][row].values.to_numpy())
            assert np.array_equal(record.indices, part["indices"][row].values.to_numpy())


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_an_emptied_store_is_refilled(
    config: Make, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """`models publish` brings a model directory back: under its number, active, with the same records."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path / 'store'}"
    with LocalCluster(workers=1, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        jobs = [client.wait(client.submit(config(store=url)).job_id) for _ in range(2)]
    published = jobs[1].published
    assert published is not None, jobs[1].error
    ids = [b"1", b"2", b"nobody"]
    with open_store(url) as store:
        before = store.get_many("shop", 2, {"per_user": ids}).records
        seal = store.read_seal("shop", 2)
    if kind == "lmdb":
        shutil.rmtree(tmp_path / "store")
    else:
        with redis.Redis.from_url(url) as server:
            server.flushall()
    done = CliRunner().invoke(app, ["models", "publish", published.directory, "--store", url, "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["version"], told["activated"], told["entities"]) == (
        *(2, True),
        {"per_item": 80, "per_user": 300},
    )
    with open_store(url) as store:
        assert store.get_active("shop") == 2
        assert store.verify("shop", 2).coordinates == seal.coordinates
        assert store.get_many("shop", 2, {"per_user": ids}).records == before


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_two_publishers_at_once(
    config: Make, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Two jobs of one model end together: both versions are complete, one is active, and each job says which."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path / 'store'}"
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        submitted = [client.submit(config(store=url, output=str(tmp_path / name))) for name in "ab"]
        jobs = [client.wait(job.job_id) for job in submitted]
    published = [job.published for job in jobs]
    assert None not in published, [job.error for job in jobs]
    assert sorted(one.version for one in published if one is not None) == [1, 2]
    with open_store(url) as store:
        active = store.get_active("shop")
        assert [store.verify("shop", version).model for version in (1, 2)] == ["shop", "shop"]
    winners = [one for one in published if one is not None and one.activated]
    losers = [one for one in published if one is not None and not one.activated]
    assert active in [one.version for one in winners]
    assert all(one.winner == active for one in losers)


def test_the_model_is_better_with_every_coordinate(config: Make, tmp_path: Path) -> None:
    with LocalCluster(workers=2, state_dir=tmp_path / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.wait(client.submit(config(passes=2)).job_id)
        assert job.state is JobState.SUCCEEDED, job.error
        auc = {report.name: report.validation[0].value for report in job.kept_coordinates}
        assert auc["global"] < auc["per_user"] < auc["per_item"]
        assert all(report.unconverged == 0 for report in job.coordinates)
        work = Path(job.output) / ".gdmix" / "jobs" / job.job_id / "work"
        assert not work.exists()
