"""Which files a worker may touch: only what lies below the prefixes it was started with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdmix_core.errors import NotPermitted

if TYPE_CHECKING:  # a worker registers before it imports what tasks need
    from gdmix_core.tasks import Task

PATH_FIELDS = frozenset(
    {
        "before",
        "directories",
        "directory",
        "index",
        "crossing",
        "initial",
        "linearised",
        "metadata",
        "model_directory",
        "model_root",
        "names",
        "obsolete",
        "offsets",
        "output",
        "own_scores",
        "partials",
        "partition_directory",
        "partitions",
        "path",
        "predictors",
        "products",
        "runs",
        "scores",
        "shards",
        "spills",
        "store",
        "system",
        "systems",
        "train",
        "validation",
        "validation_directory",
    }
)
"""Names of the fields of tasks, and of what they hold, whose text is a path, a glob or a store's URL."""
OTHER_TEXT_FIELDS = frozenset(
    {
        "bag",
        "bag_sizes",
        "bags",
        "cache_key",
        "column",
        "config_json",
        "coordinate",
        "dense_fixed_effects",
        "entity_column",
        "entity_columns",
        "entity_sources",
        "external",
        "features",
        "format",
        "groups",
        "inputs",
        "job_id",
        "kind",
        "label",
        "manifest",
        "metrics",
        "model",
        "name",
        "nulls",
        "offset",
        "optional",
        "options_json",
        "owner",
        "plugin",
        "role",
        "run",
        "scale",
        "score",
        "separator",
        "source",
        "sources",
        "task",
        "token",
        "uid",
        "unknown",
        "values",
        "variance",
        "weight",
        "weighting",
        "weights",
    }
)
"""Names of the fields with any other text; every field is in one of the two sets, which a test checks."""

_PATHS_OF_KIND = {"score_fixed_effect": frozenset({"model"})}
"""Fields that are a path in one task and something else in the others."""
_GLOB = re.compile(r"[*?\[]")


class DataRoots:
    """The prefixes; without any, every path is allowed."""

    def __init__(self, roots: Iterable[str | Path] = ()) -> None:
        self._roots = tuple(Path(root).resolve() for root in roots)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes, absolute, as a worker announces them."""
        return tuple(str(root) for root in self._roots)

    def check(self, task: Task) -> None:
        """Check every path that a task names.

        Raises:
            NotPermitted: One lies outside of all prefixes, be it by `..` or through a symbolic link.
        """
        if not self._roots:
            return
        for path in paths_of(task):
            if not self.allows(path):
                raise NotPermitted(
                    f"{task.kind}: {path} lies outside of this worker's data roots "
                    f"({', '.join(self.prefixes)}); start it with --data-root for the directory"
                )

    def allows(self, path: str) -> bool:
        """Whether a path, a glob or an `lmdb:` URL lies below a prefix; other stores are no files."""
        scheme, colon, rest = path.partition(":")
        if colon and scheme in {"redis", "rediss"}:
            return True
        if colon and scheme in {"lmdb", "unix"}:
            path = rest.removeprefix("//") if rest.startswith("///") else rest
        fixed = Path(path)
        for position, part in enumerate(fixed.parts):
            if _GLOB.search(part):
                if ".." in fixed.parts[position:]:
                    return False
                fixed = Path(*fixed.parts[:position])
                break
        place = fixed.resolve()
        return any(place.is_relative_to(root) for root in self._roots)


def paths_of(task: Task) -> Iterator[str]:
    """Yield every path, glob and store URL that a task names."""
    named = PATH_FIELDS | _PATHS_OF_KIND.get(task.kind, frozenset())
    yield from _paths(task, named)


def _paths(value: Any, named: frozenset[str]) -> Iterator[str]:
    for name, inner in _members(value):
        yield from _paths_in(inner, name in named, named)


def _paths_in(inner: Any, is_path: bool, named: frozenset[str]) -> Iterator[str]:
    """Yield the paths in a field's value, which is text, or holds text, lists, mappings and dataclasses."""
    if isinstance(inner, str):
        if is_path and inner:
            yield inner
    elif isinstance(inner, (tuple, list)):
        for element in inner:
            yield from _paths_in(element, is_path, named)
    elif isinstance(inner, Mapping):
        for element in inner.values():
            yield from _paths_in(element, is_path, named)
    else:
        yield from _paths(inner, named)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a dataclass or config model; nothing of any other value."""
    if hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield name, getattr(value, name)
    elif is_dataclass(value):
        for field in fields(value):
            yield field.name, getattr(value, field.name)
