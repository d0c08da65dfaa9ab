"""Sparse rows (CSR) as three arrays, and the one operation that the data plane needs on them: moving rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, register_warm_up
from gdmix_core.errors import DataError, InternalError

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

LARGEST_DIMENSION: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SparseRows:
    """N sparse rows; row i holds `values[k]` at feature `indices[k]` for indptr[i] ≤ k < indptr[i + 1].

    Attributes:
        indptr: int64[N + 1], ascending from 0.
        indices: int32[nonzeros], strictly increasing inside a row.
        values: float64[nonzeros].
    """

    indptr: Int64Array
    indices: Int32Array
    values: Float64Array

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> Self:
        """Take them from a segment of an array file."""
        return cls(arrays[f"{prefix}indptr"], arrays[f"{prefix}indices"], arrays[f"{prefix}values"])

    def arrays(self, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
        """Return the three arrays under which an array file keeps them."""
        return {
            f"{prefix}indptr": self.indptr,
            f"{prefix}indices": self.indices,
            f"{prefix}values": self.values,
        }

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.indptr) - 1

    def slice(self, start: int, stop: int) -> SparseRows:
        """Return rows start ≤ i < stop; indices and values are views."""
        indptr = self.indptr[start : stop + 1]
        span = slice(indptr[0], indptr[-1])
        return SparseRows(indptr - indptr[0], self.indices[span], self.values[span])

    def check(self, where: str, rows: int, dimension: int = LARGEST_DIMENSION) -> None:
        """Raise InternalError unless the arrays keep the rules above, for this many rows and features."""
        if self.rows != rows or len(self.indices) != len(self.values) or self.indptr[0] != 0:
            raise InternalError(f"{where}: the arrays of sparse rows do not fit {rows} rows")
        row = _first_bad_row(self.indptr, self.indices, dimension)
        if row >= 0:
            raise InternalError(
                f"{where}: features of row {row} must be strictly increasing, from 0 and below {dimension}"
            )


def place_rows(
    blocks: Sequence[Sequence[SparseRows]],
    destinations: Sequence[Int64Array],
    shifts: Sequence[int],
    rows: int,
) -> SparseRows:
    """Join the rows of several blocks side by side and put them in new places.

    Args:
        blocks: Several sources of rows; each block is one matrix per bag, all of the block's rows.
        destinations: For each block, int64[rows of the block]: the row's place in the result, -1 to drop it.
            Each place is named at most once; places that are not named become empty rows.
        shifts: For each bag what is added to its feature numbers; the shifted bags MUST ascend.
        rows: Rows of the result.
    """
    indptr = np.zeros(rows + 1, np.int64)
    lengths = indptr[1:]
    for block, destination in zip(blocks, destinations, strict=True):
        kept = destination >= 0
        places = destination[kept]
        for matrix in block:
            lengths[places] += (matrix.indptr[1:] - matrix.indptr[:-1])[kept]
    np.cumsum(lengths, out=lengths)
    cursor = indptr[:-1].copy()
    indices = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], np.float64)
    for block, destination in zip(blocks, destinations, strict=True):
        for matrix, shift in zip(block, shifts, strict=True):
            _place(destination, matrix.indptr, matrix.indices, matrix.values, shift, cursor, indices, values)
    return SparseRows(indptr, indices, values)


def bag_shifts(bags: Sequence[str], bag_sizes: Mapping[str, int], intercept: bool) -> tuple[list[int], int]:
    """Return where each bag begins in a coordinate's feature space, and the coordinate's dimension.

    Coefficient 0 is the intercept when there is one, and is never stored in rows; feature j of the
    concatenated bags has number j + 1 then, else j.

    Raises:
        DataError: There are more features than int32 can number.
    """
    shifts = []
    dimension = 1 if intercept else 0
    for bag in bags:
        shifts.append(dimension)
        dimension += bag_sizes[bag]
    if dimension > LARGEST_DIMENSION:
        raise DataError(
            f"the bags {', '.join(bags)} hold {dimension} features together; allowed: {LARGEST_DIMENSION}"
        )
    return shifts, dimension


@compiled
def _place(
    destination: Int64Array,
    indptr: Int64Array,
    indices: Int32Array,
    values: Float64Array,
    shift: int,
    cursor: Int64Array,
    out_indices: Int32Array,
    out_values: Float64Array,
) -> None:
    for i in range(destination.size):
        place = destination[i]
        if place >= 0:
            target = cursor[place]
            for k in range(indptr[i], indptr[i + 1]):
                out_indices[target] = indices[k] + shift
                out_values[target] = values[k]
                target += 1
            cursor[place] = target


@compiled
def _first_bad_row(indptr: Int64Array, indices: Int32Array, dimension: int) -> int:
    for i in range(indptr.size - 1):
        if indptr[i + 1] < indptr[i] or indptr[i + 1] > indices.size:
            return i
        last = -1
        for k in range(indptr[i], indptr[i + 1]):
            if indices[k] <= last or indices[k] >= dimension:
                return i
            last = indices[k]
    return -1 if indptr[-1] == indices.size else indptr.size - 1


def _warm_up() -> None:
    one = SparseRows(np.array([0, 1], np.int64), np.zeros(1, np.int32), np.ones(1))
    one.check("warm-up", 1)
    place_rows([[one]], [np.zeros(1, np.int64)], [1], 1)


register_warm_up("sparse rows", _warm_up)
