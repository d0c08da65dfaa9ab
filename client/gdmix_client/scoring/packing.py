"""Numbers and entity ids as the little-endian bytes that the columnar form carries.

Only what would be sent wrongly is refused here (a number that does not fit, lengths that belong to another
request); what the model makes of the numbers is for the scorer to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_client.scoring.requests import EntityIds, PackedIds
from gdmix_core.errors import UsageError

_INT32: Final = np.iinfo(np.int32)


def packed_int32(values: npt.ArrayLike, where: str) -> bytes:
    """Return integers as int32.

    Raises:
        UsageError: they are not one row of integers of 32 bits.
    """
    array = np.asarray(values)
    if array.ndim == 1 and array.size == 0:
        return b""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: found {_described(array)}; allowed are one-dimensional arrays of integers"
        )
    if array.dtype.itemsize >= 4 and array.dtype != np.int32:
        low, high = int(array.min()), int(array.max())
        if low < _INT32.min or high > _INT32.max:
            found = low if low < _INT32.min else high
            raise UsageError(f"{where}: found {found}; allowed are integers of 32 bits")
    return array.astype("<i4", copy=False).tobytes()


def packed_float64(values: npt.ArrayLike, where: str) -> bytes:
    """Return numbers as float64.

    Raises:
        UsageError: they are not one row of numbers.
    """
    array = np.asarray(values)
    _check_numbers(array, where)
    return array.astype("<f8", copy=False).tobytes()


def packed_values(values: npt.ArrayLike, where: str) -> tuple[bytes, bool]:
    """Return numbers as they are when they are float32, else as float64; and whether they are float32.

    Raises:
        UsageError: they are not one row of numbers.
    """
    array = np.asarray(values)
    _check_numbers(array, where)
    single = array.dtype == np.float32
    return array.astype("<f4" if single else "<f8", copy=False).tobytes(), single


def pack_ids(ids: Sequence[str | int | None] | npt.NDArray[Any]) -> PackedIds:
    """Pack entity ids; callers that ask for the same entities again and again may keep the result.

    Args:
        ids: text, integers (sent in decimal), or None and "" for no entity.

    Raises:
        UsageError: one of them is something else.
    """
    return _pack(ids, "ids")


def packed_ids(column: str, ids: EntityIds, candidates: int) -> tuple[bytes, bytes, bool]:
    """Return a column's ids, their offsets as int32, and whether one id holds for all candidates.

    Raises:
        UsageError: they are no ids, or not as many as candidates.
    """
    where = f"entities[{column!r}]"
    if isinstance(ids, str | int | np.integer):
        return _one_id(ids, where), b"", True
    packed = ids if isinstance(ids, PackedIds) else _pack(ids, where)
    count = len(packed.offsets) - 1
    if count != candidates:
        raise UsageError(f"{where}: found {count} ids; there are {candidates} candidates")
    return packed.ids, packed_int32(packed.offsets, f"{where}.offsets"), False


def _pack(ids: Sequence[str | int | None] | npt.NDArray[Any], where: str) -> PackedIds:
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iuS":
        return _pack_array(ids)
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if isinstance(ids, bytes) or not isinstance(ids, Sequence):
        raise UsageError(f"{where}: found {ids!r}; allowed are text and integers, and sequences of them")
    parts = [b"" if each is None else _one_id(each, f"{where}[{i}]") for i, each in enumerate(ids)]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return PackedIds(b"".join(parts), offsets)


def _pack_array(ids: npt.NDArray[Any]) -> PackedIds:
    """Pack integers or byte strings without a Python object for each."""
    texts = np.ascontiguousarray(ids if ids.dtype.kind == "S" else ids.astype("S21"))
    letters = texts.view(np.uint8).reshape(len(texts), -1) if texts.size else np.zeros((0, 1), np.uint8)
    there = letters != 0  # numpy pads with zeros, which no id holds
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(there.sum(axis=1), out=offsets[1:])
    return PackedIds(letters[there].tobytes(), offsets)


def _one_id(found: object, where: str) -> bytes:
    if isinstance(found, str):
        try:
            return found.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where}: found {found!r}; allowed is text that UTF-8 can hold") from error
    if isinstance(found, int | np.integer) and not isinstance(found, bool):
        return b"%d" % int(found)
    raise UsageError(f"{where}: found {found!r}; allowed are text and integers")


def _check_numbers(array: npt.NDArray[Any], where: str) -> None:
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise UsageError(f"{where}: found {_described(array)}; allowed are one-dimensional arrays of numbers")


def _described(array: npt.NDArray[Any]) -> str:
    return f"{array.ndim} dimensions of {array.dtype}" if array.ndim != 1 else f"an array of {array.dtype}"
