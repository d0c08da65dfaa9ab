"""Array files: named one-dimensional arrays in segments, in one memory-mapped Arrow IPC file.

Every bulk intermediate of a job (encoded splits, home shards, partitions, score blocks) is an array file.
A *segment* is one record batch with exactly one row; a named array is a column of type `large_list<T>` whose
single element is the whole array. Any Arrow reader can open the file, and reading a segment here costs a
page-table entry: the arrays are views of the memory map.

The views come from a private (copy-on-write) mapping: they are ordinary writable numpy arrays, so that one
specialisation of a compiled kernel serves them and arrays made in memory alike, and yet nothing that writes
to them can ever change the file. Treat them as read-only all the same.

Files appear by atomic rename: a reader sees the old file, the new file or none, and views of a replaced file
stay valid. The bytes depend on the arrays and the metadata alone. See `docs/specs/data-plane.md`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.errors import DataError, InternalError

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

_METADATA_KEY: Final = b"gdmix"
_ARROW_TYPES: Final[dict[np.dtype[Any], pa.DataType]] = {
    np.dtype(name): pa.type_for_alias(name)
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
} | {np.dtype("float32"): pa.float32(), np.dtype("float64"): pa.float64()}
_NUMPY_TYPES: Final = {arrow: dtype for dtype, arrow in _ARROW_TYPES.items()}
# Linux: a private mapping is not charged against the commit limit, so that files larger than memory map too.
_MAP_FLAGS: Final = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)


def write_arrays(
    path: str | Path,
    segments: Iterable[Mapping[str, npt.NDArray[Any]]],
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write segments of named arrays to `path`, which appears complete or not at all.

    Args:
        path: The file; its directory must exist.
        segments: At least one; consumed one by one, so memory holds one segment at a time. All have the
            same names in the same order, and the same dtype per name (integers and floats of fixed width,
            one dimension; no bool: use uint8); lengths are free.
        metadata: JSON-serialisable facts about the file, written with sorted keys.

    Raises:
        DataError: The file cannot be written.
        InternalError: There is no segment, or a segment breaks the rules above.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        iterator = iter(segments)
        first = next(iterator, None)
        if first is None:
            raise InternalError(f"{target}: an array file needs at least one segment")
        schema = _schema(target, first, metadata or {})
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(_batch(target, 0, schema, first))
            for number, segment in enumerate(iterator, start=1):
                writer.write_batch(_batch(target, number, schema, segment))


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` on success, remove it on any failure.

    The name is unique, so that two attempts of one unit may write at the same time: the last rename wins and
    each leaves a complete file.

    Raises:
        DataError: The directory or the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # pyarrow's own text would name the temporary file
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"{target}: cannot be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


class ArrayFile:
    """An array file opened for reading; a context manager.

    Views handed out by `segment` keep the mapping alive by themselves: closing the file only gives up the
    handle, so it is safe to use arrays after `close`.

    Attributes:
        path: The file, as given.
        metadata: What the writer gave as `metadata`.
        segments: The number of segments.
        dtypes: dtype of each named array, in file order.

    Raises:
        DataError: The file is absent, unreadable or not an array file.
    """

    __slots__ = ("_base", "_map", "_reader", "dtypes", "metadata", "path", "segments")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map: mmap.mmap | None = _map_file(self.path)
        buffer = pa.py_buffer(self._map)
        self._base: int = buffer.address
        try:
            self._reader = pa.ipc.open_file(pa.BufferReader(buffer))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path}: is not a complete Arrow file: {error}") from error
        schema = self._reader.schema
        stored = (schema.metadata or {}).get(_METADATA_KEY)
        if stored is None:
            raise DataError(f"{self.path}: is an Arrow file, but not an array file written by GDMix")
        self.metadata: dict[str, Any] = json.loads(stored)
        self.segments: int = self._reader.num_record_batches
        self.dtypes: dict[str, np.dtype[Any]] = {
            field.name: _NUMPY_TYPES[field.type.value_type] for field in schema
        }

    def segment(self, number: int, names: Iterable[str] | None = None) -> Arrays:
        """Map one segment: name → array view, without copying; only `names` when given.

        Raises:
            DataError: The segment is damaged, or an array of `names` is not in the file.
            InternalError: There is no such segment.
        """
        if self._map is None:
            raise InternalError(f"{self.path}: the array file is closed")
        if not 0 <= number < self.segments:
            raise InternalError(f"{self.path}: has {self.segments} segments, asked for number {number}")
        try:
            batch = self._reader.get_batch(number)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path}: segment {number} is damaged: {error}") from error
        return {name: self._view(batch, number, name) for name in (self.dtypes if names is None else names)}

    def close(self) -> None:
        """Give up the file; views already handed out stay valid."""
        self._map = None
        self._reader = None

    def _view(self, batch: pa.RecordBatch, number: int, name: str) -> npt.NDArray[Any]:
        if name not in self.dtypes:
            raise DataError(f"{self.path}: holds no array {name!r}; it holds {', '.join(self.dtypes)}")
        dtype = self.dtypes[name]
        values = batch.column(name).values
        if len(values) == 0:
            return np.empty(0, dtype)
        data = values.buffers()[1]
        start = data.address - self._base + values.offset * dtype.itemsize
        if self._map is None or start < 0 or start + len(values) * dtype.itemsize > len(self._map):
            raise DataError(f"{self.path}: segment {number}, array {name!r} lies outside of the file")
        return np.frombuffer(self._map, dtype, len(values), start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_segment(path: str | Path, number: int = 0, names: Iterable[str] | None = None) -> Arrays:
    """Map one segment of an array file: `ArrayFile(path).segment(number, names)` in one call."""
    with ArrayFile(path) as file:
        return file.segment(number, names)


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, flags=_MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        reason = "the file is empty" if isinstance(error, ValueError) else error.strerror or str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _schema(path: Path, segment: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, object]) -> pa.Schema:
    fields = []
    for name, array in segment.items():
        if array.dtype not in _ARROW_TYPES:
            raise InternalError(
                f"{path}: array {name!r} has dtype {array.dtype}; allowed: int*, uint*, float*"
            )
        element = pa.field("item", _ARROW_TYPES[array.dtype], nullable=False)
        fields.append(pa.field(name, pa.large_list(element), nullable=False))
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return pa.schema(fields, metadata={_METADATA_KEY: text.encode()})


def _batch(
    path: Path, number: int, schema: pa.Schema, segment: Mapping[str, npt.NDArray[Any]]
) -> pa.RecordBatch:
    if list(segment) != schema.names:
        raise InternalError(f"{path}: segment {number} holds {list(segment)} instead of {schema.names}")
    columns = []
    for field, (name, array) in zip(schema, segment.items(), strict=True):
        if (
            array.ndim != 1
            or array.dtype not in _ARROW_TYPES
            or _ARROW_TYPES[array.dtype] != field.type.value_type
        ):
            raise InternalError(
                f"{path}: segment {number}, array {name!r} is {array.dtype} with {array.ndim} dimensions "
                f"instead of {field.type.value_type} with one"
            )
        data = np.ascontiguousarray(array)
        child = pa.Array.from_buffers(field.type.value_type, data.size, [None, pa.py_buffer(data)])
        bounds = pa.py_buffer(np.array([0, data.size], np.int64))
        columns.append(pa.Array.from_buffers(field.type, 1, [None, bounds], children=[child]))
    return pa.record_batch(columns, schema=schema)
