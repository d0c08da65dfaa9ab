"""Writing Avro object container files, of records that are encoded already.

Blocks are deflated, and the sync marker is made of the contents, so that equal records give equal files (with one
zlib).

Source: Apache Avro specification 1.11, "Object Container Files".
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from gdmix_core.data.array_file import atomic_path
from gdmix_core.errors import DataError

_MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_DEFLATE_LEVEL: Final = 1  # names compress well at any level, values at none: more effort costs speed alone
LARGEST_BLOCK: Final = 2**31 - 1
"""Bytes of a block: what a Java reader takes."""


def write_blocks(
    path: str | Path, blocks: Iterable[tuple[int, memoryview]], schema: Mapping[str, Any]
) -> None:
    """Write blocks, each the number of its records and their bytes; the file appears complete or not at all.

    Args:
        path: the file.
        blocks: records encoded by the schema.
        schema: the schema.

    Raises:
        DataError: the file cannot be written, or a block is larger than Avro readers take.
    """
    text = json.dumps(schema, separators=(",", ":")).encode()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sync = b""
        for records, data in blocks:
            if len(data) > LARGEST_BLOCK:
                raise DataError(f"{path}: one record takes more than 2 GiB, which Avro readers refuse")
            deflate = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15)
            packed = deflate.compress(data) + deflate.flush()
            if not sync:
                sync = hashlib.sha256(text + packed).digest()[:_SYNC_BYTES]
                file.write(_header(text, sync))
            file.write(_long(records) + _long(len(packed)) + packed + sync)
        if not sync:
            file.write(_header(text, hashlib.sha256(text).digest()[:_SYNC_BYTES]))


def encoded_text(text: str) -> bytes:
    """Return a string as Avro encodes it."""
    data = text.encode()
    return _long(len(data)) + data


def _header(schema: bytes, sync: bytes) -> bytes:
    entries = b"".join(
        encoded_text(key) + _long(len(value)) + value
        for key, value in (("avro.codec", b"deflate"), ("avro.schema", schema))
    )
    return _MAGIC + _long(2) + entries + _long(0) + sync


def _long(number: int) -> bytes:
    rest = number << 1
    out = bytearray()
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)
