"""Avro object container files: the header, and the blocks of rows, decompressed and checked.

    "Obj" 1, map of metadata (avro.schema, avro.codec), 16 bytes of sync marker
    block: rows, bytes, data, sync marker

Nothing that a damaged or hostile file says is believed: no length goes beyond the file, neither header nor block
beyond a bound, and no block becomes larger than its bound on decompression.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from gdmix_core.data.avro_schema import AvroSchema
from gdmix_core.errors import DataError

_LARGEST_HEADER: Final = 16 << 20
_XZ_MEMORY_BYTES: Final = 96 << 20
"""The highest level of xz needs 65 MiB; a damaged or hostile block may claim 4 GiB."""
_MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_CHUNK: Final = 1 << 20
_DAMAGE: Final = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class AvroBlock:
    """So many rows, and their bytes; `number` counts the file's blocks from 1, `stored` is their size in the file."""

    number: int
    rows: int
    data: bytes
    stored: int


class AvroFile:
    """An open file: its schema, as JSON and parsed, and its blocks in order; errors do not name the file."""

    def __init__(
        self,
        path: str | Path,
        *,
        largest_block: int,
        largest_header: int = _LARGEST_HEADER,
    ) -> None:
        """Open a file and read its header.

        Args:
            path: The file.
            largest_block: Bytes of a block, in the file and after decompression.
            largest_header: Bytes of the header.

        Raises:
            DataError: It is no Avro file, or its codec is none that can be read.
            OSError: It cannot be opened.
        """
        self._largest_block = largest_block
        self._stream = Path(path).open("rb")  # noqa: SIM115 - closed by __exit__
        try:
            size = self._stream.seek(0, 2)
            self._stream.seek(0)
            self._size = min(size, largest_header)
            if self._stream.read(len(_MAGIC)) != _MAGIC:
                raise DataError("is not an Avro file: it does not begin as one")
            metadata = self._metadata()
            self._sync = self._bytes(_SYNC_BYTES)
            self._start = self._stream.tell()
            self._size = size
            if "avro.schema" not in metadata:
                raise DataError("the header holds no schema")
            self.schema_text = metadata["avro.schema"]
            self._codec = metadata.get("avro.codec", b"null").decode("utf-8", "replace")
            if self._codec not in _CODECS:
                raise DataError(f"the codec is {self._codec!r}; allowed: {', '.join(sorted(_CODECS))}")
        except BaseException:
            self._stream.close()
            raise

    @cached_property
    def schema(self) -> AvroSchema:
        """The writer's schema; raises DataError when it is none that can be read."""
        return AvroSchema.parse(self.schema_text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def first_rows(self) -> int:
        """Return the rows of the first block that has some, without reading it; 0 when there is none.

        Raises:
            DataError: A block before it is damaged, or the file ends inside of it.
        """
        for number, rows, size in self._counts():
            if rows:
                return rows
            self._stream.seek(size, 1)
            self._check_sync(number)
        return 0

    def blocks(self) -> Iterator[AvroBlock]:
        """Read and decompress the blocks that have rows, from the first.

        Raises:
            DataError: A block is truncated, damaged or too large.
        """
        most = self._largest_block
        decompressed = _CODECS[self._codec]
        for number, rows, size in self._counts():
            if size > most:
                raise DataError(f"block {number} has {size} bytes; allowed are {most >> 20} MiB")
            packed = self._bytes(size)
            self._check_sync(number)
            try:
                data = decompressed(packed, most)
            except _DAMAGE as error:
                raise DataError(f"block {number}: its {self._codec} data are damaged: {error}") from error
            except _TooLarge:
                data = None
            if data is None or len(data) > most:
                raise DataError(f"block {number} is larger than {most >> 20} MiB after decompression")
            # Every row takes a byte at least, so that no number can make us count without end.
            if rows > len(data):
                raise DataError(f"block {number} says that it has {rows} rows in {len(data)} bytes")
            if rows == 0 and data:
                raise DataError(f"block {number} holds {len(data)} bytes but no rows")
            if rows:
                yield AvroBlock(number, rows, data, size)

    def _counts(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, rows and bytes of each block; whoever asks for the next has read this one."""
        number = 0
        self._stream.seek(self._start)
        while self._stream.tell() < self._size:
            number += 1
            try:
                rows, size = self._long(), self._long()
            except DataError as error:
                raise DataError(f"block {number}: {error}") from error
            if rows < 0 or size < 0:
                raise DataError(f"block {number} says that it has {rows} rows in {size} bytes")
            if size + _SYNC_BYTES > self._size - self._stream.tell():
                raise DataError(f"block {number} is truncated: the file ends inside of it")
            yield number, rows, size

    def _check_sync(self, number: int) -> None:
        if self._bytes(_SYNC_BYTES) != self._sync:
            raise DataError(f"block {number} ends with a wrong sync marker")

    def _metadata(self) -> dict[str, bytes]:
        metadata: dict[str, bytes] = {}
        while count := self._long():
            if count < 0:
                self._long()
            for _ in range(abs(count)):
                key = self._bytes(self._long()).decode("utf-8", "replace")
                metadata[key] = self._bytes(self._long())
        return metadata

    def _bytes(self, count: int) -> bytes:
        if not 0 <= count <= self._size - self._stream.tell():
            raise DataError(
                "the header is damaged: a length goes beyond the file, or beyond what a header may have"
            )
        return self._stream.read(count)

    def _long(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._stream.read(1)
            if not byte:
                raise DataError("the file ends inside of a number")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                if value >> 64:
                    break
                return (value >> 1) ^ -(value & 1)
        raise DataError("a number has more than 64 bits")


class _TooLarge(Exception):
    """A block says, before anything of it is decompressed, that it is larger than its bound."""


# Codecs return all of a block, or more than `most` bytes of one that is too large.


def _null(packed: bytes, _most: int) -> bytes:
    return packed


def _deflate(packed: bytes, most: int) -> bytes:
    # What comes after the end is let be: some writers leave half of a checksum there.
    return _bounded(zlib.decompressobj(-15), packed, most)


def _bzip2(packed: bytes, most: int) -> bytes:
    return _bounded(bz2.BZ2Decompressor(), packed, most)


def _xz(packed: bytes, most: int) -> bytes:
    return _bounded(lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES), packed, most)


def _bounded(decompressor: Any, packed: bytes, most: int) -> bytes:
    data: bytes = decompressor.decompress(packed, most + 1)
    if not decompressor.eof and len(data) <= most:
        raise EOFError("they end too soon")
    return data


def _snappy(packed: bytes, most: int) -> bytes:
    """Decompress raw snappy, followed by the CRC-32 of what comes out, big-endian."""
    size = 0
    for place, byte in enumerate(packed[:5]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    if size > most:
        raise _TooLarge
    data: bytes = pa.Codec("snappy").decompress(packed[:-4], decompressed_size=size, asbytes=True)
    if zlib.crc32(data) != int.from_bytes(packed[-4:], "big"):
        raise ValueError("the checksum is wrong")
    return data


def _zstandard(packed: bytes, most: int) -> bytes:
    if not packed:
        raise EOFError("they end too soon")
    # As a stream: a frame need not tell its size.
    parts: list[bytes] = []
    total = 0
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        while total <= most and (part := stream.read(_CHUNK)):
            parts.append(part)
            total += len(part)
    return b"".join(parts)


_CODECS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "null": _null,
    "deflate": _deflate,
    "bzip2": _bzip2,
    "xz": _xz,
    "snappy": _snappy,
    "zstandard": _zstandard,
}
