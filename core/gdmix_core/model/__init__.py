"""Model versions on disk: manifest, coefficient files, the directory, and publishing them to a store."""

from __future__ import annotations

from gdmix_core.model.directory import (
    ModelDirectory,
    assemble_model,
    list_versions,
    newest_version,
    open_model,
)
from gdmix_core.model.manifest import (
    CoordinateManifest,
    GroupManifest,
    ModelManifest,
    PluginColumn,
    PluginFile,
    PluginManifest,
    manifest_from_dict,
    manifest_from_json,
)
from gdmix_core.model.publishing import Publication, publish_model

__all__ = [
    "CoordinateManifest",
    "GroupManifest",
    "ModelDirectory",
    "ModelManifest",
    "PluginColumn",
    "PluginFile",
    "PluginManifest",
    "Publication",
    "assemble_model",
    "list_versions",
    "manifest_from_dict",
    "manifest_from_json",
    "newest_version",
    "open_model",
    "publish_model",
]
