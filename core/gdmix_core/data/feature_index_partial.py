"""Partial feature indexes: what one training split holds, written to a file, and how such parts are merged.

Terms and their document frequencies are counts, so they do not depend on how rows are cut into splits. Means
and sums of squared deviations are floats: they are summed row by row inside a split and combined split by
split, in order, so another cut may change their last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.array_file import ArrayFile, Arrays, write_arrays
from gdmix_core.data.arrow_strings import byte_strings
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import (
    Terms,
    list_values,
    number_values,
    term_values,
    text_values,
    uid_values,
)
from gdmix_core.data.name_term_values import name_term_values
from gdmix_core.data.readers import count_rows, needed_columns, read_split
from gdmix_core.data.row_checks import BatchRows, Fault, RowFaults, finite_faults, in_file
from gdmix_core.data.sparse_columns import add_moments, summed_rows
from gdmix_core.errors import InternalError
from gdmix_core.tasks import MAIN_SOURCE, PARTIAL_INDEX_FILE, EncodingSpec, ResolvedColumn, Split

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

PARTIAL_FORMAT: Final = 2
_COMPACT_FROM: Final = 1 << 20


@dataclass(slots=True)
class TermCounter:
    """Distinct terms with counts, gathered part by part in memory proportional to the distinct ones."""

    _strings: list[ByteStrings] = field(default_factory=list)
    _counts: list[Int64Array] = field(default_factory=list)
    _pending: int = 0
    _limit: int = _COMPACT_FROM

    def add(self, strings: ByteStrings, counts: Int64Array) -> None:
        """Add counts of strings; a string may come any number of times."""
        self._strings.append(strings)
        self._counts.append(counts)
        self._pending += len(strings)
        if self._pending > self._limit:
            distinct, _ = self.result()
            self._limit = max(_COMPACT_FROM, 2 * len(distinct))

    def result(self) -> tuple[ByteStrings, Int64Array]:
        """Return the distinct strings, sorted by bytes, and their summed counts."""
        distinct, places = ByteStrings.concatenate(self._strings).group()
        counts = np.concatenate([np.empty(0, np.int64), *self._counts])
        # Sums of integers in float64 are exact below 2^53.
        summed = np.bincount(places, weights=counts, minlength=len(distinct)).astype(np.int64)
        self._strings, self._counts, self._pending = [distinct], [summed], len(distinct)
        return distinct, summed


@dataclass(slots=True)
class ColumnStatistics:
    """What is gathered about one column: terms, or moments; nothing for a vector."""

    resolved: ResolvedColumn
    terms: TermCounter = field(default_factory=TermCounter)
    moments: Float64Array = field(default_factory=lambda: np.zeros(3))
    """Count, mean, sum of squared deviations; a null counts as 0."""

    def add(self, array: pa.Array) -> list[Fault]:
        """Gather a batch of the column."""
        column, name = self.resolved.column, self.resolved.column.column
        if column.kind == "numeric":
            numbers = number_values(array, name)
            faults = numbers.faults + finite_faults(name, numbers.values)
            if not faults:
                add_moments(self.moments, np.ascontiguousarray(numbers.values))
            return faults
        if column.kind == "categorical":
            self.terms.add(*document_counts(term_values(array, name), None))
        elif column.kind == "list":
            lists = list_values(array, name, column.separator)
            self.terms.add(*document_counts(lists.items, lists.ptr))
        elif column.kind == "name_term_value":
            found = name_term_values(array, name)
            if not found.faults:
                self.terms.add(*document_counts(found.keys, found.ptr))
            return found.faults
        elif column.kind == "text":
            lists = text_values(array, name)
            self.terms.add(*document_counts(lists.items, lists.ptr))
        else:
            raise InternalError(f"column {name!r}: kind {column.kind} was not settled")
        return []

    def merge_moments(self, other: Float64Array) -> None:
        """Add the moments of later rows (Chan, Golub & LeVeque, COMPSTAT 1982)."""
        if self.moments[0] == 0.0:
            self.moments = other.copy()
        elif other[0] > 0.0:
            count = self.moments[0] + other[0]
            delta = other[1] - self.moments[1]
            mean = self.moments[1] + delta * (other[0] / count)
            squares = self.moments[2] + other[2] + delta * delta * (self.moments[0] * other[0] / count)
            self.moments = np.array([count, mean, squares])


def document_counts(terms: Terms, ptr: Int64Array | None) -> tuple[ByteStrings, Int64Array]:
    """Return terms (one may come twice) and in how many rows each occurs.

    Args:
        terms: One for each row, or the items of all rows.
        ptr: Where each row's items begin; None for one term a row.
    """
    if terms.codes is None or ptr is not None:
        # Equal strings must have one number before they are counted; the order does not matter yet.
        distinct, places = _distinct(terms.strings)
        values = terms.translate(places)
    else:
        distinct, values = terms.strings, terms.codes
    if ptr is not None:
        values = summed_rows(ptr, values, np.zeros(len(values))).indices
    counts = np.bincount(values[values >= 0], minlength=len(distinct))
    present = np.flatnonzero(counts)
    return distinct.take(present), counts[present]


def _distinct(strings: ByteStrings) -> tuple[ByteStrings, Int32Array]:
    """Return the distinct strings in order of appearance, and the place of each string among them."""
    offsets, data = pa.py_buffer(strings.ptr), pa.py_buffer(strings.data)
    encoded = pa.LargeStringArray.from_buffers(len(strings), offsets, data).dictionary_encode()
    return byte_strings(encoded.dictionary), encoded.indices.to_numpy()


def write_partial_index(split: Split, encoding: EncodingSpec, output_dir: str | Path) -> int:
    """Gather a training split's statistics into `PARTIAL_INDEX_FILE` and return its number of rows.

    Raises:
        DataError: The split cannot be read, or features hold values that are not allowed.
    """
    held = [number for number, column in enumerate(encoding.columns) if _is_gathered(column, split.source)]
    if not held:
        rows = count_rows(split, encoding.uid_column(split.source))
        return _write_partial(output_dir, split.source, rows, {})
    columns = tuple(encoding.columns[number] for number in held)
    needed = needed_columns(replace(encoding, columns=columns), split.source, features_only=True)
    statistics = [ColumnStatistics(column) for column in columns]
    places = {column.name: place for place, column in enumerate(needed)}
    uid_column = encoding.uid_column(split.source)
    problems = RowFaults(split.path)
    rows = 0
    for part in read_split(split, needed):
        rows += part.batch.num_rows
        with in_file(split.path):
            uid, known, faults = uid_values(part.batch.column(places[uid_column]), uid_column)
            names = BatchRows(part.first_row, uid, known)
            problems.add(faults, names)
            for column in statistics:
                problems.add(column.add(part.batch.column(places[column.resolved.column.column])), names)
    problems.raise_if_any()
    arrays: Arrays = {}
    for number, column in zip(held, statistics, strict=True):
        arrays |= _arrays(number, column)
    return _write_partial(output_dir, split.source, rows, arrays)


def _is_gathered(column: ResolvedColumn, source: str) -> bool:
    """Return whether anything is to be learned of a column: a vector's features are its positions."""
    return column.source == source and column.column.kind != "vector"


