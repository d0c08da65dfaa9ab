"""The framing of TFRecord files: a record's length, its checksum, the record, its checksum.

Source: TensorFlow, "TFRecord and tf.train.Example", section "TFRecords format details".
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.data.input_files import file_faults
from gdmix_core.errors import DataError

UInt8Array = npt.NDArray[np.uint8]

_LENGTH_BYTES: Final = 12  # a record's length and its checksum
_CHUNK_BYTES: Final = 4 << 20
_LARGEST_RECORD: Final = 1 << 31  # what protobuf can hold
_COMPRESSIONS: Final = {".gz": "GZIP", ".deflate": "ZLIB", ".zlib": "ZLIB"}


def compression(path: str) -> str:
    """Return what TensorFlow calls a file's compression, by its ending; "" for none."""
    return _COMPRESSIONS.get(Path(path).suffix.lower(), "")


def count_tfrecords(path: str) -> int | None:
    """Return the number of records, checking that they fill the file; None where that takes reading it.

    A compressed file has to be read, and so has a grouped one, whose records hold several rows.

    Raises:
        DataError: The file is absent, cut short, or no TFRecord file.
    """
    if compression(path):
        return None
    count, first = count_records(path)
    # The sparse columns of a grouped file are not among its features.
    ungrouped = only_features(first) and b"_indices" in first
    return count if ungrouped or count == 0 else None


def count_records(path: str) -> tuple[int, bytes]:
    """Return the number of records and the first of them, checking that they fill the file."""
    count = start = 0
    first = b""
    rest = bytearray()
    with file_faults(path, "TFRecord"):
        for chunk in chunks(path):
            rest += chunk
            found, end = (int(number) for number in _walk(np.frombuffer(rest, np.uint8)))
            if found and not count:
                length = int.from_bytes(rest[:8], "little")
                first = bytes(rest[_LENGTH_BYTES : _LENGTH_BYTES + length])
            count += found
            start += end
            del rest[:end]
            if len(rest) >= 8 and int.from_bytes(rest[:8], "little") > _LARGEST_RECORD:
                break
    if rest:
        raise DataError(f"{path}: cannot be read as TFRecord: cut short or damaged at byte {start}")
    return count, first


def chunks(path: str) -> Iterator[bytes]:
    """Yield the contents of a file, decompressed, some megabytes at a time, none of them empty.

    Raises:
        EOFError: A compressed file ends before its contents do.
    """
    packed = compression(path)
    if packed != "ZLIB":
        with gzip.open(path) if packed else open(path, "rb") as file:  # noqa: PTH123
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        return
    decompressor = zlib.decompressobj()
    with open(path, "rb") as file:  # noqa: PTH123
        while compressed := decompressor.unconsumed_tail or file.read(_CHUNK_BYTES):
            if chunk := decompressor.decompress(compressed, _CHUNK_BYTES):
                yield chunk
        if not decompressor.eof and file.tell():
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")


@compiled
def _walk(data: UInt8Array) -> tuple[int, int]:
    """Return how many whole records there are, and where the last of them ends."""
    count = 0
    place = 0
    while place + 12 <= data.size:
        length = np.uint64(0)
        for k in range(8):
            length |= np.uint64(data[place + k]) << np.uint64(8 * k)
        if length > np.uint64(data.size):
            break
        end = place + 16 + int(length)
        if end > data.size:
            break
        place = end
        count += 1
    return count, place


def only_features(record: bytes) -> bool:
    """Return whether a record is one message in field 1 and nothing else, as an Example is."""
    if not record or record[0] != 0x0A:
        return not record
    length = 0
    for place, byte in enumerate(record[1:11], start=1):
        length |= (byte & 0x7F) << 7 * (place - 1)
        if byte < 0x80:
            return place + 1 + length == len(record)
    return False
