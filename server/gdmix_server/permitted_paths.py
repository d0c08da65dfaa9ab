"""Which files jobs may name: those below the coordinator's data roots, when it has any."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from typing import Final

from gdmix_core.config import JobConfig
from gdmix_core.config.paths import map_paths
from gdmix_core.errors import NotPermitted

_GLOB: Final = frozenset("*?[")


class PermittedPaths:
    """Checks paths against data roots; without roots everything is permitted."""

    def __init__(self, roots: Iterable[str] = ()) -> None:
        self.roots = tuple(roots)
        self._normal = tuple(_normal(root) for root in self.roots)

    def check_config(self, config: JobConfig) -> None:
        """Check every path that a job reads from or writes to.

        Raises:
            NotPermitted: one lies elsewhere; the message names its field.
        """

        def checked(path: str, place: str) -> str:
            self.check(path, place)
            return path

        map_paths(config, checked)
        if config.store is not None:
            self.check_store(config.store, "store")

    def check_store(self, url: str, what: str) -> None:
        """Check the directory of an embedded store; a store behind an address is not a path."""
        if url.startswith("lmdb:"):
            self.check(url.removeprefix("lmdb:"), what)

    def check(self, path: str, what: str) -> None:
        """Check one path, which may be a glob.

        Raises:
            NotPermitted: it does not lie below a data root.
        """
        if self.roots and not (_clean(path) and any(_below(_normal(path), root) for root in self._normal)):
            raise NotPermitted(
                f"{what}: {path!r} is not below the coordinator's data roots ({', '.join(self.roots)})"
            )


def _clean(path: str) -> bool:
    """Return whether no part climbs up: what a glob matches could make `..` lead anywhere."""
    return ".." not in path.split("/")


def _normal(path: str) -> str:
    """Return the path without symbolic links up to its first pattern, or an address as it is."""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    scheme, separator, rest = path.partition("://")
    if separator:
        return f"{scheme}://{posixpath.normpath(rest)}"
    parts = path.split("/")
    first = next((at for at, part in enumerate(parts) if _GLOB & set(part)), len(parts))
    solid = os.path.realpath("/".join(parts[:first]) or "/")
    return os.path.join(solid, *parts[first:])  # noqa: PTH118 - a pattern is no Path


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
