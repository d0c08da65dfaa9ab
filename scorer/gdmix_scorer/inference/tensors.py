"""Tensors of the Open Inference Protocol: checked against datatype and shape, then plain arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import UsageError
from gdmix_core.scoring.length_prefixed import from_length_prefixed

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatypes of numbers; the only other one is BYTES."""
TYPED_FIELDS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents that holds a datatype; FP16 has none."""
_MAX_DIMENSIONS: Final = 2
_MAX_NAME: Final = 256
"""Characters. Names that no model has are counted by name, and what is counted stays in memory."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input.

    Attributes:
        name: of it; part of every error message.
        datatype: one of `NUMBERS`, or BYTES.
        shape: one or two sizes.
        values: the elements, row by row: numbers of the datatype, or strings that may not be UTF-8.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | ByteStrings

    @property
    def rows(self) -> int:
        """The first dimension."""
        return self.shape[0]


def check_header(name: str, datatype: str, shape: Sequence[int], rows: tuple[int, int | None]) -> int:
    """Check what a request says of a tensor, and return the number of elements that it must have.

    Args:
        name: of the tensor.
        datatype: of it.
        shape: of it.
        rows: least and largest first dimension; None: any.

    Raises:
        UsageError: there is no such datatype, the shape makes no sense, or the name is endless.
    """
    if len(name) > _MAX_NAME:
        raise UsageError(
            f"input {name[:32] + '…'!r}: its name has {len(name)} characters; allowed are {_MAX_NAME}"
        )
    if datatype not in NUMBERS and datatype != "BYTES":
        instead = ": send FP32" if datatype == "BF16" else ""
        raise UsageError(
            f"input {name!r}: datatype {datatype!r} is not supported{instead}; "
            f"allowed are {', '.join(NUMBERS)} and BYTES"
        )
    if not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise UsageError(f"input {name!r}: has {len(shape)} dimensions; allowed are 1 and {_MAX_DIMENSIONS}")
    least, most = rows
    if shape[0] < least or min(shape[1:], default=1) < 1:
        raise UsageError(f"input {name!r}: shape {list(shape)}; every size must be at least 1")
    if most is not None and shape[0] > most:
        raise UsageError(f"input {name!r}: shape {list(shape)}; allowed are at most {most} rows")
    return math.prod(shape)


def raw_values(name: str, datatype: str, elements: int, data: bytes) -> npt.NDArray[Any] | ByteStrings:
    """Return the elements of raw contents; numbers share the memory of `data`.

    Raises:
        UsageError: they do not fit the number of elements.
    """
    if datatype == "BYTES":
        return from_length_prefixed(data, elements, f"input {name!r}")
    dtype = NUMBERS[datatype]
    if len(data) != elements * dtype.itemsize:
        raise UsageError(
            f"input {name!r}: has {len(data)} bytes; its shape and {datatype} need {elements * dtype.itemsize}"
        )
    if datatype == "BOOL":
        return np.not_equal(np.frombuffer(data, np.uint8), 0)
    return np.frombuffer(data, dtype)


def typed_values(
    name: str, datatype: str, elements: int, field: Sequence[Any]
) -> npt.NDArray[Any] | ByteStrings:
    """Return the elements of typed contents.

    Args:
        name: of the tensor.
        datatype: of it.
        elements: that it must have.
        field: of the contents, the one for the datatype (`TYPED_FIELDS`).

    Raises:
        UsageError: there are fewer elements, or more, or they are too large for the datatype.
    """
    if len(field) != elements:
        raise UsageError(f"input {name!r}: has {len(field)} elements; its shape needs {elements}")
    if datatype == "BYTES":
        return _joined(field)
    dtype = NUMBERS[datatype]
    if dtype.kind not in "iu":
        return np.array(field, dtype)
    wide = np.array(field, np.uint64 if dtype.kind == "u" else np.int64)
    bounds = np.iinfo(dtype)
    if elements and (wide.min() < bounds.min or wide.max() > bounds.max):
        raise UsageError(
            f"input {name!r}: holds numbers beyond {datatype}, which is from {bounds.min} to {bounds.max}"
        )
    return wide.astype(dtype)


def _joined(strings: Iterable[bytes]) -> ByteStrings:
    """Return byte strings one behind the other; there may be millions of them."""
    found = list(strings)
    ptr = np.zeros(len(found) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, found), np.int64, len(found)), out=ptr[1:])
    return ByteStrings(np.frombuffer(b"".join(found), np.uint8), ptr)


# ---- what becomes of them --------------------------------------------------------------------------------


def column_of(tensor: Tensor) -> pa.Array:
    """Return a tensor as a data column: one value for each row, or a list of the second dimension's size.

    Raises:
        UsageError: a string is not UTF-8.
    """
    import pyarrow as pa

    values = tensor.values
    if isinstance(values, ByteStrings):
        array = _strings(values, tensor.name)
    else:
        # Arrow does little with 16-bit floats.
        array = pa.array(values.astype(np.float64) if tensor.datatype == "FP16" else values)
    if len(tensor.shape) == 1:
        return array
    return pa.FixedSizeListArray.from_arrays(array, tensor.shape[1])


def numbers_of(tensor: Tensor, *datatypes: str) -> npt.NDArray[Any]:
    """Return the numbers of a tensor with one number in each row, of one of these datatypes.

    Raises:
        UsageError: it is not.
    """
    values = tensor.values
    if tensor.datatype not in datatypes or isinstance(values, ByteStrings) or len(values) != tensor.rows:
        raise UsageError(
            f"input {tensor.name!r}: found {tensor.datatype} of shape {list(tensor.shape)}; allowed: "
            f"{' and '.join(datatypes)} with one number in each row"
        )
    return values


def finite_numbers(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Return a tensor of FP64 or FP32 with one number in each row as float64.

    Raises:
        UsageError: it is another one, or holds NaN or infinity.
    """
    numbers = numbers_of(tensor, "FP64", "FP32").astype(np.float64, copy=False)
    if not np.isfinite(numbers).all():
        element = int(np.argmin(np.isfinite(numbers)))
        raise UsageError(
            f"input {tensor.name!r}: element {element} is {numbers[element]}; allowed: finite numbers"
        )
    return numbers


def check_utf8(strings: ByteStrings, name: str) -> None:
    """Check that every string is UTF-8 by itself.

    Raises:
        UsageError: one is not.
    """
    if strings.data.max(initial=0) >= 0x80:  # else it is ASCII
        _strings(strings, name)


def _strings(strings: ByteStrings, name: str) -> pa.Array:
    """Return strings as an Arrow array that shares their memory."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(strings.ptr), pa.py_buffer(strings.data)]
    array = pa.Array.from_buffers(pa.large_string(), len(strings), buffers)
    if strings.data.max(initial=0) >= 0x80:
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            raise UsageError(f"input {name!r}: string {_first_broken(strings)} is not UTF-8") from error
    return array


def _first_broken(strings: ByteStrings) -> int:
    """Return the first string that is not UTF-8 by itself; there MUST be one."""
    ptr = strings.ptr
    try:
        strings.data.tobytes().decode()
        place = len(strings.data)
    except UnicodeDecodeError as error:
        place = error.start
    begins = ptr[:-1][ptr[:-1] < ptr[1:]]
    inside = begins[(strings.data[begins] & 0xC0) == 0x80]
    if len(inside) and inside[0] < place:  # a character that is whole, but in two strings
        place = int(inside[0]) - 1
    return int(np.searchsorted(ptr, place, "right")) - 1
