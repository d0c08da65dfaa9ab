"""Reading a job config: YAML in, a checked `JobConfig` out, every mistake reported at once."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from gdmix_core.config.coordinates import COORDINATE_KINDS, ScoreFiles
from gdmix_core.config.data import Columns, DataConfig, Source
from gdmix_core.config.features import FeatureColumn
from gdmix_core.config.gdmix_yaml import is_gdmix_config, translate
from gdmix_core.config.job import JobConfig
from gdmix_core.config.mistakes import Format, Lines, Location, config_error, describe_all, dotted
from gdmix_core.config.paths import map_paths
from gdmix_core.config.plugged import options_model
from gdmix_core.errors import ConfigError

_MERGE: Final = "tag:yaml.org,2002:merge"
_LARGEST_DOCUMENT: Final = 100_000
_REMOTE_SCHEMES = ("s3://", "gs://", "gcs://", "hdfs://", "file://")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, which YAML 1.1 takes for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_config(path: Path | str, overrides: Mapping[str, object] | None = None) -> JobConfig:
    """Read, check and resolve a job config; relative paths in it are relative to the file.

    A config of LinkedIn GDMix is understood as well (`gdmix_core.config.gdmix_yaml`).

    Args:
        path: A YAML (or JSON) file.
        overrides: Top-level keys that replace the file's, say `{"store": "redis://…"}`; their paths are
            relative to the current directory.

    Raises:
        ConfigError: The file cannot be read or has mistakes; `problems` lists them all.
    """
    return load_with_notes(path, overrides)[0]


def load_with_notes(
    path: Path | str, overrides: Mapping[str, object] | None = None
) -> tuple[JobConfig, tuple[str, ...]]:
    """Do as `load_config`, and return with the config what its author should know about how it was read.

    Raises:
        ConfigError: The file cannot be read or has mistakes; `problems` lists them all.
    """
    path = Path(path)
    config, notes = parse_with_notes(read_text(path), str(path))
    if notes is None:
        notes = ()
    else:
        config, elsewhere = _found_from_here(config, path.resolve().parent)
        notes = (*notes, *elsewhere)
    config = resolve_paths(config, path.resolve().parent)
    if overrides:
        changed = _check(
            {**config.model_dump(mode="json", exclude_unset=True), **overrides}, "command line", {}
        )
        config = resolve_paths(changed, Path.cwd())
    return config, notes


def read_text(path: Path) -> str:
    """Read the text of a config file.

    Raises:
        ConfigError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def parse_config(text: str, source: str = "config") -> JobConfig:
    """Parse and check the text of a job config, or of a config of LinkedIn GDMix; paths stay as written.

    Raises:
        ConfigError: Not YAML, or mistakes; `problems` lists them all, each with its line and path.
    """
    return parse_with_notes(text, source)[0]


def parse_with_notes(text: str, source: str) -> tuple[JobConfig, tuple[str, ...] | None]:
    """Do as `parse_config`; return the notes of the translation too, None when there was nothing to translate.

    Raises:
        ConfigError: Not YAML, or mistakes; `problems` lists them all, each with its line and path.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines, duplicates = _lines(node, source) if node is not None else ({}, [])
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if node is None:
        raise ConfigError(
            f"{source}: empty; a job config has at least model, task, data, coordinates, output"
        )
    if duplicates:
        raise config_error(source, duplicates)
    if not is_gdmix_config(document):
        return _check(document, source, lines), None
    translation = translate(document, source, lines)
    return _check(translation.document, source, translation.lines), translation.notes


def config_from_json(text: str) -> JobConfig:
    """Read the canonical form back, as it crosses the wire.

    Raises:
        ConfigError: Not JSON, or mistakes.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"config: not JSON: {error}") from error
    return _check(document, "config", {})


def config_to_json(config: JobConfig) -> str:
    """Return the canonical form: every field, JSON, order of coordinates and bags kept."""
    return json.dumps(config.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))


def config_digest(config: JobConfig) -> str:
    """Return the sha256 of what decides the model: everything but where it is read from and written to."""
    document = map_paths(config, lambda _, __: "").model_dump(mode="json")
    for key in ("output", "store", "activate", "keep", "results"):
        del document[key]
    return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


def resolve_paths(config: JobConfig, base: Path) -> JobConfig:
    """Return the config with its relative paths made absolute under `base`."""
    resolved = map_paths(config, lambda path, _: _absolute(path, base))
    store = config.store
    if store is not None and store.startswith("lmdb:"):
        store = "lmdb:" + _absolute(store.removeprefix("lmdb:"), base)
    return resolved.model_copy(update={"store": store})


