"""Rows of input become arrays: ids, labels, weights, offsets, entity ids and one sparse matrix for each bag.

`RowEncoder` turns a batch of features into sparse rows and is all that serving needs; `encode_split` reads a
piece of input with it and checks every row. Nothing here loops over rows in Python.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import (
    TermLists,
    entity_ids,
    list_values,
    number_values,
    term_values,
    text_values,
    uid_values,
    vector_values,
)
from gdmix_core.data.csr import SparseRows, place_rows
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn
from gdmix_core.data.input_columns import input_key
from gdmix_core.data.input_values import INPUT_TYPES, input_values
from gdmix_core.data.name_term_values import name_term_values
from gdmix_core.data.readers import (
    RowBatch,
    entity_columns,
    input_columns,
    needed_columns,
    number_columns,
    read_split,
)
from gdmix_core.data.row_checks import (
    BatchRows,
    Fault,
    RowFaults,
    fault_of,
    finite_faults,
    in_file,
    label_faults,
    weight_faults,
)
from gdmix_core.data.sparse_columns import numeric_rows, one_hot_rows, summed_rows
from gdmix_core.data.spill import EncodedRows, EntityColumn
from gdmix_core.data.term_table import TermTable
from gdmix_core.errors import DataError, InternalError
from gdmix_core.tasks import MAIN_SOURCE, EncodingSpec, Split

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

_NO_NULL: Final = "a value in every row"


@dataclass(frozen=True, slots=True)
class EncodedFeatures:
    """The features of a batch.

    Attributes:
        rows: Number of rows.
        columns: Sparse rows by column, in the index's order; indices count inside the column.
        nulls: Null values by `<bag>.<column>`, only where there are some.
        unknown: Terms that the index does not have, by `<bag>.<column>`, only where there are some.
        faults: Values that are not allowed; their rows' features mean nothing.
    """

    rows: int
    columns: list[SparseRows]
    nulls: Counter[str]
    unknown: Counter[str]
    faults: list[Fault]


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """A split's rows after encoding, with what was counted on the way.

    Attributes:
        rows: The rows, in input order.
        inputs: Columns that plug-ins read, by `input_key`, in input order.
        nulls: Null values: by `<bag>.<column>` for features, by column for entity ids (empty ones included),
            by `coordinates.<coordinate>.<column>` for plug-ins.
        unknown: Terms that the index does not have, by `<bag>.<column>`.
    """

    rows: EncodedRows
    inputs: dict[str, pa.Array]
    nulls: dict[str, int]
    unknown: dict[str, int]


class RowEncoder:
    """Encodes the features of Arrow batches by one index; may be used by several threads."""

    __slots__ = ("_index", "_tables")

    def __init__(self, index: FeatureIndex) -> None:
        self._index = index
        self._tables = tuple(
            None if column.terms is None or column.column.kind == "vector" else TermTable.of(column.terms)
            for column in index.columns
        )

    def only(self, columns: Collection[str]) -> RowEncoder:
        """Return the encoder of these data columns alone; it shares this one's term tables.

        The bags that it joins are those of its columns, with the same numbers of features.
        """
        return self._part([column.column.column in columns for column in self._index.columns])

    def of_source(self, encoding: EncodingSpec, source: str) -> RowEncoder:
        """Return the encoder of the columns that lie in one source; it shares this one's term tables."""
        held = {(c.bag, c.column.column) for c in encoding.columns if c.source == source}
        return self._part([(c.bag, c.column.column) in held for c in self._index.columns])

    def _part(self, kept: Sequence[bool]) -> RowEncoder:
        part = RowEncoder.__new__(RowEncoder)
        part._index = replace(self._index, columns=tuple(compress(self._index.columns, kept)))
        part._tables = tuple(compress(self._tables, kept))
        return part

    def encode(self, columns: Mapping[str, pa.Array], rows: int) -> EncodedFeatures:
        """Encode `rows` rows given as one array for each data column.

        Raises:
            DataError: A column is missing or of a type that its kind cannot take.
        """
        result = EncodedFeatures(rows, [], Counter(), Counter(), [])
        for column, table in zip(self._index.columns, self._tables, strict=True):
            name = column.column.column
            if name not in columns:
                raise DataError(f"column {name!r} (features.{column.bag}) is missing")
            result.columns.append(_encode_column(column, table, columns[name], result))
        return result

    def join(self, batches: Sequence[EncodedFeatures]) -> dict[str, SparseRows]:
        """Return the sparse rows of every bag, over the rows of all batches in order."""
        ends = np.cumsum([0, *(batch.rows for batch in batches)])
        places = [np.arange(start, stop) for start, stop in pairwise(ends)]
        bags: dict[str, SparseRows] = {}
        for bag in self._index.bag_sizes:
            numbers = [i for i, column in enumerate(self._index.columns) if column.bag == bag]
            starts = [self._index.columns[i].start for i in numbers]
            blocks = [[batch.columns[i] for i in numbers] for batch in batches]
            bags[bag] = place_rows(blocks, places, starts, int(ends[-1]))
        return bags


