"""The files of a plug-in's model: listed when it is saved, checked whenever they are read again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from gdmix_core.errors import DataError, InternalError, StoreCorrupt
from gdmix_core.model.directory import plugin_file_name
from gdmix_core.model.manifest import CoordinateManifest, PluginFile
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.keys import MAX_NAME_BYTES, escape


def list_plugin_files(directory: str | Path, coordinate: str) -> dict[str, PluginFile]:
    """Return what a plug-in saved, by relative name in the order of names.

    Raises:
        DataError: it saved nothing, something that is not an ordinary file, or under a name too long for a store.
    """
    root = Path(directory)
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_file() or path.is_symlink():
            raise DataError(f"the saved model holds {name}, which is not an ordinary file")
        stored = len(escape(plugin_file_name(coordinate, name).encode()))
        if stored > MAX_NAME_BYTES:
            raise DataError(
                f"the saved model holds {name}: with the coordinate's, its name has {stored} bytes in a store; allowed "
                f"are {MAX_NAME_BYTES}"
            )
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[name] = PluginFile(sha256=digest, size=path.stat().st_size)
    if not found:
        raise DataError("the saved model holds no files")
    return found


def check_plugin_files(directory: str | Path, manifest: CoordinateManifest) -> None:
    """Compare the files of a plug-in's model with its manifest.

    Raises:
        DataError: one is missing or differs; the message names it.
    """
    for name, expected in _expected(manifest):
        path = Path(directory) / name
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if digest != expected.sha256:
            raise DataError(f"{path}: is not the file of the manifest (sha256 differs)")


def fetch_plugin_files(
    store: CoefficientStore, model: str, version: int, manifest: CoordinateManifest, directory: str | Path
) -> None:
    """Write the files of a plug-in's model from a store into an existing directory, one at a time.

    Raises:
        VersionGone: the version is not complete.
        StoreCorrupt: a file is lost, or is not that of the manifest.
    """
    write_plugin_files(lambda name: store.read_blob(model, version, name), manifest, directory)


def write_plugin_files(
    read: Callable[[str], bytes], manifest: CoordinateManifest, directory: str | Path
) -> None:
    """Write the files of a plug-in's model into an existing directory, one at a time.

    Args:
        read: returns the contents of a file of the version by its name.
        manifest: of the coordinate.
        directory: where they go.

    Raises:
        StoreCorrupt: a file is not that of the manifest.
    """
    for name, expected in _expected(manifest):
        data = read(plugin_file_name(manifest.name, name))
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise StoreCorrupt(
                f"file {name!r} of coordinate {manifest.name!r} is not that of the manifest (sha256 differs)"
            )
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _expected(manifest: CoordinateManifest) -> Iterator[tuple[str, PluginFile]]:
    if manifest.plugin is None:
        raise InternalError(f"coordinate {manifest.name!r} is not plugged in")
    yield from manifest.plugin.files.items()
