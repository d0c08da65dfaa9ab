"""TFRecord files of `tf.train.Example`, and of `SequenceExample`s as LinkedIn GDMix's Spark job groups them.

TensorFlow decodes them, a batch of serialised records at a time, into ragged tensors whose memory becomes
Arrow arrays. Counting records needs no TensorFlow: it hops from one record's length to the next. So is every
file checked before it is decoded, because TensorFlow takes a file that was cut short for one that ends there.

A grouped file has one record for each entity: its columns are lists over the entity's rows, its sparse
columns lists of lists; what has one value only, the entity id, is the same for all of its rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.input_files import NeededColumn, file_faults
from gdmix_core.data.tensor_metadata import Tensor, read_tensor_metadata
from gdmix_core.data.tfrecord_frames import chunks, compression, count_records, only_features
from gdmix_core.errors import DataError, MissingDependency

if TYPE_CHECKING:
    import tensorflow as tf

Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

BATCH_RECORDS: Final = 16_384
BATCH_GROUPS: Final = 512
_LOOKED_AT: Final = 100
_ARROW: Final = {"int": pa.int64(), "float": pa.float32(), "string": pa.string()}


@dataclass(frozen=True, slots=True)
class TfrecordHead:
    """What a TFRecord file tells: Arrow types of its columns, whether it has rows, lengths of its vectors."""

    schema: pa.Schema
    rows: int
    dimensions: Mapping[str, int]


def tfrecord_head(path: str, metadata: str | None) -> TfrecordHead:
    """Return what is known of a file without reading it: from its metadata, else from its first records.

    Returns:
        The head; `rows` is 1 when there are any.

    Raises:
        DataError: The file or its metadata cannot be read.
        MissingDependency: TensorFlow is needed and not installed.
    """
    _check_tensorflow()
    tensors = _tensors(path, metadata)
    schema = pa.schema([(tensor.name, _arrow_type(tensor)) for tensor in tensors])
    dimensions = {tensor.name: tensor.shape[0] for tensor in tensors if tensor.shape and tensor.shape[0]}
    with file_faults(path, "TFRecord"):
        rows = int(any(chunks(path)))
    return TfrecordHead(schema, rows, dimensions)


def read_tfrecord(
    path: str, metadata: str | None, columns: Sequence[NeededColumn]
) -> Iterator[pa.RecordBatch]:
    """Stream columns of a TFRecord file.

    Args:
        path: The file; gzip or deflate by its ending.
        metadata: The file that describes its columns; read off its first records when None.
        columns: The columns wanted.

    Raises:
        DataError: The file is absent or damaged, lacks a column, or a value is not what the metadata say.
        MissingDependency: TensorFlow is not installed.
    """
    by_name = {tensor.name: tensor for tensor in _tensors(path, metadata)}
    absent = sorted({column.name for column in columns} - by_name.keys())
    if absent:
        raise DataError(f"{path}: column {absent[0]!r} is missing; the file has {', '.join(by_name)}")
    wanted = [by_name[column.name] for column in columns]
    tf = _tensorflow()
    records = count_records(path)[0]
    with _tensorflow_faults(path, tf):
        grouped = _is_grouped(path, by_name.values(), tf)
        size = BATCH_GROUPS if grouped else BATCH_RECORDS
        shared = frozenset(column.name for column in columns if not {"uid", "number"} & {*column.uses})
        decode = partial(_grouped_batch, shared=shared) if grouped else _batch
        for serialised in _records(path, tf).batch(size):
            records -= int(serialised.shape[0])
            yield decode(path, wanted, serialised, tf)
    if records:
        raise DataError(
            f"{path}: cannot be read as TFRecord: TensorFlow passes over {records} of its records"
        )


def _tensors(path: str, metadata: str | None) -> tuple[Tensor, ...]:
    return read_tensor_metadata(metadata) if metadata is not None else _observed(path)


def _observed(path: str) -> tuple[Tensor, ...]:
    """Return the columns of the first records: pairs `x_indices`, `x_values` are sparse vectors of any length."""
    tf = _tensorflow()
    kinds: dict[str, str] = {}
    longest: dict[str, int] = {}
    with _tensorflow_faults(path, tf):
        for serialised in _records(path, tf).take(_LOOKED_AT):
            record = serialised.numpy()
            example = tf.train.Example.FromString(record)
            if not only_features(record):
                raise DataError(
                    f"{path}: its records are SequenceExamples, grouped by entity: such a file needs its metadata"
                )
            for name, feature in example.features.feature.items():
                kind = feature.WhichOneof("kind")
                if kind is None:
                    continue
                found = kinds.setdefault(name, kind)
                if found != kind:
                    raise DataError(f"{path}: column {name!r} holds {found} and {kind} in its first records")
                longest[name] = max(longest.get(name, 0), len(getattr(feature, kind).value))
    if not kinds:
        count_records(path)  # says what is wrong where TensorFlow sees the end of the file
    dtypes = {"int64_list": "int", "float_list": "float", "bytes_list": "string"}
    tensors = []
    for name in sorted(kinds):
        bag = name.removesuffix("_values")
        if name.endswith("_indices") and f"{name.removesuffix('_indices')}_values" in kinds:
            continue
        dtype: Any = dtypes[kinds[name]]
        if bag != name and f"{bag}_indices" in kinds:
            tensors.append(Tensor(bag, dtype, (0,), True))
        else:
            tensors.append(Tensor(name, dtype, (0,) if longest[name] > 1 else (), False))
    return tuple(tensors)


def _arrow_type(tensor: Tensor) -> pa.DataType:
    kind = _ARROW[tensor.dtype]
    if tensor.sparse:
        return pa.struct([("indices", pa.large_list(pa.int64())), ("values", pa.large_list(kind))])
    return pa.large_list(kind) if tensor.shape else kind


# ---- records ---------------------------------------------------------------------------------------------


def _records(path: str, tf: Any) -> tf.data.TFRecordDataset:
    return tf.data.TFRecordDataset([path], compression(path) or None, buffer_size=4 << 20)


def _is_grouped(path: str, tensors: Sequence[Tensor] | Any, tf: Any) -> bool:
    """Return whether records are entities' rows: the first ones have lists of lists, or lists for two scalars."""
    scalars = [tensor.name for tensor in tensors if not tensor.shape and not tensor.sparse]
    for serialised in _records(path, tf).take(_LOOKED_AT):
        record = serialised.numpy()
        if not only_features(record):
            return True
        features = tf.train.Example.FromString(record).features.feature
        if sum(len(_values(features[name])) > 1 for name in scalars if name in features) > 1:
            return True
    return False


