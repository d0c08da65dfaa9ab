"""Every evaluation of a solve, kept on disk, so that a killed solve goes on to the same bytes.

File: the magic bytes, then records. A record is, little-endian: payload length (u32, bytes), request number
(u64), digest of the request (16 bytes: BLAKE2b of θ and whether a Hessian was asked for), the sums as float64
(`FixedEffectSums.to_array`), and the crc32 (u32) of all that. A torn or damaged record ends the log: it and
what follows are cut off when the log is opened.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from gdmix_core.errors import Conflict
from gdmix_core.solvers.fixed_effect.problem import Driver, EvaluationRequest, FixedEffectSolution
from gdmix_core.solvers.fixed_effect.shard import FixedEffectSums

_MAGIC: Final = b"GDMIXEV1"
_HEAD: Final = struct.Struct("<IQ16s")
_CRC: Final = struct.Struct("<I")


class EvaluationLog:
    """An append-only file of one driver's evaluations; one process at a time may hold it open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        fresh = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if fresh:
            _sync_directory(self.path.parent)
        end = self._valid_end()
        os.ftruncate(self._descriptor, end)
        if end == 0:
            self._write(_MAGIC, 0)
            end = len(_MAGIC)
        self._end = end

    def append(self, request: EvaluationRequest, sums: FixedEffectSums) -> None:
        """Add one evaluation; it is on the disk when this returns."""
        payload = sums.to_array().astype("<f8", copy=False).tobytes()
        record = _HEAD.pack(len(payload), request.number, request_digest(request)) + payload
        record += _CRC.pack(zlib.crc32(record))
        self._write(record, self._end)
        self._end += len(record)

    def records(self) -> Iterator[tuple[int, bytes, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
        """Yield (request number, request digest, sums as one vector) in order."""
        position = len(_MAGIC)
        while (record := self._read_record(position)) is not None:
            length, number, digest = _HEAD.unpack_from(record)
            yield number, digest, np.frombuffer(record, "<f8", length // 8, _HEAD.size)
            position += len(record)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> EvaluationLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes, position: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, position)
            position += written
            view = view[written:]
        os.fsync(self._descriptor)

    def _valid_end(self) -> int:
        magic = os.pread(self._descriptor, len(_MAGIC), 0)
        if magic != _MAGIC:
            if not _MAGIC.startswith(magic):
                raise Conflict(f"{self.path} is not an evaluation log of this version")
            return 0
        position = len(_MAGIC)
        while (record := self._read_record(position)) is not None:
            position += len(record)
        return position

    def _read_record(self, position: int) -> bytes | None:
        head = os.pread(self._descriptor, _HEAD.size, position)
        if len(head) < _HEAD.size:
            return None
        length = _HEAD.size + _HEAD.unpack(head)[0] + _CRC.size
        if position + length > os.fstat(self._descriptor).st_size:
            return None
        record = os.pread(self._descriptor, length, position)
        if len(record) < length or _CRC.unpack_from(record, length - _CRC.size)[0] != zlib.crc32(
            record[: -_CRC.size]
        ):
            return None
        return record


def request_digest(request: EvaluationRequest) -> bytes:
    """Return the 16 bytes that tell one request from another: θ's bits and whether a Hessian is wanted."""
    theta = np.ascontiguousarray(request.theta, dtype="<f8").tobytes()
    return hashlib.blake2b(theta + bytes([request.hessian]), digest_size=16).digest()


def resume(driver: Driver, log: EvaluationLog) -> EvaluationRequest | FixedEffectSolution:
    """Run a new driver through a log's evaluations and return its next request, or its solution.

    Raises:
        Conflict: the log holds other requests than this driver makes: data, config or numerics differ.
    """
    step = driver.ask()
    for number, digest, sums in log.records():
        if isinstance(step, FixedEffectSolution):
            break
        if number != step.number or digest != request_digest(step):
            raise Conflict(
                f"{log.path}: evaluation {number} was made for other coefficients than this solve asks for; "
                "the log belongs to other data, another config or another numerics class"
            )
        step = driver.tell(FixedEffectSums.from_array(sums, driver.problem.dimension))
    return step


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
