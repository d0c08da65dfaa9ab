"""Rows that are to be scored, out of a file or from stdin, cut into batches of columns."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gdmix_core.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Where rows come from, and what their columns are for.

    Attributes:
        path: a file; "-" is stdin, in JSON Lines.
        batch_rows: at most so many rows come together.
        uid_column: kept for the output and not sent, where there is one.
        fixed_effect_column: scores of the outside fixed effect; None: the model has none.
    """

    path: str
    batch_rows: int
    uid_column: str
    fixed_effect_column: str | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return "stdin" if self.path == STDIN else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Some rows.

    Attributes:
        first_row: number of the first one, from 1.
        rows: how many there are.
        columns: values by column, None where null.
        uids: of the rows; None without such a column.
        fixed_effect_scores: of the rows; None unless a column was named.
    """

    first_row: int
    rows: int
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    uids: Sequence[Any] | None = None
    fixed_effect_scores: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRows:
    """Rows about to be read.

    Attributes:
        batches: of them, in order.
        total: how many there are, where that is known beforehand.
        left_out: columns of types that cannot be sent, each with its type.
    """

    batches: Iterator[RowBatch]
    total: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


def open_rows(source: RowSource) -> OpenedRows:
    """Open rows; they are read as they are taken.

    Raises:
        UsageError: the file is not there, its format cannot be told, or it lacks a column that was named.
        DataError: it cannot be read; while batches are taken, also that a row is faulty.
    """
    if source.path == STDIN:
        return OpenedRows(batches=_json_batches(source))
    form = _format_of(source.path)
    if form == "jsonl":
        return OpenedRows(batches=_json_batches(source))
    return _open_parquet(source) if form == "parquet" else _open_csv(source)


def _format_of(path: str) -> str:
    from gdmix_core.config.data import ENDINGS

    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    for ending, form in ENDINGS.items():
        if path.lower().endswith(ending):
            return form
    raise UsageError(
        f"{path}: the format cannot be told from the name; allowed endings: {', '.join(ENDINGS)}"
    )


# ---- columns ---------------------------------------------------------------------------------------------


def _open_parquet(source: RowSource) -> OpenedRows:
    from gdmix_core.data.input_files import opened_parquet

    with opened_parquet(source.path) as file:
        schema, total = file.schema_arrow, file.metadata.num_rows
    left_out = {column.name: str(column.type) for column in schema if not _can_be_sent(column.type)}
    names = [name for name in schema.names if name not in left_out]
    _check_named(source, names)
    return OpenedRows(batches=_column_batches(source, "parquet", names), total=total, left_out=left_out)


def _open_csv(source: RowSource) -> OpenedRows:
    from gdmix_core.data.readers_csv import csv_head

    names = csv_head(source.path).names
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{source.name}: column {name!r} stands twice in the header")
    _check_named(source, names)
    return OpenedRows(batches=_column_batches(source, "csv", names))


def _check_named(source: RowSource, names: Sequence[str]) -> None:
    column = source.fixed_effect_column
    if column is not None and column not in names:
        raise UsageError(
            f"--fixed-effect-column {column}: {source.name} has {', '.join(names) or 'no columns'}"
        )


def _column_batches(source: RowSource, form: Any, names: Sequence[str]) -> Iterator[RowBatch]:
    from gdmix_core.data.input_files import NeededColumn
    from gdmix_core.data.readers import read_split
    from gdmix_core.tasks import Split

    split = Split(role="validation", path=source.path, format=form)
    for read in read_split(split, [NeededColumn(name, ()) for name in names]):
        for start in range(0, read.batch.num_rows, source.batch_rows):
            part = read.batch.slice(start, source.batch_rows)
            columns = {name: part.column(name).to_pylist() for name in names}
            yield _batch(source, columns, read.first_row + start + 1, part.num_rows)


def _can_be_sent(kind: pa.DataType) -> bool:
    import pyarrow as pa

    from gdmix_core.data.arrow_strings import is_list, is_number, is_text

    if pa.types.is_dictionary(kind):
        return _can_be_sent(kind.value_type)
    if is_list(kind):
        return _can_be_sent(kind.value_type) and not is_list(kind.value_type)
    if pa.types.is_struct(kind):
        return {field.name for field in kind} == {"indices", "values"}
    return bool(is_text(kind) or is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


# ---- JSON Lines ------------------------------------------------------------------------------------------


def _json_batches(source: RowSource) -> Iterator[RowBatch]:
    from gdmix_core.data.input_files import file_faults

    with file_faults(source.name, "JSON Lines"), _opened_lines(source.path) as lines:
        rows: list[dict[str, Any]] = []
        number = 0
        for number, row in enumerate(_json_rows(source.name, lines), 1):
            rows.append(row)
            if len(rows) == source.batch_rows:
                yield _batch_of_rows(source, rows, number - len(rows) + 1)
                rows = []
        if rows:
            yield _batch_of_rows(source, rows, number - len(rows) + 1)


def _opened_lines(path: str) -> Any:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return Path(path).open("rb")


def _json_rows(name: str, lines: IO[bytes] | Iterable[bytes]) -> Iterator[dict[str, Any]]:
    number = 0
    for line in lines:
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: row {number} is not valid UTF-8 text") from error
        except ValueError as error:
            raise DataError(f"{name}: row {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}: row {number} is no JSON object; allowed: one in every line")
        yield row


def _batch_of_rows(source: RowSource, rows: Sequence[Mapping[str, Any]], first_row: int) -> RowBatch:
    names = dict.fromkeys(name for row in rows for name in row)
    column = source.fixed_effect_column
    if column is not None and column not in names:
        raise DataError(f"{source.name}: row {first_row} has no {column!r} (--fixed-effect-column)")
    columns = {name: [row.get(name) for row in rows] for name in names}
    return _batch(source, columns, first_row, len(rows))


def _batch(source: RowSource, columns: dict[str, list[Any]], first_row: int, rows: int) -> RowBatch:
    uids = columns.pop(source.uid_column, None)
    scores = None
    if source.fixed_effect_column is not None:
        column = source.fixed_effect_column
        scores = [
            _number(value, f"{source.name}: row {first_row + i}: column {column!r}")
            for i, value in enumerate(columns.pop(column))
        ]
    return RowBatch(first_row=first_row, rows=rows, columns=columns, uids=uids, fixed_effect_scores=scores)


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise DataError(f"{where} holds {value!r}; allowed: finite numbers, in every row")
