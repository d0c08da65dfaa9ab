"""Looking at the input before any work: which files, which columns of which types, cut into which splits.

Everything that can be known without reading all rows is found out here and reported in one message: files
that are absent or unreadable, columns that are missing, types that a use cannot take, kinds that `auto`
cannot tell, and data sets without rows. Text files are judged by their first block; what comes after is
checked on reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import pyarrow as pa

from gdmix_core.config import DataConfig, FeatureColumn, FeatureKind
from gdmix_core.data.column_values import number_values
from gdmix_core.data.input_files import NeededColumn, opened_parquet
from gdmix_core.data.inspection_files import InputFile, find_files
from gdmix_core.data.inspection_types import FileDescription, kind_of_type, type_problems
from gdmix_core.data.readers import read_split
from gdmix_core.errors import ConfigError, DataError
from gdmix_core.tasks import EncodingSpec, ResolvedColumn, Role, Split

SPLIT_ROWS: Final = 500_000
"""Row groups of a Parquet file are put together into splits of at most this many rows."""

Features: TypeAlias = Mapping[str, tuple[FeatureColumn, ...]]


@dataclass(slots=True)
class _Problems:
    """What is wrong: with the config, or with the data."""

    config: list[str]
    data: list[str]

    def raise_if_any(self) -> None:
        """Raise one error that lists them all; the data's faults decide its class."""
        problems = [*self.config, *self.data]
        if not problems:
            return
        count = len(problems)
        text = problems[0] if count == 1 else "\n  ".join([f"{count} problems with the data:", *problems])
        if self.data:
            raise DataError(text)
        raise ConfigError(text, tuple(problems))


def inspect_data(
    data: DataConfig, features: Features, entity_columns: tuple[str, ...], task: str
) -> tuple[tuple[Split, ...], EncodingSpec]:
    """Find the input, settle the kinds of its columns and cut it into splits.

    Args:
        data: Where the rows are; relative paths are relative to the current directory.
        features: Feature bags.
        entity_columns: Columns that hold entity ids.
        task: The job's task, which decides the labels allowed.

    Returns:
        The splits, training first, each role in the order of its sorted paths; and what rows become.

    Raises:
        ConfigError: No file matches, or columns and config do not fit; all problems in one message.
        DataError: A file cannot be read, or a role has no rows.
    """
    problems = _Problems([], [])
    described: list[FileDescription] = []
    for role in ("train", "validation"):
        described += _described(data, role, problems)
    resolved = _resolved(features, described, problems)
    names = frozenset(name for description in described for name in description.types)
    for description in described:
        problems.config += type_problems(description, data, resolved, entity_columns, names)
    for role in ("train", "validation"):
        _check_rows(role, described, problems)
    problems.raise_if_any()
    splits = tuple(split for description in described for split in _splits(description))
    columns = tuple(_with_dimension(column, splits, described, problems) for column in resolved)
    problems.raise_if_any()
    return splits, EncodingSpec(data=data, columns=columns, entity_columns=entity_columns, task=task)


def _described(data: DataConfig, role: Role, problems: _Problems) -> list[FileDescription]:
    sources = data.train if role == "train" else data.validation
    files, missing = find_files(sources, data.format, f"data.{role}")
    problems.config += missing
    found = []
    for file in files:
        try:
            found.append(_describe(file, role))
        except DataError as error:
            problems.data.append(str(error))
    return found


def _describe(file: InputFile, role: Role) -> FileDescription:
    if file.format == "parquet":
        with opened_parquet(file.path) as opened:
            schema = opened.schema_arrow
            metadata = opened.metadata
            groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return FileDescription(file, role, _types(schema), _repeated(schema.names), groups)
    if file.format == "csv":
        from gdmix_core.data.readers_csv import csv_head

        head = csv_head(file.path)
        columns = head.rows.columns if head.rows is not None else [pa.nulls(0)] * len(head.names)
        types = {name: _suggested(array) for name, array in zip(head.names, columns, strict=True)}
        # A header with a name twice is not read further: it is a problem of its own, not a lack of rows.
        rows = head.rows.num_rows if head.rows is not None else int(bool(_repeated(head.names)))
        pairs = zip(head.names, columns, strict=True)
        flawed = frozenset(name for name, array in pairs if _mostly_numbers(array))
        return FileDescription(file, role, types, _repeated(head.names), (rows,), flawed)
    from gdmix_core.data.readers_jsonl import jsonl_head

    schema, rows = jsonl_head(file.path)
    return FileDescription(file, role, _types(schema), (), (rows,))


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


