"""Rows as arrays of codes and numbers, and batches of them as the network takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
Batch: TypeAlias = dict[str, npt.NDArray[Any]]

_WIDTH_STEP: Final = 4
"""Texts of a batch are padded to a multiple of this: few shapes, which TensorFlow prepares for one by one."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A text column: its distinct texts, and which one each row has.

    Attributes:
        ptr: int64[texts + 1].
        codes: int32, text i is `codes[ptr[i]:ptr[i + 1]]`.
        row_text: int64[rows].
    """

    ptr: Int64Array
    codes: Int32Array
    row_text: Int64Array

    def batch(self, order: Int64Array, min_len: int) -> tuple[Int32Array, Int32Array]:
        """Return the texts of some rows, int32[texts, length] padded with 0, and each row's text, int32[rows]."""
        distinct, row_text = np.unique(self.row_text[order], return_inverse=True)
        start = self.ptr[distinct]
        lengths = self.ptr[distinct + 1] - start
        longest = max(int(lengths.max(initial=0)), min_len, 1)
        width = -(-longest // _WIDTH_STEP) * _WIDTH_STEP
        codes = np.zeros((len(distinct), width), np.int32)
        codes[np.arange(width) < lengths[:, None]] = self.codes[ranges(start, lengths)]
        return codes, row_text.astype(np.int32)


@dataclass(frozen=True, slots=True)
class Bags:
    """Weighted codes of each row: one category, a list of them, a sparse vector.

    Attributes:
        ptr: int64[rows + 1].
        codes: int32, those of row i are `codes[ptr[i]:ptr[i + 1]]`.
        values: float32, their weights.
    """

    ptr: Int64Array
    codes: Int32Array
    values: Float32Array

    def batch(self, order: Int64Array) -> tuple[Int32Array, Float32Array, Int32Array]:
        """Return codes, weights and place in `order` of the entries of some rows."""
        start = self.ptr[order]
        lengths = self.ptr[order + 1] - start
        entries = ranges(start, lengths)
        return (
            self.codes[entries],
            self.values[entries],
            np.repeat(np.arange(len(order)), lengths).astype("i4"),
        )


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Some rows.

    Attributes:
        texts: the text columns.
        numbers: float32[rows, numbers].
        bags: categories, then sparse vectors.
        min_len: what texts are padded to at least.
    """

    texts: tuple[Texts, ...]
    numbers: Float32Array
    bags: tuple[Bags, ...]
    min_len: int

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, order: Int64Array) -> Batch:
        """Return the network's inputs for some rows, in this order."""
        inputs: Batch = {"numbers": self.numbers[order]}
        for i, text in enumerate(self.texts):
            inputs[f"text_{i}"], inputs[f"text_{i}_row"] = text.batch(order, self.min_len)
        for i, bag in enumerate(self.bags):
            inputs[f"bag_{i}"], inputs[f"bag_{i}_value"], inputs[f"bag_{i}_row"] = bag.batch(order)
        return inputs


def ranges(start: Int64Array, lengths: Int64Array) -> Int64Array:
    """Return start[0], start[0] + 1, ..., start[0] + lengths[0] - 1, start[1], ..."""
    end = np.cumsum(lengths)
    return np.repeat(start - end + lengths, lengths) + np.arange(end[-1] if len(end) else 0)