def _values(feature: Any) -> Sequence[Any]:
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()


def _dtype(tensor: Tensor, tf: Any) -> Any:
    return {"int": tf.int64, "float": tf.float32, "string": tf.string}[tensor.dtype]


def _stored(tensor: Tensor, tf: Any) -> dict[str, Any]:
    """Return how a column's lists are asked for, by the name they are stored under."""

    def lists(dtype: Any) -> Any:
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)

    if tensor.sparse:
        return {f"{tensor.name}_indices": lists(tf.int64), f"{tensor.name}_values": lists(_dtype(tensor, tf))}
    return {tensor.name: lists(_dtype(tensor, tf))}


def _batch(path: str, wanted: Sequence[Tensor], serialised: Any, tf: Any) -> pa.RecordBatch:
    """Decode a batch of Examples."""
    asked = {name: feature for tensor in wanted for name, feature in _stored(tensor, tf).items()}
    found = tf.io.parse_example(serialised, asked)
    arrays = []
    for tensor in wanted:
        if tensor.sparse:
            indices, values = found[f"{tensor.name}_indices"], found[f"{tensor.name}_values"]
            arrays.append(
                _struct(
                    _lists(indices.row_splits, indices.values, tf),
                    _lists(values.row_splits, values.values, tf),
                )
            )
        else:
            ragged = found[tensor.name]
            arrays.append(_column(path, tensor, ragged.row_splits.numpy(), ragged.values, tf))
    return pa.record_batch(arrays, names=[tensor.name for tensor in wanted])


