"""An Avro schema as a tree of small types, made from the JSON that a file carries.

Names are resolved as the specification says (https://avro.apache.org/docs/1.12.0/specification/): a named type's
full name holds its namespace, its own or that of the type around it. A type that is used again, perhaps inside
itself, is a `Reference`; `AvroSchema.resolved` looks it up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from gdmix_core.errors import DataError

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_MOST_NESTED: Final = 64


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type without parts; `decimal` marks bytes that are a number."""

    name: str
    decimal: bool = False


@dataclass(frozen=True, slots=True)
class Enum:
    """One of some words."""

    name: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """So many bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Array:
    """Items of one type."""

    items: AvroType


@dataclass(frozen=True, slots=True)
class Map:
    """Values of one type under string keys."""

    values: AvroType


@dataclass(frozen=True, slots=True)
class Union:
    """A value of one of some types."""

    branches: tuple[AvroType, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields, in the order in which they are written."""

    name: str
    fields: tuple[tuple[str, AvroType], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A named type that is defined elsewhere in the schema."""

    name: str


AvroType: TypeAlias = Primitive | Enum | Fixed | Array | Map | Union | Record | Reference


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """A file's schema.

    Attributes:
        root: The type of a row.
        named: All records, enums and fixed types, by full name.
    """

    root: Record
    named: Mapping[str, Record | Enum | Fixed]

    @classmethod
    def parse(cls, text: bytes) -> AvroSchema:
        """Make it from JSON.

        Raises:
            DataError: The text is no Avro schema, or rows are not records.
        """
        parser = _Parser()
        try:
            root = parser.parse(json.loads(text), "", 0)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the schema is not JSON: {error}") from error
        if isinstance(root, Reference):
            raise DataError(f"the schema names a type {root.name!r} that it does not define")
        if not isinstance(root, Record):
            raise DataError(f"rows are of Avro type {type_name(root)}; allowed: records")
        absent = sorted(parser.used - set(parser.named))
        if absent:
            raise DataError(f"the schema names a type {absent[0]!r} that it does not define")
        return cls(root, parser.named)

    def resolved(self, kind: AvroType) -> AvroType:
        """Return the type itself, or the one that a reference means."""
        return self.named[kind.name] if isinstance(kind, Reference) else kind

    def branches(self, kind: AvroType) -> tuple[AvroType, ...]:
        """Return the types that a value may have: those of a union, or the one type."""
        kind = self.resolved(kind)
        if isinstance(kind, Union):
            return tuple(self.resolved(branch) for branch in kind.branches)
        return (kind,)


def type_name(kind: AvroType) -> str:
    """Return a type as messages show it."""
    match kind:
        case Primitive():
            return "decimal" if kind.decimal else kind.name
        case Array():
            return f"array<{type_name(kind.items)}>"
        case Map():
            return f"map<{type_name(kind.values)}>"
        case Union():
            return f"union<{', '.join(type_name(branch) for branch in kind.branches)}>"
        case Record():
            return f"record {kind.name}"
        case Enum():
            return f"enum {kind.name}"
        case Fixed():
            return f"fixed({kind.size})"
        case Reference():
            return kind.name


class _Parser:
    """Turns JSON into types; `used` are the names that were referred to, `named` those defined."""

    def __init__(self) -> None:
        self.named: dict[str, Record | Enum | Fixed] = {}
        self.used: set[str] = set()
        self._open: set[str] = set()

    def parse(self, node: Any, namespace: str, depth: int) -> AvroType:
        if depth > _MOST_NESTED:
            raise DataError(f"the schema is nested more than {_MOST_NESTED} levels deep")
        if isinstance(node, str):
            return self._named(node, namespace)
        if isinstance(node, list):
            return self._union(node, namespace, depth)
        if not isinstance(node, dict):
            raise DataError(f"the schema holds {node!r} where a type should be")
        kind = node.get("type")
        if not isinstance(kind, str):
            return self.parse(kind, namespace, depth + 1)
        if kind == "array":
            return Array(self.parse(node.get("items"), namespace, depth + 1))
        if kind == "map":
            return Map(self.parse(node.get("values"), namespace, depth + 1))
        if kind in {"record", "error", "enum", "fixed"}:
            return self._definition(kind, node, namespace, depth)
        if kind == "bytes":
            return Primitive(kind, decimal=node.get("logicalType") == "decimal")
        return self._named(kind, namespace)

    def _named(self, name: str, namespace: str) -> AvroType:
        if name in PRIMITIVES:
            return Primitive(name)
        full = f"{namespace}.{name}" if namespace and "." not in name else name
        if full not in self.named and full not in self._open and name in self.named:
            full = name
        self.used.add(full)
        return Reference(full)

    def _union(self, node: list[Any], namespace: str, depth: int) -> Union:
        branches = tuple(self.parse(branch, namespace, depth + 1) for branch in node)
        if any(isinstance(branch, Union) for branch in branches):
            raise DataError("the schema holds a union directly inside of a union")
        return Union(branches)

    def _definition(self, kind: str, node: dict[str, Any], namespace: str, depth: int) -> AvroType:
        name = node.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"the schema holds a type {kind} without a name")
        own = node.get("namespace")
        if "." in name:
            full = name
        else:
            space = own if isinstance(own, str) else namespace
            full = f"{space}.{name}" if space else name
        if full in self.named or full in self._open:
            raise DataError(f"the schema defines type {full!r} twice")
        if kind == "enum":
            self.named[full] = Enum(full, _symbols(full, node.get("symbols")))
        elif kind == "fixed":
            self.named[full] = Fixed(full, _size(full, node.get("size")))
        else:
            self._open.add(full)
            self.named[full] = Record(full, self._fields(full, node.get("fields"), depth))
        return self.named[full]

    def _fields(self, record: str, nodes: Any, depth: int) -> tuple[tuple[str, AvroType], ...]:
        if not isinstance(nodes, list):
            raise DataError(f"the schema holds a record {record!r} without fields")
        fields: dict[str, AvroType] = {}
        for node in nodes:
            name = node.get("name") if isinstance(node, dict) else None
            if not isinstance(name, str):
                raise DataError(f"the schema holds a field of record {record!r} without a name")
            if name in fields:
                raise DataError(f"the schema holds field {name!r} of record {record!r} twice")
            fields[name] = self.parse(node.get("type"), record.rpartition(".")[0], depth + 1)
        return tuple(fields.items())


def _symbols(name: str, node: Any) -> tuple[str, ...]:
    if not isinstance(node, list) or not all(isinstance(symbol, str) for symbol in node):
        raise DataError(f"the schema holds an enum {name!r} without symbols")
    return tuple(node)


def _size(name: str, node: Any) -> int:
    if not isinstance(node, int) or not 0 <= node < 1 << 30:
        raise DataError(f"the schema holds a fixed type {name!r} without a size")
    return node