def _write_partial(output_dir: str | Path, source: str, rows: int, arrays: Arrays) -> int:
    facts = {"format": PARTIAL_FORMAT, "source": source}
    segment = {"rows": np.array([rows], np.int64), **arrays}
    write_arrays(Path(output_dir) / PARTIAL_INDEX_FILE, [segment], facts)
    return rows


def merge_partial_indexes(
    encoding: EncodingSpec, partial_dirs: Sequence[str | Path]
) -> tuple[int, list[ColumnStatistics]]:
    """Return the number of training rows and the statistics of every column, in the encoding's order.

    Args:
        encoding: What rows become.
        partial_dirs: Where the partial indexes lie, in split order.

    Raises:
        DataError: A partial index cannot be read.
    """
    merged = [ColumnStatistics(resolved) for resolved in encoding.columns]
    rows = 0
    for directory in partial_dirs:
        with ArrayFile(Path(directory) / PARTIAL_INDEX_FILE) as file:
            source, arrays = file.metadata["source"], file.segment(0)
        rows += int(arrays["rows"][0]) if source == MAIN_SOURCE else 0
        for number, column in enumerate(merged):
            if column.resolved.source != source:
                continue
            kind = column.resolved.column.kind
            if kind == "numeric":
                column.merge_moments(arrays[f"{number}:moments"])
            elif kind != "vector":
                strings = ByteStrings.from_arrays(arrays, f"{number}:terms")
                column.terms.add(strings, arrays[f"{number}:counts"])
    return rows, merged


def _arrays(number: int, column: ColumnStatistics) -> dict[str, npt.NDArray[Any]]:
    kind = column.resolved.column.kind
    if kind == "numeric":
        return {f"{number}:moments": column.moments}
    strings, counts = column.terms.result()
    return strings.arrays(f"{number}:terms") | {f"{number}:counts": counts}
