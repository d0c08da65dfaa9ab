"""Uids and scores of a batch: none missing, none that is not allowed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.data.row_checks import BatchRows, Fault, RowFaults, fault_of, finite_faults, shown
from gdmix_core.data.uploaded_scores.types import UploadedFile

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_UID: Final = "integers from -2^63 to 2^63 - 1"


def checked(
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
