"""The coefficient record: one entity's coefficients as one binary value (`docs/specs/record.md`).

    offset  bytes  content
    0       4      magic "GDMX"
    4       1      format version, 1
    5       1      element type: 1 float64, 2 float32
    6       1      flags: bit 0 = variances follow the coefficients
    7       1      zero
    8       4      count n, uint32
    12      4      crc32 (zlib) of bytes 0:12 and 16:end
    16      8      schema fingerprint, uint64
    24      4n     indices, int32, strictly increasing
            0..7   zeros up to a multiple of 8
            n      coefficients [, n variances]

All numbers are little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import DataError, StoreCorrupt

ElementType: TypeAlias = Literal["float64", "float32"]
Float64Array: TypeAlias = npt.NDArray[np.float64]

HEADER_BYTES: Final = 24
_MAGIC: Final = b"GDMX"
_DTYPES: Final[dict[int, np.dtype[Any]]] = {1: np.dtype("<f8"), 2: np.dtype("<f4")}
_CODES: Final = {"float64": 1, "float32": 2}
_FAULTS: Final = {
    1: "is shorter than its header",
    2: "does not begin with the magic GDMX",
    3: "has an unknown format version, element type or flag",
    4: "does not have the length that its header says",
    5: "fails its checksum",
    6: "was written for another feature index (schema fingerprint)",
    7: "has indices that are not strictly increasing",
    10: "has another element type than the records before it",
}


def fault_text(fault: int) -> str:
    """Say what is wrong with a record, as the end of a sentence that begins with "the record of …"."""
    return _FAULTS[fault]


@dataclass(frozen=True, slots=True)
class Record:
    """One entity's coefficients.

    Attributes:
        indices: int32[n], strictly increasing; coefficient numbers in the coordinate's feature space.
        coefficients: float64[n].
        variances: float64[n], or None when the record carries none.
        schema: fingerprint of the feature index they belong to, 64 bits.
    """

    indices: npt.NDArray[np.int32]
    coefficients: Float64Array
    variances: Float64Array | None
    schema: int


def decode(data: bytes | memoryview, schema: int | None = None) -> Record:
    """Read and check one record.

    Args:
        data: the record.
        schema: the fingerprint it must carry; None accepts any.

    Raises:
        StoreCorrupt: it breaks the format, fails its checksum or belongs to another schema.
    """
    fault = _fault(data, schema)
    if fault:
        raise StoreCorrupt(f"a coefficient record {_FAULTS[fault]}")
    count = int.from_bytes(data[8:12], "little")
    dtype = _DTYPES[data[5]]
    start = (HEADER_BYTES + 4 * count + 7) // 8 * 8
    values = np.frombuffer(data, dtype, count, start).astype(np.float64)
    has_variances = bool(data[6])
    return Record(
        indices=np.frombuffer(data, "<i4", count, HEADER_BYTES),
        coefficients=values,
        variances=np.frombuffer(data, dtype, count, start + count * dtype.itemsize).astype(np.float64)
        if has_variances
        else None,
        schema=int.from_bytes(data[16:24], "little"),
    )


def _fault(data: bytes | memoryview, schema: int | None) -> int:
    """Return the number of the first fault, 0 for none; the same order of checks as the compiled kernel's."""
    if len(data) < HEADER_BYTES:
        return 1
    if data[:4] != _MAGIC:
        return 2
    if data[4] != 1 or data[5] not in _DTYPES or data[6] > 1 or data[7] != 0:
        return 3
    count = int.from_bytes(data[8:12], "little")
    if len(data) != (HEADER_BYTES + 4 * count + 7) // 8 * 8 + count * _DTYPES[data[5]].itemsize * (
        1 + data[6]
    ):
        return 4
    if zlib.crc32(data[16:], zlib.crc32(data[:12])) != int.from_bytes(data[12:16], "little"):
        return 5
    if schema is not None and int.from_bytes(data[16:24], "little") != schema:
        return 6
    indices = np.frombuffer(data, "<i4", count, HEADER_BYTES)
    if count and (indices[0] < 0 or bool(np.any(indices[1:] <= indices[:-1]))):
        return 7
    return 0


