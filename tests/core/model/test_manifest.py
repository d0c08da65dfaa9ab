"""Manifests: round trip and messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gdmix_core.errors import DataError, NotFound
from gdmix_core.model import CoordinateManifest, ModelManifest, manifest_from_dict, manifest_from_json
from gdmix_core.model.manifest import read_manifest, write_manifest

MANIFEST = ModelManifest(
    model="movies",
    version=3,
    task="logistic_regression",
    coordinates=(
        CoordinateManifest("global", "fixed_effect", ("user", "movie"), True, 50),
        CoordinateManifest(
            "per_user", "random_effect", ("movie",), False, 20, l2={"default": 2.0}, entity_column="user_id"
        ),
    ),
    bag_sizes={"user": 25, "movie": 20},
    schema_fingerprint="fedcba9876543210",
    metrics={"auc": {"value": 0.7}, "auc:user_id": {"value": None, "reason": "one class only"}},
    features={"user": [{"column": "age", "kind": "numeric"}]},
)


def test_round_trip(tmp_path: Path) -> None:
    assert manifest_from_json(MANIFEST.to_json()) == MANIFEST
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert MANIFEST.schema == 0xFEDCBA9876543210


def test_looking_up_coordinates() -> None:
    assert [c.name for c in MANIFEST.fixed_effects()] == ["global"]
    assert [c.name for c in MANIFEST.random_effects()] == ["per_user"]
    assert MANIFEST.coordinate("per_user").entity_column == "user_id"
    with pytest.raises(NotFound, match="no coordinate 'per_item'; it has global, per_user"):
        MANIFEST.coordinate("per_item")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "three"}, "version: "),
        ({"format": 2}, "format 2; this GDMix reads 1"),
        ({"schema_fingerprint": "xyz"}, "schema_fingerprint: found 'xyz'"),
        ({"coordinates": [{"name": "a"}]}, r"coordinates\.0\.kind"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    values = {**json.loads(MANIFEST.to_json()), **change}
    with pytest.raises(DataError, match=message):
        manifest_from_dict(values)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no model version"):
        read_manifest(tmp_path)
    for version in ("2", "10"):
        (tmp_path / "models" / version).mkdir(parents=True)
        (tmp_path / "models" / version / "manifest.json").write_bytes(MANIFEST.to_json())
    with pytest.raises(NotFound, match=r"the newest version below it is .*/models/10$"):
        read_manifest(tmp_path)
    for text in (b"{", b"[]", b""):
        (tmp_path / "manifest.json").write_bytes(text)
        with pytest.raises(DataError, match=r"manifest\.json"):
            read_manifest(tmp_path)


def test_not_a_number_never_gets_in() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(MANIFEST, metrics={"auc": float("nan")}).to_json()
