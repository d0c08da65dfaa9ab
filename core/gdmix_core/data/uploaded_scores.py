"""Scores that somebody computed elsewhere and sent as a file: checked, and written as Parquet of a known form.

What is written has the columns `uid` (int64, every one different) and `score` (float64, finite), in the file's
order. Memory is bounded whatever the file's size and whatever it claims: files are read in batches, what they
say of themselves is compared with the limits below before anything is decompressed, and duplicates are found in
sorted runs on disk.

A damaged file can end the process that reads it: some of Arrow's own checks are made where no exception may pass.
`python -m gdmix_core.data.uploaded_scores` is that process for those who must go on. It takes a `CheckRequest` as a
line of JSON on stdin, which has to stay open, and answers by a `CheckAnswer` on stdout.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import secrets
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from csv import reader as csv_rows
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.input_files import file_faults
from gdmix_core.data.readers_csv import read_csv
from gdmix_core.data.row_checks import BatchRows, Fault, RowFaults, fault_of, finite_faults, shown
from gdmix_core.errors import DataError

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]
Batches: TypeAlias = Generator[tuple[pa.Array, pa.Array], None, None]
ScoresFormat: TypeAlias = Literal["parquet", "avro", "csv"]

FORMATS: Final[tuple[ScoresFormat, ...]] = ("parquet", "avro", "csv")
MAX_PAGE_BYTES: Final = 64 << 20
"""Largest page of a Parquet column, decompressed; writers make pages of 1 MiB."""
MAX_BLOCK_BYTES: Final = 16 << 20
"""Largest block of an Avro file, decompressed; writers make blocks of 16 to 64 KiB."""
MAX_FOOTER_BYTES: Final = 16 << 20
"""Largest footer of a Parquet file."""
MAX_RATIO: Final = 100
"""How many times its size a file may grow when decompressed; different uids never come near it."""
RATIO_FREE_BYTES: Final = 64 << 20
"""Files that are no larger when decompressed may grow as they like."""
BATCH_ROWS: Final = 1 << 16
ROW_GROUP_ROWS: Final = 1 << 18
RUN_ROWS: Final = 1 << 20
"""Uids that are sorted at once when duplicates are looked for."""
_DUPLICATES_KEPT: Final = 1000
_PAGE_HEADER_BYTES: Final = 1 << 12
_CSV_BLOCK_BYTES: Final = 1 << 18
_HEADER_BYTES: Final = 1 << 20
_MAGIC: Final = {"parquet": b"PAR1", "avro": b"Obj\x01"}
_UID: Final = "integers from -2^63 to 2^63 - 1"
_AVRO_FLAT: Final = frozenset(
    {"null", "boolean", "int", "long", "float", "double", "bytes", "string", "enum", "fixed"}
)
_SCHEMA: Final = pa.schema([pa.field("uid", pa.int64(), False), pa.field("score", pa.float64(), False)])


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """A file of scores as it was sent.

    Attributes:
        path: Where it is; messages do not show it.
        name: What messages call it.
        format: What its bytes are.
        uid_column: Column of the row ids.
        score_column: Column of the scores.
    """

    path: Path
    name: str
    format: ScoresFormat
    uid_column: str = "uid"
    score_column: str = "score"

    @property
    def columns(self) -> list[str]:
        """Both columns."""
        return [self.uid_column, self.score_column]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresSummary:
    """What the scores of a file are like."""

    rows: int
    min_score: float
    max_score: float
    mean_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What the process that checks a file is asked, see `UploadedFile` and `normalise_scores`."""

    path: str
    name: str
    format: ScoresFormat
    uid_column: str
    score_column: str
    target: str
    max_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """What it answers: the summary's values, or why the file is refused."""

    summary: dict[str, float] | None = None
    refusal: str = ""


def normalise_scores(file: UploadedFile, target: Path, *, max_rows: int) -> ScoresSummary:
    """Check a file of scores and write them to `target`, which is left behind only when all is well.

    Args:
        file: What was sent.
        target: The Parquet file to write; temporary files go beside it.
        max_rows: Most rows allowed.

    Raises:
        DataError: The file is damaged, cut short or not of its format; a column is missing or of another type;
            a uid is missing or there twice; a score is missing or not finite; there are no rows, too many, or
            more bytes in it than its size allows. The message names the column and the first rows, from 1.
    """
    try:
        summary, increasing = _rewrite(file, target, max_rows)
        if not increasing:
            _check_unique(file, target, summary.rows)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return summary


