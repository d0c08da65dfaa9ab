"""Mistakes in a config, put into words: file and line, path, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gdmix_core.errors import ConfigError

Location: TypeAlias = tuple[str | int, ...]
Lines: TypeAlias = Mapping[Location, int]
"""Line of every path of a file."""


@dataclass(frozen=True, slots=True)
class Format:
    """What messages need to know about a config format besides its models."""

    path_in_file: Callable[[Location], Location]
    """From pydantic's location of a value to where it stands in the file."""
    model_at: Callable[[Location], type[BaseModel]]
    """From pydantic's location of an unknown key to the model that has no such field."""


def config_error(source: str, problems: Sequence[str]) -> ConfigError:
    """Return the one error that lists all problems."""
    count = len(problems)
    headline = f"{source}: {count} mistake{'s' if count > 1 else ''}"
    return ConfigError("\n  ".join([headline, *problems]), tuple(problems))


def describe_all(error: ValidationError, source: str, lines: Lines, form: Format) -> list[str]:
    """Put pydantic's findings into our words, in its order."""
    problems: list[str] = []
    for details in error.errors(include_url=False):
        problems.extend(_describe(details, source, lines, form))
    return problems


def at(source: str, location: Location, lines: Lines) -> str:
    """Return `source:line: path: `, the beginning of a message; the line of the nearest path that has one."""
    return f"{_at_line(source, _line(location, lines))}{dotted(location)}: "


def dotted(location: Location) -> str:
    """Return a path as messages show it."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top level)"


def _describe(details: ErrorDetails, source: str, lines: Lines, form: Format) -> list[str]:
    location, kind = form.path_in_file(details["loc"]), details["type"]
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error" and not location:
        return [_at_line(source, _line_of_text(problem, lines)) + problem for problem in message.split("\n")]
    where = at(source, location, lines)
    if kind == "extra_forbidden":
        return [f"{where}unknown key; {_suggestion(location, form.model_at(details['loc']))}"]
    if kind == "missing":
        return [f"{where}missing; it is required"]
    if kind == "invalid_key":
        path = ".".join(str(part) for part in location)
        return [f"{_at_line(source, _line(location, lines))}{path}: a key must be a string"]
    if kind == "value_error":
        return [where + message]
    return [f"{where}found {_shown(details['input'])}; {_allowed(kind, message)}"]


def _at_line(source: str, line: int | None) -> str:
    return f"{source}:{line}: " if line is not None else ""


def _line(location: Location, lines: Lines) -> int | None:
    return next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)


def _line_of_text(problem: str, lines: Lines) -> int | None:
    """Return the line of the longest path that a message begins with."""
    by_text = {dotted(path): line for path, line in lines.items()}
    path = problem.split(": ", 1)[0]
    while path not in by_text:
        if "." not in path and "[" not in path:
            return by_text.get(dotted(()))
        path = path[: max(path.rfind("."), path.rfind("["))]
    return by_text[path]


def _suggestion(location: Location, model: type[BaseModel]) -> str:
    """Say which key may have been meant, else which there are."""
    known = list(model.model_fields)
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}"


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