def _check_rows(role: str, described: list[FileDescription], problems: _Problems) -> None:
    paths = [description.path for description in described if description.role == role]
    rows = sum(sum(description.row_groups) for description in described if description.role == role)
    if paths and rows == 0 and not problems.data:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        problems.data.append(f"data.{role}: no rows in {paths[0]}{more}")


def _resolved(
    features: Features, described: list[FileDescription], problems: _Problems
) -> tuple[ResolvedColumn, ...]:
    training = [description for description in described if description.role == "train"]
    resolved = []
    for bag, columns in features.items():
        for column in columns:
            kind = column.kind
            if kind == "auto":
                kind = _automatic(bag, column.column, training, problems) or "auto"
            settled = column.model_copy(update={"kind": kind})
            resolved.append(ResolvedColumn(bag=bag, column=settled, dimension=column.dimension))
    return tuple(resolved)


def _automatic(
    bag: str, name: str, training: list[FileDescription], problems: _Problems
) -> FeatureKind | None:
    """Return the kind that the types of all training files agree on."""
    kinds: dict[FeatureKind, tuple[str, pa.DataType]] = {}
    columns = [(d.path, d.types[name]) for d in training if name in d.types]
    for path, kind in columns:
        if pa.types.is_null(kind):
            continue
        found = kind_of_type(kind)
        if found is None:
            problems.config.append(
                f"{path}: column {name!r} (features.{bag}): kind auto cannot tell what to make of type "
                f"{kind}; give its kind"
            )
            return None
        kinds.setdefault(found, (path, kind))
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        text = " but ".join(f"{found} ({kind}) in {path}" for found, (path, kind) in kinds.items())
        problems.config.append(f"features.{bag}: column {name!r} looks {text}; give its kind")
    elif columns:
        problems.config.append(
            f"{columns[0][0]}: column {name!r} (features.{bag}): kind auto finds no values to go by; "
            "give its kind"
        )
    return None


def _with_dimension(
    resolved: ResolvedColumn,
    splits: tuple[Split, ...],
    described: list[FileDescription],
    problems: _Problems,
) -> ResolvedColumn:
    """Return the column with its vector length, read off the data where the config gives none."""
    if resolved.column.kind != "vector" or resolved.dimension is not None:
        return resolved
    name = resolved.column.column
    for description in described:
        kind = description.types.get(name, pa.null())
        if description.role == "train" and pa.types.is_fixed_size_list(kind):
            return replace(resolved, dimension=kind.list_size)
    for split in splits:
        if split.role != "train":
            continue
        for rows in read_split(split, [NeededColumn(name, ("vector",))]):
            array = rows.batch.column(0).drop_null()
            if len(array) and len(array[0]):
                return replace(resolved, dimension=len(array[0]))
    problems.data.append(
        f"features.{resolved.bag}: column {name!r} holds no vector in any training row to read a dimension "
        "off; give its dimension"
    )
    return resolved


def _splits(description: FileDescription) -> list[Split]:
    """Cut a file: Parquet at row groups, a text file not at all."""
    file, groups = description.file, description.row_groups
    if sum(groups) == 0:
        return []
    if file.format != "parquet":
        return [Split(role=description.role, path=file.path, format=file.format)]
    splits: list[Split] = []
    start = first_row = rows = 0
    for number, count in enumerate((*groups, 0)):
        if number == len(groups) or (rows and rows + count > SPLIT_ROWS):
            if rows:
                splits.append(
                    Split(
                        role=description.role,
                        path=file.path,
                        format="parquet",
                        first_row_group=start,
                        row_groups=number - start,
                        first_row=first_row,
                    )
                )
            start, first_row, rows = number, first_row + rows, 0
        rows += count
    return splits