def _rewrite(file: UploadedFile, target: Path, max_rows: int) -> tuple[ScoresSummary, bool]:
    """Write the rows; return what they are like, and whether the uids increase from row to row."""
    import pyarrow.parquet as pq

    rows, total, last, increasing = 0, 0.0, None, True
    low, high = np.inf, -np.inf
    pending: list[pa.RecordBatch] = []
    with ExitStack() as stack:
        batches = stack.enter_context(closing(_read(file, max_rows)))
        writer = stack.enter_context(
            pq.ParquetWriter(target, _SCHEMA, compression="zstd", compression_level=1, use_dictionary=False)
        )
        for uids, scores in batches:
            if rows + len(uids) > max_rows:
                raise DataError(
                    f"{file.name}: holds more than {max_rows} rows; allowed are at most {max_rows}"
                )
            uid, score = _checked(file, uids, scores, rows)
            increasing &= bool((last is None or last < uid[0]) and (uid[1:] > uid[:-1]).all())
            if not increasing:
                _check_batch(file, uid, rows)
            last, rows = uid[-1], rows + len(uid)
            low, high = min(low, float(score.min())), max(high, float(score.max()))
            total += float((score * 2.0**-32).sum())  # scaled, so that no sum of finite scores is infinite
            pending.append(pa.record_batch([pa.array(uid), pa.array(score)], schema=_SCHEMA))
            if sum(map(len, pending)) >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending), row_group_size=2 * ROW_GROUP_ROWS)
                pending = []
        if not rows:
            raise DataError(f"{file.name}: holds no rows")
        writer.write_table(pa.Table.from_batches(pending, _SCHEMA), row_group_size=2 * ROW_GROUP_ROWS)
    mean = min(max(total / rows * 2.0**32, low), high)
    return ScoresSummary(rows=rows, min_score=low, max_score=high, mean_score=mean), increasing


def _read(file: UploadedFile, max_rows: int) -> Batches:
    """Yield uids and scores, batch by batch, as the file has them; no batch is empty."""
    if len(set(file.columns)) != 2:
        raise DataError(f"{file.name}: column {file.uid_column!r} cannot hold both uids and scores")
    with file.path.open("rb") as stream:
        magic = stream.read(4)
    expected = _MAGIC.get(file.format)
    if expected is not None and magic != expected:
        raise DataError(f"{file.name}: is no {file.format} file: it begins with {magic!r}, not {expected!r}")
    if file.format == "csv" and (magic[:2] == b"\x1f\x8b" or magic in _MAGIC.values()):
        raise DataError(f"{file.name}: begins with {magic!r}; allowed for csv: plain text, not compressed")
    if file.format == "parquet":
        return _read_parquet(file, max_rows)
    return _read_avro(file) if file.format == "avro" else _read_csv(file)


def _check_columns(file: UploadedFile, names: Sequence[str]) -> None:
    for column in file.columns:
        if names.count(column) != 1:
            fault = "is there more than once" if column in names else "is missing"
            there = ", ".join(map(shown, names[:10])) + (", …" if len(names) > 10 else "")
            raise DataError(f"{file.name}: column {column!r} {fault}; its columns are {there or 'none'}")


def _wrong_type(file: UploadedFile, column: str, kind: object) -> DataError:
    allowed = "integers" if column == file.uid_column else "floating-point numbers and integers"
    return DataError(f"{file.name}: column {column!r} is of type {kind}; allowed: {allowed}")


# ---- values ----------------------------------------------------------------------------------------------


def _checked(
    file: UploadedFile, uids: pa.Array, scores: pa.Array, first_row: int
) -> tuple[Int64Array, Float64Array]:
    """Return a batch's values; raise DataError when some are missing or not allowed."""
    uid, uid_faults = _numbers(file.uid_column, uids, pa.int64(), f"{_UID}, in every row", _UID)
    score, score_faults = _numbers(
        file.score_column, scores, pa.float64(), "a score in every row", "finite numbers"
    )
    if not score_faults:
        score_faults = finite_faults(file.score_column, score)
    if uid_faults or score_faults:
        bad = np.zeros(len(uid), np.bool_)
        for fault in uid_faults:
            bad[fault.rows] = True
        faults = RowFaults(file.name)
        faults.add([*uid_faults, *score_faults], BatchRows(first_row, uid, ~bad))
        faults.raise_if_any()
    return uid, score