def encode_split(split: Split, encoding: EncodingSpec, index: FeatureIndex) -> EncodedSplit:
    """Read a split, check its rows and encode them, batch by batch; memory is bounded by the split's size.

    Raises:
        DataError: The split cannot be read, or rows hold what is not allowed: one message for all columns,
            with the first offending rows of each. Or the index is a model's whose bags have other columns.
    """
    _check_columns(encoding, index)
    pieces = _Pieces(encoding, split.source, RowFaults(split.path))
    encoder = _encoder_of(index).of_source(encoding, split.source)
    needed = needed_columns(encoding, split.source)
    for part in read_split(split, needed):
        arrays = dict(zip(part.batch.schema.names, part.batch.columns, strict=True))
        with in_file(split.path):
            pieces.add(part, arrays, encoder)
    pieces.problems.raise_if_any()
    return EncodedSplit(
        pieces.joined(split, encoder), pieces.joined_inputs(), _sorted(pieces.nulls), _sorted(pieces.unknown)
    )


def _check_columns(encoding: EncodingSpec, index: FeatureIndex) -> None:
    """Refuse an index whose bags have other columns: rows would be scored without some of their features."""
    for bag in dict.fromkeys(column.bag for column in encoding.columns):
        known = [column.column.column for column in index.columns_of(bag)]
        found = sorted(column.column.column for column in encoding.columns if column.bag == bag)
        if known and known != found:
            raise DataError(f"features.{bag}: found {', '.join(found)}; the model has {', '.join(known)}")


@functools.lru_cache(maxsize=2)
def _encoder_of(index: FeatureIndex) -> RowEncoder:
    """Keep the term tables of the last indexes: a worker encodes many splits by one."""
    return RowEncoder(index)


@dataclass(slots=True)
class _Pieces:
    """The encoded batches of a split."""

    encoding: EncodingSpec
    source: str
    problems: RowFaults
    nulls: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    uid: list[Int64Array] = field(default_factory=list)
    row: list[Int64Array] = field(default_factory=list)
    numbers: dict[str, list[Float64Array]] = field(default_factory=dict)
    entities: dict[str, list[EntityColumn]] = field(default_factory=dict)
    features: list[EncodedFeatures] = field(default_factory=list)
    inputs: dict[str, list[pa.Array]] = field(default_factory=dict)

    def add(self, part: RowBatch, arrays: Mapping[str, pa.Array], encoder: RowEncoder) -> None:
        """Check and encode a batch."""
        rows, uid_column = part.batch.num_rows, self.encoding.uid_column(self.source)
        uid, known, faults = uid_values(arrays[uid_column], uid_column)
        faults += self._add_numbers(arrays, rows)
        for column in entity_columns(self.encoding, self.source):
            ids, wrong = entity_ids(arrays[column], column)
            faults += wrong
            self.nulls[column] += int(np.count_nonzero(ids.missing))
            self.entities.setdefault(column, []).append(ids)
        features = encoder.encode(arrays, rows)
        faults += features.faults
        faults += self._add_inputs(arrays)
        self.problems.add(faults, BatchRows(part.first_row, uid, known))
        self.nulls.update(features.nulls)
        self.unknown.update(features.unknown)
        self.features.append(features)
        self.uid.append(uid)
        self.row.append(np.arange(part.first_row, part.first_row + rows))

    def _add_inputs(self, arrays: Mapping[str, pa.Array]) -> list[Fault]:
        faults: list[Fault] = []
        for coordinate, spec in input_columns(self.encoding, self.source):
            found = input_values(arrays[spec.name], spec)
            faults += found.faults
            self.nulls[f"coordinates.{coordinate}.{spec.name}"] += found.nulls
            self.inputs.setdefault(input_key(coordinate, spec.name), []).append(found.array)
        return faults

    def joined_inputs(self) -> dict[str, pa.Array]:
        """Return the columns that plug-ins read, over all batches."""
        return {
            input_key(coordinate, spec.name): pa.concat_arrays(
                self.inputs.pop(input_key(coordinate, spec.name), [pa.array([], INPUT_TYPES[spec.kind])])
            )
            for coordinate, spec in input_columns(self.encoding, self.source)
        }

    def _add_numbers(self, arrays: Mapping[str, pa.Array], rows: int) -> list[Fault]:
        faults: list[Fault] = []
        columns = number_columns(self.encoding, self.source)
        for name, standing_in in self._defaults().items():
            if name not in columns:
                self.numbers.setdefault(name, []).append(np.full(rows, standing_in))
        for name, column in columns.items():
            values, wrong = _required(arrays[column], column)
            faults += wrong
            if name == "label":
                faults += label_faults(column, values, self.encoding.task)
            elif name == "weight":
                faults += weight_faults(column, values)
            else:
                faults += finite_faults(column, values)
            self.numbers.setdefault(name, []).append(values)
        return faults

    def _defaults(self) -> dict[str, float]:
        return {"label": 0.0, "weight": 1.0, "offset": 0.0} if self.source == MAIN_SOURCE else {}

    def joined(self, split: Split, encoder: RowEncoder) -> EncodedRows:
        """Return all batches as one."""
        names = [*number_columns(self.encoding, self.source), *self._defaults()]
        return EncodedRows(
            source=split.path,
            uid=np.concatenate([np.empty(0, np.int64), *self.uid]),
            row=np.concatenate([np.empty(0, np.int64), *self.row]),
            numbers={
                name: np.concatenate([np.empty(0), *self.numbers.get(name, [])])
                for name in dict.fromkeys(names)
            },
            entities={
                column: _joined_ids(self.entities.get(column, []))
                for column in entity_columns(self.encoding, self.source)
            },
            bags=encoder.join(self.features),
            passive=split.passive,
        )


