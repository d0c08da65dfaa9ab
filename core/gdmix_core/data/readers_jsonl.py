"""JSON Lines: one object a line, parsed in blocks; absent keys are null, other keys are ignored.

The type of a column is settled by the file's first block and what the column is used for, so that a file is
read alike from beginning to end. A value of another type is looked up line by line, to be named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from gdmix_core.data.arrow_strings import is_list, is_number
from gdmix_core.data.input_files import BLOCK_BYTES, NeededColumn, file_faults, opened_text
from gdmix_core.data.row_checks import shown
from gdmix_core.errors import DataError

_SPARSE: Final = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])
_INT64: Final = range(-(2**63), 2**63)


def read_jsonl(path: str, columns: Sequence[NeededColumn]) -> Iterator[pa.RecordBatch]:
    """Stream columns of a JSON Lines file.

    Raises:
        DataError: The file cannot be read, a line is no JSON object, or a value has another type than those
            before it.
    """
    schema: pa.Schema | None = None
    row = 0
    with opened_text(path, "JSON Lines") as stream, file_faults(path, "JSON Lines"):
        for block in _blocks(path, stream):
            if schema is None:
                found = _inferred(path, block)
                schema = pa.schema([(column.name, _settled(found, column)) for column in columns])
            table = _parse(path, block, schema, row)
            for batch in table.combine_chunks().to_batches():
                row += batch.num_rows
                yield batch


def jsonl_head(path: str) -> tuple[pa.Schema, int]:
    """Return the types in the first block of a file, and how many rows it has.

    Strings that look like times are strings.

    Raises:
        DataError: The file cannot be read, or its first block is not JSON Lines.
    """
    with opened_text(path, "JSON Lines") as stream, file_faults(path, "JSON Lines"):
        block = next(_blocks(path, stream), None)
    if block is None:
        return pa.schema([]), 0
    schema = _inferred(path, block)
    return schema, sum(1 for line in block.splitlines() if line.strip())


def _blocks(path: str, stream: pa.NativeFile) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines; none is blank."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if cut == 0:
            rest += chunk
            if len(rest) > 4 * BLOCK_BYTES:
                raise DataError(f"{path}: a line is longer than {4 * BLOCK_BYTES >> 20} MiB")
            continue
        block = rest + chunk[:cut]
        rest = chunk[cut:]
        if block.strip():
            yield block
    if rest.strip():
        yield rest


def _inferred(path: str, block: bytes) -> pa.Schema:
    schema = _parse(path, block, None, 0).schema
    return pa.schema([(field.name, _without_times(field.type)) for field in schema])


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return kind


def _settled(found: pa.Schema, column: NeededColumn) -> pa.DataType:
    """Return the type under which a column is read: as found, widened to what all its uses can take."""
    place = found.get_field_index(column.name)
    kind = found.field(place).type if place >= 0 else pa.null()
    uses = set(column.uses)
    if "vector" in uses and uses <= {"vector"}:
        return _SPARSE if pa.types.is_struct(kind) else pa.list_(pa.float64())
    if uses <= {"number"} and (is_number(kind) or pa.types.is_null(kind)):
        return pa.float64()
    if pa.types.is_null(kind):
        if "uid" in uses:
            return pa.int64()
        return pa.list_(pa.string()) if "list" in uses and "text" not in uses else pa.string()
    if is_list(kind) and pa.types.is_null(kind.value_type):
        return pa.list_(pa.string())
    return kind


def _parse(path: str, block: bytes, schema: pa.Schema | None, first_row: int) -> pa.Table:
    from pyarrow import json as arrow_json

    try:
        str(block, "utf-8")
    except UnicodeDecodeError as error:
        row = first_row + sum(1 for line in block[: error.start].split(b"\n")[:-1] if line.strip()) + 1
        raise DataError(f"{path}: row {row} is not valid UTF-8 text") from error
    options = arrow_json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
    )
    try:
        return arrow_json.read_json(
            pa.BufferReader(block),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=options,
        )
    except pa.ArrowInvalid as error:
        problem = _first_problem(block, schema, first_row)
        raise DataError(f"{path}: {problem or _in_our_rows(str(error), first_row)}") from error


def _in_our_rows(text: str, first_row: int) -> str:
    """Return Arrow's message with the row's number in the file, from 1, in front."""
    text = text.splitlines()[0].removeprefix("JSON parse error: ")
    row = re.search(r" in row (\d+)$", text)
    if row is None:
        return f"cannot be read as JSON Lines: {text}"
    return f"row {first_row + int(row.group(1)) + 1} cannot be read as JSON Lines: {text[: row.start()]}"


def _first_problem(block: bytes, schema: pa.Schema | None, first_row: int) -> str | None:
    """Look for the first line that breaks the format or the schema; None when none does."""
    row = first_row
    seen: dict[str, str] = {}
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        row += 1
        try:
            value = json.loads(line, object_pairs_hook=_unique_keys)
        except ValueError as error:
            return f"row {row} is not JSON: {error}"
        if not isinstance(value, dict):
            return f"row {row} holds {shown(value)}; allowed: a JSON object in every line"
        if schema is None:
            for name, item in value.items():
                kind = _family(item)
                if kind is not None and seen.setdefault(name, kind) != kind:
                    return f"column {name!r}: row {row} holds {shown(item)}; allowed: {seen[name]}, as before"
            continue
        for field in schema:
            item = value.get(field.name)
            if not _fits(item, field.type):
                allowed = _described(field.type)
                return f"column {field.name!r}: row {row} holds {shown(item)}; allowed: {allowed}, as before"
    return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return mapping


def _family(value: Any) -> str | None:
    if value is None:
        return None
    for kinds, name in (
        ((bool,), "booleans"),
        ((int, float), "numbers"),
        ((str,), "strings"),
        ((list,), "lists"),
    ):
        if isinstance(value, kinds):
            return name
    return "objects"


def _fits(value: Any, kind: pa.DataType) -> bool:
    if value is None or pa.types.is_null(kind):
        return True
    if is_list(kind):
        return isinstance(value, list) and all(_fits(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.type) for f in kind)
    checks: tuple[tuple[Callable[[pa.DataType], bool], bool], ...] = (
        (pa.types.is_boolean, isinstance(value, bool)),
        (pa.types.is_integer, type(value) is int and value in _INT64),
        (pa.types.is_floating, isinstance(value, int | float) and not isinstance(value, bool)),
    )
    return next((fits for check, fits in checks if check(kind)), isinstance(value, str))


def _described(kind: pa.DataType) -> str:
    if is_list(kind):
        return f"lists of {_described(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "objects"
    if pa.types.is_boolean(kind):
        return "booleans"
    if pa.types.is_integer(kind):
        return "integers of 64 bits"
    return "numbers" if pa.types.is_floating(kind) else "strings"
