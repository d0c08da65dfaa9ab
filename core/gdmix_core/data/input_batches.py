"""Reading what `input_columns` writes; apart from it, so that a process which fits need not load the kernels."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from gdmix_core.errors import DataError, InternalError


def read_inputs(path: str | Path, number: int = 0) -> pa.RecordBatch:
    """Map one batch of a file of columns.

    Raises:
        DataError: the file is absent or damaged.
        InternalError: it has no such batch.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if number >= reader.num_record_batches:
            raise InternalError(f"{path}: has {reader.num_record_batches} batches, asked for number {number}")
        return reader.get_batch(number)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