@dataclass(frozen=True, slots=True)
class CoefficientBlock:
    """The coefficients of many entities, as flat arrays.

    Attributes:
        ids_bytes: uint8, the entities' ids one behind the other (UTF-8, unescaped).
        ids_ptr: int64[E+1], bounds of the ids.
        coefficient_ptr: int64[E+1], bounds of the entities' coefficients.
        indices: int32[C], strictly increasing inside an entity.
        coefficients: float64[C].
        variances: float64[C] or None.
    """

    ids_bytes: npt.NDArray[np.uint8]
    ids_ptr: npt.NDArray[np.int64]
    coefficient_ptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    coefficients: Float64Array
    variances: Float64Array | None = None

    @property
    def entities(self) -> int:
        """Number of entities."""
        return len(self.ids_ptr) - 1

    def id_of(self, entity: int) -> str:
        """Return one entity's id for a message."""
        return (
            self.ids_bytes[self.ids_ptr[entity] : self.ids_ptr[entity + 1]].tobytes().decode(errors="replace")
        )


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Entities `begin:end` of a block, encoded.

    Attributes:
        data: RESP commands, or key, record, key, record, … one behind the other; valid until the next batch.
        bounds: int64[2(end-begin)+1], bounds of keys and records in `data`; None for RESP commands.
        commands: number of RESP commands (and so of replies).
        entities: end - begin.
        digest: sum of the entities' digests modulo 2^64.
    """

    data: memoryview
    bounds: npt.NDArray[np.int64] | None
    commands: int
    entities: int
    digest: int


def encode_block(
    block: CoefficientBlock,
    prefix: bytes,
    *,
    schema: int,
    element_type: ElementType = "float64",
    resp: bool = False,
    batch_bytes: int = 4 << 20,
) -> Iterator[EncodedBatch]:
    """Encode keys (`prefix` + escaped id) and records of a block, a few MiB at a time.

    Two buffers take turns, so that one batch may still be on its way while the next is encoded.

    Raises:
        DataError: an id is empty or longer than 256 bytes after escaping, or a value is NaN or infinite.
        StoreCorrupt: indices are not strictly increasing.
    """
    from gdmix_core.store import kernels

    dtype = np.dtype(element_type)
    values = _stored_values(block, block.coefficients, dtype, "coefficient")
    variances = None if block.variances is None else _stored_values(block, block.variances, dtype, "variance")
    ids_bytes, ids_ptr = _contiguous(block.ids_bytes, np.uint8), _contiguous(block.ids_ptr, np.int64)
    coefficient_ptr = _contiguous(block.coefficient_ptr, np.int64)
    indices = _contiguous(block.indices, np.int32).view(np.uint8)
    value_data = values.view(np.uint8)
    variance_data = np.empty(0, np.uint8) if variances is None else variances.view(np.uint8)
    key_prefix = np.frombuffer(bytearray(prefix), np.uint8)
    fingerprint = signed(schema)
    bound = _size_bounds(block, len(prefix), dtype.itemsize * (1 if variances is None else 2))
    buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
    begin = turn = 0
    while begin < block.entities:
        end = max(begin + 1, int(np.searchsorted(bound, bound[begin] + batch_bytes, "right")) - 1)
        if len(buffers[turn]) < bound[end] - bound[begin]:
            buffers[turn] = np.empty(int(bound[end] - bound[begin]), np.uint8)
        bounds = np.empty(1 if resp else 2 * (end - begin) + 1, np.int64)
        used, digest, fault, entity = kernels.encode(
            ids_bytes, ids_ptr, coefficient_ptr, indices, value_data, variance_data,
            variances is not None, dtype.itemsize, _CODES[element_type], fingerprint, key_prefix, resp,
            begin, end, buffers[turn], bounds,
        )  # fmt: skip
        if fault:
            raise _encode_error(block, fault, entity)
        yield EncodedBatch(
            data=buffers[turn].data[:used],
            bounds=None if resp else bounds,
            commands=-(-(end - begin) // kernels.KEYS_PER_COMMAND),
            entities=end - begin,
            digest=digest % (1 << 64),
        )
        begin, turn = end, 1 - turn


def signed(fingerprint: int) -> int:
    """Return a 64-bit fingerprint as the kernels take it, in two's complement."""
    return fingerprint - (1 << 64) if fingerprint >= 1 << 63 else fingerprint


