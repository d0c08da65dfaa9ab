"""Reading a job config: YAML in, a checked `JobConfig` out, every mistake reported at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gdmix_core.config.features import FeatureColumn
from gdmix_core.config.job import Columns, DataConfig, FixedEffect, JobConfig, RandomEffect
from gdmix_core.errors import ConfigError

Lines: TypeAlias = Mapping[tuple[str | int, ...], int]

_LARGEST_DOCUMENT: Final = 100_000
_COORDINATES: Final[dict[str, type[BaseModel]]] = {"fixed_effect": FixedEffect, "random_effect": RandomEffect}
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

    Args:
        path: A YAML (or JSON) file.
        overrides: Top-level keys that replace the file's, say `{"store": "redis://…"}`; their paths are
            relative to the current directory.

    Raises:
        ConfigError: The file cannot be read or has mistakes; `problems` lists them all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    config = parse_config(text, source=str(path))
    config = resolve_paths(config, path.resolve().parent)
    if overrides:
        changed = _check(
            {**config.model_dump(mode="json", exclude_unset=True), **overrides}, "command line", {}
        )
        config = resolve_paths(changed, Path.cwd())
    return config


def parse_config(text: str, source: str = "config") -> JobConfig:
    """Parse and check the text of a job config; paths stay as written.

    Raises:
        ConfigError: Not YAML, or mistakes; `problems` lists them all, each with its line and path.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines, duplicates = _lines(node, source)
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
        raise _config_error(source, duplicates)
    return _check(document, source, lines)


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
    document = config.model_dump(mode="json")
    for key in ("output", "store", "activate", "keep"):
        del document[key]
    del document["data"]["train"], document["data"]["validation"]
    return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


def resolve_paths(config: JobConfig, base: Path) -> JobConfig:
    """Return the config with its relative paths made absolute under `base`."""
    data = config.data.model_copy(
        update={
            "train": tuple(_absolute(path, base) for path in config.data.train),
            "validation": tuple(_absolute(path, base) for path in config.data.validation),
        }
    )
    store = config.store
    if store is not None and store.startswith("lmdb:"):
        store = "lmdb:" + _absolute(store.removeprefix("lmdb:"), base)
    return config.model_copy(update={"data": data, "output": _absolute(config.output, base), "store": store})


def _absolute(path: str, base: Path) -> str:
    if path.startswith(_REMOTE_SCHEMES):
        return path
    expanded = Path(path).expanduser()
    return str(expanded if expanded.is_absolute() else Path(base / expanded).absolute())


def _check(document: Any, source: str, lines: Lines) -> JobConfig:
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: found {type(document).__name__}; a job config is a mapping of keys")
    try:
        return JobConfig.model_validate(document)
    except ValidationError as error:
        problems: list[str] = []
        for details in error.errors(include_url=False):
            problems.extend(_describe(details, source, lines))
        raise _config_error(source, problems) from error


def _config_error(source: str, problems: list[str]) -> ConfigError:
    count = len(problems)
    headline = f"{source}: {count} mistake{'s' if count > 1 else ''}"
    return ConfigError("\n  ".join([headline, *problems]), tuple(problems))


def _describe(details: ErrorDetails, source: str, lines: Lines) -> list[str]:
    """Put one of pydantic's findings into our words: line, path, what was found, what is allowed."""
    location, kind = _path_in_file(details["loc"]), details["type"]
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error" and not location:
        return [_at(source, _line_of_text(problem, lines)) + problem for problem in message.split("\n")]
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    where = f"{_at(source, line)}{_dotted(location)}: "
    if kind == "extra_forbidden":
        return [f"{where}unknown key; {_suggestion(location, details['loc'])}"]
    if kind == "missing":
        return [f"{where}missing; it is required"]
    if kind == "invalid_key":
        return [f"{_at(source, line)}{'.'.join(str(part) for part in location)}: a key must be a string"]
    if kind == "value_error":
        return [where + message]
    return [f"{where}found {_shown(details['input'])}; {_allowed(kind, message)}"]


def _path_in_file(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return where the value stands in the file: the location without the names of union members."""
    parts = list(location)
    if len(parts) > 2 and parts[0] == "coordinates" and parts[2] in _COORDINATES:
        del parts[2]
        if len(parts) > 3 and parts[2] == "l2":
            del parts[3]
    return tuple(part for part in parts if part != "[key]")


def _at(source: str, line: int | None) -> str:
    return f"{source}:{line}: " if line is not None else ""


def _line_of_text(problem: str, lines: Lines) -> int | None:
    """Return the line of the longest path that a message begins with."""
    dotted = {_dotted(path): line for path, line in lines.items()}
    path = problem.split(": ", 1)[0]
    while path not in dotted:
        if "." not in path and "[" not in path:
            return dotted.get(_dotted(()))
        path = path[: max(path.rfind("."), path.rfind("["))]
    return dotted[path]


def _suggestion(location: tuple[str | int, ...], tagged: tuple[str | int, ...]) -> str:
    """Say which key may have been meant, else which there are."""
    known = list(_model_at(tagged).model_fields)
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}"


def _model_at(tagged: tuple[str | int, ...]) -> type[BaseModel]:
    if tagged[0] == "coordinates" and len(tagged) > 3:
        return _COORDINATES[str(tagged[2])]
    if tagged[0] == "features":
        return FeatureColumn
    if tagged[0] == "data":
        return Columns if tagged[1] == "columns" and len(tagged) > 2 else DataConfig
    return JobConfig


def _allowed(kind: str, message: str) -> str:
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "allowed: a mapping of keys"
    if kind in {"tuple_type", "list_type"}:
        return "allowed: a list"
    if message.startswith("Input should be "):
        text = (
            message.removeprefix("Input should be ")
            .replace("a valid ", "a ")
            .replace("a integer", "an integer")
        )
        return f"allowed: {'one of ' if kind == 'literal_error' and ' or ' in text else ''}{text}"
    return f"{message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else "nothing" if value is None else repr(value)


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top level)"


def _lines(root: yaml.Node | None, source: str) -> tuple[dict[tuple[str | int, ...], int], list[str]]:
    """Return the line of every path, and keys that stand twice (YAML would let the last one win).

    Raises:
        ConfigError: An alias refers to itself, or aliases blow the document up.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    duplicates: list[str] = []

    def walk(node: yaml.Node, path: tuple[str | int, ...], above: tuple[int, ...]) -> None:
        where = f"{source}:{node.start_mark.line + 1}: {_dotted(path)}"
        if id(node) in above:
            raise ConfigError(f"{where}: an alias refers to itself")
        if len(lines) > _LARGEST_DOCUMENT:
            raise ConfigError(f"{where}: more than {_LARGEST_DOCUMENT} values; is an alias used too often?")
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen and name != "<<":
                    line = key.start_mark.line + 1
                    duplicates.append(f"{source}:{line}: {_dotted((*path, name))}: stands twice")
                seen.add(name)
                lines[*path, name] = key.start_mark.line + 1
                walk(value, (*path, name), (*above, id(node)))
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                walk(value, (*path, position), (*above, id(node)))

    if root is not None:
        walk(root, (), ())
    return lines, duplicates
