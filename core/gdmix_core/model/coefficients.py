"""Coefficient files of a model directory: Parquet from and to flat arrays, no Python object per entity.

The bytes depend on the arrays alone: fixed encodings, fixed row groups, no times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.array_file import atomic_path
from gdmix_core.errors import DataError
from gdmix_core.store.record import CoefficientBlock

Float64Array: TypeAlias = npt.NDArray[np.float64]
Source: TypeAlias = str | Path | bytes

INTERCEPT_NAME: Final = "(INTERCEPT)"
_ROW_GROUP_ENTITIES: Final = 1 << 15
_FORMAT_METADATA: Final = {"gdmix.format": "1"}


@dataclass(frozen=True, slots=True)
class RandomEffectCoefficients:
    """One part of a random-effect coordinate.

    Attributes:
        block: ids (ascending by bytes), indices in the coordinate's feature space, coefficients, variances.
        rows: int64[E], training rows.
        status: uint8[E], the solver's result code.
        iterations: int32[E].
        gradient_norm: float64[E], largest |gradient| at the solution.
    """

    block: CoefficientBlock
    rows: npt.NDArray[np.int64]
    status: npt.NDArray[np.uint8]
    iterations: npt.NDArray[np.int32]
    gradient_norm: Float64Array


@dataclass(frozen=True, slots=True)
class FixedEffectCoefficients:
    """A fixed effect: coefficients float64[D], intercept first when there is one, and variances or None."""

    coefficients: Float64Array
    variances: Float64Array | None


def write_random_effect(path: str | Path, part: RandomEffectCoefficients) -> None:
    """Write one part of a random effect; the file appears complete or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    schema = _random_effect_schema(part.block.variances is not None)
    with atomic_path(path) as temporary, _writer(temporary, schema) as writer:
        for begin in range(0, part.block.entities, _ROW_GROUP_ENTITIES):
            end = min(begin + _ROW_GROUP_ENTITIES, part.block.entities)
            writer.write_batch(_random_effect_batch(part, begin, end, schema))


def read_random_effect(source: Source) -> RandomEffectCoefficients:
    """Read one whole part of a random effect.

    Raises:
        DataError: the file is absent, damaged or not a coefficient file.
    """
    with _reading(source) as file:
        table = file.read()
        _require_columns(source, table.schema, _random_effect_schema(variances=False))
        block = _block_of(table)
        return RandomEffectCoefficients(
            block=block,
            rows=_flat(table, "rows", np.int64),
            status=_flat(table, "status", np.uint8),
            iterations=_flat(table, "iterations", np.int32),
            gradient_norm=_flat(table, "gradient_norm", np.float64),
        )


def iterate_blocks(source: Source) -> Iterator[CoefficientBlock]:
    """Read ids and coefficients of one part, some ten thousand entities at a time.

    Raises:
        DataError: the file is absent, damaged or not a coefficient file.
    """
    with _reading(source) as file:
        schema = file.schema_arrow
        _require_columns(source, schema, _random_effect_schema(variances=False))
        columns = [
            name for name in ("entity_id", "indices", "coefficients", "variances") if name in schema.names
        ]
        for number in range(file.num_row_groups):
            yield _block_of(file.read_row_group(number, columns=columns, use_threads=False))


def write_fixed_effect(
    path: str | Path,
    coefficients: Float64Array,
    *,
    bags: Sequence[str] | pa.Array,
    names: Sequence[str] | pa.Array,
    terms: Sequence[str] | pa.Array,
    variances: Float64Array | None = None,
) -> None:
    """Write a fixed effect, one row for each coefficient, in index order.

    Args:
        path: the file.
        coefficients: float64[D], intercept first when there is one.
        bags: feature bag of each coefficient; "" for the intercept.
        names: feature name; `INTERCEPT_NAME` for the intercept.
        terms: term of the feature, "" where it has none.
        variances: float64[D] or None.

    Raises:
        DataError: the file cannot be written.
    """
    columns: dict[str, Any] = {
        "bag": pa.array(bags, pa.string()),
        "name": pa.array(names, pa.string()),
        "term": pa.array(terms, pa.string()),
        "index": np.arange(len(coefficients), dtype=np.int32),
        "coefficient": np.asarray(coefficients, np.float64),
    }
    if variances is not None:
        columns["variance"] = np.asarray(variances, np.float64)
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    schema = pa.schema(
        [pa.field(field.name, field.type, nullable=False) for field in table.schema],
        metadata=_FORMAT_METADATA,
    )
    with atomic_path(path) as temporary, _writer(temporary, schema) as writer:
        writer.write_table(table.cast(schema), row_group_size=1 << 20)


