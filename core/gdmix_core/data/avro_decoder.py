"""Decoding the rows of Avro blocks: a compiled kernel that runs an `avro_program` once for each row.

Everything is checked against the end of the row's block: no value reaches beyond it, and at the end of its rows a
block has no byte left. Slots have room for so many words; a pass that runs out of it only counts from there on,
and is made again with room enough. Room is kept from batch to batch, so that happens once or twice a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input, register_warm_up
from gdmix_core.data.avro_file import AvroBlock
from gdmix_core.data.avro_kernels import copy_strings, decode_rows
from gdmix_core.data.avro_operations import (
    BAD_BOOLEAN,
    BAD_BRANCH,
    BAD_LENGTH,
    BAD_SYMBOL,
    DONE,
    LEFT_OVER,
    MISMATCHED,
    OVERFLOW,
    TOO_DEEP,
    TRUNCATED,
    Program,
    Slots,
)
from gdmix_core.errors import DataError

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]

BATCH_ROWS: Final = 65_536
BATCH_BYTES: Final = 16 << 20
"""A batch ends with the row that reaches this many bytes, whatever its number of rows."""

_DEEPEST: Final = 1024

_MESSAGES: Final = {
    TRUNCATED: "a value goes beyond the end of its block",
    OVERFLOW: "a number has more than 64 bits",
    BAD_LENGTH: "a length is negative or goes beyond the end of its block",
    BAD_BRANCH: "a union has no branch {detail}",
    BAD_SYMBOL: "an enum has no symbol {detail}",
    BAD_BOOLEAN: "a boolean is {detail}",
    TOO_DEEP: f"values are nested more than {_DEEPEST} levels deep",
}


@dataclass(frozen=True, slots=True)
class SlotWords:
    """The words of a slot over the rows of a batch, and which of them stand for null (None: none does)."""

    words: Int64Array
    null: BoolArray | None


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The slots of a batch of rows; `data` is where strings lie."""

    first_row: int
    rows: int
    data: UInt8Array
    slots: list[SlotWords]


class RowDecoder:
    """Runs a program over blocks; not to be shared between threads.

    Attributes:
        columns: Where the program puts each column.
    """

    columns: Mapping[str, Slots]

    def __init__(self, program: Program) -> None:
        self.columns = program.columns
        self._program = program
        self._capacities = np.full(len(program.slot_columns), 1024, np.int64)
        self._counts = np.zeros((2, len(program.slot_columns)), np.int64)
        self._frames = np.zeros((_DEEPEST, 2), np.int64)
        self._allocate()

    def decode(self, blocks: Sequence[AvroBlock], first_row: int) -> Iterator[DecodedRows]:
        """Decode the rows of blocks, in batches; `first_row` is the first one's number in the file, from 0.

        Raises:
            DataError: The bytes are not what the schema says.
        """
        constants = self._program.constants
        data = kernel_input(
            np.frombuffer(b"".join([constants, *(block.data for block in blocks)]), np.uint8), np.uint8
        )
        ends = np.cumsum([len(block.data) for block in blocks], dtype=np.int64) + len(constants)
        row_ends = np.cumsum([block.rows for block in blocks], dtype=np.int64)
        state = np.array([0, len(constants), 0, 0, 0], np.int64)
        while state[0] < row_ends[-1]:
            start = state.copy()
            result = self._run(data, ends, row_ends, state)
            if result == DONE and (self._counts[0] > self._capacities).any():
                self._capacities = np.maximum(self._capacities, self._counts[0] + (self._counts[0] >> 2))
                self._allocate()
                state[:] = start
                result = self._run(data, ends, row_ends, state)
            if result != DONE:
                raise DataError(self._fault(result, state, first_row, blocks))
            rows = int(state[0] - start[0])
            yield DecodedRows(first_row + int(start[0]), rows, data, self._slots())

    def _allocate(self) -> None:
        self._starts = np.cumsum(self._capacities) - self._capacities
        self._words = np.empty(int(self._capacities.sum()), np.int64)
        self._null = np.zeros(len(self._words), np.uint8)

    def _run(self, data: UInt8Array, ends: Int64Array, row_ends: Int64Array, state: Int64Array) -> int:
        self._counts[:] = 0
        self._null[:] = 0
        code, table, entry = self._program.code, self._program.table, self._program.entry
        stop = min(int(state[0]) + BATCH_ROWS, int(row_ends[-1]))
        bounds = np.array([stop, int(state[1]) + BATCH_BYTES], np.int64)
        return decode_rows(
            code,
            table,
            entry,
            data,
            ends,
            row_ends,
            bounds,
            state,
            self._frames,
            self._capacities,
            self._starts,
            self._counts,
            self._words,
            self._null,
        )

    def _slots(self) -> list[SlotWords]:
        slots: list[SlotWords] = []
        for start, count, nulls in zip(self._starts, *self._counts, strict=True):
            words = self._words[start : start + count].copy()
            slots.append(SlotWords(words, self._null[start : start + count] != 0 if nulls else None))
        return slots

    def _fault(self, result: int, state: Int64Array, first_row: int, blocks: Sequence[AvroBlock]) -> str:
        row, _, block, slot, detail = state.tolist()
        if result == LEFT_OVER:
            return f"block {blocks[block].number} has {detail} bytes left after its {blocks[block].rows} rows"
        number = first_row + row + 1
        if result == MISMATCHED:
            column = self._program.slot_columns[slot]
            return (
                f"column {column!r}: row {number} holds a value of another type than the file's first rows; "
                "allowed: either strings or numbers, in all rows"
            )
        text = _MESSAGES[result].format(detail=detail)
        return f"row {number} (block {blocks[block].number}): {text}"


def strings_at(data: UInt8Array, words: Int64Array) -> tuple[UInt8Array, npt.NDArray[np.int32]]:
    """Return the strings that words point to, one after another, and where each begins (int32[n + 1])."""
    ends = np.zeros(len(words) + 1, np.int64)
    np.cumsum(words & 0xFFFFFFFF, out=ends[1:])
    out = np.empty(ends[-1], np.uint8)
    copy_strings(data, words, out)
    return out, ends.astype(np.int32)


def _warm_up() -> None:
    from gdmix_core.data.avro_columns import Single
    from gdmix_core.data.avro_program import Wanted, make_program
    from gdmix_core.data.avro_schema import AvroSchema

    schema = AvroSchema.parse(b'{"type": "record", "name": "r", "fields": [{"name": "x", "type": "string"}]}')
    decoder = RowDecoder(make_program(schema, [Wanted("x", "x", Single("string"))]))
    for rows in decoder.decode([AvroBlock(1, 1, b"\x02a", stored=2)], 0):
        strings_at(rows.data, rows.slots[0].words)


register_warm_up("avro rows", _warm_up)
