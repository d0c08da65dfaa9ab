"""CSV: columns of text in small blocks."""

from __future__ import annotations

import io
from csv import reader as csv_rows
from typing import IO, Final

import pyarrow as pa
from pyarrow import csv

from gdmix_core.data.input_files import file_faults
from gdmix_core.data.readers_csv import read_csv as read_rows
from gdmix_core.data.uploaded_scores.columns import check_columns
from gdmix_core.data.uploaded_scores.types import Batches, UploadedFile
from gdmix_core.errors import DataError

_BLOCK_BYTES: Final = 1 << 18
_HEADER_BYTES: Final = 1 << 20


def read_csv(file: UploadedFile) -> Batches:
    """Yield columns of text in small blocks: Arrow reads up to 32 of them ahead."""
    with file_faults(file.name, "CSV"), file.path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="ignore")
        check_columns(file, next(filter(None, csv_rows(io.StringIO(head, newline=""))), []))
        stream.seek(0)
        counted = _CountedQuotes(stream)
        reader = csv.open_csv(
            pa.PythonFile(counted, mode="r"),
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=file.columns,
                column_types=dict.fromkeys(file.columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            if len(batch):
                yield batch.column(0), batch.column(1)
    if counted.quotes % 2:  # perhaps one is never closed, and has taken rows for its text
        try:
            for _ in read_rows(str(file.path), file.columns):
                pass
        except DataError as error:
            raise DataError(str(error).replace(str(file.path), file.name)) from error


class _CountedQuotes(io.RawIOBase):
    """A file that counts the quotes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.quotes += data.count(b'"')
        return data

    def readable(self) -> bool:
        return True
