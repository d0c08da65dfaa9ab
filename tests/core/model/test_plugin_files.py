"""A plug-in's files: listed, put into a model directory, published, fetched again, never trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gdmix_core.errors import DataError, StoreCorrupt
from gdmix_core.model import (
    CoordinateManifest,
    ModelDirectory,
    PluginColumn,
    PluginManifest,
    assemble_model,
    manifest_from_dict,
    open_model,
    publish_model,
)
from gdmix_core.model.plugin_files import check_plugin_files, fetch_plugin_files, list_plugin_files
from gdmix_core.store import open_store

CHUNKED = b"0123456789abcdef" * 600_000  # more than one chunk of a store


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory = tmp_path / "saved"
    (directory / "trees").mkdir(parents=True)
    (directory / "model.txt").write_bytes(CHUNKED)
    (directory / "trees" / "categories.json").write_bytes(b"{}")
    return directory


@pytest.fixture
def plugged(make_model: Callable[..., ModelDirectory], saved: Path, tmp_path: Path) -> ModelDirectory:
    native = make_model()
    trees = CoordinateManifest(
        "trees",
        "fixed_effect",
        (),
        False,
        0,
        model="lightgbm",
        plugin=PluginManifest(
            "gdmix",
            "0.1.0",
            (PluginColumn("age", "number"), PluginColumn("embedding", "vector", 3)),
            list_plugin_files(saved, "trees"),
        ),
    )
    return assemble_model(
        tmp_path / "plugged" / "models" / "1",
        replace(native.manifest, coordinates=(trees, *native.manifest.coordinates[1:])),
        feature_index=native.feature_index,
        coefficients={"trees": [], "per_user": native.parts("per_user")},
        run={},
        plugins={"trees": saved},
    )


def test_files_lie_beside_the_coefficients(plugged: ModelDirectory) -> None:
    assert open_model(plugged.path) == plugged
    assert [str(file.relative_to(plugged.path)) for file in plugged.files()][1:3] == [
        "trees/plugin/model.txt",
        "trees/plugin/trees/categories.json",
    ]
    coordinate = plugged.manifest.coordinate("trees")
    assert (coordinate.native, coordinate.external) == (False, False)
    check_plugin_files(plugged.plugin("trees"), coordinate)
    plugged.verify()
    (plugged.plugin("trees") / "trees" / "categories.json").write_bytes(b"[]")
    with pytest.raises(DataError, match=r"categories\.json: is not the file of the manifest"):
        check_plugin_files(plugged.plugin("trees"), coordinate)
    with pytest.raises(DataError, match="content_digest"):
        plugged.verify()


def test_a_store_gives_them_back(plugged: ModelDirectory, tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    coordinate = plugged.manifest.coordinate("trees")
    with open_store(f"lmdb:{tmp_path / 'store'}") as store:
        publish_model(plugged, store)
        assert store.read_seal("movies", 1).blobs["trees/plugin/model.txt"].chunks == 2
        fetch_plugin_files(store, "movies", 1, coordinate, fetched)
        assert (fetched / "model.txt").read_bytes() == CHUNKED
        check_plugin_files(fetched, coordinate)
        assert coordinate.plugin is not None
        other = {name: replace(file, sha256="0" * 64) for name, file in coordinate.plugin.files.items()}
        changed = replace(coordinate, plugin=replace(coordinate.plugin, files=other))
        with pytest.raises(StoreCorrupt, match=r"file 'model\.txt' of coordinate 'trees' .*sha256 differs"):
            fetch_plugin_files(store, "movies", 1, changed, fetched)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a//b", "", "a/./b", "a\0b"])
def test_a_manifest_cannot_lead_out_of_a_directory(plugged: ModelDirectory, name: str) -> None:
    import json

    values = json.loads(plugged.manifest.to_json())
    values["coordinates"][0]["plugin"]["files"] = {name: {"sha256": "0" * 64, "size": 1}}
    with pytest.raises(DataError, match=r"coordinates\.0\.plugin.*is not a relative name"):
        manifest_from_dict(values)


def test_what_cannot_be_a_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no files"):
        list_plugin_files(tmp_path, "trees")
    (tmp_path / ("x" * 120)).write_bytes(b"")
    with pytest.raises(DataError, match="has 133 bytes in a store; allowed are 128"):
        list_plugin_files(tmp_path, "trees")
    (tmp_path / ("x" * 120)).unlink()
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="link, which is not an ordinary file"):
        list_plugin_files(tmp_path, "trees")
