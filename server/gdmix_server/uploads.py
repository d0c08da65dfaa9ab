"""Scores that were computed elsewhere: files that clients send, checked and kept under a name.

Below the directory of uploads every name has a directory of its own:

    <name>/scores.parquet           uid and score, checked, see `gdmix_core.data.uploaded_scores`
    <name>/upload.json              what it is; renamed last
    <name>/partial-<sha256>         the bytes of an unfinished upload, which can go on where they end
    <name>/partial-<sha256>.json    what it will be

Whatever ends in `.tmp` was left by a process that died, and is removed at the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from gdmix_core.arrays import MAX_CHUNK_BYTES
from gdmix_core.config.strict import check_name
from gdmix_core.errors import Conflict, DataError, GdmixError, InternalError, NotFound, Overloaded, UsageError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

FORMATS: Final = ("parquet", "avro", "csv")
ROLES: Final = ("", "train", "validation")
MAX_UPLOAD_BYTES: Final = 16 << 30
MAX_UPLOAD_ROWS: Final = 2_000_000_000
FORBIDDEN_ENDINGS: Final = (".parquet", ".csv", ".csv.gz", ".avro", ".jsonl", ".tfrecord")
"""A name with one of these would be taken for a file where a config may name either."""
SCORES_FILE: Final = "scores.parquet"
DESCRIPTION_FILE: Final = "upload.json"
CHECK_COMMAND: Final = (sys.executable, "-m", "gdmix_core.data.uploaded_scores")
_WRITE_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 20
_FREE_BYTES: Final = 256 << 20
"""Of the disk, left for journal and jobs."""
_CHECKS_AT_ONCE: Final = 2
_SIGNALS_OF_DAMAGE: Final = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE})
_MAX_COLUMN_CHARACTERS: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PARTIAL: Final = re.compile(r"partial-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadHeader:
    """What a client says of the file that it is about to send.

    Attributes:
        name: What the scores are to be called.
        format: One of `FORMATS`.
        byte_size: Of the whole file.
        sha256: Of the whole file, in hexadecimal digits.
        uid_column: Column of the row ids.
        score_column: Column of the scores.
        role: One of `ROLES`: which rows the scores are of.
        replace: Whether scores of this name give way to these.
        offset: Where in the file the bytes begin that follow.
    """

    name: str
    format: str
    byte_size: int
    sha256: str
    uid_column: str = "uid"
    score_column: str = "score"
    role: str = ""
    replace: bool = False
    offset: int = 0


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


class Uploads:
    """All uploads of a coordinator."""

    def __init__(
        self, directory: Path, max_bytes: int = MAX_UPLOAD_BYTES, max_rows: int = MAX_UPLOAD_ROWS
    ) -> None:
        """Take where uploads are kept, and how many bytes and rows one may have."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._busy: set[str] = set()
        self._receiving: set[asyncio.Task[Any]] = set()
        self._checking: set[asyncio.Task[ScoresUpload]] = set()
        self._checks_at_once = asyncio.Semaphore(_CHECKS_AT_ONCE)
        self._farewell: GdmixError | None = None

    # ---- what is there -----------------------------------------------------------------------------------

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

    def _of_name(self, name: str) -> list[ScoresUpload]:
        home = self._directory / name
        if _fault_of_name(name) or not home.is_dir():
            return []
        found = []
        if (home / SCORES_FILE).is_file() and (ready := _described(home / DESCRIPTION_FILE)):
            found.append(ready)
        for path in sorted(home.iterdir()):
            if _PARTIAL.fullmatch(path.name) and (unfinished := _described(_description_of(path))):
                with suppress(FileNotFoundError):  # finished in this very moment
                    found.append(replace(unfinished, received=path.stat().st_size))
        return found

    # ---- receiving ---------------------------------------------------------------------------------------

    async def receive(self, header: UploadHeader, chunks: AsyncIterator[bytes]) -> ScoresUpload:
        """Take a file, check it, and keep its scores under the header's name.

        When the sender goes away, or the coordinator ends, the bytes that came are kept for a later call.

        Raises:
            UsageError: The header makes no sense, or the file is larger than allowed.
            Conflict: The name is taken, is being uploaded by somebody else, or the offset is another one than
                was reached.
            Overloaded: The disk has no room for the file.
            DataError: The bytes are not those that the header speaks of, or no scores; nothing of them is kept,
                except when bytes are missing.
            Unavailable: The coordinator ends.
        """
        header = replace(header, sha256=header.sha256.lower())
        self._check_header(header)
        release = self._claim(header.name)
        task = asyncio.current_task()
        assert task is not None
        self._receiving.add(task)
        partial = _Partial(self._directory / header.name, header)
        try:
            await _to_end(self._open, partial)
            await _fill(partial, chunks)
        except BaseException as error:
            if isinstance(error, DataError | UsageError):
                await _to_end(self._forget_partials, header.name)
            release()
            if isinstance(error, asyncio.CancelledError) and self._farewell is not None:
                raise self._farewell from None
            raise
        finally:
            partial.close()
            self._receiving.discard(task)
        if partial.received < header.byte_size:
            # Kept: a connection that breaks may look like an end before anybody hears that it broke.
            release()
            raise DataError(
                f"upload {header.name!r}: byte_size is {header.byte_size}; only {partial.received} bytes were sent, "
                f"which are kept: go on at offset {partial.received}"
            )
        return await self._finish(header, partial, release)

    def end(self, farewell: GdmixError) -> None:
        """Let go of whoever is sending; what came so far stays, and `farewell` is what they are told."""
        self._farewell = farewell
        for task in self._receiving | self._checking:
            task.cancel()

    async def close(self) -> None:
        """Wait until nothing is checked any more."""
        if self._checking:
            await asyncio.wait(self._checking)

    async def delete(self, name: str) -> None:
        """Remove an upload, ready or not.

        Raises:
            NotFound: There is none.
            Conflict: It is being sent or checked.
        """
        await asyncio.to_thread(self.get, name)
        release = self._claim(name)
        try:
            await _to_end(self._remove, name)
        finally:
            release()

    def clean(self) -> None:
        """Remove what a process that died has left, except unfinished uploads that can go on."""
        for home in self._directory.iterdir() if self._directory.is_dir() else ():
            if _fault_of_name(home.name) or not home.is_dir():
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

    # ---- inside ------------------------------------------------------------------------------------------

    def _check_header(self, header: UploadHeader) -> None:
        if fault := _fault_of_name(header.name):
            raise UsageError(fault)
        allowed: dict[str, tuple[str, tuple[str, ...]]] = {
            "format": (header.format, FORMATS),
            "role": (header.role, ROLES),
        }
        for field, (value, values) in allowed.items():
            if value not in values:
                named = ", ".join(map(repr, values))
                raise UsageError(f"{field}: found {value!r}; allowed are {named}")
        for field, column in (("uid_column", header.uid_column), ("score_column", header.score_column)):
            if not (0 < len(column) <= _MAX_COLUMN_CHARACTERS and column.isprintable()):
                raise UsageError(f"{field}: allowed are 1 to {_MAX_COLUMN_CHARACTERS} printable characters")
        if not _DIGEST.fullmatch(header.sha256):
            raise UsageError(f"sha256: found {header.sha256[:80]!r}; allowed are 64 hexadecimal digits")
        if not 0 < header.byte_size <= self._max_bytes:
            raise UsageError(
                f"byte_size: found {header.byte_size}; allowed are 1 to {self._max_bytes} bytes"
                " (the coordinator's --max-upload-bytes)"
            )
        if not 0 <= header.offset <= header.byte_size:
            raise UsageError(f"offset: found {header.offset}; allowed are 0 to {header.byte_size}")

    def _claim(self, name: str) -> Callable[[], None]:
        """Make the name one that only one call may change; return what ends that."""
        if self._farewell is not None:
            raise self._farewell
        if name in self._busy:
            raise Conflict(f"upload {name!r} is being uploaded or checked at this moment")
        self._busy.add(name)
        return lambda: self._busy.discard(name)

    def _open(self, partial: _Partial) -> None:
        """Open the file that takes the bytes."""
        header = partial.header
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
            self._forget_partials(header.name)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(home).free < header.byte_size - header.offset + _FREE_BYTES:
            _remove_if_empty(home)
            raise Overloaded(f"the coordinator's disk has no room for {header.byte_size} bytes")
        partial.open()

    async def _finish(
        self, header: UploadHeader, partial: _Partial, release: Callable[[], None]
    ) -> ScoresUpload:
        """Check the file, to the end even when its sender goes away meanwhile."""
        checking = asyncio.ensure_future(self._check(header, partial))
        self._checking.add(checking)

        def done(task: asyncio.Task[ScoresUpload]) -> None:
            self._checking.discard(task)
            release()
            if task.cancelled() or (error := task.exception()) is not None:
                logger.info("upload %s came to nothing: %s", header.name, "" if task.cancelled() else error)

        checking.add_done_callback(done)
        try:
            return await asyncio.shield(checking)
        except asyncio.CancelledError:
            if self._farewell is not None:
                raise self._farewell from None
            raise

    async def _check(self, header: UploadHeader, partial: _Partial) -> ScoresUpload:
        """Check the bytes and the scores in them; make them the upload of this name."""
        home = self._directory / header.name
        written = home / f"{SCORES_FILE}.tmp"
        try:
            if (found := partial.digest.hexdigest()) != header.sha256:
                raise DataError(
                    f"upload {header.name!r}: the bytes have sha256 {found}, not {header.sha256} as the header says"
                )
            async with self._checks_at_once:
                summary = await _summary_of(partial.path, header, written, self._max_rows)
        except DataError:
            await _to_end(self._forget_partials, header.name)
            raise
        upload = replace(_announced(header), ready=True, received=header.byte_size, **summary)
        await _to_end(self._keep, upload, written)
        return upload

    def _keep(self, upload: ScoresUpload, written: Path) -> None:
        home = written.parent
        described = home / f"{DESCRIPTION_FILE}.tmp"
        described.write_text(json.dumps(asdict(upload)), encoding="utf-8")
        written.replace(home / SCORES_FILE)
        described.replace(home / DESCRIPTION_FILE)
        self._forget_partials(upload.name)

    def _forget_partials(self, name: str) -> None:
        home = self._directory / name
        for path in list(home.iterdir()) if home.is_dir() else ():
            if _PARTIAL.fullmatch(path.name.removesuffix(".json")):
                path.unlink(missing_ok=True)
        _remove_if_empty(home)

    def _remove(self, name: str) -> None:
        for file in (DESCRIPTION_FILE, SCORES_FILE):
            (self._directory / name / file).unlink(missing_ok=True)
        self._forget_partials(name)