def _absolute(path: str, base: Path) -> str:
    if path.startswith(_REMOTE_SCHEMES):
        return path
    expanded, base = Path(path).expanduser(), base.absolute()
    # Further `..` are left alone: they may come behind symbolic links.
    while expanded.parts[:1] == ("..",):
        expanded, base = Path(*expanded.parts[1:]), base.parent
    return str(base / expanded)


def _found_from_here(config: JobConfig, base: Path) -> tuple[JobConfig, tuple[str, ...]]:
    """Make input paths absolute that exist in the current directory only, which is where upstream looks.

    When there are some, the output goes there too, as upstream's does.
    """
    here = Path.cwd()
    found: list[str] = []

    def change(path: str, place: str) -> str:
        if place == "output" or _exists(_absolute(path, base)) or not _exists(_absolute(path, here)):
            return path
        found.append(path)
        return _absolute(path, here)

    changed = map_paths(config, change)
    if not found:
        return config, ()
    changed = changed.model_copy(update={"output": _absolute(config.output, here)})
    note = f"not beside the config, but found in the current directory {here}: {', '.join(found)}"
    return changed, (f"{note}; the output goes to {changed.output}",)


def _exists(path: str) -> bool:
    if path.startswith(_REMOTE_SCHEMES):
        return True
    return Path(path).exists() or next(glob.iglob(path), None) is not None  # noqa: PTH207 - absolute


def _check(document: Any, source: str, lines: Lines) -> JobConfig:
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: found {type(document).__name__}; a job config is a mapping of keys")
    try:
        return JobConfig.model_validate(document)
    except ValidationError as error:
        problems = describe_all(error, source, lines, _JOB_CONFIG)
        raise config_error(source, problems) from error


def _path_in_file(location: Location) -> Location:
    """Return where the value stands in the file: the location without the names of union members."""
    parts = list(location)
    if len(parts) > 2 and parts[0] == "coordinates" and parts[2] in COORDINATE_KINDS:
        kind = parts.pop(2)
        if kind == "plugged":
            del parts[2:3]  # the plug-in's name
        elif len(parts) > 3 and parts[2] == "l2":
            del parts[3]
    return tuple(part for part in parts if part != "[key]")


def _model_at(tagged: Location) -> type[BaseModel]:
    if tagged[0] == "coordinates" and len(tagged) > 4 and tagged[2] == "plugged":
        return options_model(str(tagged[3]), tagged[4:])
    if tagged[0] == "coordinates" and len(tagged) > 3:
        return ScoreFiles if tagged[3] == "scores" and len(tagged) > 4 else COORDINATE_KINDS[str(tagged[2])]
    if tagged[0] == "features":
        return FeatureColumn
    if tagged[0] == "data":
        if len(tagged) < 3:
            return DataConfig
        return Columns if tagged[1] == "columns" else Source
    return JobConfig


_JOB_CONFIG: Final = Format(_path_in_file, _model_at)


def _lines(root: yaml.Node, source: str) -> tuple[dict[Location, int], list[str]]:
    """Return the line of every path, and keys that stand twice (YAML would let the last one win).

    Keys that a merge (`<<`) brings in have their lines as well; a key of the mapping itself goes before them.

    Raises:
        ConfigError: An alias refers to itself, or aliases blow the document up.
    """
    lines: dict[Location, int] = {}
    duplicates: list[str] = []

    def walk(node: yaml.Node, path: Location, above: tuple[int, ...]) -> None:
        where = f"{source}:{node.start_mark.line + 1}: {dotted(path)}"
        if id(node) in above:
            raise ConfigError(f"{where}: an alias refers to itself")
        if len(lines) > _LARGEST_DOCUMENT:
            raise ConfigError(f"{where}: more than {_LARGEST_DOCUMENT} values; is an alias used too often?")
        lines.setdefault(path, node.start_mark.line + 1)
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in (pair for pair in node.value if pair[0].tag != _MERGE):
                name, line = str(key.value), key.start_mark.line + 1
                if name in seen:
                    duplicates.append(f"{source}:{line}: {dotted((*path, name))}: stands twice")
                seen.add(name)
                # A mapping that is merged in comes after the keys of the one that it is merged into.
                lines.setdefault((*path, name), line)
                walk(value, (*path, name), inside)
            for _, value in (pair for pair in node.value if pair[0].tag == _MERGE):
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    walk(merged, path, inside)
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                walk(value, (*path, position), inside)

    walk(root, (), ())
    return lines, duplicates
