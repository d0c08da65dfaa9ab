"""Where trained models go: stores, versions, activation and rollback, through a real cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gdmix_client import JobState, LocalCluster
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