def _numbers(
    column: str, array: pa.Array, kind: pa.DataType, every: str, allowed: str
) -> tuple[npt.NDArray[Any], list[Fault]]:
    try:
        numbers = array.cast(kind, safe=pa.types.is_int64(kind))
    except pa.ArrowInvalid:
        numbers = pa.array([_number(value, kind) for value in array], kind)
    null = array.is_null().to_numpy(zero_copy_only=False)
    wrong = numbers.is_null().to_numpy(zero_copy_only=False) & ~null

    def found(row: int) -> str:
        return shown(array[row].as_py())

    faults = fault_of(column, every, null, found) + fault_of(column, allowed, wrong, found)
    return (numbers.fill_null(0) if faults else numbers).to_numpy(), faults


def _number(value: pa.Scalar, kind: pa.DataType) -> Any:
    try:
        return value.cast(kind).as_py()
    except pa.ArrowInvalid:
        return None


# ---- uids that are there twice ---------------------------------------------------------------------------


def _repeated(file: UploadedFile, uid: int, first: int, second: int) -> DataError:
    return DataError(
        f"{file.name}: column {file.uid_column!r}: row {second + 1} has uid {uid} of row {first + 1} again; "
        "allowed: every uid once"
    )


def _check_batch(file: UploadedFile, uid: Int64Array, first_row: int) -> None:
    """Raise DataError when a uid is in the batch twice: cheap, and it ends a file of one uid at once."""
    ordered = np.sort(uid)
    if not (ordered[1:] == ordered[:-1]).any():
        return
    order = np.argsort(uid, kind="stable")
    again = np.flatnonzero(uid[order[1:]] == uid[order[:-1]])
    place = again[np.argmin(order[again + 1])]
    first, second = int(order[place]), int(order[place + 1])
    raise _repeated(file, int(uid[first]), first_row + first, first_row + second)