def _encode_column(
    column: IndexedColumn, table: TermTable | None, array: pa.Array, result: EncodedFeatures
) -> SparseRows:
    name, kind = column.column.column, column.column.kind
    key = f"{column.bag}.{name}"
    if kind == "numeric":
        numbers = number_values(array, name)
        result.faults.extend(numbers.faults or finite_faults(name, numbers.values))
        _count(result.nulls, key, array.null_count)
        return numeric_rows(numbers.values)
    if kind == "vector":
        vectors = vector_values(array, name, column.size)
        result.faults.extend(vectors.faults)
        _count(result.nulls, key, vectors.nulls)
        if vectors.sorted:
            return SparseRows(vectors.ptr, vectors.indices, vectors.values)
        return summed_rows(vectors.ptr, vectors.indices, vectors.values)
    if table is None:
        raise InternalError(f"column {name!r}: kind {kind} has no terms")
    if kind == "name_term_value":
        found = name_term_values(array, name)
        result.faults.extend(found.faults)
        _count(result.nulls, key, found.null_rows)
        places = found.keys.translate(table.find(found.keys.strings))
        _count(result.unknown, key, int(np.count_nonzero(places < 0)) - found.keys.missing)
        return summed_rows(found.ptr, places, found.values)
    if kind == "categorical":
        terms = term_values(array, name)
        indices = terms.translate(table.find(terms.strings))
        missing = terms.missing
        _count(result.nulls, key, missing)
        _count(result.unknown, key, int(np.count_nonzero(indices < 0)) - missing)
        return one_hot_rows(indices)
    lists = list_values(array, name, column.column.separator) if kind == "list" else text_values(array, name)
    return _encode_lists(column, table, lists, key, result)


def _encode_lists(
    column: IndexedColumn, table: TermTable, lists: TermLists, key: str, result: EncodedFeatures
) -> SparseRows:
    indices = lists.items.translate(table.find(lists.items.strings))
    _count(result.nulls, key, lists.null_rows)
    _count(result.unknown, key, int(np.count_nonzero(indices < 0)) - lists.items.missing)
    rows = summed_rows(lists.ptr, indices, np.ones(len(indices)))
    if column.idf is not None:
        return SparseRows(rows.indptr, rows.indices, rows.values * column.idf[rows.indices])
    return rows


def _required(array: pa.Array, column: str) -> tuple[Float64Array, list[Fault]]:
    """Return numbers of which none may be null; a 0 stands in for faulty ones, which every rule allows."""
    numbers = number_values(array, column)
    faults = list(numbers.faults)
    if numbers.null is not None:
        faults += fault_of(column, _NO_NULL, numbers.null, lambda _: "null")
    return numbers.values, faults


def _count(counter: Counter[str], key: str, number: int) -> None:
    if number:
        counter[key] += number


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {key: counter[key] for key in sorted(counter) if counter[key]}


def _joined_ids(parts: Sequence[EntityColumn]) -> EntityColumn:
    return EntityColumn(
        ByteStrings.concatenate([part.ids for part in parts]),
        np.concatenate([np.empty(0, np.uint8), *(part.missing for part in parts)]),
    )
