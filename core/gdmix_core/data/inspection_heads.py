"""What a file tells without being read: its columns and their types, its row groups, the first block of text."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from gdmix_core.data.column_values import number_values
from gdmix_core.data.input_files import opened_parquet
from gdmix_core.data.inspection_files import InputFile
from gdmix_core.data.inspection_types import FileDescription
from gdmix_core.tasks import Role


def describe(file: InputFile, role: Role, source: str, metadata: str | None) -> FileDescription:
    """Look at a file's head.

    Args:
        file: The file.
        role: Which data set it belongs to.
        source: Which source.
        metadata: TFRecord: the file that describes the records.

    Raises:
        DataError: It cannot be read as what its format says.
        MissingDependency: Its format needs a package that is not installed.
    """
    if file.format == "parquet":
        with opened_parquet(file.path) as opened:
            schema = opened.schema_arrow
            contents = opened.metadata
            groups = tuple(contents.row_group(i).num_rows for i in range(contents.num_row_groups))
        return FileDescription(file, role, source, _types(schema), _repeated(schema.names), groups)
    if file.format == "csv":
        from gdmix_core.data.readers_csv import csv_head

        head = csv_head(file.path)
        columns = head.rows.columns if head.rows is not None else [pa.nulls(0)] * len(head.names)
        types = {name: _suggested(array) for name, array in zip(head.names, columns, strict=True)}
        # A header with a name twice is not read further: it is a problem of its own, not a lack of rows.
        rows = head.rows.num_rows if head.rows is not None else int(bool(_repeated(head.names)))
        pairs = zip(head.names, columns, strict=True)
        flawed = frozenset(name for name, array in pairs if _mostly_numbers(array))
        return FileDescription(file, role, source, types, _repeated(head.names), (rows,), flawed)
    if file.format == "avro":
        from gdmix_core.data.readers_avro import avro_head

        schema, rows = avro_head(file.path)
        repeated = _repeated(schema.names)
        return FileDescription(
            file, role, source, _types(schema), repeated, (rows,), dimensions=_declared_dimensions(metadata)
        )
    if file.format == "tfrecord":
        from gdmix_core.data.readers_tfrecord import tfrecord_head

        found = tfrecord_head(file.path, metadata)
        return FileDescription(
            file, role, source, _types(found.schema), (), (found.rows,), dimensions=found.dimensions
        )
    from gdmix_core.data.readers_jsonl import jsonl_head

    schema, rows = jsonl_head(file.path)
    return FileDescription(file, role, source, _types(schema), (), (rows,))


def _declared_dimensions(metadata: str | None) -> dict[str, int]:
    """Return the lengths of the vectors that LinkedIn GDMix's metadata describe."""
    from gdmix_core.data.tensor_metadata import read_tensor_metadata

    tensors = () if metadata is None else read_tensor_metadata(metadata)
    return {tensor.name: tensor.shape[0] for tensor in tensors if tensor.shape}


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema}


def _repeated(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if names.count(name) > 1}))


def _suggested(array: pa.Array) -> pa.DataType:
    """Return the type that a CSV column's first block suggests."""
    if array.null_count == len(array):
        return pa.null()
    for kind in (pa.int64(), pa.float64()):
        try:
            array.cast(kind)
        except pa.ArrowInvalid:
            continue
        return kind
    if _wrong_numbers(array):
        return pa.string()
    words = {"true", "false"}
    return pa.bool_() if array.drop_null()[0].as_py().strip().lower() in words else pa.float64()


def _wrong_numbers(array: pa.Array) -> int:
    """Return how many of a text column's values are no numbers."""
    faults = number_values(array, "").faults
    return len(faults[0].rows) if faults else 0


def _mostly_numbers(array: pa.Array) -> bool:
    """Return whether a column of text looks like numbers with a few mistakes."""
    values: int = len(array) - array.null_count
    return 0 < 2 * _wrong_numbers(array) < values
