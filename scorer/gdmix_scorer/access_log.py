"""The access log: one JSON object a line, sampled, rotated by size, written beside the event loop.

A sampled request is logged in full: its entity ids and, on request, its features in the readable form, so that
the lines, joined with what people did, become training data. Of the others only those that failed or were
degraded are logged, in brief, and at most `BRIEF_PER_SECOND` of them. The event loop only puts an entry into a
bounded queue; a thread formats and writes. What finds no room is dropped and counted, never waited for.
Fields of a line: docs/observability.md.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from gdmix_core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gdmix_core.scoring.request import Columns, EntityIds

logger = logging.getLogger(__name__)

QUEUE_ENTRIES: Final = 1000
"""Requests that wait to be written; each keeps its arrays alive."""
BRIEF_PER_SECOND: Final = 100
MAX_BYTES: Final = 64 * 1024 * 1024
KEEP_FILES: Final = 5
_CLOSE_SECONDS: Final = 5.0
_COMPLAIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """What was asked."""

    request_id: str
    model: str
    form: str
    """`readable`, `columnar` or `inference`."""
    candidates: int
    entities: Mapping[str, EntityIds] = field(default_factory=dict)
    """By data column; logged for sampled requests only."""
    columns: Columns | None = None
    """The request's data columns, where it had any; logged for sampled requests, and only on request."""


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """What was answered."""

    outcome: str
    """Name of the gRPC status."""
    version: int = 0
    """That computed the answer; 0: none did."""
    scores: npt.NDArray[np.float64] | None = None
    unknown_entities: Mapping[str, int] = field(default_factory=dict)
    """By coordinate, where there are any."""
    degraded_reason: str = ""
    error: str = ""
    """The public message of a failed request."""


@dataclass(frozen=True, slots=True)
class _Entry:
    time: float
    call: LoggedCall
    answer: LoggedAnswer
    seconds: Mapping[str, float]
    full: bool


class AccessLog:
    """Decides what is logged, and hands it to the thread that writes."""

    def __init__(
        self,
        writer: _Writer | None,
        sample_rate: float,
        *,
        features: bool = False,
        instance: str = "",
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Log to a writer, or not at all; `from_settings` makes both."""
        self._writer = writer
        self._sample_rate = sample_rate
        self._features = features
        self._instance = instance
        self._clock = clock
        self._chance = chance
        self._brief_second = 0
        self._brief_left = 0
        self._no_room = 0

    @classmethod
    def from_settings(
        cls,
        path: Path | None,
        sample_rate: float,
        *,
        features: bool = False,
        instance: str = "",
        max_bytes: int = MAX_BYTES,
        keep_files: int = KEEP_FILES,
    ) -> Self:
        """Open the log.

        Args:
            path: file to append to, this process's own; None: no log.
            sample_rate: the part of the requests, 0 to 1, that is logged in full.
            features: whether sampled requests are logged with their features.
            instance: name of this process, in every line.
            max_bytes: size from which the file is rotated: `<path>.1` is the newest of the old ones.
            keep_files: old files that are kept.

        Raises:
            UsageError: the file cannot be written, or the rate is none.
        """
        if not 0.0 <= sample_rate <= 1.0:
            raise UsageError(f"access log: found the sample rate {sample_rate}; allowed are 0 to 1")
        if path is None:
            return cls(None, sample_rate)
        return cls(_Writer(path, max_bytes, keep_files), sample_rate, features=features, instance=instance)

    @property
    def enabled(self) -> bool:
        """Whether there is a log at all."""
        return self._writer is not None

    @property
    def dropped(self) -> int:
        """Lines for which there was no room, in the queue or on the disk."""
        return self._no_room + (0 if self._writer is None else self._writer.lost)

    def write(self, call: LoggedCall, answer: LoggedAnswer, seconds: Mapping[str, float]) -> None:
        """Log one request, if it is one to be logged; never waits.

        Args:
            call: what was asked.
            answer: what was answered.
            seconds: by phase, and in `total`.
        """
        if self._writer is None:
            return
        now = self._clock()
        full = self._sample_rate > 0.0 and self._chance() < self._sample_rate
        if not full and not (_noteworthy(answer) and self._brief_allowed(now)):
            return
        if not self._writer.put(_Entry(now, call, answer, dict(seconds), full), self._document):
            self._no_room += 1

    def close(self) -> None:
        """Write what is queued, for a few seconds at most, and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _brief_allowed(self, now: float) -> bool:
        second = int(now)
        if second != self._brief_second:
            self._brief_second, self._brief_left = second, BRIEF_PER_SECOND
        self._brief_left -= 1
        return self._brief_left >= 0

    def _document(self, entry: _Entry) -> dict[str, Any]:
        """Return the line of one request as a document; runs on the writing thread."""
        call, answer = entry.call, entry.answer
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds"),
            "instance": self._instance,
            "request_id": call.request_id,
            "model": call.model,
            "version": answer.version,
            "form": call.form,
            "candidates": call.candidates,
            "outcome": answer.outcome,
            "degraded": bool(answer.degraded_reason),
            "seconds": {name: round(value, 7) for name, value in entry.seconds.items()},
            "sampled": entry.full,
        }
        if answer.degraded_reason:
            document["degraded_reason"] = answer.degraded_reason
        if answer.error:
            document["error"] = answer.error
        if answer.unknown_entities:
            document["unknown_entities"] = dict(answer.unknown_entities)
        if answer.scores is not None and len(answer.scores):
            document["scores"] = {"min": float(answer.scores.min()), "max": float(answer.scores.max())}
        if entry.full:
            document["entities"] = {
                column: _ids(entities) for column, entities in sorted(call.entities.items())
            }
            if self._features and call.columns is not None:
                document["features"] = _features(call.columns)
        return document