class _Partial:
    """The bytes of an upload as they come, and their digest."""

    def __init__(self, home: Path, header: UploadHeader) -> None:
        self.path = home / f"partial-{header.sha256}"
        self.digest = hashlib.sha256()
        self.header = header
        self.received = header.offset
        self._file: IO[bytes] = io.BytesIO()

    def open(self) -> None:
        description = json.dumps(asdict(_announced(self.header)))
        _description_of(self.path).write_text(description, encoding="utf-8")
        self._file = self.path.open("a+b", buffering=0)
        self._file.seek(0)
        while data := self._file.read(_READ_BYTES):
            self.digest.update(data)

    def append(self, chunks: list[bytes]) -> None:
        for data in chunks:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self.digest.update(data)

    def close(self) -> None:
        self._file.close()


async def _fill(partial: _Partial, chunks: AsyncIterator[bytes]) -> None:
    """Append what comes, a few MiB at a time on a thread, while the next ones come."""
    header = partial.header
    pending: list[bytes] = []
    size = 0
    writing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    writing.set_result(None)
    try:
        async for data in chunks:
            partial.received += len(data)
            if len(data) > MAX_CHUNK_BYTES:
                raise DataError(f"a chunk of {len(data)} bytes; allowed are at most {MAX_CHUNK_BYTES}")
            if partial.received > header.byte_size:
                raise DataError(
                    f"upload {header.name!r}: byte_size is {header.byte_size}; at least {partial.received} "
                    "bytes were sent"
                )
            pending.append(data)
            size += len(data)
            if size >= _WRITE_BYTES:
                await writing
                writing = asyncio.ensure_future(asyncio.to_thread(partial.append, pending))
                pending, size = [], 0
    finally:
        await asyncio.wait([writing])
        writing.result()
        partial.append(pending)


