"""What an Avro program is: its operations, how running it may end, and where it puts the values of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.avro_columns import Kind

Int64Array: TypeAlias = npt.NDArray[np.int64]

# Operations up to PUT append the word to slot a.
LONG: Final = 0
LONG_AS_FLOAT: Final = 1
FLOAT: Final = 2
DOUBLE: Final = 3
BOOLEAN: Final = 4
BYTES: Final = 5
ENUM: Final = 6  # b: where table holds the number of symbols, then their places in the constants
PUT: Final = 7  # the word b
NULL: Final = 8  # a null into slot a
SKIP: Final = 9  # a bytes
SKIP_LONG: Final = 10
SKIP_BYTES: Final = 11
BRANCH: Final = 12  # table[a + i] is the instruction of branch i out of b
LOOP: Final = 13  # begin an array or map
CALL: Final = 14  # subroutine a
ITEM: Final = 15  # the next item of a loop; behind the last go to a, its length into slot b unless b < 0
SKIP_ITEM: Final = 16  # the same, jumping over what can be; b = 1: items have no bytes
KEY: Final = 17  # table[a:a + 3 b]: place of a key, its slot, the instruction that follows it
RETURN: Final = 18
MISMATCH: Final = 19  # a value that slot a cannot hold
END: Final = 20

# Results of a run.
DONE: Final = 0
TRUNCATED: Final = 1
OVERFLOW: Final = 2
BAD_LENGTH: Final = 3
BAD_BRANCH: Final = 4
BAD_SYMBOL: Final = 5
BAD_BOOLEAN: Final = 6
TOO_DEEP: Final = 7
LEFT_OVER: Final = 8
MISMATCHED: Final = 9


@dataclass(frozen=True, slots=True)
class SingleSlot:
    """Where a column of single values is found."""

    values: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class ItemSlots:
    """Where a column of lists is found."""

    lengths: int
    items: SingleSlot


@dataclass(frozen=True, slots=True)
class BagSlots:
    """Where a column of name-term-value lists is found."""

    lengths: int
    name: SingleSlot
    term: SingleSlot
    value: SingleSlot


Slots: TypeAlias = SingleSlot | ItemSlots | BagSlots


@dataclass(frozen=True, slots=True)
class Program:
    """What the decoder runs.

    Attributes:
        code: int64[n, 4], read-only.
        table: int64, read-only: what instructions refer to.
        constants: Bytes that stand before the first block's: enum symbols and map keys.
        entry: The first instruction of a row.
        slot_columns: For each slot its column.
        columns: Where each wanted column is found.
    """

    code: Int64Array
    table: Int64Array
    constants: bytes
    entry: int
    slot_columns: tuple[str, ...]
    columns: dict[str, Slots]