def _stored_values(
    block: CoefficientBlock, values: Float64Array, dtype: np.dtype[Any], what: str
) -> npt.NDArray[Any]:
    """Convert values to the stored type and refuse what is not finite in it."""
    with np.errstate(over="ignore"):
        stored = _contiguous(values, dtype.type)
    finite = np.isfinite(stored)
    if not finite.all():
        at = int(np.argmin(finite))
        entity = int(np.searchsorted(block.coefficient_ptr, at, "right")) - 1
        raise DataError(
            f"entity {block.id_of(entity)!r}: the {what} of index {block.indices[at]} is {values[at]}, which "
            f"{dtype} cannot hold as a finite number; only finite numbers are stored"
        )
    return stored


def _contiguous(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return `array` as a writable contiguous one: kernels are compiled for that kind alone."""
    result = np.ascontiguousarray(array, dtype)
    return result if result.flags.writeable else result.copy()


def _size_bounds(block: CoefficientBlock, prefix_bytes: int, value_bytes: int) -> npt.NDArray[np.int64]:
    """Return int64[E+1], running sum of the most bytes that each entity can take, frames included."""
    frames = 96  # two RESP headers, line ends, the padding of a record, a share of the command's header
    sizes = (
        3 * np.diff(block.ids_ptr)
        + np.diff(block.coefficient_ptr) * (4 + value_bytes)
        + (prefix_bytes + HEADER_BYTES + frames)
    )
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _encode_error(block: CoefficientBlock, fault: int, entity: int) -> Exception:
    if fault == 8:
        return DataError(
            f"entity number {entity} has an empty id; rows without an entity have no coefficients"
        )
    if fault == 9:
        return DataError(
            f"entity id {block.id_of(entity)!r} is longer than 256 bytes after escaping; shorten the id"
        )
    return StoreCorrupt(f"the record of entity {block.id_of(entity)!r} {_FAULTS[fault]}")


@dataclass(frozen=True, slots=True)
class DecodedRecords:
    """Records of several entities, as flat arrays; an entity that is not stored has no coefficients.

    Attributes:
        found: bool[E], whether the entity is stored.
        coefficient_ptr: int64[E+1].
        indices: int32[C].
        coefficients: float64[C].
        variances: float64[C], or None unless every stored record carries them.
    """

    found: npt.NDArray[np.bool_]
    coefficient_ptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    coefficients: Float64Array
    variances: Float64Array | None


def decode_many(records: Sequence[bytes | memoryview | None], schema: int | None = None) -> DecodedRecords:
    """Read and check many records at once; None stands for an entity that is not stored.

    Raises:
        StoreCorrupt: one of them breaks the format, fails its checksum, belongs to another schema or has
            another element type than the rest.
    """
    from gdmix_core.store import kernels

    pieces = [b"" if record is None else record for record in records]
    data = np.frombuffer(bytearray().join(pieces), np.uint8)
    ptr = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=ptr[1:])
    coefficient_ptr = np.empty(len(pieces) + 1, np.int64)
    fault, number, has_variances, code = kernels.measure(
        data, ptr, signed(schema or 0), schema is None, coefficient_ptr
    )
    if fault:
        raise StoreCorrupt(f"coefficient record number {number} {_FAULTS[fault]}")
    total = int(coefficient_ptr[-1])
    dtype = _DTYPES.get(code, np.dtype(np.float64))
    indices = np.empty(total, np.int32)
    coefficients = np.empty(total, dtype)
    variances = np.empty(total if has_variances else 0, dtype)
    kernels.unpack(
        data,
        ptr,
        coefficient_ptr,
        dtype.itemsize,
        indices.view(np.uint8),
        coefficients.view(np.uint8),
        variances.view(np.uint8),
    )
    return DecodedRecords(
        found=np.diff(ptr) > 0,
        coefficient_ptr=coefficient_ptr,
        indices=indices,
        coefficients=coefficients.astype(np.float64, copy=False),
        variances=variances.astype(np.float64, copy=False) if has_variances else None,
    )
