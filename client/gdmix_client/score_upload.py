"""A file of scores on its way to a coordinator: what is sent, from where on, and when to try again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gdmix_client import rpc
from gdmix_client.transport import RETRY_DELAYS_SECONDS
from gdmix_client.types import ScoresUpload, UploadState
from gdmix_core.errors import Conflict, GdmixError, Unavailable, UsageError

UploadProgress = Callable[[int, int], None]
"""Called with the bytes sent and the bytes in all, on a thread of its own."""

_CHUNK_BYTES: Final = 1 << 20
_FORMATS_OF_ENDINGS: Final = {".parquet": "parquet", ".avro": "avro", ".csv": "csv"}


@dataclass(slots=True, kw_only=True)
class ScoresFile:
    """A file and what its upload is to be, for `Client` and `AsyncClient`.

    Attributes:
        path: the file.
        name: of the upload.
        form: `parquet`, `avro` or `csv`; "" goes by the file's ending.
        uid_column: column of the row ids.
        score_column: column of the scores.
        role: `train`, `validation` or "".
        replace: whether scores of this name give way.
        progress: told of every chunk.
        byte_size: known once `measure` has been called.
        sha256: known once `measure` has been called.
    """

    path: Path
    name: str
    form: str
    uid_column: str
    score_column: str
    role: str
    replace: bool
    progress: UploadProgress | None
    byte_size: int = 0
    sha256: str = ""
    _before: ScoresUpload | None = None
    _tries: int = 0
    _broken: bool = False
    _reached: int = 0
    _delays: Iterator[float] = field(default_factory=lambda: iter(RETRY_DELAYS_SECONDS))

    def measure(self) -> None:
        """Read the file once, for its size and its digest.

        Raises:
            UsageError: it cannot be read, or its ending does not tell the format.
        """
        if not self.form and self.path.suffix not in _FORMATS_OF_ENDINGS:
            endings = ", ".join(_FORMATS_OF_ENDINGS)
            raise UsageError(f"{self.path}: its ending is none of {endings}: name the format")
        self.form = self.form or _FORMATS_OF_ENDINGS[self.path.suffix]
        try:
            with self.path.open("rb") as stream:
                self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                self.byte_size = stream.tell()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def offset(self, found: ScoresUpload | None) -> int | None:
        """Return where to go on, given what the coordinator has of this file; None when it is done already."""
        self._tries += 1
        if self._tries == 1:
            self._before = found
        if found is None or found.state is UploadState.READY:
            return 0 if found == self._before else None
        if found.received > self._reached:
            self._delays = iter(RETRY_DELAYS_SECONDS)
        self._reached = found.received
        return found.received

    def call(self, offset: int) -> rpc.Call[ScoresUpload]:
        """Return the call that sends what follows an offset."""
        return rpc.upload_scores(
            name=self.name,
            form=self.form,
            uid_column=self.uid_column,
            score_column=self.score_column,
            byte_size=self.byte_size,
            sha256=self.sha256,
            role=self.role,
            replace=self.replace,
            offset=offset,
        )

    def messages(self, offset: int) -> Iterator[Any]:
        """Yield the messages with the bytes from an offset on.

        The file is open only while a piece is read: gRPC drops an iterator half-way when a call is refused.
        """
        while data := self._piece(offset):
            yield rpc.upload_data(data)
            offset += len(data)
            if self.progress is not None:
                self.progress(offset, self.byte_size)

    def _piece(self, offset: int) -> bytes:
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            return stream.read(_CHUNK_BYTES) or b""

    def delay_after(self, error: GdmixError) -> float | None:
        """Return how long to wait before going on after an error; None when there is no use in that.

        A Conflict behind a broken connection is the earlier call, whose end the coordinator has not seen yet.
        """
        broken = isinstance(error, Unavailable)
        if broken or (isinstance(error, Conflict) and self._broken):
            self._broken = True
            return next(self._delays, None)
        return None
