"""`models export` and `models split`: model files of GDMix, of a trained model and of every kind of coordinate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow.parquet as pq
import pytest

from gdmix_client import JobState, LocalCluster
from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelManifest, PluginManifest, assemble_model
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_fixed_effect, write_random_effect
from gdmix_core.model.linear_model_avro import MODEL_CLASSES
from gdmix_core.model.linear_model_avro_file import SCHEMA
from gdmix_core.model.plugin_files import list_plugin_files
from gdmix_core.store import CoefficientBlock

Cli = Callable[..., subprocess.CompletedProcess[str]]
BAGS = ("all",)
TERMS = ("blue", "green", "land\x01de")


def records(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(fastavro.reader(file))


def means(record: Any) -> dict[tuple[str, str], float]:
    return {(item["name"], item["term"]): item["value"] for item in record["means"]}


def effect(ids: list[str], coefficients: list[dict[int, float]]) -> RandomEffectCoefficients:
    names = ByteStrings.of(ids)
    block = CoefficientBlock(
        names.data,
        names.ptr,
        np.cumsum([0, *map(len, coefficients)]),
        np.array([index for one in coefficients for index in one], np.int32),
        np.array([value for one in coefficients for value in one.values()]),
    )
    count = len(ids)
    return RandomEffectCoefficients(
        block,
        rows=np.ones(count, np.int64),
        status=np.zeros(count, np.uint8),
        iterations=np.ones(count, np.int32),
        gradient_norm=np.zeros(count),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a coordinate that was trained elsewhere, a fixed effect, and a random effect of two parts."""
    columns = (
        IndexedColumn("all", FeatureColumn(column="color", kind="categorical"), None, 0, 3,
                      ByteStrings.of(TERMS), np.ones(3, np.int64)),
    )  # fmt: skip
    index = FeatureIndex(columns, 10, fingerprint(columns))
    index.save(tmp_path / "index.parquet")
    names = index.coordinate_names(BAGS, True)
    write_fixed_effect(
        tmp_path / "global",
        np.array([0.5, 1.0, 0.0, -2.0]),
        bags=names.bag.to_pylist(),
        names=names.name.to_pylist(),
        terms=names.term.to_pylist(),
    )
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / "trees.txt").write_text("tree")
    plugin = PluginManifest(
        distribution="gdmix", version="1", columns=(), files=list_plugin_files(tmp_path / "trees", "trees")
    )
    write_random_effect(tmp_path / "user-0", effect(["ann", "joé"], [{0: 1.0, 2: 0.01}, {}]))
    write_random_effect(tmp_path / "user-1", effect(["bob"], [{0: 0.0, 1: 3.0, 3: 4.0}]))
    manifest = ModelManifest(
        model="shop",
        version=7,
        task="poisson_regression",
        coordinates=(
            CoordinateManifest("deep", "fixed_effect", (), False, 0, model="external"),
            CoordinateManifest("trees", "fixed_effect", (), False, 0, model="lightgbm", plugin=plugin),
            CoordinateManifest("global", "fixed_effect", BAGS, True, 4, model="poisson_regression"),
            CoordinateManifest("per_user", "random_effect", BAGS, True, 4, entity_column="user_id"),
        ),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
    )
    return assemble_model(
        tmp_path / "out" / "models" / "7",
        manifest,
        feature_index=tmp_path / "index.parquet",
        coefficients={
            "deep": [],
            "trees": [],
            "global": [tmp_path / "global"],
            "per_user": [tmp_path / "user-0", tmp_path / "user-1"],
        },
        plugins={"trees": tmp_path / "trees"},
        run={},
    ).path


def test_export(command: Cli, model: Path, tmp_path: Path) -> None:
    done = command("models", "export", model, "--to", "avro")
    assert done.returncode == 0, done.stderr
    assert "deep was trained elsewhere" in done.stderr
    assert f"trees has no coefficients; its files are in {model}/trees/plugin" in done.stderr
    assert "version 7 of shop" in done.stdout
    assert "per_user" in done.stdout
    to = tmp_path / "avro"
    assert sorted(str(path.relative_to(to)) for path in to.rglob("*.avro")) == [
        "global/models/global_model.avro",
        "per_user/models/part-00000.avro",
        "per_user/models/part-00001.avro",
    ]
    (fixed,) = records(to / "global" / "models" / "global_model.avro")
    assert fixed["modelId"] == "global model"
    assert fixed["modelClass"] == MODEL_CLASSES["poisson_regression"]
    assert fixed["lossFunction"] == ""
    assert means(fixed) == {
        ("(INTERCEPT)", ""): 0.5,
        ("color", "blue"): 1.0,
        ("color", "green"): 0.0,
        ("land", "de"): -2.0,
    }
    ann, joe = records(to / "per_user" / "models" / "part-00000.avro")
    assert (ann["modelId"], joe["modelId"]) == ("ann", "joé")
    assert means(ann) == {("(INTERCEPT)", ""): 1.0, ("color", "green"): 0.01}
    assert means(joe) == {}


