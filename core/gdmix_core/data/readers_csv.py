"""CSV: UTF-8, comma, a header line; quoted fields may hold line breaks. Every column is read as text.

Only the empty field is null (quoted or not): words like `NA` are text, and a fault in a numeric column.
Typing is left to `gdmix_core.data.column_values`, which can name every value that does not fit.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from gdmix_core.data.input_files import BLOCK_BYTES, file_faults, opened_text
from gdmix_core.errors import DataError


@dataclass(frozen=True, slots=True)
class CsvHead:
    """The beginning of a CSV file: the header's names, and the first block of rows as text."""

    names: tuple[str, ...]
    rows: pa.RecordBatch | None
    """None: no rows."""


def read_csv(path: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream columns of a CSV file as strings.

    Raises:
        DataError: The file cannot be read, a row has too many or too few fields, or a column is missing.
    """
    with opened_text(path, "CSV") as stream, _csv_faults(path):
        counted = _CountedQuotes(stream)
        reader = _open(pa.PythonFile(counted, mode="r"), names)
        while (batch := _next(reader)) is not None:
            if batch.num_rows:
                yield batch
        if counted.quotes % 2:
            _check_last_quote(path)


def csv_head(path: str) -> CsvHead:
    """Read the header and the first block of rows; errors as `read_csv`."""
    with opened_text(path, "CSV") as stream, _csv_faults(path):
        names = tuple(_open(stream, ()).schema.names)
    if len(set(names)) != len(names):
        return CsvHead(names, None)
    return CsvHead(names, next(read_csv(path, names), None))


class _CountedQuotes:
    """A stream that counts the quotes read from it."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self.quotes = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.quotes += data.count(b'"')
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _check_last_quote(path: str) -> None:
    """Raise DataError when a quote is still open at the end: Arrow would take all rows after it for its text.

    Only files with an odd number of quotes are looked at, so that no good file is read twice.
    """
    with opened_text(path, "CSV") as stream:
        rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), strict=True)
        number = 0
        try:
            for fields in rows:
                number += bool(fields)
        except csv.Error as error:
            # A field beyond Python's limit is what an open quote looks like in a large file.
            if "end of data" in str(error) or "field limit" in str(error):
                raise DataError(
                    f"{path}: cannot be read as CSV: row {number}: a quote is never closed"
                ) from error


_ROW: Final = re.compile(r"Row #(\d+): ")


def _open(stream: pa.NativeFile, names: Sequence[str]) -> Any:
    from pyarrow import csv as arrow_csv

    return arrow_csv.open_csv(
        stream,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(names),
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _next(reader: Any) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


@contextlib.contextmanager
def _csv_faults(path: str) -> Iterator[None]:
    """As `file_faults`, with Arrow's row numbers (which count the header) made ours."""
    with file_faults(path, "CSV"):
        try:
            yield
        except pa.ArrowInvalid as error:
            text = _ROW.sub(lambda match: f"row {int(match.group(1)) - 1}: ", str(error).split("\n", 1)[0])
            if "straddling" in text:
                text = f"a row is longer than {BLOCK_BYTES >> 20} MiB, or a quote is never closed"
            raise DataError(f"{path}: cannot be read as CSV: {text}") from error
