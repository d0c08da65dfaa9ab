"""Avro: the schema is looked at, then the rows of bounded blocks are decoded by the compiled decoder of the readers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from gdmix_core.data.avro_columns import Single
from gdmix_core.data.avro_decoder import BATCH_BYTES, RowDecoder
from gdmix_core.data.avro_file import AvroBlock, AvroFile
from gdmix_core.data.avro_program import Wanted, make_program
from gdmix_core.data.avro_schema import AvroSchema, Enum, Fixed, Primitive, Record
from gdmix_core.data.row_checks import in_file
from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.columns import check_columns, wrong_type
from gdmix_core.data.uploaded_scores.types import Batches, UploadedFile
from gdmix_core.errors import DataError


def read_avro(file: UploadedFile) -> Batches:
    """Yield both columns of a file of records without nested columns."""
    with in_file(f"{file.name}: cannot be read as Avro"):
        avro = AvroFile(
            file.path, largest_block=limits.MAX_BLOCK_BYTES, largest_header=limits.MAX_AVRO_HEADER_BYTES
        )
    with avro:
        schema = _checked_schema(file, avro.schema_text)
        wanted = [Wanted("uid", "uid", Single("int64")), Wanted("score", "score", Single("float64"))]
        decoder = RowDecoder(make_program(schema, wanted))
        rows = 0
        for blocks in _groups(_bounded(file, avro.blocks())):
            with in_file(f"{file.name}: cannot be read as Avro"):
                for batch in decoder.decode(blocks, rows):
                    uid, score = batch.slots
                    yield (
                        pa.array(uid.words, mask=uid.null),
                        pa.array(score.words.view(np.float64), mask=score.null),
                    )
            rows += sum(block.rows for block in blocks)


def _bounded(file: UploadedFile, blocks: Iterator[AvroBlock]) -> Iterator[AvroBlock]:
    """Pass blocks on as long as what they become together is no more than allowed."""
    stored = decompressed = 0
    while True:
        with in_file(f"{file.name}: cannot be read as Avro"):
            block = next(blocks, None)
        if block is None:
            return
        stored, decompressed = stored + block.stored, decompressed + len(block.data)
        limits.check_growth(file, stored, decompressed)
        yield block


def _groups(blocks: Iterator[AvroBlock]) -> Iterator[list[AvroBlock]]:
    """Put small blocks together."""
    group: list[AvroBlock] = []
    rows = size = 0
    for block in blocks:
        if group and (rows + block.rows > limits.BATCH_ROWS or size + len(block.data) > BATCH_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(block)
        rows, size = rows + block.rows, size + len(block.data)
    if group:
        yield group


def _checked_schema(file: UploadedFile, text: bytes) -> AvroSchema:
    """Return the schema with the fields `uid` and `score`, and others without a name that are passed over."""
    unreadable = f"{file.name}: cannot be read as Avro"
    try:
        node = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{unreadable}: the schema is not JSON: {error}") from error
    if not isinstance(node, dict) or node.get("type") != "record":
        raise DataError(f"{file.name}: holds no records; allowed: records with the columns of a table")
    with in_file(unreadable):
        schema = AvroSchema.parse(text)
    check_columns(file, [name for name, _ in schema.root.fields])
    for (name, kind), field in zip(schema.root.fields, node["fields"], strict=True):
        kinds = schema.branches(kind)
        if name not in file.columns:
            # An array of nulls has any number of items in a few bytes, and each takes its time.
            if not all(isinstance(part, Primitive | Enum | Fixed) for part in kinds):
                raise DataError(
                    f"{file.name}: column {name!r} is of type {field['type']}; allowed: no nested columns"
                )
            continue
        allowed = {"int", "long", "null"} | ({"float", "double"} if name == file.score_column else set())
        there = {part.name if isinstance(part, Primitive) else "" for part in kinds}
        if _is_logical(field["type"]) or not there <= allowed or there <= {"null"}:
            raise wrong_type(file, name, field["type"])
    renamed = {file.uid_column: "uid", file.score_column: "score"}
    fields = tuple((renamed.get(name, ""), kind) for name, kind in schema.root.fields)
    return replace(schema, root=Record(schema.root.name, fields))


def _is_logical(node: Any) -> bool:
    """Return whether a type, or one in a union, is marked to mean something else than its numbers."""
    if isinstance(node, list):
        return any(map(_is_logical, node))
    return isinstance(node, dict) and ("logicalType" in node or _is_logical(node.get("type")))
