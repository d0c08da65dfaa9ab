"""Files of the columns that plug-ins read: spilled by home shard, then one file a shard and coordinate.

Both are Arrow IPC files that appear by atomic rename and are mapped on reading. A spill has a record batch for each
home shard, with a column `<coordinate>/<column>` for each use; a shard's file has one batch, its rows in the shard's
order. Layouts: `docs/specs/data-plane.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.array_file import atomic_path
from gdmix_core.data.input_batches import read_inputs
from gdmix_core.data.input_values import INPUT_TYPES
from gdmix_core.data.layout import InputSpec
from gdmix_core.data.shard_rows import ShardRows
from gdmix_core.errors import InternalError

Int64Array = npt.NDArray[np.int64]


def input_key(coordinate: str, column: str) -> str:
    """Return the name of a plug-in's column in a spill."""
    return f"{coordinate}/{column}"


def write_input_spill(
    path: str | Path, columns: Mapping[str, pa.Array], order: Int64Array, bounds: Int64Array
) -> None:
    """Write the columns of an encoded split, cut by home shard as its other arrays are.

    Args:
        path: the file.
        columns: by `input_key`, in input order.
        order: int64[n], rows by home shard, see `spill.shard_order`.
        bounds: int64[shards + 1], where each shard begins in `order`.

    Raises:
        DataError: the file cannot be written.
    """
    schema = pa.schema([pa.field(name, array.type) for name, array in columns.items()])
    with _writer(path, schema) as writer:
        for start, stop in pairwise(bounds.tolist()):
            chosen = pa.array(order[start:stop])
            taken = [array.take(chosen) for array in columns.values()]
            writer.write_batch(pa.record_batch(taken, schema=schema))


def write_shard_inputs(
    path: str | Path,
    shard: int,
    gathered: ShardRows,
    coordinate: str,
    columns: Sequence[InputSpec],
    spills: Mapping[str, Sequence[str | Path]],
) -> None:
    """Write the columns of one coordinate of a home shard, rows by ascending uid.

    Rows that a further source lacks are null there, vectors 0.

    Args:
        path: the file.
        shard: number of the home shard.
        gathered: its rows.
        coordinate: whose columns they are.
        columns: in the plug-in's order, with sources.
        spills: files of the columns of each source, in split order.

    Raises:
        DataError: a file cannot be read or written.
    """
    opened = {
        source: [read_inputs(spill, shard) for spill in spills[source]]
        for source in dict.fromkeys(_source(spec) for spec in columns)
    }
    arrays = [_column(opened[_source(spec)], gathered, coordinate, spec) for spec in columns]
    schema = pa.schema([pa.field(spec.name, array.type) for spec, array in zip(columns, arrays, strict=True)])
    with _writer(path, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


@contextmanager
def _writer(path: str | Path, schema: pa.Schema) -> Iterator[Any]:
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        yield writer


def _column(
    batches: Sequence[pa.RecordBatch], gathered: ShardRows, coordinate: str, spec: InputSpec
) -> pa.Array:
    key = input_key(coordinate, spec.name)
    pieces = [batch.column(key) for batch in batches]
    places = gathered.places(_source(spec))
    kind = INPUT_TYPES[spec.kind]
    missing = places < 0
    if missing.any():
        # A row behind the others stands for those that are missing.
        nothing = pa.array([[0.0] * (spec.dimension or 0) if spec.kind == "vector" else None], kind)
        pieces.append(nothing)
        places = np.where(missing, sum(len(piece) for piece in pieces) - 1, places)
    return pa.concat_arrays(pieces).take(pa.array(places))


def _source(spec: InputSpec) -> str:
    if spec.source is None:
        raise InternalError(f"column {spec.name!r}: its source is not settled")
    return spec.source