def _grouped_batch(
    path: str, wanted: Sequence[Tensor], serialised: Any, tf: Any, *, shared: frozenset[str]
) -> pa.RecordBatch:
    """Decode a batch of entities' SequenceExamples into rows; of `shared` columns all of a record's have one."""
    context: dict[str, Any] = {}
    sequence: dict[str, Any] = {}
    for tensor in wanted:
        (sequence if tensor.shape else context).update(_stored(tensor, tf))
    scalars, lists = tf.io.parse_sequence_example(serialised, context or None, sequence or None)[:2]
    splits = [ragged.row_splits.numpy() for ragged in (*scalars.values(), *lists.values())]
    rows = np.max([np.diff(split) for split in splits], axis=0)
    if not rows.all():
        raise DataError(f"{path}: a record holds none of {', '.join(tensor.name for tensor in wanted)}")
    arrays = []
    for tensor in wanted:
        if tensor.shape:
            parts = [lists[name] for name in _stored(tensor, tf)]
            for part in parts:
                _check_rows(path, tensor.name, np.diff(part.row_splits.numpy()), rows)
            inner = [_lists(part.values.row_splits, part.values.values, tf) for part in parts]
            arrays.append(_struct(*inner) if tensor.sparse else inner[0])
            continue
        ragged = scalars[tensor.name]
        counts = np.diff(ragged.row_splits.numpy())
        values = _flat(ragged.values, tf)
        if not np.array_equal(counts, rows):
            if tensor.name not in shared or (counts != 1).any():
                _check_rows(path, tensor.name, counts, rows)
            values = values.take(pa.array(np.repeat(np.arange(len(rows)), rows)))
        arrays.append(values)
    return pa.record_batch(arrays, names=[tensor.name for tensor in wanted])


def _check_rows(path: str, column: str, counts: Int64Array, rows: Int64Array) -> None:
    bad = np.flatnonzero(counts != rows)
    if len(bad):
        raise DataError(
            f"{path}: column {column!r} holds {counts[bad[0]]} values in a record of {rows[bad[0]]} rows"
        )


# ---- tensors to Arrow ------------------------------------------------------------------------------------


def _column(path: str, tensor: Tensor, splits: Int64Array, values: Any, tf: Any) -> pa.Array:
    """Return a dense column: lists of a vector, or single values, null where there is none."""
    if tensor.shape:
        return _lists(splits, values, tf)
    counts = np.diff(splits)
    flat = _flat(values, tf)
    if (counts == 1).all():
        return flat
    if (counts > 1).any():
        raise DataError(
            f"{path}: column {tensor.name!r} holds {counts.max()} values in a record; its metadata say one"
        )
    places = pa.array(np.where(counts == 1, splits[:-1], 0), mask=counts == 0)
    return flat.take(places) if len(flat) else pa.nulls(len(counts), flat.type)


def _lists(splits: Any, values: Any, tf: Any) -> pa.Array:
    offsets = splits if isinstance(splits, np.ndarray) else splits.numpy()
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), _flat(values, tf))


def _struct(indices: pa.Array, values: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([indices, values], ["indices", "values"])


def _flat(values: Any, tf: Any) -> pa.Array:
    """Return a tensor of one dimension as an Arrow array; strings without a Python object for each."""
    if values.dtype != tf.string:
        return pa.array(values.numpy())
    lengths = tf.strings.length(values).numpy()
    joined = tf.strings.reduce_join(values).numpy()
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(joined)]
    return pa.LargeStringArray.from_buffers(len(lengths), *buffers[1:])


# ---- TensorFlow ------------------------------------------------------------------------------------------


_NO_TENSORFLOW: Final = (
    'TFRecord files need TensorFlow, which is not installed here: pip install "gdmix[tensorflow]"'
)


def _tensorflow() -> Any:
    """Import TensorFlow without its greetings.

    Raises:
        MissingDependency: It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency(_NO_TENSORFLOW) from error
    return tf


def _check_tensorflow() -> None:
    """Raise as `_tensorflow`, without the seconds that importing it takes."""
    with contextlib.suppress(ImportError):
        if importlib.util.find_spec("tensorflow") is not None:
            return
    raise MissingDependency(_NO_TENSORFLOW)


@contextlib.contextmanager
def _tensorflow_faults(path: str, tf: Any) -> Iterator[None]:
    """Turn what TensorFlow raises about a file into one DataError naming it."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except tf.errors.OpError as error:
        reason = re.sub(r"^\{\{.*?\}\} |\[Op:.*", "", str(error.message).splitlines()[0]).strip()
        raise DataError(f"{path}: cannot be read as TFRecord: {reason}") from error
    except Exception as error:
        # Python cannot decode a message of TensorFlow's that quotes damaged bytes.
        if isinstance(error, UnicodeDecodeError) or type(error).__name__ == "DecodeError":
            raise DataError(f"{path}: cannot be read as TFRecord: not tf.train.Example records") from error
        raise
