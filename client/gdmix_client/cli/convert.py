"""`gdmix-cli convert`: a training config of LinkedIn GDMix as a job config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gdmix_client.cli.printing import note, result
from gdmix_core.errors import UsageError

if TYPE_CHECKING:
    from gdmix_core.config import JobConfig

_KIND_KEYS: Final = ("fixed_effect", "random_effect")


def convert(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Training config of LinkedIn GDMix, a YAML file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write the job config, instead of stdout."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
) -> None:
    """Turn a training config of LinkedIn GDMix into a job config that says the same.

    Relative paths stay relative: to the file that is written, on stdout to the file that was read.
    """
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out}: exists already; --force writes over it")
    text, notes = converted(config, (config if out is None else out).resolve().parent)
    for line in notes:
        note(line)
    if out is None:
        result(text.rstrip("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from error
    result(f"{out}: written; check it with gdmix-cli validate {out}")


def converted(path: Path, base: Path) -> tuple[str, tuple[str, ...]]:
    """Return a config of LinkedIn GDMix as the text of a job config, and what its author should know.

    Args:
        path: the config.
        base: what relative paths in the text are to be relative to.

    Raises:
        ConfigError: it has mistakes, or cannot be read.
        UsageError: it is a job config already.
    """
    import yaml

    from gdmix_core.config.load import load_with_notes, parse_with_notes, read_text

    written, translation_notes = parse_with_notes(read_text(path), str(path))
    if translation_notes is None:
        raise UsageError(f"{path}: is a job config already, there is nothing to convert")
    config, notes = load_with_notes(path)
    document = _brief(_relative(config, written, base))
    body = yaml.dump(
        document,
        Dumper=_dumper(),
        sort_keys=False,
        default_flow_style=None,
        width=110,
        allow_unicode=True,
    )
    return f"# Made by gdmix-cli convert from {path.name}, a config of LinkedIn GDMix.\n{body}", notes


def _relative(config: JobConfig, written: JobConfig, base: Path) -> JobConfig:
    """Make paths relative to `base` that were relative where they were written."""
    from gdmix_core.config.paths import map_paths

    absolute: set[str] = set()

    def look(path: str, place: str) -> str:
        if "://" in path or Path(path).expanduser().is_absolute():
            absolute.add(place)
        return path

    map_paths(written, look)
    changed = map_paths(
        config, lambda path, place: path if place in absolute else os.path.relpath(path, base)
    )
    prefix, store = "lmdb:", written.store
    if (
        config.store is None
        or store is None
        or not store.startswith(prefix)
        or Path(store.removeprefix(prefix)).expanduser().is_absolute()
    ):
        return changed
    moved = os.path.relpath(config.store.removeprefix(prefix), base)
    return changed.model_copy(update={"store": prefix + moved})


def _brief(config: JobConfig) -> dict[str, Any]:
    """Return the config as a person would write it: without defaults, lists of one as their member."""
    document: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True)
    document["data"] = _with_plain_paths(document["data"])
    for name, source in document["data"].get("sources", {}).items():
        document["data"]["sources"][name] = _with_plain_paths(source)
    for name, coordinate in document["coordinates"].items():
        kind = next(key for key in _KIND_KEYS if key in coordinate)
        document["coordinates"][name] = {kind: coordinate[kind]} | {
            key: value for key, value in coordinate.items() if key != kind
        }
    return document


def _with_plain_paths(files: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value[0] if key in {"train", "validation"} and len(value) == 1 else value
        for key, value in files.items()
    }


def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """YAML as the documentation writes it: lists are indented, an alias never stands for a value."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, indentless=False)

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
            return True

    return Dumper
