"""The directory of uploads: every name has a directory of its own.

    <name>/scores.parquet           uid and score, checked, see `gdmix_core.data.uploaded_scores`
    <name>/upload.json              what it is; renamed last
    <name>/partial-<sha256>         the bytes of an unfinished upload, which can go on where they end
    <name>/partial-<sha256>.json    what it will be

Whatever ends in `.tmp` was left by a process that died, and is removed at the start.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from gdmix_core.errors import Conflict, NotFound, Overloaded
from gdmix_server.uploads.headers import UploadHeader, fault_of_name

SCORES_FILE: Final = "scores.parquet"
DESCRIPTION_FILE: Final = "upload.json"
_PARTIAL: Final = re.compile(r"partial-([0-9a-f]{64})")
_FREE_BYTES: Final = 256 << 20
"""Of the disk, left for journal and jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresUpload:
    """An upload, ready or under way; rows and scores are known once it is ready."""

    name: str
    role: str
    format: str
    byte_size: int
    sha256: str
    received: int
    ready: bool
    created: float
    rows: int = 0
    min_score: float = 0.0
    max_score: float = 0.0
    mean_score: float = 0.0


class UploadDirectory:
    """What is kept, by name; whoever changes a name sees to it that nobody else does meanwhile."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def partial(self, header: UploadHeader) -> Path:
        """Return the file that takes the bytes of an upload."""
        return self._directory / header.name / f"partial-{header.sha256}"

    def unchecked(self, name: str) -> Path:
        """Return the file that takes the scores of a name until `keep`."""
        return self._directory / name / f"{SCORES_FILE}.tmp"

    def path_of(self, name: str) -> Path:
        """Return the Parquet file of an upload that is ready: `uid` int64, `score` float64.

        Raises:
            NotFound: There is none of this name; the message lists those there are.
        """
        if not self.get(name).ready:
            raise NotFound(f"upload {name!r} is not complete yet")
        return self._directory / name / SCORES_FILE

    def get(self, name: str, sha256: str = "") -> ScoresUpload:
        """Return an upload: with a digest that of this very file, else the ready one before the unfinished one.

        Raises:
            NotFound: There is none; the message lists those there are.
        """
        found = [upload for upload in self._of_name(name) if sha256.lower() in {"", upload.sha256}]
        if found:
            return found[0]
        names = list(dict.fromkeys(upload.name for upload in self.listed()))
        what = f"upload {name!r}" + (f" of a file with sha256 {sha256}" if sha256 else "")
        raise NotFound(f"there is no {what}; uploads that are there: {', '.join(names) or 'none'}")

    def listed(self) -> list[ScoresUpload]:
        """Return all uploads by name; of one name, the ready one before the unfinished one."""
        if not self._directory.is_dir():
            return []
        return [upload for path in sorted(self._directory.iterdir()) for upload in self._of_name(path.name)]

    def begin(self, header: UploadHeader) -> None:
        """Make room for an upload and note what it will be.

        Raises:
            Conflict: The name is taken, or the offset is another one than was reached.
            Overloaded: The disk has no room for the file.
        """
        there = self._of_name(header.name)
        if not header.replace and any(upload.ready for upload in there):
            raise Conflict(f"upload {header.name!r} is there already; replace it, or choose another name")
        reached = max((u.received for u in there if not u.ready and u.sha256 == header.sha256), default=0)
        if header.offset not in {0, reached}:
            raise Conflict(
                f"offset: found {header.offset}; of upload {header.name!r} with this sha256 {reached} bytes are "
                f"there, so allowed are 0 and {reached}"
            )
        home = self._directory / header.name
        if header.offset == 0:
            self.forget_partials(header.name)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(home).free < header.byte_size - header.offset + _FREE_BYTES:
            _remove_if_empty(home)
            raise Overloaded(f"the coordinator's disk has no room for {header.byte_size} bytes")
        description = json.dumps(asdict(announced(header)))
        _description_of(self.partial(header)).write_text(description, encoding="utf-8")

    def keep(self, upload: ScoresUpload) -> None:
        """Make the file `unchecked` the scores of its name."""
        home = self._directory / upload.name
        described = home / f"{DESCRIPTION_FILE}.tmp"
        described.write_text(json.dumps(asdict(upload)), encoding="utf-8")
        self.unchecked(upload.name).replace(home / SCORES_FILE)
        described.replace(home / DESCRIPTION_FILE)
        self.forget_partials(upload.name)

    def forget_partials(self, name: str) -> None:
        """Remove what is unfinished of a name."""
        home = self._directory / name
        for path in list(home.iterdir()) if home.is_dir() else ():
            if _PARTIAL.fullmatch(path.name.removesuffix(".json")):
                path.unlink(missing_ok=True)
        _remove_if_empty(home)

    def remove(self, name: str) -> None:
        """Remove all that is there of a name."""
        for file in (DESCRIPTION_FILE, SCORES_FILE):
            (self._directory / name / file).unlink(missing_ok=True)
        self.forget_partials(name)

    def clean(self) -> None:
        """Remove what a process that died has left, except unfinished uploads that can go on."""
        for home in self._directory.iterdir() if self._directory.is_dir() else ():
            if fault_of_name(home.name) or not home.is_dir():
                continue
            described = home / f"{DESCRIPTION_FILE}.tmp"
            if described.is_file() and not (home / f"{SCORES_FILE}.tmp").exists():
                described.replace(home / DESCRIPTION_FILE)  # it died between the two renames
            for path in list(home.iterdir()):
                partial = _PARTIAL.fullmatch(path.name.removesuffix(".json"))
                pair = path.with_suffix("") if path.suffix == ".json" else _description_of(path)
                if path.suffix == ".tmp" or (partial and not pair.is_file()):
                    path.unlink(missing_ok=True)
            if (home / SCORES_FILE).is_file() and not (home / DESCRIPTION_FILE).is_file():
                (home / SCORES_FILE).unlink()
            _remove_if_empty(home)

    def _of_name(self, name: str) -> list[ScoresUpload]:
        home = self._directory / name
        if fault_of_name(name) or not home.is_dir():
            return []
        found = []
        if (home / SCORES_FILE).is_file() and (ready := _described(home / DESCRIPTION_FILE)):
            found.append(ready)
        for path in sorted(home.iterdir()):
            if _PARTIAL.fullmatch(path.name) and (unfinished := _described(_description_of(path))):
                with suppress(FileNotFoundError):  # finished in this very moment
                    found.append(replace(unfinished, received=path.stat().st_size))
        return found


def announced(header: UploadHeader) -> ScoresUpload:
    """Return an upload of which no byte has come."""
    return ScoresUpload(
        name=header.name,
        role=header.role,
        format=header.format,
        byte_size=header.byte_size,
        sha256=header.sha256,
        received=0,
        ready=False,
        created=time.time(),
    )


def _described(path: Path) -> ScoresUpload | None:
    """Read a description; None when there is none that makes sense."""
    try:
        return ScoresUpload(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _description_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _remove_if_empty(home: Path) -> None:
    with suppress(OSError):
        home.rmdir()