async def _summary_of(sent: Path, header: UploadHeader, written: Path, max_rows: int) -> dict[str, Any]:
    """Have a process check a file and write its scores; whatever the file does to it, this one goes on.

    Raises:
        DataError: The scores break a rule, or the file is so damaged that it ends whoever reads it.
        InternalError: The process failed by itself.
    """
    name = f"upload {header.name!r}"
    request = {
        "path": str(sent),
        "name": name,
        "format": header.format,
        "uid_column": header.uid_column,
        "score_column": header.score_column,
        "target": str(written),
        "max_rows": max_rows,
    }
    pipe = asyncio.subprocess.PIPE
    # In a session of its own, so that a Ctrl-C for the coordinator is not taken for a fault of the file.
    process = await asyncio.create_subprocess_exec(
        *CHECK_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with suppress(ConnectionError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        answer, remarks = await asyncio.gather(process.stdout.read(), process.stderr.read())
        code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
        if process.returncode != 0:
            _remove_file(written)
    if -code in _SIGNALS_OF_DAMAGE:
        logger.warning(
            "the check of %s ended by signal %d: %s", name, -code, remarks.decode(errors="replace")
        )
        raise DataError(f"{name}: cannot be read as {header.format}: it is damaged")
    if code != 0:
        logger.error("the check of %s failed with code %d: %s", name, code, remarks.decode(errors="replace"))
        raise InternalError(f"{name}: the check failed; the coordinator's log says why")
    said = json.loads(answer)
    if said["summary"] is None:
        raise DataError(said["refusal"])
    summary: dict[str, Any] = said["summary"]
    return summary


async def _to_end(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function on a thread; who is cancelled meanwhile still waits for its end."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _fault_of_name(name: str) -> str:
    """Return what is wrong with a name; "" when nothing is."""
    try:
        check_name(name, "upload")
    except ValueError as error:
        return str(error)
    if name.lower().endswith(FORBIDDEN_ENDINGS):
        return f"upload {name!r} is not a name: it ends like a file's ({', '.join(FORBIDDEN_ENDINGS)})"
    return ""


def _announced(header: UploadHeader) -> ScoresUpload:
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


def _remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_if_empty(home: Path) -> None:
    with suppress(OSError):
        home.rmdir()
