"""A package with a plug-in, as installed beside GDMix: examples/plugins, from a config to a published model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gdmix_client import Client, LocalCluster
from gdmix_core.fixed_effects.registry import GROUP, installed_plugins, load_plugin
from gdmix_core.model import open_model

from .jobs import directory_of, told

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins"
CITIES = ("bern", "oslo", "rome")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example, for this process and those that it starts."""
    information = tmp_path / "site" / "gdmix_segment_levels-1.0.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gdmix-segment-levels\nVersion: 1.0.0\n"
    )
    (information / "entry_points.txt").write_text(
        f"[{GROUP}]\nsegment_levels = gdmix_segment_levels:SegmentLevels\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{PACKAGE}")
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed_plugins.cache_clear()
    load_plugin.cache_clear()
    yield
    sys.modules.pop("gdmix_segment_levels", None)
    installed_plugins.cache_clear()
    load_plugin.cache_clear()


@pytest.fixture
def client_of_package(installed: None, tmp_path: Path) -> Iterator[Client]:
    with LocalCluster(workers=1, state_dir=tmp_path / "state") as cluster:
        cluster.wait_until_ready()
        with cluster.client() as client:
            yield client


def test_a_job_with_the_example(client_of_package: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    city, count = rng.integers(0, 3, 3_000), 3_000
    x = rng.normal(size=count)
    pl.DataFrame(
        {
            "uid": np.arange(count),
            "label": np.array([-2.0, 0.0, 3.0])[city] + x + rng.normal(0, 0.1, count),
            "city": np.array(CITIES)[city],
            "x": x,
            "user_id": rng.integers(0, 20, count),
        }
    ).write_parquet(tmp_path / "train.parquet")
    job, notices = told(
        client_of_package,
        {
            "model": "levels",
            "task": "linear_regression",
            "data": {"train": str(tmp_path / "train.parquet"), "shards": 2},
            "features": {"all": ["x"]},
            "coordinates": {
                "global": {"fixed_effect": "segment_levels", "column": "city", "l2": 0.001},
                "per_user": {"random_effect": "user_id", "features": ["all"], "l2": 1},
            },
            "passes": 4,
            "output": str(tmp_path / "out"),
        },
    )
    model = open_model(directory_of(job))
    plugin = model.manifest.coordinate("global").plugin
    assert plugin is not None
    assert (plugin.distribution, plugin.version) == ("gdmix-segment-levels", "1.0.0")
    assert [*plugin.files] == ["levels.json"]
    levels = load_plugin("segment_levels").load(model.plugin("global"))
    columns = pa.record_batch([pa.array(CITIES)], names=["city"])
    np.testing.assert_allclose(np.diff(levels.score(columns)), [2.0, 3.0], atol=0.05)
    assert notices.count("global: segments 3") == 4