def test_export_json_of_a_version_and_sparse(command: Cli, model: Path, tmp_path: Path) -> None:
    done = command(
        *("models", "export", 7, "--output", model.parents[1], "--to", "deep/er"),
        *("--format", "avro", "--sparsity-threshold", "0.1", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "model": "shop",
        "version": 7,
        "format": "avro",
        "directory": "deep/er",
        "coordinates": [
            {"name": "global", "files": 1, "models": 1, "coefficients": 3, "left_out": 1},
            {"name": "per_user", "files": 2, "models": 3, "coefficients": 4, "left_out": 1},
        ],
    }
    (bob,) = records(tmp_path / "deep" / "er" / "per_user" / "models" / "part-00001.avro")
    assert means(bob) == {("(INTERCEPT)", ""): 0.0, ("color", "blue"): 3.0, ("land", "de"): 4.0}


def test_export_does_not_mix_models(command: Cli, model: Path, tmp_path: Path) -> None:
    stale = tmp_path / "avro" / "per_user" / "models" / "part-00002.avro"
    stale.parent.mkdir(parents=True)
    stale.touch()
    notes = tmp_path / "avro" / "notes.txt"
    notes.touch()
    refused = command("models", "export", model, "--to", "avro")
    assert refused.returncode == 2
    assert "avro: is not empty" in refused.stderr
    assert "--force" in refused.stderr
    assert stale.exists()
    assert command("models", "export", model, "--to", "avro", "--force").returncode == 0
    assert not stale.exists()
    assert notes.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7", "--to", "x"], "give the --output"),
        (["9", "--output", "out", "--to", "x"], "no such model version"),
        (["nowhere", "--to", "x"], "holds no model version"),
        (["out/models/7", "--to", "index.parquet"], "is not a directory"),
        (["out/models/7", "--to", "x", "--format", "parquet"], "--format"),
        (["out/models/7", "--to", "x", "--sparsity-threshold", "-1"], "--sparsity-threshold"),
        (["out/models/7"], "--to"),
    ],
)
def test_export_refuses(command: Cli, model: Path, arguments: list[str], message: str) -> None:
    done = command("models", "export", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not (model.parents[2] / "x").exists()


def test_export_of_a_trained_model(
    cluster: LocalCluster, job_file: Callable[..., Path], command: Cli, tmp_path: Path
) -> None:
    with cluster.client() as client:
        job = client.wait(client.submit(job_file()).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    for to in ("first", "second"):
        done = command("models", "export", 1, "--output", "out", "--to", to, "--json")
        assert done.returncode == 0, done.stderr
    trained = tmp_path / "out" / "models" / "1"
    fixed = pq.read_table(trained / "global" / "coefficients.parquet")
    (exported,) = records(tmp_path / "first" / "global" / "models" / "global_model.avro")
    keys = zip(fixed["name"].to_pylist(), fixed["term"].to_pylist(), strict=True)
    assert means(exported) == dict(zip(keys, fixed["coefficient"].to_pylist(), strict=True))
    parts = sorted((trained / "per_user").glob("part-*.parquet"))
    assert len(parts) == 3
    for part in parts:
        rows = pq.read_table(part).to_pylist()
        file = Path("per_user", "models", f"{part.stem}.avro")
        found = records(tmp_path / "first" / file)
        assert [one["modelId"].encode() for one in found] == [row["entity_id"] for row in rows]
        assert [list(means(one).values()) for one in found] == [row["coefficients"] for row in rows]
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


# ---- split -----------------------------------------------------------------------------------------------


def write_global(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = {
        "modelId": "global model",
        "means": [{"name": name, "term": "", "value": float(i)} for i, name in enumerate(names)],
    }
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(SCHEMA), [model])
    return path


def test_split(command: Cli, tmp_path: Path) -> None:
    write_global(
        tmp_path / "in" / "part-00000.avro",
        "(INTERCEPT)",
        "u1_gdmixcross_x",
        "u2_gdmixcross_x",
        "u1_gdmixcross_y",
    )
    done = command("models", "split", "in", "--to", "out", "--files", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert "intercept, 0.0, belongs to no model" in done.stderr
    assert json.loads(done.stdout) == {
        "directory": "out",
        "files": ["part-00000.avro", "part-00001.avro"],
        "models": 2,
        "coefficients": 3,
        "intercept": 0.0,
    }
    found = {one["modelId"]: means(one) for file in (tmp_path / "out").iterdir() for one in records(file)}
    assert found == {"u1": {("x", ""): 1.0, ("y", ""): 3.0}, "u2": {("x", ""): 2.0}}
    assert command("models", "split", "in", "--to", "out").returncode == 2
    again = command("models", "split", "in/part-00000.avro", "--to", "out", "--force")
    assert again.returncode == 0
    assert "into 2 models with 3 coefficients in 1 files" in again.stdout
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["part-00000.avro"]


def test_split_refuses(command: Cli, tmp_path: Path) -> None:
    write_global(tmp_path / "in" / "a.avro", "u1_gdmixcross_x")
    write_global(tmp_path / "plain.avro", "x", "u1_gdmixcross_y")
    for arguments, exit_code, message in (
        (["in", "--to", "in", "--force"], 2, "holds the global model itself"),
        (["plain.avro", "--to", "x"], 1, "1 of 2 features are not named"),
        (["nowhere", "--to", "x"], 2, "no such file or directory"),
        (["in", "--to", "x", "--files", "0"], 2, "--files"),
    ):
        done = command("models", "split", *arguments)
        assert done.returncode == exit_code
        assert message in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "x").exists()
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["a.avro"]
