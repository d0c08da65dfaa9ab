"""Receiving files, checking them, and keeping their scores; one call at a time changes a name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from gdmix_core.errors import Conflict, DataError, GdmixError, UsageError
from gdmix_server.uploads.check import summary_of
from gdmix_server.uploads.directory import ScoresUpload, UploadDirectory, announced
from gdmix_server.uploads.headers import UploadHeader, check_header
from gdmix_server.uploads.partial import Partial

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_UPLOAD_BYTES: Final = 16 << 30
MAX_UPLOAD_ROWS: Final = 2_000_000_000
_CHECKS_AT_ONCE: Final = 2


class Uploads:
    """All uploads of a coordinator."""

    def __init__(
        self, directory: Path, max_bytes: int = MAX_UPLOAD_BYTES, max_rows: int = MAX_UPLOAD_ROWS
    ) -> None:
        """Take where uploads are kept, and how many bytes and rows one may have."""
        self._directory = directory
        self._kept = UploadDirectory(directory)
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._busy: set[str] = set()
        self._receiving: set[asyncio.Task[Any]] = set()
        self._checking: set[asyncio.Task[ScoresUpload]] = set()
        self._checks_at_once = asyncio.Semaphore(_CHECKS_AT_ONCE)
        self._farewell: GdmixError | None = None

    # ---- what is there -----------------------------------------------------------------------------------

    def path_of(self, name: str) -> Path:
        """Return the Parquet file of an upload that is ready; see `UploadDirectory.path_of`."""
        return self._kept.path_of(name)

    def get(self, name: str, sha256: str = "") -> ScoresUpload:
        """Return an upload, ready or not; see `UploadDirectory.get`."""
        return self._kept.get(name, sha256)

    def listed(self) -> list[ScoresUpload]:
        """Return all uploads by name; of one name, the ready one before the unfinished one."""
        return self._kept.listed()

    def clean(self) -> None:
        """Remove what a process that died has left, except unfinished uploads that can go on."""
        self._kept.clean()

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
        check_header(header, self._max_bytes)
        release = self._claim(header.name)
        task = asyncio.current_task()
        assert task is not None
        self._receiving.add(task)
        partial = Partial(self._kept.partial(header), header)
        try:
            await _to_end(self._open, partial)
            await partial.fill(chunks)
        except BaseException as error:
            if isinstance(error, DataError | UsageError):
                await _to_end(self._kept.forget_partials, header.name)
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
            await _to_end(self._kept.remove, name)
        finally:
            release()

    # ---- inside ------------------------------------------------------------------------------------------

    def _claim(self, name: str) -> Callable[[], None]:
        """Make the name one that only one call may change; return what ends that."""
        if self._farewell is not None:
            raise self._farewell
        if name in self._busy:
            raise Conflict(f"upload {name!r} is being uploaded or checked at this moment")
        self._busy.add(name)
        return lambda: self._busy.discard(name)

    def _open(self, partial: Partial) -> None:
        """Open the file that takes the bytes."""
        self._kept.begin(partial.header)
        partial.open()

    async def _finish(
        self, header: UploadHeader, partial: Partial, release: Callable[[], None]
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

    async def _check(self, header: UploadHeader, partial: Partial) -> ScoresUpload:
        """Check the bytes and the scores in them; make them the upload of this name."""
        written = self._kept.unchecked(header.name)
        try:
            if (found := partial.digest.hexdigest()) != header.sha256:
                raise DataError(
                    f"upload {header.name!r}: the bytes have sha256 {found}, not {header.sha256} as the header says"
                )
            async with self._checks_at_once:
                summary = await summary_of(partial.path, header, written, self._max_rows)
        except DataError:
            await _to_end(self._kept.forget_partials, header.name)
            raise
        upload = replace(announced(header), ready=True, received=header.byte_size, **summary)
        await _to_end(self._kept.keep, upload)
        return upload


async def _to_end(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function on a thread; who is cancelled meanwhile still waits for its end."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
