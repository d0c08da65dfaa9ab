"""The fixed effects that are plugged in: found by name, loaded when they are used, checked once.

Built-in ones are listed here; all others are entry points of the group `gdmix.fixed_effects`. Listing reads the
metadata of installed distributions and imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_args

from gdmix_core.errors import MissingDependency, NotFound, UsageError

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.plugin import FixedEffectPlugin, InputColumn

GROUP: Final = "gdmix.fixed_effects"
_OURS: Final = "gdmix"
_BUILT_IN: Final[Mapping[str, str]] = {
    "deep_text": "gdmix_core.fixed_effects.deep_text:DeepText",
    "lightgbm": "gdmix_core.fixed_effects.lightgbm_trees:LightgbmTrees",
}
"""Module and class of the plug-ins that come with GDMix."""


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """A plug-in as its distribution announces it.

    Attributes:
        name: what a config calls it.
        target: `module:class`.
        distribution: name of the installed distribution.
        version: its version.
        extras: of that distribution, those it needs.
        rivals: other distributions that announce the same name.
    """

    name: str
    target: str
    distribution: str
    version: str
    extras: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    @property
    def built_in(self) -> bool:
        """Whether it comes with GDMix."""
        return self.distribution == _OURS

    def __str__(self) -> str:
        return f"plug-in {self.name!r} ({self.distribution} {self.version}, {self.target})"


@cache
def installed_plugins() -> Mapping[str, InstalledPlugin]:
    """Return the plug-ins that are installed, by name; the first call reads them for the whole process."""
    found: dict[str, InstalledPlugin] = {}
    for plugin in sorted(_announced(), key=lambda plugin: (not plugin.built_in, plugin.distribution)):
        first = found.setdefault(plugin.name, plugin)
        if (first.target, first.distribution) != (plugin.target, plugin.distribution):
            rivals = (*first.rivals, plugin.distribution)
            found[plugin.name] = InstalledPlugin(
                first.name, first.target, first.distribution, first.version, first.extras, rivals
            )
    return dict(sorted(found.items()))


def foreign_versions() -> dict[str, str]:
    """Return `distribution version` of every plug-in that does not come with GDMix, by its name."""
    return {
        plugin.name: f"{plugin.distribution} {plugin.version}"
        for plugin in installed_plugins().values()
        if not plugin.built_in
    }


def find_plugin(name: str) -> InstalledPlugin:
    """Return what is known of a plug-in without loading it.

    Raises:
        NotFound: none of this name is installed.
        UsageError: several are.
    """
    plugin = installed_plugins().get(name)
    if plugin is None:
        there = ", ".join(installed_plugins()) or "none"
        raise NotFound(f"fixed effect {name!r} is not installed; installed plug-ins are {there}")
    if plugin.rivals:
        raise UsageError(
            f"plug-in {name!r} is announced by several distributions: {plugin.distribution}, "
            f"{', '.join(plugin.rivals)}; uninstall all but one"
        )
    return plugin


@cache
def load_plugin(name: str) -> FixedEffectPlugin[Any]:
    """Return a plug-in, imported and checked.

    Raises:
        NotFound: none of this name is installed.
        MissingDependency: something that it imports is not installed.
        UsageError: several plug-ins have the name, or this one breaks the protocol; the message says where.
    """
    plugin = find_plugin(name)
    module, _, attribute = plugin.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise missing_dependency(plugin, error, _requirement(plugin)) from error
    except Exception as error:
        raise UsageError(f"{plugin} cannot be imported: {type(error).__name__}: {error}") from error
    return _instance(plugin, found)


def missing_dependency(
    plugin: InstalledPlugin, error: ImportError, requirement: str | None
) -> MissingDependency:
    """Return the error for a module that a plug-in could not import, with what to install, if that is known."""
    advice = f"; install it with: pip install '{requirement}'" if requirement else ""
    return MissingDependency(f"{plugin} cannot be imported: {error}{advice}")


def columns_of(name: str, options: Any) -> tuple[InputColumn, ...]:
    """Return the columns that a plug-in reads with such options, checked.

    Raises:
        UsageError: as `load_plugin`, or they are not what the protocol allows.
        ValueError: the plug-in refuses the options.
    """
    from gdmix_core.fixed_effects.plugin import ColumnKind, InputColumn

    plugin = load_plugin(name)
    columns = tuple(_listed(name, plugin.columns(options)))
    for column in columns:
        if not isinstance(column, InputColumn):
            raise UsageError(
                f"{find_plugin(name)}: columns() gives a {type(column).__name__}, not InputColumns"
            )
        if column.kind not in get_args(ColumnKind):
            raise UsageError(
                f"{find_plugin(name)}: column {column.name!r}: found kind {column.kind!r}; allowed are "
                f"{', '.join(get_args(ColumnKind))}"
            )
        if column.kind == "sparse" and column.dimension is None:
            raise ValueError(f"column {column.name!r}: a sparse column needs a dimension")
        if column.dimension is not None and (column.kind not in {"sparse", "vector"} or column.dimension < 1):
            raise ValueError(
                f"column {column.name!r}: found dimension {column.dimension} with kind {column.kind}; allowed "
                "are positive ones of vector and sparse columns"
            )
    names = [column.name for column in columns]
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise ValueError(f"column {twice[0]!r} is read {names.count(twice[0])} times; name it once")
    return columns


def _listed(name: str, columns: Any) -> Sequence[Any]:
    if isinstance(columns, (list, tuple)):
        return columns
    raise UsageError(f"{find_plugin(name)}: columns() gives a {type(columns).__name__}, not a list")


def _announced() -> Iterator[InstalledPlugin]:
    from importlib import metadata

    for name, target in _BUILT_IN.items():
        yield InstalledPlugin(name, target, _OURS, _version_of_ours())
    for entry in metadata.entry_points(group=GROUP):
        if entry.dist is not None:
            yield InstalledPlugin(
                entry.name,
                f"{entry.module}:{entry.attr}",
                entry.dist.name,
                entry.dist.version,
                tuple(entry.extras),
            )


def _version_of_ours() -> str:
    from importlib import metadata

    try:
        return metadata.version(_OURS)
    except metadata.PackageNotFoundError:
        return "unknown"


def _requirement(plugin: InstalledPlugin) -> str | None:
    return f"{plugin.distribution}[{','.join(plugin.extras)}]" if plugin.extras else None


def _instance(plugin: InstalledPlugin, found: Any) -> FixedEffectPlugin[Any]:
    """Return the instance of a plug-in's class.

    Raises:
        UsageError: the class breaks the protocol; the message names the attribute.
    """
    problem = _broken(found)
    if problem:
        raise UsageError(f"{plugin} breaks the protocol of fixed effects: {problem}")
    try:
        made: FixedEffectPlugin[Any] = found()
    except Exception as error:
        raise UsageError(
            f"{plugin} breaks the protocol of fixed effects: it cannot be made without arguments: {error}"
        ) from error
    return made


def _broken(found: Any) -> str | None:
    """Say which rule of the protocol a class breaks, None when it breaks none."""
    from gdmix_core.fixed_effects.plugin import FixedEffectPlugin, GradientPlugin, PluginOptions, Training

    if not isinstance(found, type) or not issubclass(found, FixedEffectPlugin):
        return f"{found!r} is not a subclass of FixedEffectPlugin"
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return f"it does not define {', '.join(missing)}"
    options = getattr(found, "options", None)
    if not isinstance(options, type) or not issubclass(options, PluginOptions):
        return f"attribute options is {options!r}, not a subclass of PluginOptions"
    if "fixed_effect" in options.model_fields:
        return "options has a field fixed_effect, which is where a config names the plug-in"
    if found.training not in get_args(Training):
        return f"attribute training is {found.training!r}; allowed are {', '.join(get_args(Training))}"
    if (found.training == "gradients") != issubclass(found, GradientPlugin):
        return (
            f"attribute training is {found.training!r}: gradients goes with GradientPlugin, and only with it"
        )
    if found.extra is not None and not isinstance(found.extra, str):
        return f"attribute extra is {found.extra!r}, not a requirement"
    return None