def read_fixed_effect(source: Source) -> FixedEffectCoefficients:
    """Read a fixed effect's numbers.

    Args:
        source: the file, or its contents (as a store holds them).

    Raises:
        DataError: the file is absent, damaged or not a coefficient file.
    """
    with _reading(source) as file:
        table = file.read()
    wanted = pa.schema([("index", pa.int32()), ("coefficient", pa.float64())])
    _require_columns(source, table.schema, wanted)
    if not np.array_equal(_flat(table, "index", np.int32), np.arange(table.num_rows)):
        raise DataError(f"{_name(source)}: column index does not count from 0 to {table.num_rows - 1}")
    has_variances = "variance" in table.schema.names
    return FixedEffectCoefficients(
        coefficients=_flat(table, "coefficient", np.float64),
        variances=_flat(table, "variance", np.float64) if has_variances else None,
    )


# ---- arrays and Arrow ------------------------------------------------------------------------------------


def _random_effect_schema(variances: bool) -> pa.Schema:
    values = pa.list_(pa.field("element", pa.float64(), nullable=False))
    fields = [
        ("entity_id", pa.binary()),
        ("indices", pa.list_(pa.field("element", pa.int32(), nullable=False))),
        ("coefficients", values),
        *([("variances", values)] if variances else []),
        ("rows", pa.int64()),
        ("status", pa.uint8()),
        ("iterations", pa.int32()),
        ("gradient_norm", pa.float64()),
    ]
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in fields], metadata=_FORMAT_METADATA
    )


def _random_effect_batch(
    part: RandomEffectCoefficients, begin: int, end: int, schema: pa.Schema
) -> pa.RecordBatch:
    """Lay entities begin:end out as a record batch; only the offsets are copied."""
    block = part.block
    ids, first, last = (
        block.ids_ptr[begin : end + 1],
        block.coefficient_ptr[begin],
        block.coefficient_ptr[end],
    )
    if last - first > np.iinfo(np.int32).max or ids[-1] - ids[0] > np.iinfo(np.int32).max:
        raise DataError(
            f"{end - begin} entities have too many coefficients for a row group; use more partitions"
        )
    offsets = pa.py_buffer((block.coefficient_ptr[begin : end + 1] - first).astype(np.int32))

    def lists(name: str, values: npt.NDArray[Any]) -> pa.Array:
        kind = schema.field(name).type
        child = pa.Array.from_buffers(
            kind.value_type, last - first, [None, pa.py_buffer(np.ascontiguousarray(values[first:last]))]
        )
        return pa.Array.from_buffers(kind, end - begin, [None, offsets], children=[child])

    columns = [
        pa.Array.from_buffers(
            pa.binary(),
            end - begin,
            [
                None,
                pa.py_buffer((ids - ids[0]).astype(np.int32)),
                pa.py_buffer(np.ascontiguousarray(block.ids_bytes[ids[0] : ids[-1]])),
            ],
        ),
        lists("indices", block.indices.astype(np.int32, copy=False)),
        lists("coefficients", block.coefficients),
        *([lists("variances", block.variances)] if block.variances is not None else []),
        pa.array(part.rows[begin:end], pa.int64()),
        pa.array(part.status[begin:end], pa.uint8()),
        pa.array(part.iterations[begin:end], pa.int32()),
        pa.array(part.gradient_norm[begin:end], pa.float64()),
    ]
    return pa.record_batch(columns, schema=schema)


def _block_of(table: pa.Table) -> CoefficientBlock:
    ids = _one_chunk(table, "entity_id").cast(pa.large_binary())
    bounds = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1].copy()
    data = ids.buffers()[2]
    raw = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    lists = _one_chunk(table, "indices")
    pointer = lists.offsets.to_numpy().astype(np.int64)
    has_variances = "variances" in table.schema.names
    return CoefficientBlock(
        ids_bytes=raw[bounds[0] : bounds[-1]].copy(),
        ids_ptr=bounds - bounds[0],
        coefficient_ptr=pointer - pointer[0],
        indices=_values(lists, np.int32),
        coefficients=_values(_one_chunk(table, "coefficients"), np.float64),
        variances=_values(_one_chunk(table, "variances"), np.float64) if has_variances else None,
    )


def _one_chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _values(lists: pa.Array, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.array(lists.flatten().to_numpy(zero_copy_only=False), dtype)


def _flat(table: pa.Table, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.array(table.column(name).to_numpy(), dtype)


# ---- files -----------------------------------------------------------------------------------------------


def _writer(path: Path, schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        path, schema, version="2.6", compression="zstd", compression_level=1, use_dictionary=False
    )


@contextmanager
def _reading(source: Source) -> Iterator[Any]:
    """Open a Parquet file; every failure to read it becomes a DataError that names it."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else str(source)) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{_name(source)}: cannot be read as a coefficient file: {error}") from error


def _name(source: Source) -> str:
    return "coefficient file in the store" if isinstance(source, bytes) else str(source)


def _require_columns(source: Source, found: pa.Schema, wanted: pa.Schema) -> None:
    for field in wanted:
        position = found.get_field_index(field.name)
        if position < 0 or found.field(position).type != field.type:
            there = "no such column" if position < 0 else str(found.field(position).type)
            raise DataError(f"{_name(source)}: column {field.name!r} must be {field.type}, found {there}")
