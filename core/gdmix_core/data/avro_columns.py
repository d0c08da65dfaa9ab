"""What the fields of an Avro schema are as columns: their names and the forms of their values.

    int, long            int64               boolean             bool
    float, double        float64             string, bytes, enum string
    array of those       list                map of those        a column `<map>.<key>` for each key
    array of records with name, term, value  list<struct<name, term, value>>
    record               columns `<record>.<field>`

A union with null makes no difference, every column is nullable. Several number types are float64 together; numbers
and strings together are what the file's first block makes of them (`Mixed`). Anything else is `Unsupported`: it
has a name, so that asking for it can be answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pyarrow as pa

from gdmix_core.data.avro_schema import (
    Array,
    AvroSchema,
    AvroType,
    Enum,
    Map,
    Primitive,
    Record,
    type_name,
)
from gdmix_core.errors import DataError

Kind: TypeAlias = Literal["null", "int64", "float64", "bool", "string"]

ARROW_TYPES: Final[dict[Kind, pa.DataType]] = {
    "null": pa.null(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
NAME_TERM_VALUE: Final = pa.struct([("name", pa.string()), ("term", pa.string()), ("value", pa.float64())])
SPARSE_VECTOR: Final = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])

_MOST_COLUMNS: Final = 20_000
_MOST_NESTED: Final = 32
_PRIMITIVE_KINDS: Final[dict[str, Kind]] = {
    "boolean": "bool",
    "int": "int64",
    "long": "int64",
    "float": "float64",
    "double": "float64",
    "bytes": "string",
    "string": "string",
}


@dataclass(frozen=True, slots=True)
class Single:
    """One value a row."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Mixed:
    """Numbers (of this kind) and strings: which of them is for the file's values to tell."""

    number: Kind


@dataclass(frozen=True, slots=True)
class Items:
    """A list of values a row."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class NameTermValueBag:
    """A list of features a row, as Photon-ML writes them."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A map: a value a row for each key."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Values that cannot become a column."""

    avro_type: str


Form: TypeAlias = Single | Mixed | Items | NameTermValueBag | Keyed | Unsupported


def column_forms(schema: AvroSchema) -> dict[str, Form]:
    """Return the form of each field by its name, those of nested records as `outer.inner`, in file order.

    Raises:
        DataError: The schema has fields beyond number.
    """
    forms: dict[str, Form] = {}
    for name, form in _forms(schema, schema.root, "", frozenset()):
        if name in forms:
            raise DataError(f"column {name!r} stands more than once in the schema")
        if len(forms) == _MOST_COLUMNS:
            raise DataError(f"the schema has more than {_MOST_COLUMNS} columns")
        forms[name] = form
    return forms


def sparse_pairs(forms: dict[str, Form]) -> dict[str, tuple[str, str]]:
    """Return the columns `<bag>` that a pair `<bag>_indices`, `<bag>_values` makes, with the names of both."""
    pairs: dict[str, tuple[str, str]] = {}
    for indices, form in forms.items():
        bag = indices.removesuffix("_indices")
        values = f"{bag}_values"
        if bag != indices and bag and bag not in forms and form == Items("int64"):
            other = forms.get(values)
            if isinstance(other, Items) and other.kind in {"int64", "float64"}:
                pairs[bag] = (indices, values)
    return pairs


def arrow_type(form: Form) -> pa.DataType:
    """Return the Arrow type of a column; for one that cannot be read an opaque type that names Avro's."""
    match form:
        case Single():
            return ARROW_TYPES[form.kind]
        case Items():
            return pa.list_(ARROW_TYPES[form.kind])
        case NameTermValueBag():
            return pa.list_(NAME_TERM_VALUE)
        case Unsupported():
            return pa.opaque(pa.null(), form.avro_type, "avro")
        case Mixed() | Keyed():
            return pa.null()


def scalar_kind(schema: AvroSchema, kind: AvroType) -> Kind | Mixed | None:
    """Return what values of a type (or union) are, `Mixed` for numbers with strings, None for anything else."""
    kinds: set[Kind] = set()
    for branch in schema.branches(kind):
        if isinstance(branch, Enum):
            kinds.add("string")
        elif not isinstance(branch, Primitive) or branch.decimal:
            return None
        elif branch.name != "null":
            kinds.add(_PRIMITIVE_KINDS[branch.name])
    if not kinds:
        return "null"
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {"int64", "float64"}:
        return "float64"
    if "bool" in kinds:
        return None
    return Mixed("float64" if "float64" in kinds else "int64")


def _forms(
    schema: AvroSchema, record: Record, prefix: str, around: frozenset[str]
) -> Iterator[tuple[str, Form]]:
    """Yield the columns of a record; those inside of itself, or of records without end, are not followed."""
    around |= {record.name}
    for field, kind in record.fields:
        name = prefix + field
        values = [branch for branch in schema.branches(kind) if branch != Primitive("null")]
        only = values[0] if len(values) == 1 else None
        nested = isinstance(only, Record) and only.fields and only.name not in around
        if isinstance(only, Record) and nested and len(around) <= _MOST_NESTED:
            yield from _forms(schema, only, f"{name}.", around)
        else:
            yield name, _form(schema, kind, only)


def _form(schema: AvroSchema, kind: AvroType, only: AvroType | None) -> Form:
    scalar = scalar_kind(schema, kind)
    if isinstance(scalar, Mixed):
        return scalar
    if scalar is not None:
        return Single(scalar)
    if isinstance(only, Array):
        items = scalar_kind(schema, only.items)
        if isinstance(items, str) and items != "null":
            return Items(items)
        item = schema.resolved(only.items)
        if isinstance(item, Record) and _is_name_term_value(schema, item.fields):
            return NameTermValueBag()
    if isinstance(only, Map):
        values = scalar_kind(schema, only.values)
        if isinstance(values, str) and values != "null":
            return Keyed(values)
    return Unsupported(type_name(kind))


def _is_name_term_value(schema: AvroSchema, fields: Iterable[tuple[str, AvroType]]) -> bool:
    kinds = {name: scalar_kind(schema, kind) for name, kind in fields}
    return (
        kinds.get("name") == "string"
        and kinds.get("term") in {"string", "null"}
        and kinds.get("value") in {"int64", "float64"}
    )
