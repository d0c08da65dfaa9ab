"""Reading a piece of input as a stream of record batches: one entry for all formats, bounded memory.

A reader gives the asked columns only, in the asked order, each batch with the row number of its first row.
Text is checked to be UTF-8. Whatever a file's fault is, it comes out as one DataError that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from gdmix_core.data.arrow_strings import is_text
from gdmix_core.data.input_files import NeededColumn, Use, file_faults, opened_parquet
from gdmix_core.data.layout import InputSpec
from gdmix_core.data.readers_csv import read_csv
from gdmix_core.data.readers_jsonl import read_jsonl
from gdmix_core.errors import DataError
from gdmix_core.tasks import MAIN_SOURCE, EncodingSpec, Split, score_source

BATCH_ROWS: Final = 65_536
USE_OF_INPUT: Final[dict[str, Use]] = {
    "number": "number",
    "string": "categorical",
    "strings": "list",
    "vector": "vector",
    "sparse": "vector",
}
"""How readers take a column that a plug-in reads, by its kind."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows of a file.

    Attributes:
        first_row: Number in the file, from 0, of the first row; a CSV header and blank lines do not count.
        batch: The rows.
    """

    first_row: int
    batch: pa.RecordBatch


def needed_columns(
    encoding: EncodingSpec, source: str = MAIN_SOURCE, *, features_only: bool = False
) -> tuple[NeededColumn, ...]:
    """Return the columns that encoding reads from a source's files, sorted by name.

    Args:
        encoding: What rows become.
        source: The source.
        features_only: Uid and features alone.
    """
    uses: dict[str, list[Use]] = {encoding.uid_column(source): ["uid"]}
    if not features_only:
        for name in number_columns(encoding, source).values():
            uses.setdefault(name, []).append("number")
        for name in entity_columns(encoding, source):
            uses.setdefault(name, []).append("entity")
    for resolved in encoding.columns:
        if resolved.source == source:
            kind = resolved.column.kind
            use: Use = "number" if kind in {"numeric", "auto"} else kind  # type: ignore[assignment]
            uses.setdefault(resolved.column.column, []).append(use)
    for _, spec in () if features_only else input_columns(encoding, source):
        uses.setdefault(spec.name, []).append(USE_OF_INPUT[spec.kind])
    return tuple(NeededColumn(name, tuple(sorted(set(uses[name])))) for name in sorted(uses))


def number_columns(encoding: EncodingSpec, source: str = MAIN_SOURCE) -> dict[str, str]:
    """Return the columns of numbers that a source's rows carry, by what they are for: `label`, `score`, ..."""
    if source == MAIN_SOURCE:
        roles = encoding.data.columns
        named = {"label": roles.label or None, "weight": roles.weight, "offset": roles.offset}
        return {role: column for role, column in named.items() if column is not None}
    for coordinate, files in encoding.external.items():
        if source == score_source(coordinate):
            return {"score": files.score}
    return {}


def entity_columns(encoding: EncodingSpec, source: str = MAIN_SOURCE) -> tuple[str, ...]:
    """Return the entity columns that are read from a source."""
    return tuple(
        name for name in encoding.entity_columns if encoding.entity_sources.get(name, MAIN_SOURCE) == source
    )


def input_columns(encoding: EncodingSpec, source: str = MAIN_SOURCE) -> list[tuple[str, InputSpec]]:
    """Return the columns that plug-ins read from a source, each with its coordinate."""
    return [
        (coordinate, spec)
        for coordinate, specs in encoding.inputs.items()
        for spec in specs
        if spec.source == source
    ]


def read_split(split: Split, columns: Sequence[NeededColumn]) -> Iterator[RowBatch]:
    """Stream the rows of a split.

    Raises:
        DataError: The file is absent, damaged, lacks a column, or holds text that is not UTF-8.
    """
    if split.format == "parquet":
        batches = _read_parquet(split, columns)
    elif split.format == "csv":
        batches = read_csv(split.path, [column.name for column in columns])
    elif split.format == "avro":
        from gdmix_core.data.readers_avro import read_avro

        batches = read_avro(split.path, columns)
    elif split.format == "tfrecord":
        from gdmix_core.data.readers_tfrecord import read_tfrecord

        batches = read_tfrecord(split.path, split.metadata, columns)
    else:
        batches = read_jsonl(split.path, columns)
    row = split.first_row
    for batch in batches:
        if split.format != "avro":  # whose reader checks it
            _check_text(split.path, row, batch)
        yield RowBatch(row, batch)
        row += batch.num_rows


def count_rows(split: Split, column: str) -> int:
    """Return the number of rows of a split; `column` is one that exists, read where it takes reading."""
    if split.format == "parquet":
        with opened_parquet(split.path) as file:
            return sum(file.metadata.row_group(group).num_rows for group in _row_groups(split, file))
    if split.format == "tfrecord":
        from gdmix_core.data.tfrecord_frames import count_tfrecords

        count = count_tfrecords(split.path)
        if count is not None:
            return count
    return sum(rows.batch.num_rows for rows in read_split(split, [NeededColumn(column, ("uid",))]))


def _read_parquet(split: Split, columns: Sequence[NeededColumn]) -> Iterator[pa.RecordBatch]:
    names = [column.name for column in columns]
    terms = {column.name for column in columns if "categorical" in column.uses}
    with opened_parquet(split.path) as file:
        # Flat columns only: Arrow cannot read nested ones whose dictionary changes on the way.
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        text = [leaf.path for leaf in leaves if leaf.path in terms and leaf.physical_type == "BYTE_ARRAY"]
        absent = sorted(set(names) - set(file.schema_arrow.names))
    if absent:
        raise DataError(f"{split.path}: column {absent[0]!r} is missing")
    with opened_parquet(split.path, text) as file, file_faults(split.path, "Parquet"):
        for batch in file.iter_batches(
            BATCH_ROWS, row_groups=_row_groups(split, file), columns=names, use_threads=False
        ):
            yield batch.select(names)


def _row_groups(split: Split, file: Any) -> list[int]:
    count = file.metadata.num_row_groups
    stop = count if split.row_groups is None else split.first_row_group + split.row_groups
    if stop > count:
        raise DataError(
            f"{split.path}: has {count} row groups where {stop} were found before: it was changed"
        )
    return list(range(split.first_row_group, stop))


def _check_text(path: str, first_row: int, batch: pa.RecordBatch) -> None:
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if not _holds_text(array.type):
            continue
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            row = first_row + _first_bad_text(array) + 1
            raise DataError(f"{path}: column {name!r}: row {row} is not valid UTF-8 text") from error


def _holds_text(kind: pa.DataType) -> bool:
    if is_text(kind):
        return True
    return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))


def _first_bad_text(array: pa.Array) -> int:
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        part = pa.concat_arrays([array.slice(low, middle - low)])
        try:
            part.validate(full=True)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
