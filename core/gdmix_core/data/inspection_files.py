"""Finding the input files of a job: files, directories and globs, and the format of each by its ending."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gdmix_core.config.data import ENDINGS, DataFormat, FileFormat

PASSIVE_FOLDER: Final = "passive"


@dataclass(frozen=True, slots=True, order=True)
class InputFile:
    """One input file.

    Attributes:
        path: Its path.
        format: Its format.
        passive: Whether it lies in the folder `passive` of its directory: rows to score, not to train on.
    """

    path: str
    format: FileFormat
    passive: bool = False


def find_files(sources: tuple[str, ...], form: DataFormat, where: str) -> tuple[list[InputFile], list[str]]:
    """Return the files of one role, sorted by path and each once, and the problems found.

    Directories are searched through; in them and in globs, names that begin with `.` or `_` (hidden files,
    `_SUCCESS`, `_metadata`) are passed over. A source that exists is taken as it is, whatever its characters.

    Args:
        sources: Files, directories and globs.
        form: A format, or `auto` to go by the endings.
        where: What the messages begin with, say `data.train`.
    """
    paths: set[str] = set()
    passive: set[str] = set()
    problems: list[str] = []
    for source in sources:
        if "://" in source:
            problems.append(f"{where}: {source!r} is not on a file system; allowed: local or mounted paths")
            continue
        found = _expanded(source)
        if not found:
            reason = "the directory holds no files" if Path(source).is_dir() else "no such file or directory"
            problems.append(f"{where}: {source!r}: {'no file matches' if _is_glob(source) else reason}")
        paths.update(found)
        passive.update(path for path in found if _is_passive(path, source))
    files: list[InputFile] = []
    for path in sorted(paths):
        kind = _format_of(path) if form == "auto" else form
        if kind is None:
            problems.append(
                f"{where}: {path}: the format cannot be told from the name; allowed endings: "
                f"{', '.join(ENDINGS)}; or set data.format"
            )
        else:
            files.append(InputFile(path, kind, path in passive))
    return files, problems


def _is_passive(path: str, source: str) -> bool:
    directory = Path(source)
    return directory.is_dir() and Path(path).relative_to(directory).parts[0] == PASSIVE_FOLDER


def _expanded(source: str) -> list[str]:
    path = Path(source)
    if path.is_dir():
        return _files_under(path)
    if path.exists():
        return [source]
    found: list[str] = []
    for name in glob.glob(source, recursive=True):  # noqa: PTH207 - Path.glob takes no absolute pattern
        match = Path(name)
        if not _hidden(match.name):
            found.extend(_files_under(match) if match.is_dir() else [name])
    return found


def _files_under(directory: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not _hidden(name)]
        found.extend(str(Path(folder, name)) for name in names if not _hidden(name))
    return found


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_glob(source: str) -> bool:
    return glob.has_magic(source)


def _format_of(path: str) -> FileFormat | None:
    name = Path(path).name.lower()
    return next((form for ending, form in ENDINGS.items() if name.endswith(ending)), None)
