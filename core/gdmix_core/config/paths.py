"""Every path that a job config names, in one place: for resolving, permitting and digesting them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gdmix_core.config.coordinates import AnyCoordinate, ExternalEffect, is_path
from gdmix_core.config.data import Files
from gdmix_core.config.features import FeatureColumn
from gdmix_core.config.job import JobConfig
from gdmix_core.errors import ConfigError

Change = Callable[[str, str], str]
"""From a path and its place in the config to the path that takes its place."""

F = TypeVar("F", bound=Files)


def map_paths(config: JobConfig, change: Change) -> JobConfig:
    """Return the config with every path replaced by what `change` makes of it; the store is none of them."""
    data = _files(config.data, "data", change)
    data = data.model_copy(
        update={
            "sources": {
                name: _files(source, f"data.sources.{name}", change) for name, source in data.sources.items()
            }
        }
    )
    update: dict[str, object] = {
        "data": data,
        "features": {
            bag: tuple(_column(column, f"features.{bag}", change) for column in columns)
            for bag, columns in config.features.items()
        },
        "coordinates": {
            name: _coordinate(coordinate, f"coordinates.{name}", change)
            for name, coordinate in config.coordinates.items()
        },
        "output": change(config.output, "output"),
    }
    if config.initial_model is not None:
        update["initial_model"] = change(config.initial_model, "initial_model")
    return config.model_copy(update=update)


def with_upload_paths(config: JobConfig, path_of: Callable[[str], Path]) -> JobConfig:
    """Return the config with the paths of uploads in place of their names; `path_of` raises for unknown ones."""
    coordinates = dict(config.coordinates)
    for name, coordinate in config.coordinates.items():
        if isinstance(coordinate, ExternalEffect):
            scores = coordinate.scores
            update = {
                role: str(path_of(upload))
                for role in ("train", "validation")
                if (upload := getattr(scores, role)) is not None and not is_path(upload)
            }
            if update:
                # An upload was checked and written anew when it came: its columns have these names.
                if len(update) == 1 and scores.validation is not None:
                    raise ConfigError(
                        f"coordinates.{name}.scores: found an upload and a path; give two of the same sort"
                    )
                scores = scores.model_copy(update=update | {"uid": "uid", "score": "score"})
                coordinates[name] = coordinate.model_copy(update={"scores": scores})
    return config.model_copy(update={"coordinates": coordinates})


def _files(files: F, where: str, change: Change) -> F:
    update: dict[str, object] = {
        role: tuple(
            change(path, f"{where}.{role}[{position}]") for position, path in enumerate(getattr(files, role))
        )
        for role in ("train", "validation")
        if getattr(files, role)
    }
    if files.metadata is not None:
        update["metadata"] = change(files.metadata, f"{where}.metadata")
    return files.model_copy(update=update)


def _column(column: FeatureColumn, where: str, change: Change) -> FeatureColumn:
    if column.names is None:
        return column
    return column.model_copy(update={"names": change(column.names, f"{where}.{column.column}.names")})


def _coordinate(coordinate: AnyCoordinate, where: str, change: Change) -> AnyCoordinate:
    if not isinstance(coordinate, ExternalEffect):
        return coordinate
    update = {
        role: change(path, f"{where}.scores.{role}")
        for role in ("train", "validation")
        if (path := getattr(coordinate.scores, role)) is not None and is_path(path)
    }
    return coordinate.model_copy(update={"scores": coordinate.scores.model_copy(update=update)})
