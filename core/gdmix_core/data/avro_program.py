"""From a schema and the wanted columns to the program that `avro_decoder` runs once for each row.

An instruction is four numbers: (operation, a, b, next). The wanted values of a row go into *slots*, a growing list
of 64-bit words each: an integer, the bits of a float, the place and length of a string, the length of a list.
Programs are made back to front: each `_..._code` method takes the instruction that follows and returns the first
of its own. What is not wanted is skipped by subroutines, one for each named type, so that types may hold themselves
and a program never becomes larger than its schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np

from gdmix_core.compiled import kernel_input
from gdmix_core.data.avro_columns import Form, Items, Kind, NameTermValueBag, Single
from gdmix_core.data.avro_operations import (
    BOOLEAN,
    BRANCH,
    BYTES,
    CALL,
    DOUBLE,
    END,
    ENUM,
    FLOAT,
    ITEM,
    KEY,
    LONG,
    LONG_AS_FLOAT,
    LOOP,
    MISMATCH,
    NULL,
    PUT,
    RETURN,
    SKIP,
    SKIP_BYTES,
    SKIP_ITEM,
    SKIP_LONG,
    BagSlots,
    ItemSlots,
    Program,
    SingleSlot,
    Slots,
)
from gdmix_core.data.avro_schema import (
    Array,
    AvroSchema,
    AvroType,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Reference,
    Union,
)
from gdmix_core.errors import DataError, InternalError

NUMBER_WORD: Final = 1
TEXT_WORD: Final = 2


@dataclass(frozen=True, slots=True)
class Keys:
    """The wanted form of a map: all its keys, as a list of strings."""


@dataclass(frozen=True, slots=True)
class Families:
    """The wanted form of a union of numbers and strings: `NUMBER_WORD`, `TEXT_WORD` or 0 for null."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column to be read.

    Attributes:
        name: The column.
        field: The schema's field in which it lies; the same unless it is a key of a map.
        form: What is made of it.
        key: The key of the map.
    """

    name: str
    field: str
    form: Form | Keys | Families
    key: str | None = None


def make_program(schema: AvroSchema, wanted: Sequence[Wanted]) -> Program:
    """Make the program that reads columns; none of them may be unsupported.

    Raises:
        DataError: The schema is nested too deeply.
    """
    maker = _Maker(schema)
    try:
        return maker.make(wanted)
    except RecursionError as error:
        raise DataError("the schema's records are nested too deeply") from error


@dataclass(slots=True)
class _Maker:
    schema: AvroSchema
    code: list[list[int]] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    slot_columns: list[str] = field(default_factory=list)
    columns: dict[str, Slots] = field(default_factory=dict)
    wanted: dict[str, list[Wanted]] = field(default_factory=dict)
    inside: dict[str, list[Wanted]] = field(default_factory=dict)
    calls: list[tuple[int, Record]] = field(default_factory=list)
    empty: dict[str, bool] = field(default_factory=dict)
    symbol_tables: dict[str, int] = field(default_factory=dict)

    def make(self, wanted: Sequence[Wanted]) -> Program:
        for column in wanted:
            self.columns[column.name] = self._slots(column)
        ordered = sorted(wanted, key=lambda column: column.field)
        self.wanted = {path: list(group) for path, group in groupby(ordered, lambda column: column.field)}
        for path, group in self.wanted.items():
            parts = path.split(".")
            for length in range(1, len(parts)):
                self.inside.setdefault(".".join(parts[:length]), []).extend(group)
        entry = self._record_code(self.schema.root, "", self._add(END))
        self._subroutines()
        return Program(
            kernel_input(np.array(self.code, np.int64), np.int64),
            kernel_input(np.array(self.table, np.int64), np.int64),
            bytes(self.constants),
            entry,
            tuple(self.slot_columns),
            self.columns,
        )

    # ---- slots and instructions

    def _slot(self, column: str, kind: Kind) -> SingleSlot:
        self.slot_columns.append(column)
        return SingleSlot(len(self.slot_columns) - 1, kind)

    def _slots(self, column: Wanted) -> Slots:
        name = column.name
        match column.form:
            case Single():
                return self._slot(name, column.form.kind)
            case Families():
                return self._slot(name, "int64")
            case Items():
                return ItemSlots(self._slot(name, "int64").values, self._slot(name, column.form.kind))
            case Keys():
                return ItemSlots(self._slot(name, "int64").values, self._slot(name, "string"))
            case NameTermValueBag():
                return BagSlots(
                    self._slot(name, "int64").values,
                    name=self._slot(name, "string"),
                    term=self._slot(name, "string"),
                    value=self._slot(name, "float64"),
                )
            case _:
                raise InternalError(f"column {name!r} of form {column.form} cannot be read")

    def _add(self, operation: int, a: int = 0, b: int = 0, then: int = 0) -> int:
        self.code.append([operation, a, b, then])
        return len(self.code) - 1

    def _constant(self, text: str) -> int:
        encoded = text.encode()
        place = len(self.constants) << 32 | len(encoded)
        self.constants += encoded
        return place

    def _branches(self, entries: Iterable[int]) -> int:
        listed = list(entries)
        self.table += listed
        return self._add(BRANCH, len(self.table) - len(listed), len(listed))

    # ---- what is wanted

    def _record_code(self, record: Record, prefix: str, then: int) -> int:
        for name, kind in reversed(record.fields):
            path = prefix + name
            if path in self.wanted or path in self.inside:
                then = self._wanted_code(kind, path, then)
            else:
                then = self._skip_code(kind, then)
        return then

    def _wanted_code(self, kind: AvroType, path: str, then: int) -> int:
        """Return the code for a value in which wanted columns lie."""
        kind = self.schema.resolved(kind)
        columns = self.wanted.get(path, [])
        if columns and isinstance(columns[0].form, Families):
            return self._family_code(kind, self._first_slot(columns[0]), then)
        if isinstance(kind, Union):
            return self._branches([self._wanted_code(branch, path, then) for branch in kind.branches])
        if kind == Primitive("null"):
            for column in [*columns, *self.inside.get(path, [])]:
                then = self._add(NULL, self._first_slot(column), 0, then)
            return then
        if isinstance(kind, Record):
            return self._record_code(kind, f"{path}.", then)
        if isinstance(kind, Map):
            return self._map_code(kind, columns, then)
        slots = self.columns[columns[0].name]
        if isinstance(kind, Array):
            return self._array_code(kind, slots, then)
        if not isinstance(slots, SingleSlot):
            raise InternalError(f"column {columns[0].name!r} is no list in the schema")
        return self._single_code(kind, slots, then)

    def _first_slot(self, column: Wanted) -> int:
        """Return the slot that has one word a row."""
        slots = self.columns[column.name]
        return slots.values if isinstance(slots, SingleSlot) else slots.lengths

    def _family_code(self, kind: AvroType, slot: int, then: int) -> int:
        kind = self.schema.resolved(kind)
        if isinstance(kind, Union):
            return self._branches([self._family_code(branch, slot, then) for branch in kind.branches])
        if kind == Primitive("null"):
            return self._add(PUT, slot, 0, then)
        text = isinstance(kind, Enum) or kind in {Primitive("string"), Primitive("bytes")}
        return self._add(PUT, slot, TEXT_WORD if text else NUMBER_WORD, self._skip_code(kind, then))

    def _single_code(self, kind: AvroType, slot: SingleSlot, then: int) -> int:
        """Return the code for one value; of several types that a union allows, some may not fit the slot."""
        kind = self.schema.resolved(kind)
        if isinstance(kind, Union):
            return self._branches([self._single_code(branch, slot, then) for branch in kind.branches])
        if isinstance(kind, Enum):
            if slot.kind != "string":
                return self._add(MISMATCH, slot.values)
            return self._add(ENUM, slot.values, self._symbols(kind), then)
        if not isinstance(kind, Primitive):
            raise InternalError(f"column {self.slot_columns[slot.values]!r} is no single value")
        operation = _OPERATIONS.get((kind.name, slot.kind), NULL if kind.name == "null" else MISMATCH)
        return self._add(operation, slot.values, 0, then)

    def _symbols(self, enum: Enum) -> int:
        place = self.symbol_tables.get(enum.name)
        if place is None:
            words = [self._constant(symbol) for symbol in enum.symbols]
            place = self.symbol_tables[enum.name] = len(self.table)
            self.table += [len(words), *words]
        return place

    def _array_code(self, array: Array, slots: Slots, then: int) -> int:
        if isinstance(slots, SingleSlot):
            raise InternalError(f"column {self.slot_columns[slots.values]!r} is a list in the schema")
        item = self._add(ITEM, then, slots.lengths)
        if isinstance(slots, ItemSlots):
            self.code[item][3] = self._single_code(array.items, slots.items, item)
        else:
            self.code[item][3] = self._bag_code(self.schema.resolved(array.items), slots, item)
        return self._add(LOOP, 0, 0, item)

    def _bag_code(self, record: AvroType, slots: BagSlots, then: int) -> int:
        if not isinstance(record, Record):
            raise InternalError(f"column {self.slot_columns[slots.lengths]!r} is no list of records")
        parts = {"name": slots.name, "term": slots.term, "value": slots.value}
        for name, kind in reversed(record.fields):
            slot = parts.get(name)
            then = self._skip_code(kind, then) if slot is None else self._single_code(kind, slot, then)
        return then

    def _map_code(self, kind: Map, columns: list[Wanted], then: int) -> int:
        """Return the code for a map: a null for every wanted key, which is replaced when the key comes."""
        item = self._add(ITEM, then, -1)
        if isinstance(columns[0].form, Keys):
            slots = self.columns[columns[0].name]
            if not isinstance(slots, ItemSlots):
                raise InternalError(f"the keys of {columns[0].field!r} are no list")
            self.code[item][2] = slots.lengths
            key = self._add(BYTES, slots.items.values, 0, self._skip_code(kind.values, item))
            self.code[item][3] = key
            return self._add(LOOP, 0, 0, item)
        entries: list[int] = []
        for column in columns:
            slot = self.columns[column.name]
            if not isinstance(slot, SingleSlot) or column.key is None:
                raise InternalError(f"column {column.name!r} is no key of a map")
            entries += [self._constant(column.key), slot.values, self._single_code(kind.values, slot, item)]
        place = len(self.table)
        self.table += entries
        self.code[item][3] = self._add(KEY, place, len(columns), self._skip_code(kind.values, item))
        first = self._add(LOOP, 0, 0, item)
        for column in columns:
            first = self._add(NULL, self._first_slot(column), 0, first)
        return first

    # ---- what is not

    def _skip_code(self, kind: AvroType, then: int) -> int:
        kind = self.schema.resolved(kind)
        match kind:
            case Primitive():
                if kind.name in _WIDTHS:
                    return self._skip_bytes(_WIDTHS[kind.name], then)
                return self._add(SKIP_BYTES if kind.name in {"bytes", "string"} else SKIP_LONG, 0, 0, then)
            case Enum():
                return self._add(SKIP_LONG, 0, 0, then)
            case Fixed():
                return self._skip_bytes(kind.size, then)
            case Union():
                return self._branches([self._skip_code(branch, then) for branch in kind.branches])
            case Array():
                return self._skip_items(kind.items, False, then)
            case Map():
                return self._skip_items(kind.values, True, then)
            case Record():
                self.calls.append((self._add(CALL, 0, 0, then), kind))
                return len(self.code) - 1
            case Reference():
                raise InternalError(f"type {kind.name!r} refers to another name")

    def _skip_bytes(self, width: int, then: int) -> int:
        if width == 0:
            return then
        if self.code[then][0] == SKIP:
            width, then = width + self.code[then][1], self.code[then][3]
        return self._add(SKIP, width, 0, then)

    def _skip_items(self, items: AvroType, keyed: bool, then: int) -> int:
        empty = not keyed and self._is_empty(items)
        item = self._add(SKIP_ITEM, then, int(empty))
        body = self._skip_code(items, item)
        self.code[item][3] = self._add(SKIP_BYTES, 0, 0, body) if keyed else body
        return self._add(LOOP, 0, 0, item)

    def _is_empty(self, kind: AvroType) -> bool:
        """Return whether values of a type have no bytes, so that any number of them could be claimed."""
        kind = self.schema.resolved(kind)
        if isinstance(kind, Record):
            if kind.name not in self.empty:
                self.empty[kind.name] = True
                self.empty[kind.name] = all(self._is_empty(inner) for _, inner in kind.fields)
            return self.empty[kind.name]
        return kind == Primitive("null") or (isinstance(kind, Fixed) and kind.size == 0)

    def _subroutines(self) -> None:
        starts: dict[str, int] = {}
        while self.calls:
            place, record = self.calls.pop()
            if record.name not in starts:
                then = self._add(RETURN)
                for _, inner in reversed(record.fields):
                    then = self._skip_code(inner, then)
                starts[record.name] = then
            self.code[place][1] = starts[record.name]


_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_OPERATIONS: Final[dict[tuple[str, Kind], int]] = {
    ("int", "int64"): LONG,
    ("long", "int64"): LONG,
    ("int", "float64"): LONG_AS_FLOAT,
    ("long", "float64"): LONG_AS_FLOAT,
    ("float", "float64"): FLOAT,
    ("double", "float64"): DOUBLE,
    ("boolean", "bool"): BOOLEAN,
    ("bytes", "string"): BYTES,
    ("string", "string"): BYTES,
}
