"""Files of `BayesianLinearModelAvro`: the schema, and blocks of records that are encoded by it.

Read are files of any writer: blocks whose schema is laid out as ours are handed on as they are, others (fields in
another order, nullable strings, floats) are read by fastavro and encoded anew.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.avro_file import AvroBlock, AvroFile
from gdmix_core.data.avro_writing import LARGEST_BLOCK
from gdmix_core.data.input_files import file_faults
from gdmix_core.data.row_checks import in_file
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


def read_blocks(path: str | Path) -> Iterator[Block]:
    """Read a model file block by block.

    Raises:
        DataError: the file is absent, damaged, truncated or compressed in an unknown way, or its schema lacks a field.
    """
    with (
        file_faults(str(path), "Avro"),
        in_file(str(path)),
        AvroFile(path, largest_block=LARGEST_BLOCK) as file,
    ):
        try:
            schema = json.loads(file.schema_text)
        except (ValueError, RecursionError) as error:
            raise DataError("its header holds no Avro schema") from error
        check_schema(schema)
        ours = _layout(schema) == _layout(SCHEMA)
        for block in file.blocks():
            data = block.data if ours else _encoded_anew(block, schema)
            yield Block(f"{path}: block {block.number}", block.rows, np.frombuffer(data, np.uint8))


# ---- schemas ---------------------------------------------------------------------------------------------


def check_schema(schema: Any) -> None:
    """Check that a writer's schema has the fields that a model needs.

    Raises:
        DataError: it lacks one, or `means` or `variances` is no array of name, term and value.
    """
    fields = _fields(_resolved(schema, {}))
    for name in ("modelId", "means"):
        if name not in fields:
            raise DataError(f"is no file of linear models: its schema has no field {name!r}")
    for name in ("means", "variances"):
        if name in fields:
            _check_items(name, fields[name])


def _check_items(name: str, kind: Any) -> None:
    """Check that a field is an array (or null) of name, term and value."""
    arrays = [one for one in _alternatives(kind) if isinstance(one, Mapping) and one.get("type") == "array"]
    if not arrays:
        raise DataError(f"field {name!r} of its schema is not an array")
    inside = {field for one in _alternatives(arrays[0].get("items")) for field in _fields(one)}
    for field in ("name", "term", "value"):
        if field not in inside:
            raise DataError(f"is no file of linear models: the items of {name!r} have no field {field!r}")


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


def _encoded_anew(block: AvroBlock, schema: Any) -> bytes:
    """Read records of another layout and encode them by our schema."""
    import fastavro

    def items(values: Any) -> list[dict[str, Any]]:
        return [{"name": v["name"], "term": v["term"], "value": v["value"]} for v in values]

    source, target = io.BytesIO(block.data), io.BytesIO()
    try:
        theirs, ours = fastavro.parse_schema(schema), fastavro.parse_schema(SCHEMA)
        for _ in range(block.rows):
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
        raise DataError(f"block {block.number} cannot be read as linear models: {error}") from error
    return target.getvalue() + source.read()  # what is left over is found by whoever decodes the block
