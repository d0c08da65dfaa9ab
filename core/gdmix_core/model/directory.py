"""The directory of a model version, and the versions on disk (`docs/specs/model-directory.md`).

    <output>/models/<version>/manifest.json
                              run.json                       times, hosts, job id
                              feature_index.parquet
                              <fixed effect>/coefficients.parquet
                              <plugged-in fixed effect>/plugin/…
                              <random effect>/part-00000.parquet, …

It appears by one rename and never changes afterwards. The store is the truth for what is active, this
directory for what a version contains.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gdmix_core.errors import Conflict, DataError, InternalError, NotFound
from gdmix_core.model.manifest import CoordinateManifest, ModelManifest, read_manifest, write_manifest
from gdmix_core.tasks.files import PLUGIN_FOLDER

FEATURE_INDEX_FILE: Final = "feature_index.parquet"
FIXED_EFFECT_FILE: Final = "coefficients.parquet"
RUN_FILE: Final = "run.json"
NO_PLUGINS: Final[Mapping[str, str | Path]] = {}


def part_name(part: int) -> str:
    """Return the name of a random effect's coefficient file."""
    return f"part-{part:05d}.parquet"


def plugin_file_name(coordinate: str, file: str) -> str:
    """Return the name of a file of a plug-in's model, relative to a model directory, and in a store."""
    return f"{coordinate}/{PLUGIN_FOLDER}/{file}"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A complete model version on disk."""

    path: Path
    manifest: ModelManifest

    @property
    def feature_index(self) -> Path:
        """The feature index file."""
        return self.path / FEATURE_INDEX_FILE

    def fixed_effect(self, coordinate: str) -> Path:
        """Return the coefficient file of a fixed effect."""
        return self.path / coordinate / FIXED_EFFECT_FILE

    def plugin(self, coordinate: str) -> Path:
        """Return the directory of a plug-in's model."""
        return self.path / coordinate / PLUGIN_FOLDER

    def parts(self, coordinate: str) -> list[Path]:
        """Return the coefficient files of a random effect, in order."""
        return [
            self.path / coordinate / part_name(number)
            for number in range(self.manifest.coordinate(coordinate).parts)
        ]

    def files(self) -> list[Path]:
        """Return feature index, coefficient files and plug-ins' files: what the content digest covers."""
        found = [self.feature_index]
        for coordinate in self.manifest.coordinates:
            if coordinate.plugin is not None:
                found += [self.plugin(coordinate.name) / name for name in coordinate.plugin.files]
            if not coordinate.native:
                continue
            fixed = coordinate.kind == "fixed_effect"
            found += [self.fixed_effect(coordinate.name)] if fixed else self.parts(coordinate.name)
        return found

    def run(self) -> dict[str, Any]:
        """Return `run.json`: when, where and by which job the model was trained; empty when there is none."""
        try:
            values: dict[str, Any] = json.loads((self.path / RUN_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        return values

    def verify(self) -> None:
        """Compare the files with the manifest's content digest.

        Raises:
            DataError: a file is missing or differs.
        """
        if content_digest(self.path, self.manifest) != self.manifest.content_digest:
            raise DataError(f"{self.path}: the files are not those of the manifest (content_digest differs)")


def open_model(path: str | Path) -> ModelDirectory:
    """Open a model directory.

    Raises:
        NotFound: it holds no model version.
        DataError: its manifest cannot be read.
    """
    return ModelDirectory(Path(path), read_manifest(path))


def content_digest(path: str | Path, manifest: ModelManifest) -> str:
    """Return the sha256 (hex) over names and contents of feature index, coefficient files and plug-ins' files.

    Two trainings gave "the same model" exactly if these digests agree.

    Raises:
        DataError: a file is missing.
    """
    root = Path(path)
    digest = hashlib.sha256()
    for file in sorted(ModelDirectory(root, manifest).files()):
        try:
            with file.open("rb") as stream:
                inner = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
        digest.update(f"{file.relative_to(root).as_posix()}\0{inner}\n".encode())
    return digest.hexdigest()


def assemble_model(
    target: str | Path,
    manifest: ModelManifest,
    *,
    feature_index: str | Path,
    coefficients: Mapping[str, Sequence[str | Path]],
    run: Mapping[str, Any],
    plugins: Mapping[str, str | Path] = NO_PLUGINS,
) -> ModelDirectory:
    """Put a model version together under a temporary name and rename it into place.

    Files are linked where the file system allows it, else copied. A directory that is there already stays if
    its contents are the same (an earlier attempt did the work).

    Args:
        target: `<output>/models/<version>`.
        manifest: without `content_digest` and the numbers of parts, which are filled in.
        feature_index: the feature index file.
        coefficients: by coordinate, its coefficient files in part order (one for a fixed effect, none for one
            that is external or plugged in).
        run: times, hosts, job id.
        plugins: by coordinate that is plugged in, the directory of the files that its manifest names.

    Raises:
        Conflict: another model is there already.
        DataError: a file is missing.
        InternalError: coefficients and the manifest's coordinates do not fit together.
    """
    final = Path(target)
    complete = replace(manifest, coordinates=_with_parts(manifest, coefficients))
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        _link(Path(feature_index), temporary / FEATURE_INDEX_FILE)
        for coordinate in complete.coordinates:
            (temporary / coordinate.name).mkdir()
            fixed = coordinate.kind == "fixed_effect"
            for number, file in enumerate(coefficients[coordinate.name]):
                name = FIXED_EFFECT_FILE if fixed else part_name(number)
                _link(Path(file), temporary / coordinate.name / name)
            if coordinate.plugin is not None:
                _link_plugin(coordinate, Path(plugins[coordinate.name]), temporary)
        complete = replace(complete, content_digest=content_digest(temporary, complete))
        write_manifest(temporary, complete)
        text = json.dumps(run, indent=2, sort_keys=True, default=str)
        (temporary / RUN_FILE).write_text(text + "\n", encoding="utf-8")
        _rename(temporary, final, complete)
    except OSError as error:
        raise DataError(
            f"{error.filename}: the model directory cannot be written: {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_model(final)


def _with_parts(
    manifest: ModelManifest, coefficients: Mapping[str, Sequence[str | Path]]
) -> tuple[CoordinateManifest, ...]:
    names = [coordinate.name for coordinate in manifest.coordinates]
    if sorted(names) != sorted(coefficients):
        raise InternalError(
            f"the manifest names coordinates {names}, there are files of {sorted(coefficients)}"
        )
    for coordinate in manifest.coordinates:
        wanted = 1 if coordinate.native else 0
        if coordinate.kind == "fixed_effect" and len(coefficients[coordinate.name]) != wanted:
            number = "one" if coordinate.native else "no"
            raise InternalError(f"fixed effect {coordinate.name!r} must have {number} coefficient file")
    return tuple(
        replace(
            coordinate, parts=len(coefficients[coordinate.name]) if coordinate.kind == "random_effect" else 0
        )
        for coordinate in manifest.coordinates
    )


def _link_plugin(coordinate: CoordinateManifest, source: Path, model: Path) -> None:
    assert coordinate.plugin is not None
    for name in coordinate.plugin.files:
        target = model / plugin_file_name(coordinate.name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source / name, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise DataError(f"{source}: is missing, so the model directory cannot be put together") from error
    except OSError:
        shutil.copyfile(source, target)  # another file system, or one without links


def _rename(temporary: Path, final: Path, manifest: ModelManifest) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        if not final.is_dir():
            raise
        if read_manifest(final).content_digest != manifest.content_digest:
            raise Conflict(f"{final}: another model version is there already") from error


# ---- versions on disk ------------------------------------------------------------------------------------


def list_versions(root: str | Path) -> list[int]:
    """Return the complete versions under `<output>/models`, ascending."""
    found = [
        int(path.parent.name)
        for path in Path(root).glob("*/manifest.json")
        if path.parent.name.isascii() and path.parent.name.isdigit()
    ]
    return sorted(found)


def newest_version(root: str | Path) -> ModelDirectory:
    """Open the version with the highest number under `<output>/models`.

    Raises:
        NotFound: there is none.
    """
    versions = list_versions(root)
    if not versions:
        raise NotFound(f"{root}: holds no model version yet")
    return open_model(Path(root) / str(versions[-1]))
