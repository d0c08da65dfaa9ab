"""The feature index: which number every feature of every bag has, and what was learned about it.

Inside a bag, features are numbered in the order of (column name, term): a column's features lie side by side,
its terms sorted by their bytes, a vector's positions by number. A coordinate concatenates its bags in its own
order, after the intercept if it has one. The file is described in `docs/specs/feature-index.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.config import FeatureColumn
from gdmix_core.data.array_file import atomic_path
from gdmix_core.data.arrow_strings import byte_strings
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import LARGEST_DIMENSION, bag_shifts
from gdmix_core.data.feature_index_partial import (
    ColumnStatistics,
    merge_partial_indexes,
    write_partial_index,
)
from gdmix_core.data.feature_names import TERM_SEPARATOR, read_feature_names
from gdmix_core.data.input_files import file_faults
from gdmix_core.data.readers import count_rows
from gdmix_core.errors import DataError, InternalError
from gdmix_core.solvers.joint.variance_components import VANISHED_RIDGE
from gdmix_core.tasks import FEATURE_INDEX_FILE, EncodingSpec, Regularization, ResolvedColumn, Split

Float64Array: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

INDEX_FORMAT: Final = 1
INTERCEPT_NAME: Final = "(INTERCEPT)"
DEFAULT_RIDGE: Final = 1.0
"""l2 of a coefficient whose groups are all absent from the config's mapping."""

