"""Parquet: footer, types and pages are looked at before Arrow reads a value."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq

from gdmix_core.data.input_files import file_faults
from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.columns import check_columns, wrong_type
from gdmix_core.data.uploaded_scores.parquet_pages import check_pages
from gdmix_core.data.uploaded_scores.types import Batches, UploadedFile
from gdmix_core.errors import DataError


def read_parquet(file: UploadedFile, max_rows: int) -> Batches:
    """Yield both columns; a file with more rows than allowed is refused at once."""
    with file.path.open("rb") as stream:
        stream.seek(-min(8, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        tail = stream.read()
    if len(tail) < 8 or tail[4:] != b"PAR1":
        raise DataError(f"{file.name}: its end is not that of a Parquet file: it is cut short")
    if (footer := int.from_bytes(tail[:4], "little")) > limits.MAX_FOOTER_BYTES:
        raise DataError(f"{file.name}: has a footer of {footer} bytes; allowed are {limits.MAX_FOOTER_BYTES}")
    with (
        file_faults(file.name, "Parquet"),
        pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False) as opened,
    ):
        check_columns(file, opened.schema_arrow.names)
        for column in file.columns:
            kind = opened.schema_arrow.field(column).type
            number = pa.types.is_integer(kind) or (
                column == file.score_column and pa.types.is_floating(kind) and not pa.types.is_float16(kind)
            )
            if not number:
                raise wrong_type(file, column, kind)
        if opened.metadata.num_rows > max_rows:
            raise DataError(
                f"{file.name}: holds {opened.metadata.num_rows} rows; allowed are at most {max_rows}"
            )
        check_pages(file, opened.metadata)
        for batch in opened.iter_batches(limits.BATCH_ROWS, columns=file.columns, use_threads=False):
            if len(batch):
                yield batch.column(file.uid_column), batch.column(file.score_column)
