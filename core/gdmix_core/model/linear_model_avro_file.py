"""Avro object container files of `BayesianLinearModelAvro`: the header, and blocks of encoded records.

Written are deflated blocks and a sync marker made of the contents, so that equal models give equal files (with one
zlib). Read are files of any writer: blocks whose schema is laid out as ours are handed on as they are, others (fields
in another order, nullable strings, floats) are read by fastavro and encoded anew.

Source: Apache Avro specification 1.11, "Object Container Files".
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import atomic_path
from gdmix_core.errors import DataError

_NAMESPACE: Final = "com.linkedin.photon.avro.generated"
_ITEM: Final = {
    "name": "NameTermValueAvro",
    "type": "record",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "term", "type": "string"},
        {"name": "value", "type": "double"},
    ],
}
SCHEMA: Final[dict[str, Any]] = {
    "name": "BayesianLinearModelAvro",
    "namespace": _NAMESPACE,
    "type": "record",
    "fields": [
        {"name": "modelId", "type": "string"},
        {"name": "modelClass", "type": ["null", "string"], "default": None},
        {"name": "means", "type": {"type": "array", "items": _ITEM}},
        {
            "name": "variances",
            "type": ["null", {"type": "array", "items": "NameTermValueAvro"}],
            "default": None,
        },
        {"name": "lossFunction", "type": ["null", "string"], "default": None},
    ],
}
_MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_DEFLATE_LEVEL: Final = 1  # names compress well at any level, values at none: more effort costs speed alone
_LARGEST_BLOCK: Final = 2**31 - 1  # what a Java reader takes


@dataclass(frozen=True, slots=True)
class Block:
    """Some records, encoded by `SCHEMA`.

    Attributes:
        where: file and number of the block, for messages.
        records: how many.
        data: uint8, the records one behind the other.
    """

    where: str
    records: int
    data: npt.NDArray[np.uint8]


# ---- writing ---------------------------------------------------------------------------------------------


def write_blocks(
    path: str | Path, blocks: Iterable[tuple[int, memoryview]], layout: Mapping[str, Any] = SCHEMA
) -> None:
    """Write blocks, each the number of its records and their bytes; the file appears complete or not at all.

    Args:
        path: the file.
        blocks: records encoded by the schema.
        layout: the schema.

    Raises:
        DataError: the file cannot be written, or a block is larger than Avro readers take.
    """
    schema = json.dumps(layout, separators=(",", ":")).encode()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sync = b""
        for records, data in blocks:
            if len(data) > _LARGEST_BLOCK:
                raise DataError(f"{path}: one record takes more than 2 GiB, which Avro readers refuse")
            deflate = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15)
            packed = deflate.compress(data) + deflate.flush()
            if not sync:
                sync = hashlib.sha256(schema + packed).digest()[:_SYNC_BYTES]
                file.write(_header(schema, sync))
            file.write(_long(records) + _long(len(packed)) + packed + sync)
        if not sync:
            file.write(_header(schema, hashlib.sha256(schema).digest()[:_SYNC_BYTES]))


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


# ---- reading ---------------------------------------------------------------------------------------------


def read_blocks(path: str | Path) -> Iterator[Block]:
    """Read a model file block by block.

    Raises:
        DataError: the file is absent, damaged, truncated or compressed in an unknown way, or its schema lacks a field.
    """
    try:
        with Path(path).open("rb") as file:
            yield from _blocks(file, str(path), Path(path).stat().st_size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _blocks(file: BinaryIO, path: str, size: int) -> Iterator[Block]:
    header, sync = _read_header(file, path, size)
    try:
        schema = json.loads(header.get("avro.schema", b""))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header holds no Avro schema") from error
    check_schema(schema, path)
    ours = _layout(schema) == _layout(SCHEMA)
    codec = header.get("avro.codec", b"null").decode(errors="replace")
    if codec not in _DECOMPRESS:
        raise DataError(f"{path}: is compressed by {codec!r}; allowed: {', '.join(_DECOMPRESS)}")
    number = 0
    while file.tell() < size:
        where = f"{path}, block {number}"
        records, length = _read_long(file, where), _read_long(file, where)
        packed = _read(file, length, size, where)
        if _read(file, _SYNC_BYTES, size, where) != sync:
            raise DataError(f"{where}: the sync marker behind it is wrong: the file is damaged")
        if records < 0:
            raise DataError(f"{where}: is said to hold {records} records: the file is damaged")
        try:
            data = _DECOMPRESS[codec](packed)
        except (zlib.error, OSError, EOFError, ValueError) as error:
            raise DataError(f"{where}: cannot be decompressed ({codec}): {error}") from error
        if not ours:
            data = _encoded_anew(data, records, schema, where)
        yield Block(where, records, np.frombuffer(data, np.uint8))
        number += 1


def _read_header(file: BinaryIO, path: str, size: int) -> tuple[dict[str, bytes], bytes]:
    """Return a file's metadata and sync marker."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise DataError(f"{path}: is not an Avro file")
    metadata: dict[str, bytes] = {}
    while count := _read_long(file, path):
        if count < 0:
            _read_long(file, path)
        for _ in range(abs(count)):
            key = _read(file, _read_long(file, path), size, path).decode(errors="replace")
            metadata[key] = _read(file, _read_long(file, path), size, path)
    return metadata, _read(file, _SYNC_BYTES, size, path)


