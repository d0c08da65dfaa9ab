"""Model directories: one rename, one digest, versions in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gdmix_core.errors import Conflict, DataError, InternalError, NotFound
from gdmix_core.model import ModelDirectory, assemble_model, list_versions, newest_version, open_model

MakeModel = Callable[..., ModelDirectory]


def test_layout(make_model: MakeModel) -> None:
    model = make_model()
    found = sorted(str(path.relative_to(model.path)) for path in model.path.rglob("*") if path.is_file())
    assert found == [
        "feature_index.parquet",
        "global/coefficients.parquet",
        "manifest.json",
        "per_user/part-00000.parquet",
        "per_user/part-00001.parquet",
        "run.json",
    ]
    assert [path.name for path in model.path.parent.iterdir()] == ["1"]
    assert model.run() == {"job_id": "j1", "host": "here"}
    assert model.manifest.coordinate("per_user").parts == 2
    model.verify()


def test_the_digest_is_of_the_contents_alone(make_model: MakeModel) -> None:
    one, other, same = make_model(), make_model(seed=7, name="other"), make_model(version=2, name="same")
    assert len(one.manifest.content_digest) == 64
    assert one.manifest.content_digest == same.manifest.content_digest
    assert one.manifest.content_digest != other.manifest.content_digest
    (one.path / "per_user" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match="part-00001"):
        one.verify()
    (other.path / "feature_index.parquet").write_bytes(b"another")
    with pytest.raises(DataError, match="content_digest"):
        other.verify()


def _assemble_again(model: ModelDirectory, target: Path, **changes: object) -> ModelDirectory:
    arguments: dict[str, object] = {
        "feature_index": model.feature_index,
        "coefficients": {"global": [model.fixed_effect("global")], "per_user": model.parts("per_user")},
        "run": {},
    }
    return assemble_model(target, model.manifest, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_second_attempt_finds_the_work_done(make_model: MakeModel) -> None:
    model, other = make_model(), make_model(seed=7, name="other")
    again = _assemble_again(model, model.path)
    assert again.manifest == model.manifest
    with pytest.raises(Conflict, match="another model version is there already"):
        _assemble_again(other, model.path)
    assert [path.name for path in model.path.parent.iterdir()] == ["1"]


def test_what_does_not_fit_together(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    target = tmp_path / "new" / "1"
    with pytest.raises(InternalError, match="names coordinates"):
        _assemble_again(model, target, coefficients={"global": [model.fixed_effect("global")]})
    with pytest.raises(InternalError, match="must have one coefficient file"):
        _assemble_again(model, target, coefficients={"global": [], "per_user": []})
    with pytest.raises(DataError, match="absent: is missing"):
        _assemble_again(model, target, feature_index=tmp_path / "absent")
    assert not target.exists()
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True


def test_versions_on_disk(make_model: MakeModel, tmp_path: Path) -> None:
    root = tmp_path / "model" / "models"
    assert list_versions(root) == []
    with pytest.raises(NotFound, match="holds no model version yet"):
        newest_version(root)
    for version in (2, 10, 9):
        make_model(version=version)
    (root / "11").mkdir()  # not complete
    (root / "notes").mkdir()
    assert list_versions(root) == [2, 9, 10]
    assert newest_version(root).manifest.version == 10
    with pytest.raises(NotFound):
        open_model(root / "11")


def test_a_model_without_random_effects(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    fixed_only = assemble_model(
        tmp_path / "fixed" / "1",
        replace(model.manifest, coordinates=model.manifest.fixed_effects()),
        feature_index=model.feature_index,
        coefficients={"global": [model.fixed_effect("global")]},
        run={},
    )
    assert len(fixed_only.files()) == 2
