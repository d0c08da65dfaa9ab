"""Avro object container files that nobody vouches for: the header, and the blocks, each bounded on decompression.

`avro_file` reads the files of jobs, in which a block, or a header, may be as large as memory allows.
"""

from __future__ import annotations

import bz2
import functools
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow as pa

from gdmix_core.data.avro_file import AvroBlock
from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.types import UploadedFile
from gdmix_core.errors import DataError

_SYNC_BYTES: Final = 16
_HEADER_BYTES: Final = 1 << 20
_XZ_MEMORY_BYTES: Final = 96 << 20
"""The highest level of xz needs 65 MiB; a damaged or hostile block may claim 4 GiB."""
_DAMAGE: Final = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class AvroHeader:
    """The schema as JSON, the name of the codec, the mark that ends every block, and where the first one begins."""

    schema: bytes
    codec: str
    sync: bytes
    end: int


def read_header(file: UploadedFile, stream: IO[bytes]) -> AvroHeader:
    """Read the header, of 1 MiB at most; raise DataError when there is none, or its codec is not allowed."""
    head = io.BytesIO(stream.read(_HEADER_BYTES))
    metadata: dict[bytes, bytes] = {}
    try:
        head.seek(4)
        while count := _long(head):
            if count < 0:
                _long(head)
            for _ in range(abs(count)):
                key = _bytes(head, _long(head))
                metadata[key] = _bytes(head, _long(head))
        sync = _bytes(head, _SYNC_BYTES)
    except EOFError as error:
        raise DataError(f"{file.name}: cannot be read as Avro: the header {error}") from error
    codec = metadata.get(b"avro.codec", b"null").decode("utf-8", "replace")
    if codec not in _CODECS:
        raise DataError(f"{file.name}: is compressed by {codec!r}; allowed: {', '.join(sorted(_CODECS))}")
    return AvroHeader(metadata.get(b"avro.schema", b""), codec, sync, head.tell())


def read_blocks(file: UploadedFile, stream: IO[bytes], header: AvroHeader) -> Iterator[AvroBlock]:
    """Yield the blocks that have rows, decompressed; raise DataError when one is damaged or too large."""
    stored = decompressed = 0
    stream.seek(header.end)
    for number in itertools.count(1):
        where = f"{file.name}: block {number}"
        if not stream.peek(1):  # type: ignore[attr-defined]
            return
        try:
            count, size = _long(stream), _long(stream)
            if not 0 <= size <= limits.MAX_BLOCK_BYTES:
                raise DataError(f"{where} has {size} bytes; allowed are {limits.MAX_BLOCK_BYTES >> 20} MiB")
            packed, mark = _bytes(stream, size), _bytes(stream, _SYNC_BYTES)
        except EOFError as error:
            raise DataError(f"{where} {error}") from error
        if mark != header.sync:
            raise DataError(f"{where} does not end in the file's mark: it is damaged")
        try:
            data = _CODECS[header.codec](packed)
        except _DAMAGE as error:
            raise DataError(f"{where} cannot be decompressed: {error}") from error
        if len(data) > limits.MAX_BLOCK_BYTES:
            raise DataError(
                f"{where} has more than {limits.MAX_BLOCK_BYTES} bytes when decompressed; "
                f"allowed are {limits.MAX_BLOCK_BYTES >> 20} MiB"
            )
        if not 0 <= 2 * count <= len(data):
            raise DataError(f"{where} claims {count} records in {len(data)} bytes: it is damaged")
        if data and not count:
            raise DataError(f"{where} holds more than its 0 records: it is damaged")
        stored, decompressed = stored + size, decompressed + len(data)
        limits.check_growth(file, stored, decompressed)
        if count:
            yield AvroBlock(number, count, data)


def _bytes(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count) if count >= 0 else b""
    if len(data) != count:
        raise EOFError("ends too early: the file is cut short")
    return data


def _long(stream: IO[bytes]) -> int:
    value = _varint(stream)
    return (value >> 1) ^ -(value & 1)


def _varint(stream: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _bytes(stream, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and not value >> 64:
            return value
    raise EOFError("holds a number of more than 64 bits: it is damaged")


# Codecs return all of a block, or enough of it to show that it is too large.


def _null(packed: bytes) -> bytes:
    return packed


def _streamed(decompressor: Callable[[], Any], packed: bytes) -> bytes:
    stream = decompressor()
    data: bytes = stream.decompress(packed, limits.MAX_BLOCK_BYTES + 1)
    if not stream.eof and len(data) <= limits.MAX_BLOCK_BYTES:
        raise EOFError("it is cut short")
    return data


def _snappy(packed: bytes) -> bytes:
    size = _varint(io.BytesIO(packed))
    if size > limits.MAX_BLOCK_BYTES:
        raise ValueError(
            f"it says {size} bytes when decompressed; allowed are {limits.MAX_BLOCK_BYTES >> 20} MiB"
        )
    data: bytes = pa.Codec("snappy").decompress(packed[:-4], decompressed_size=size, asbytes=True)
    if zlib.crc32(data) != int.from_bytes(packed[-4:], "big"):
        raise ValueError("the checksum is wrong")
    return data


def _zstandard(packed: bytes) -> bytes:
    if not packed:
        raise EOFError("it is cut short")
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        data: bytes = stream.read(limits.MAX_BLOCK_BYTES + 1)
    return data


_CODECS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "null": _null,
    "deflate": functools.partial(_streamed, functools.partial(zlib.decompressobj, -15)),
    "bzip2": functools.partial(_streamed, bz2.BZ2Decompressor),
    "xz": functools.partial(_streamed, functools.partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY_BYTES)),
    "snappy": _snappy,
    "zstandard": _zstandard,
}