def _read(file: BinaryIO, length: int, size: int, where: str) -> bytes:
    if not 0 <= length <= size - file.tell():
        raise DataError(f"{where}: the file ends inside of it: it is truncated or damaged")
    return file.read(length)


def _read_long(file: BinaryIO, where: str) -> int:
    number = shift = 0
    while shift < 70:
        byte = file.read(1)
        if not byte:
            raise DataError(f"{where}: the file ends inside of it: it is truncated or damaged")
        number |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return (number >> 1) ^ -(number & 1)
        shift += 7
    raise DataError(f"{where}: holds a number of more than 64 bits: the file is damaged")


def _snappy(data: bytes) -> bytes:
    """Decompress Avro's snappy: the raw format, which begins with the length, and a checksum."""
    import pyarrow as pa

    length = shift = 0
    for byte in data[:5]:
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    plain: bytes = pa.Codec("snappy").decompress(data[:-4], length, asbytes=True)
    if zlib.crc32(plain) != int.from_bytes(data[-4:], "big"):
        raise ValueError("the checksum is wrong")
    return plain


def _zstandard(data: bytes) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return bytes(stream.read())


_DECOMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "null": lambda data: data,
    "deflate": lambda data: zlib.decompress(data, -15),
    "snappy": _snappy,
    "bzip2": bz2.decompress,
    "zstandard": _zstandard,
}


# ---- schemas ---------------------------------------------------------------------------------------------


def check_schema(schema: Any, where: str) -> None:
    """Check that a writer's schema has the fields that a model needs.

    Raises:
        DataError: it lacks one, or `means` or `variances` is no array of name, term and value.
    """
    fields = _fields(_resolved(schema, {}))
    for name in ("modelId", "means"):
        if name not in fields:
            raise DataError(f"{where}: is no file of linear models: its schema has no field {name!r}")
    for name in ("means", "variances"):
        if name in fields:
            _check_items(name, fields[name], where)


def _check_items(name: str, kind: Any, where: str) -> None:
    """Check that a field is an array (or null) of name, term and value."""
    arrays = [one for one in _alternatives(kind) if isinstance(one, Mapping) and one.get("type") == "array"]
    if not arrays:
        raise DataError(f"{where}: field {name!r} of its schema is not an array")
    inside = {field for one in _alternatives(arrays[0].get("items")) for field in _fields(one)}
    for field in ("name", "term", "value"):
        if field not in inside:
            raise DataError(
                f"{where}: is no file of linear models: the items of {name!r} have no field {field!r}"
            )


def _alternatives(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _resolved(schema: Any, named: dict[str, Any]) -> Any:
    """Return a schema with named types in place of their names (not inside themselves)."""
    if isinstance(schema, list):
        return [_resolved(kind, named) for kind in schema]
    if isinstance(schema, str):
        return named.get(schema, named.get(schema.rpartition(".")[2], schema))
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    if isinstance(found.get("type"), dict | list) and "fields" not in found and "items" not in found:
        return _resolved(found["type"], named)
    if isinstance(found.get("items"), str | dict | list):
        found["items"] = _resolved(found["items"], named)
    if isinstance(found.get("fields"), list):
        found["fields"] = [
            {**field, "type": _resolved(field.get("type"), named)}
            for field in found["fields"]
            if isinstance(field, dict)
        ]
    if "name" in found:
        named[str(found["name"]).rpartition(".")[2]] = found
    return found


def _layout(schema: Any) -> Any:
    """Reduce a schema to what its encoding depends on: kinds, and the order and names of fields."""

    def reduced(kind: Any) -> Any:
        if isinstance(kind, list):
            return [reduced(one) for one in kind]
        if not isinstance(kind, dict):
            return kind
        if kind.get("type") == "record":
            return [(name, reduced(inner)) for name, inner in _fields(kind).items()]
        if kind.get("type") == "array":
            return {"items": reduced(kind.get("items"))}
        return kind.get("type")

    return reduced(_resolved(schema, {}))


def _fields(record: Any) -> dict[str, Any]:
    if not isinstance(record, Mapping) or not isinstance(record.get("fields"), list):
        return {}
    return {
        str(field.get("name")): field.get("type") for field in record["fields"] if isinstance(field, Mapping)
    }


def _encoded_anew(data: bytes, records: int, schema: Any, where: str) -> bytes:
    """Read records of another layout and encode them by our schema."""
    import fastavro

    def items(values: Any) -> list[dict[str, Any]]:
        return [{"name": v["name"], "term": v["term"], "value": v["value"]} for v in values]

    source, target = io.BytesIO(data), io.BytesIO()
    try:
        theirs, ours = fastavro.parse_schema(schema), fastavro.parse_schema(SCHEMA)
        for _ in range(records):
            found: Any = fastavro.schemaless_reader(source, theirs, None)
            variances = found.get("variances")
            model = {
                "modelId": found["modelId"],
                "modelClass": found.get("modelClass"),
                "means": items(found["means"]),
                "variances": None if variances is None else items(variances),
                "lossFunction": found.get("lossFunction"),
            }
            fastavro.schemaless_writer(target, ours, model)
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        struct.error,
        fastavro.schema.SchemaParseException,
    ) as error:
        raise DataError(f"{where}: cannot be read as linear models: {error}") from error
    return target.getvalue() + source.read()  # what is left over is found by whoever decodes the block
