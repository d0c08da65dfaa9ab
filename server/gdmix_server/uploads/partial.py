"""The bytes of an upload as they come."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

from gdmix_core.arrays import MAX_CHUNK_BYTES
from gdmix_core.errors import DataError
from gdmix_server.uploads.headers import UploadHeader

_WRITE_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 20


class Partial:
    """The bytes of an upload as they come, and their digest."""

    def __init__(self, path: Path, header: UploadHeader) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.header = header
        self.received = header.offset
        self._file: IO[bytes] = io.BytesIO()

    def open(self) -> None:
        """Open the file, and digest what is in it already."""
        self._file = self.path.open("a+b", buffering=0)
        self._file.seek(0)
        while data := self._file.read(_READ_BYTES):
            self.digest.update(data)

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Append what comes, a few MiB at a time on a thread, while the next ones come."""
        header = self.header
        pending: list[bytes] = []
        size = 0
        writing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writing.set_result(None)
        try:
            async for data in chunks:
                self.received += len(data)
                if len(data) > MAX_CHUNK_BYTES:
                    raise DataError(f"a chunk of {len(data)} bytes; allowed are at most {MAX_CHUNK_BYTES}")
                if self.received > header.byte_size:
                    raise DataError(
                        f"upload {header.name!r}: byte_size is {header.byte_size}; at least {self.received} "
                        "bytes were sent"
                    )
                pending.append(data)
                size += len(data)
                if size >= _WRITE_BYTES:
                    await writing
                    writing = asyncio.ensure_future(asyncio.to_thread(self._append, pending))
                    pending, size = [], 0
        finally:
            await asyncio.wait([writing])
            writing.result()
            self._append(pending)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _append(self, chunks: list[bytes]) -> None:
        for data in chunks:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self.digest.update(data)