_METADATA_KEY: Final = b"gdmix"
_SCHEMA: Final = pa.schema(
    [
        pa.field("bag", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("term", pa.large_string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("document_frequency", pa.int64()),
        pa.field("mean", pa.float64()),
        pa.field("standard_deviation", pa.float64()),
        pa.field("idf", pa.float64()),
    ]
)


class CoordinateNames(NamedTuple):
    """Names of a coordinate's coefficients: three Arrow string arrays of its dimension."""

    bag: pa.Array
    name: pa.Array
    term: pa.Array


@dataclass(frozen=True, slots=True, eq=False)
class IndexedColumn:
    """One column of a bag and its features.

    Attributes:
        bag: The bag.
        column: Column name, settled kind and options.
        dimension: Length of a vector; None for other kinds.
        start: Number inside the bag of the column's first feature.
        size: Number of its features.
        terms: Terms by feature, sorted; the names of a vector's positions, where it has some, in their order;
            None for numeric columns. Of name-term-value columns and named vectors a term is name, byte 1, term.
        document_frequency: int64[size], training rows that have the term; None for numeric and vector.
        mean: Mean over the training rows, nulls as 0; numeric only.
        standard_deviation: Of the training rows (divided by their number); numeric only.
        idf: float64[size], ln((1 + rows) / (1 + document frequency)) + 1; text weighted by TF-IDF only.
    """

    bag: str
    column: FeatureColumn
    dimension: int | None
    start: int
    size: int
    terms: ByteStrings | None = None
    document_frequency: Int64Array | None = None
    mean: float | None = None
    standard_deviation: float | None = None
    idf: Float64Array | None = None


class FeatureGroups(NamedTuple):
    """Which group of coefficients each coefficient of a coordinate belongs to.

    Attributes:
        names: The groups' names.
        number: int32[D], index into the names; −1 for none.
        scale: float64[D], what a group's ridge strength is multiplied by.
    """

    names: tuple[str, ...]
    number: Int32Array
    scale: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class FeatureIndex:
    """All bags' features.

    Attributes:
        columns: Every column, sorted by bag and name.
        rows: Training rows that it was made from.
        schema_fingerprint: 16 hex digits: two indexes with the same one number the same features alike.
    """

    columns: tuple[IndexedColumn, ...]
    rows: int
    schema_fingerprint: str

    @property
    def bag_sizes(self) -> dict[str, int]:
        """Number of features by bag, sorted by bag."""
        sizes: dict[str, int] = {}
        for column in self.columns:
            sizes[column.bag] = sizes.get(column.bag, 0) + column.size
        return sizes

    def columns_of(self, bag: str) -> tuple[IndexedColumn, ...]:
        """Return a bag's columns in the order of their features."""
        return tuple(column for column in self.columns if column.bag == bag)

    def dimension(self, bags: Sequence[str], intercept: bool) -> int:
        """Return the number of coefficients of a coordinate; DataError when int32 cannot number them."""
        return bag_shifts(bags, self.bag_sizes, intercept)[1]

    def coordinate_names(self, bags: Sequence[str], intercept: bool) -> CoordinateNames:
        """Return bag, name and term of every coefficient.

        The intercept comes first, with bag "", name "(INTERCEPT)" and term "". A numeric feature's term is
        empty; a vector's is the position.
        """
        pieces: list[tuple[pa.Array, pa.Array, pa.Array]] = []
        if intercept:
            one = [pa.array([text], pa.large_string()) for text in ("", INTERCEPT_NAME, "")]
            pieces.append((one[0], one[1], one[2]))
        pieces += [
            (
                _repeated(column.bag, column.size),
                _repeated(column.column.column, column.size),
                _terms_of(column),
            )
            for bag in bags
            for column in self.columns_of(bag)
        ]
        empty = pa.array([], pa.large_string())
        return CoordinateNames(*(pa.concat_arrays([empty, *(p[i] for p in pieces)]) for i in range(3)))

    def feature_groups(
        self, bags: Sequence[str], intercept: bool, regularization: Regularization
    ) -> FeatureGroups:
        """Return which of the regularization's groups each coefficient belongs to.

        The most specific group wins: `<bag>.<column>`, then `<bag>`, then `default`; for the intercept
        `intercept`, then `default`, and none when it is not regularised. A numeric column with `scale: standard`
        has its variance as scale: that penalises the coefficient of the column divided by its standard
        deviation, while coefficients stay in raw units. A constant column has no such scale.
        """
        names = tuple(regularization.groups)
        numbers = {name: number for number, name in enumerate(names)}
        default = numbers.get("default", -1)
        group = np.empty(self.dimension(bags, intercept), np.int32)
        scale = np.ones(len(group))
        position = 0
        if intercept:
            group[0] = numbers.get("intercept", default) if regularization.regularize_intercept else -1
            position = 1
        for bag in bags:
            for column in self.columns_of(bag):
                covered = slice(position, position + column.size)
                group[covered] = numbers.get(f"{bag}.{column.column.column}", numbers.get(bag, default))
                if column.column.scale == "standard" and column.standard_deviation:
                    scale[covered] = column.standard_deviation**2
                position += column.size
        return FeatureGroups(names, group, scale)

    def ridge(self, bags: Sequence[str], intercept: bool, regularization: Regularization) -> Float64Array:
        """Return the ridge strength of every coefficient, float64[D]: its group's (`feature_groups`), scaled.

        Features of no group have strength 1; an intercept that is not regularised has 0.
        """
        groups = self.feature_groups(bags, intercept, regularization)
        of_groups = np.array([*regularization.groups.values(), DEFAULT_RIDGE])
        strengths = of_groups[groups.number] * groups.scale
        if intercept and not regularization.regularize_intercept:
            strengths[0] = 0.0
        return np.asarray(strengths, np.float64)

    def vanished(self, bags: Sequence[str], intercept: bool, regularization: Regularization) -> BoolArray:
        """Return which coefficients are 0 since their group's variance is (`solvers.joint`), bool[D]."""
        groups = self.feature_groups(bags, intercept, regularization)
        of_groups = np.array([*regularization.groups.values(), 0.0]) >= VANISHED_RIDGE
        return np.asarray(of_groups[groups.number], np.bool_)

    def save(self, path: str | Path) -> None:
        """Write the index; the same index gives the same bytes.

        Raises:
            DataError: The file cannot be written.
        """
        import pyarrow.parquet as pq

        metadata = {
            "format": INDEX_FORMAT,
            "rows": self.rows,
            "schema_fingerprint": self.schema_fingerprint,
            "columns": [_description(column) for column in self.columns],
        }
        text = json.dumps(metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        schema = _SCHEMA.with_metadata({_METADATA_KEY: text.encode()})
        tables = [_table(column) for column in self.columns]
        table = (
            pa.concat_tables([_SCHEMA.empty_table(), *tables])
            .cast(_SCHEMA)
            .replace_schema_metadata(schema.metadata)
        )
        with atomic_path(path) as temporary:
            pq.write_table(table.combine_chunks(), temporary, compression="zstd", row_group_size=1 << 20)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an index file, or `FEATURE_INDEX_FILE` of a directory.

        Raises:
            DataError: The file cannot be read, is no feature index, or does not match its fingerprint.
        """
        file = Path(path)
        if file.is_dir():
            file /= FEATURE_INDEX_FILE
        return cls._read(str(file), str(file))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = FEATURE_INDEX_FILE) -> Self:
        """Read the contents of an index file, as a store holds them; messages call it `name`.

        Raises:
            DataError: They are no feature index, or do not match their fingerprint.
        """
        return cls._read(pa.BufferReader(data), name)

    @classmethod
    def _read(cls, source: str | pa.BufferReader, name: str) -> Self:
        import pyarrow.parquet as pq

        with file_faults(name, "a feature index"):
            table = pq.ParquetFile(source).read(use_threads=False)
        stored = (table.schema.metadata or {}).get(_METADATA_KEY)
        if stored is None:
            raise DataError(f"{name}: is a Parquet file, but not a feature index written by GDMix")
        metadata = json.loads(stored)
        if metadata["format"] != INDEX_FORMAT:
            raise DataError(
                f"{name}: is a feature index of format {metadata['format']}; allowed: {INDEX_FORMAT}"
            )
        columns = _columns(name, metadata["columns"], table)
        if fingerprint(columns) != metadata["schema_fingerprint"]:
            raise DataError(f"{name}: the features do not match the file's fingerprint: it is damaged")
        return cls(columns, metadata["rows"], metadata["schema_fingerprint"])


def index_split(split: Split, encoding: EncodingSpec, output_dir: str | Path) -> int:
    """Gather a training split's features into `output_dir`; of a validation split, only count the rows.

    Returns:
        The number of rows.

    Raises:
        DataError: The split cannot be read, or features hold values that are not allowed.
    """
    if split.role == "validation":
        return count_rows(split, encoding.uid_column(split.source))
    return write_partial_index(split, encoding, output_dir)


def merge_index(
    encoding: EncodingSpec,
    partial_dirs: Sequence[str | Path],
    output_dir: str | Path,
    initial: FeatureIndex | None = None,
) -> tuple[dict[str, int], str]:
    """Merge the partial indexes of all training splits into `FEATURE_INDEX_FILE`.

    Args:
        encoding: As given to `index_split`.
        partial_dirs: Where `index_split` wrote, in split order.
        output_dir: Where the index goes.
        initial: The index of a model to begin with, whose terms stay.

    Returns:
        Features by bag, in the encoding's order, and the schema fingerprint.

    Raises:
        DataError: A partial index cannot be read, there are too many features, or a column with `scale:
            standard` has no finite standard deviation.
    """
    rows, statistics = merge_partial_indexes(encoding, partial_dirs)
    ordered = sorted(statistics, key=lambda one: (one.resolved.bag, one.resolved.column.column))
    columns: list[IndexedColumn] = []
    for one in ordered:
        same_bag = columns and columns[-1].bag == one.resolved.bag
        start = columns[-1].start + columns[-1].size if same_bag else 0
        columns.append(_with_terms_of(initial, _indexed(one, start, rows), rows))
    index = FeatureIndex(tuple(columns), rows, fingerprint(columns))
    sizes = index.bag_sizes
    bags = dict.fromkeys(resolved.bag for resolved in encoding.columns)
    for bag in bags:
        if sizes[bag] >= LARGEST_DIMENSION:
            raise DataError(f"bag {bag!r} has {sizes[bag]} features; allowed: {LARGEST_DIMENSION - 1}")
    index.save(Path(output_dir) / FEATURE_INDEX_FILE)
    return {bag: sizes[bag] for bag in bags}, index.schema_fingerprint


def fingerprint(columns: Sequence[IndexedColumn]) -> str:
    """Return the 16 hex digits that name a numbering: sha256 over bags, columns, options and terms, cut."""
    digest = hashlib.sha256()
    for column in columns:
        text = json.dumps(_description(column), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        digest.update(text.encode() + b"\n")
        if column.terms is not None:
            digest.update(np.ascontiguousarray(column.terms.ptr, "<i8").tobytes())
            digest.update(np.ascontiguousarray(column.terms.data).tobytes())
    return digest.hexdigest()[:16]


def _are_names(terms: ByteStrings) -> bool:
    """Return whether a vector's terms are names, not positions: all names hold a byte 1."""
    return bool(len(terms)) and TERM_SEPARATOR.encode() in terms[0]


def _description(column: IndexedColumn) -> dict[str, Any]:
    return {
        "bag": column.bag,
        "column": column.column.model_dump(mode="json", exclude_defaults=True, exclude={"names", "source"}),
        "dimension": column.dimension,
        "size": column.size,
    }


def _indexed(statistics: ColumnStatistics, start: int, rows: int) -> IndexedColumn:
    resolved: ResolvedColumn = statistics.resolved
    bag, column = resolved.bag, resolved.column
    if column.kind == "vector":
        if resolved.dimension is None:
            raise InternalError(f"column {column.column!r}: a vector without a dimension")
        names = None if column.names is None else read_feature_names(column.names)
        if names is not None and len(names) != resolved.dimension:
            raise DataError(
                f"{column.names}: names {len(names)} features where there were {resolved.dimension}"
            )
        return IndexedColumn(bag, column, resolved.dimension, start, resolved.dimension, names)
    if column.kind == "numeric":
        count, mean, squares = (float(value) for value in statistics.moments)
        deviation = math.sqrt(squares / count) if count else 0.0
        if column.scale == "standard" and not math.isfinite(deviation**2):
            raise DataError(
                f"features.{bag}: column {column.column!r} holds values too large for scale standard; "
                "allowed: a finite variance"
            )
        return IndexedColumn(bag, column, None, start, 1, mean=mean, standard_deviation=deviation)
    terms, frequency = statistics.terms.result()
    kept = np.flatnonzero(frequency >= column.min_df)
    terms, frequency = terms.take(kept), frequency[kept]
    idf = None
    if column.kind == "text" and column.weighting == "tfidf":
        idf = np.log((1.0 + rows) / (1.0 + frequency)) + 1.0
    return IndexedColumn(bag, column, None, start, len(terms), terms, frequency, idf=idf)


def _with_terms_of(initial: FeatureIndex | None, column: IndexedColumn, rows: int) -> IndexedColumn:
    """Return a column with the terms that it has in an earlier index as well."""
    old = (
        next(
            (c for c in initial.columns if (c.bag, c.column.column) == (column.bag, column.column.column)),
            None,
        )
        if initial is not None
        else None
    )
    if old is None or old.terms is None or column.terms is None or column.document_frequency is None:
        return column
    terms, places = ByteStrings.concatenate([column.terms, old.terms]).group()
    frequency = np.zeros(len(terms), np.int64)
    frequency[places[: column.size]] = column.document_frequency
    idf = None if column.idf is None else np.log((1.0 + rows) / (1.0 + frequency)) + 1.0
    return replace(column, size=len(terms), terms=terms, document_frequency=frequency, idf=idf)


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.large_string()), count)


def _terms_of(column: IndexedColumn) -> pa.Array:
    if column.terms is not None:
        offsets, data = pa.py_buffer(column.terms.ptr), pa.py_buffer(column.terms.data)
        return pa.LargeStringArray.from_buffers(column.size, offsets, data)
    if column.column.kind == "numeric":
        return _repeated("", column.size)
    return pa.array(np.arange(column.size)).cast(pa.large_string())


def _table(column: IndexedColumn) -> pa.Table:
    size = column.size

    def floats(value: float | Float64Array | None) -> pa.Array:
        return pa.nulls(size, pa.float64()) if value is None else pa.array(np.full(size, value))

    frequency = column.document_frequency
    return pa.table(
        [
            _repeated(column.bag, size),
            _repeated(column.column.column, size),
            _terms_of(column),
            _repeated(column.column.kind, size),
            pa.array(np.arange(column.start, column.start + size, dtype=np.int32)),
            pa.nulls(size, pa.int64()) if frequency is None else pa.array(frequency),
            floats(column.mean),
            floats(column.standard_deviation),
            floats(column.idf),
        ],
        names=_SCHEMA.names,
    ).cast(_SCHEMA)


def _columns(file: str, descriptions: Sequence[dict[str, Any]], table: pa.Table) -> tuple[IndexedColumn, ...]:
    """Cut the table into its columns."""
    if sum(description["size"] for description in descriptions) != table.num_rows:
        raise DataError(f"{file}: {table.num_rows} features do not match the file's header: it is damaged")
    columns: list[IndexedColumn] = []
    position = 0
    for description in descriptions:
        size, bag = description["size"], description["bag"]
        part = table.slice(position, size).combine_chunks()
        position += size
        start = columns[-1].start + columns[-1].size if columns and columns[-1].bag == bag else 0
        column = FeatureColumn.model_validate(description["column"])
        columns.append(_read_column(IndexedColumn(bag, column, description["dimension"], start, size), part))
    return tuple(columns)


def _read_column(column: IndexedColumn, part: pa.Table) -> IndexedColumn:
    """Fill in what the table holds about a column."""

    def array(name: str) -> pa.Array:
        chunks = part.column(name)
        return chunks.chunk(0) if chunks.num_chunks else pa.array([], chunks.type)

    if column.column.kind == "vector":
        names = byte_strings(array("term"))
        return replace(column, terms=names if _are_names(names) else None)
    if column.column.kind == "numeric":
        mean, deviation = array("mean")[0].as_py(), array("standard_deviation")[0].as_py()
        return replace(column, mean=mean, standard_deviation=deviation)
    terms = byte_strings(array("term"))
    idf = None
    if column.column.weighting == "tfidf":
        idf = array("idf").to_numpy(zero_copy_only=False)
    frequency = array("document_frequency").to_numpy(zero_copy_only=False).astype(np.int64)
    return replace(column, terms=terms, document_frequency=frequency, idf=idf)