def _noteworthy(answer: LoggedAnswer) -> bool:
    return answer.outcome != "OK" or bool(answer.degraded_reason)


def _ids(entities: EntityIds) -> str | list[str]:
    ids = [value.decode(errors="replace") for value in entities.ids.to_list()]
    return ids[0] if entities.context else ids


def _features(columns: Columns) -> dict[str, Any]:
    features: dict[str, Any] = {
        "context": {name: array.to_pylist()[0] for name, array in columns.context.items()},
        "candidates": {name: array.to_pylist() for name, array in columns.per_candidate.items()},
    }
    if columns.fixed_effect_scores is not None:
        features["fixed_effect_scores"] = columns.fixed_effect_scores.tolist()
    return features


class _Writer:
    """Appends documents to a file from a thread of its own, and rotates it."""

    def __init__(self, path: Path, max_bytes: int, keep_files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self.lost = 0
        """Lines that could not be written."""
        self._complained = -math.inf
        self._file: IO[bytes] | None
        try:
            self._file = self._open()
        except OSError as error:
            raise UsageError(f"access log {path}: cannot be written: {error.strerror or error}") from error
        self._size = self._file.tell()
        self._queue: queue.Queue[tuple[_Entry, Callable[[_Entry], dict[str, Any]]] | None] = queue.Queue(
            QUEUE_ENTRIES
        )
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, entry: _Entry, document: Callable[[_Entry], dict[str, Any]]) -> bool:
        """Queue one entry; return whether there was room."""
        try:
            self._queue.put_nowait((entry, document))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Wait until everything queued is written, within bounds."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=_CLOSE_SECONDS)
            except queue.Full:
                return
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            entry, document = item
            try:
                self._append(_line(document(entry)))
            except OSError as error:
                self._lose(f"access log {self._path}: cannot be written: {error.strerror or error}")
            except Exception as error:  # noqa: BLE001 - a request that cannot be shown must not end the log
                self._lose(f"access log {self._path}: a request cannot be shown: {error!r}")
        if self._file is not None:
            self._file.close()

    def _lose(self, message: str) -> None:
        self.lost += 1
        now = time.monotonic()
        if now - self._complained > _COMPLAIN_SECONDS:
            self._complained = now
            logger.warning("%s; further lines may be lost too", message)

    def _append(self, line: bytes) -> None:
        if self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        if self._file is None:
            self._file = self._open()
            self._size = self._file.tell()
        try:
            self._file.write(line)
        except OSError:
            self._file.close()
            self._file = None  # opened anew for the next line: perhaps the directory came back
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._keep_files + 1))]
        if self._keep_files == 0:
            self._path.unlink(missing_ok=True)
        for newer, older in reversed(list(pairwise(names))):
            if newer.exists():
                newer.replace(older)
        self._size = 0

    def _open(self) -> IO[bytes]:
        # Unbuffered: a line is in the file when it is written. Others may not read people's ids.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = os.fdopen(descriptor, "ab", buffering=0)
        file.seek(0, os.SEEK_END)
        return file


def _line(document: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # NaN and infinity are no JSON
        text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False, default=str)
    return text.encode(errors="replace") + b"\n"


def _finite(value: Any) -> Any:
    """Return a document without numbers that JSON does not know; they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