def _check_unique(file: UploadedFile, written: Path, rows: int) -> None:
    """Raise DataError when a uid is in the written file twice.

    Uids are mapped one to one to evenly spread keys. Runs of keys are sorted and put on disk; then each bucket, a
    range of keys, is gathered from all runs. Run and bucket are as large as `RUN_ROWS`, however many there are.
    """
    mix = _mixer()
    buckets = -(-rows // RUN_ROWS)
    edges = np.array([bucket * 2**64 // buckets for bucket in range(1, buckets)], np.uint64)
    bounds = np.zeros((buckets, buckets + 1), np.int32)

    def sort_and_check(keys: UInt64Array) -> None:
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]]
        if len(twice):
            raise _first_repeated(file, written, np.unique(twice)[:_DUPLICATES_KEPT], mix)

    with tempfile.TemporaryFile(dir=written.parent, buffering=0) as spill:
        for number, keys in enumerate(_runs(written, min(rows, RUN_ROWS), mix)):
            sort_and_check(keys)
            bounds[number, 1:-1] = np.searchsorted(keys, edges)
            bounds[number, -1] = len(keys)
            if buckets > 1:
                _write_all(spill, keys)
        for bucket in range(buckets if buckets > 1 else 0):
            sort_and_check(_bucket(spill, bounds[:, bucket], bounds[:, bucket + 1]))


def _mixer() -> Callable[[UInt64Array], None]:
    """Return what replaces 64-bit integers by others, one to one, spread evenly in a way no sender foresees."""
    factors = [np.uint64(secrets.randbits(64) | 1) for _ in range(2)]

    def mix(keys: UInt64Array) -> None:
        for factor in factors:
            keys ^= keys >> np.uint64(31)
            keys *= factor
        keys ^= keys >> np.uint64(32)

    return mix


def _runs(written: Path, size: int, mix: Callable[[UInt64Array], None]) -> Iterator[UInt64Array]:
    """Yield the keys, `size` at a time."""
    run, filled = np.empty(size, np.uint64), 0
    for uid in _written_uids(written):
        keys, used = uid.copy(), 0
        mix(keys)
        while used < len(keys):
            taken = min(len(keys) - used, size - filled)
            run[filled : filled + taken] = keys[used : used + taken]
            used, filled = used + taken, filled + taken
            if filled == size:
                yield run
                filled = 0
    if filled:
        yield run[:filled]


def _written_uids(written: Path) -> Iterator[UInt64Array]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(written, buffer_size=1 << 20, pre_buffer=False) as opened:
        for batch in opened.iter_batches(BATCH_ROWS, columns=["uid"], use_threads=False):
            yield batch.column(0).to_numpy().view(np.uint64)


def _write_all(spill: IO[bytes], keys: UInt64Array) -> None:
    left = keys.data.cast("B")
    while left:
        left = left[spill.write(left) :]


def _bucket(spill: IO[bytes], starts: Int32Array, stops: Int32Array) -> UInt64Array:
    keys = np.empty(int((stops - starts).sum()), np.uint64)
    view, at = keys.data.cast("B"), 0
    for run, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        size, offset = 8 * (stop - start), 8 * (run * RUN_ROWS + start)
        if size and os.preadv(spill.fileno(), [view[at : at + size]], offset) != size:
            raise OSError("a temporary file is cut short")
        at += size
    return keys


def _first_repeated(
    file: UploadedFile, written: Path, twice: UInt64Array, mix: Callable[[UInt64Array], None]
) -> DataError:
    """Return the error for the first row whose uid, one of `twice` by its key, was there before."""
    seen: dict[int, int] = {}
    row = 0
    for batch in _written_uids(written):
        keys = batch.copy()
        mix(keys)
        for place in np.flatnonzero(np.isin(keys, twice)).tolist():
            uid = int(batch[place].view(np.int64))
            if uid in seen:
                return _repeated(file, uid, seen[uid], row + place)
            seen[uid] = row + place
        row += len(batch)
    raise AssertionError("a repeated key has no repeated uid")


# ---- formats ---------------------------------------------------------------------------------------------


class _CountedQuotes(io.RawIOBase):
    """A file that counts the quotes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.quotes += data.count(b'"')
        return data

    def readable(self) -> bool:
        return True


def _read_csv(file: UploadedFile) -> Batches:
    """Yield columns of text in small blocks: Arrow reads up to 32 of them ahead."""
    from pyarrow import csv

    with file_faults(file.name, "CSV"), file.path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="ignore")
        _check_columns(file, next(filter(None, csv_rows(io.StringIO(head, newline=""))), []))
        stream.seek(0)
        counted = _CountedQuotes(stream)
        reader = csv.open_csv(
            pa.PythonFile(counted, mode="r"),
            read_options=csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=file.columns,
                column_types=dict.fromkeys(file.columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            if len(batch):
                yield batch.column(0), batch.column(1)
    if counted.quotes % 2:  # perhaps one is never closed, and has taken rows for its text
        try:
            for _ in read_csv(str(file.path), file.columns):
                pass
        except DataError as error:
            raise DataError(str(error).replace(str(file.path), file.name)) from error


def _check_growth(file: UploadedFile, compressed: int, decompressed: int) -> None:
    if decompressed > RATIO_FREE_BYTES and decompressed > MAX_RATIO * compressed:
        raise DataError(
            f"{file.name}: {compressed} bytes become {decompressed} or more when decompressed; "
            f"allowed are {MAX_RATIO} times as many, or {RATIO_FREE_BYTES >> 20} MiB"
        )


def _read_parquet(file: UploadedFile, max_rows: int) -> Batches:
    import pyarrow.parquet as pq

    with file.path.open("rb") as stream:
        stream.seek(-min(8, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        tail = stream.read()
    if len(tail) < 8 or tail[4:] != b"PAR1":
        raise DataError(f"{file.name}: its end is not that of a Parquet file: it is cut short")
    if (footer := int.from_bytes(tail[:4], "little")) > MAX_FOOTER_BYTES:
        raise DataError(f"{file.name}: has a footer of {footer} bytes; allowed are {MAX_FOOTER_BYTES}")
    with (
        file_faults(file.name, "Parquet"),
        pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False) as opened,
    ):
        _check_columns(file, opened.schema_arrow.names)
        for column in file.columns:
            kind = opened.schema_arrow.field(column).type
            number = pa.types.is_integer(kind) or (
                column == file.score_column and pa.types.is_floating(kind) and not pa.types.is_float16(kind)
            )
            if not number:
                raise _wrong_type(file, column, kind)
        if opened.metadata.num_rows > max_rows:
            raise DataError(
                f"{file.name}: holds {opened.metadata.num_rows} rows; allowed are at most {max_rows}"
            )
        _check_pages(file, opened.metadata)
        for batch in opened.iter_batches(BATCH_ROWS, columns=file.columns, use_threads=False):
            if len(batch):
                yield batch.column(file.uid_column), batch.column(file.score_column)


def _check_pages(file: UploadedFile, metadata: Any) -> None:
    """Compare what every page says it will be when decompressed with the limits; nothing is decompressed."""
    compressed = decompressed = 0
    size = file.path.stat().st_size
    with file.path.open("rb", buffering=0) as stream:
        for group, place in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
            chunk = metadata.row_group(group).column(place)
            if metadata.row_group(group).num_rows and chunk.path_in_schema in file.columns:
                at = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
                end = at + chunk.total_compressed_size
                while at < end:
                    data = os.pread(stream.fileno(), _PAGE_HEADER_BYTES, at)
                    header, stored, page = _page_header(file, data)
                    if page > MAX_PAGE_BYTES:
                        raise DataError(
                            f"{file.name}: column {chunk.path_in_schema!r}: a page of {page} bytes; "
                            f"allowed are {MAX_PAGE_BYTES >> 20} MiB"
                        )
                    at += header + stored
                    compressed, decompressed = compressed + stored, decompressed + page
                if not 4 <= at <= size:
                    raise DataError(f"{file.name}: a column goes beyond the file's end: it is damaged")
                _check_growth(file, compressed, decompressed)


def _page_header(file: UploadedFile, data: bytes) -> tuple[int, int, int]:
    """Return the sizes of a Parquet page's header, of the page as stored, and of the page decompressed."""
    thrift = _CompactStruct(data)
    try:
        fields = thrift.read()
        stored, page = fields[3], fields[2]
    except (IndexError, KeyError):
        raise DataError(
            f"{file.name}: a page without a readable header: it is damaged or cut short"
        ) from None
    if stored < 0 or page < 0:
        raise DataError(f"{file.name}: a page of a negative size: it is damaged")
    return thrift.at, stored, page


class _CompactStruct:
    """The integers of a Thrift struct in compact form, by field number; all else is passed over."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def read(self, depth: int = 0) -> dict[int, int]:
        """Raise IndexError when the data do not hold the struct."""
        fields: dict[int, int] = {}
        number = 0
        if depth > 8:
            raise IndexError
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else _zigzag(self._varint())
            value = self._value(head & 15, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in {4, 5, 6}:
            return _zigzag(self._varint())
        if kind == 12:
            self.read(depth + 1)
        elif kind not in {1, 2}:  # true and false have no bytes
            passed = {3: 1, 7: 8}.get(kind) or self._length(kind)
            self.at += passed
        return None

    def _length(self, kind: int) -> int:
        if kind != 8:  # page headers hold no lists, sets or maps
            raise IndexError
        return self._varint()

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise IndexError
        return value | byte << shift


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _read_avro(file: UploadedFile) -> Batches:
    import fastavro
    from fastavro.schema import SchemaParseException

    faults = (ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error)
    with file.path.open("rb") as stream:
        head = io.BytesIO(stream.read(_HEADER_BYTES))
        try:
            opened: Any = fastavro.block_reader(head)
            schema, codec = opened.writer_schema, opened.codec
        except (*faults, RecursionError, SchemaParseException) as error:
            raise DataError(f"{file.name}: cannot be read as Avro: {error}") from error
        _check_avro_schema(file, schema)
        if codec not in {"null", "deflate"}:
            raise DataError(f"{file.name}: is compressed by {codec!r}; allowed: null, deflate")
        stream.seek(head.tell())
        # fastavro decompresses without a bound: it gets each block alone, decompressed, as a file of its own.
        plain = io.BytesIO()
        fastavro.writer(plain, schema, [])
        prefix, rows = plain.getvalue(), 0
        sync = head.getvalue()[head.tell() - 16 : head.tell()]
        for count, block in _avro_blocks(file, stream, sync, codec):
            alone = io.BytesIO(b"".join([prefix, _long(count), _long(len(block)), block, prefix[-16:]]))
            try:
                opened = next(fastavro.block_reader(alone, _projection(file, schema)))
                records = iter(opened)
                while chunk := list(itertools.islice(records, BATCH_ROWS)):
                    rows += len(chunk)
                    yield (
                        pa.array([record[file.uid_column] for record in chunk], pa.int64()),
                        pa.array([record[file.score_column] for record in chunk], pa.float64()),
                    )
                if opened.bytes_.tell() != len(block):
                    raise DataError(
                        f"{file.name}: a block holds more than its {count} records: it is damaged"
                    )
            except (*faults, pa.ArrowException) as error:
                raise DataError(f"{file.name}: a block after row {rows} cannot be read: {error}") from error


def _check_avro_schema(file: UploadedFile, schema: Any) -> None:
    if not isinstance(schema, dict) or schema["type"] != "record":
        raise DataError(f"{file.name}: holds no records; allowed: records with the columns of a table")
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    _check_columns(file, [field["name"] for field in schema["fields"]])
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, list) else [kind]
        plain = [part["type"] if isinstance(part, dict) else part for part in kinds]
        if name not in file.columns:
            # An array of nulls has any number of items in a few bytes, and each takes its time.
            if not _AVRO_FLAT.issuperset(plain):
                raise DataError(f"{file.name}: column {name!r} is of type {kind}; allowed: no nested columns")
            continue
        allowed = {"int", "long", "null"} | ({"float", "double"} if name == file.score_column else set())
        logical = any(isinstance(part, dict) and "logicalType" in part for part in kinds)
        if logical or not allowed.issuperset(plain) or set(plain) == {"null"}:
            raise _wrong_type(file, name, kind)


def _projection(file: UploadedFile, schema: Any) -> Any:
    """Return the schema to read by: the two columns; None when there are no others."""
    if len(schema["fields"]) == 2:
        return None
    fields = [{"name": field["name"], "type": field["type"]} for field in schema["fields"]]
    return {**schema, "fields": [field for field in fields if field["name"] in file.columns]}


def _avro_blocks(
    file: UploadedFile, stream: IO[bytes], sync: bytes, codec: str
) -> Iterator[tuple[int, bytes]]:
    """Yield the number of records and the bytes, decompressed, of each block."""
    stored = decompressed = 0
    for number in itertools.count(1):
        where = f"{file.name}: block {number}"
        if not stream.peek(1):  # type: ignore[attr-defined]
            return
        count, size = _read_long(stream, where), _read_long(stream, where)
        if not 0 <= size <= MAX_BLOCK_BYTES:
            raise DataError(f"{where} has {size} bytes; allowed are {MAX_BLOCK_BYTES >> 20} MiB")
        data, mark = stream.read(size), stream.read(16)
        if len(data) < size or len(mark) < 16:
            raise DataError(f"{where} ends too early: the file is cut short")
        if mark != sync:
            raise DataError(f"{where} does not end in the file's mark: it is damaged")
        block = data
        if codec == "deflate":
            inflating = zlib.decompressobj(-15)
            try:
                block = inflating.decompress(data, MAX_BLOCK_BYTES + 1)
            except zlib.error as error:
                raise DataError(f"{where} cannot be decompressed: {error}") from error
            if len(block) > MAX_BLOCK_BYTES:
                raise DataError(
                    f"{where} has more than {MAX_BLOCK_BYTES} bytes when decompressed; "
                    f"allowed are {MAX_BLOCK_BYTES >> 20} MiB"
                )
            if not inflating.eof:
                raise DataError(f"{where} cannot be decompressed: it is cut short")
        if not 0 <= 2 * count <= len(block):
            raise DataError(f"{where} claims {count} records in {len(block)} bytes: it is damaged")
        stored, decompressed = stored + size, decompressed + len(block)
        _check_growth(file, stored, decompressed)
        yield count, block


def _read_long(stream: IO[bytes], where: str) -> int:
    value = 0
    for shift in range(0, 70, 7):
        if not (byte := stream.read(1)):
            raise DataError(f"{where} ends too early: the file is cut short")
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return _zigzag(value)
    raise DataError(f"{where} does not begin with two numbers: it is damaged")


def _long(value: int) -> bytes:
    """Return a number of zero or more as Avro has it."""
    rest, data = 2 * value, bytearray()
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    return bytes(data)


# ---- a process of its own --------------------------------------------------------------------------------


def main() -> None:
    """Check one file."""
    request = CheckRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = UploadedFile(
        path=Path(request.path),
        name=request.name,
        format=request.format,
        uid_column=request.uid_column,
        score_column=request.score_column,
    )
    try:
        summary = normalise_scores(file, Path(request.target), max_rows=request.max_rows)
    except DataError as error:
        answer = CheckAnswer(refusal=str(error))
    else:
        answer = CheckAnswer(summary=asdict(summary))
    sys.stdout.write(json.dumps(asdict(answer)))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
