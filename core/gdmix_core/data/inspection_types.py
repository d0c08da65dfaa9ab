"""Which Arrow types fit which use of a column, and what is said about those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from gdmix_core.config import FeatureColumn, FeatureKind
from gdmix_core.data.arrow_strings import is_list, is_number, is_text
from gdmix_core.data.input_files import Use
from gdmix_core.data.inspection_files import InputFile
from gdmix_core.data.readers import USE_OF_INPUT, entity_columns, input_columns, number_columns
from gdmix_core.tasks import EncodingSpec, Role

_ALLOWED: Final[dict[Use, str]] = {
    "uid": "integers",
    "number": "numbers and booleans",
    "entity": "strings and integers",
    "categorical": "strings, integers and booleans",
    "list": "lists of strings, integers or booleans, or strings with a separator",
    "text": "strings",
    "vector": "lists of numbers, or structs of indices (a list of integers) and values (a list of numbers)",
    "name_term_value": "lists of records with the fields name, term and value",
}


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What a file tells without being read.

    Attributes:
        file: Its path and format.
        role: Which data set it belongs to.
        source: Which source.
        types: Column types; of a text file, those that its first block suggests.
        duplicates: Column names that stand more than once.
        row_groups: Rows of each row group; of a text file, the rows of its first block.
        flawed_numbers: Text columns that look like numbers with a few mistakes: those are better named by
            their rows, on reading, than called a wrong type.
        dimensions: Lengths of vector columns, where the file's description gives them.
    """

    file: InputFile
    role: Role
    source: str
    types: Mapping[str, pa.DataType]
    duplicates: tuple[str, ...]
    row_groups: tuple[int, ...]
    flawed_numbers: frozenset[str] = frozenset()
    dimensions: Mapping[str, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The file's path."""
        return self.file.path


def kind_of_type(kind: pa.DataType) -> FeatureKind | None:
    """Return what `auto` means for a column of an Arrow type; None when it cannot be told."""
    if pa.types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if is_number(kind):
        return "numeric"
    if is_text(kind) or pa.types.is_boolean(kind):
        return "categorical"
    if _is_name_term_value(kind):
        return "name_term_value"
    if is_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "vector"
        return "list" if is_text(kind.value_type) or pa.types.is_integer(kind.value_type) else None
    if pa.types.is_struct(kind) and kind.get_field_index("indices") >= 0 <= kind.get_field_index("values"):
        return "vector"
    return None


def type_problems(
    description: FileDescription, encoding: EncodingSpec, elsewhere: frozenset[str]
) -> list[str]:
    """Return what is wrong with the columns of one file; `elsewhere` are the columns of all of its source's."""
    source = description.source
    wanted: list[tuple[str, str, Use, FeatureColumn | None]] = [
        (encoding.uid_column(source), "columns.uid", "uid", None)
    ]
    for role, name in number_columns(encoding, source).items():
        wanted.append((name, role if role == "score" else f"columns.{role}", "number", None))
    wanted += [(name, "entity id", "entity", None) for name in entity_columns(encoding, source)]
    for item in encoding.columns:
        if item.source == source:
            kind = item.column.kind
            use: Use = "number" if kind in {"numeric", "auto"} else kind  # type: ignore[assignment]
            wanted.append((item.column.column, f"features.{item.bag}, kind {kind}", use, item.column))
    for coordinate, spec in input_columns(encoding, source):
        wanted.append(
            (spec.name, f"coordinates.{coordinate}, kind {spec.kind}", USE_OF_INPUT[spec.kind], None)
        )
    if sum(description.row_groups) == 0 and not description.types:
        return []  # an empty JSON Lines file names no columns
    problems = []
    for name, purpose, use, column in wanted:
        where = f"{description.path}: column {name!r} ({purpose})"
        if name in description.duplicates:
            problems.append(f"{where} stands more than once in the file")
        elif name not in description.types:
            if description.file.format in {"jsonl", "avro"} and name in elsewhere:
                continue  # a key (of an Avro map) that is absent is null, unless no file has it
            problems.append(f"{where} is missing; the file has {_listed(description.types)}")
        elif use in {"uid", "number"} and name in description.flawed_numbers:
            continue
        elif column is None or column.kind != "auto":
            found = _misfit(description, description.types[name], use, column)
            if found:
                problems.append(f"{where}: {found}")
    return problems


def _listed(names: Mapping[str, object]) -> str:
    shown = list(names)[:20]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _misfit(
    description: FileDescription, kind: pa.DataType, use: Use, column: FeatureColumn | None
) -> str | None:
    """Say why a column of this type cannot be put to this use; None when it can."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if description.file.format == "csv":
        return _csv_misfit(kind, use, column)
    separator = column.separator if column is not None else None
    fits = {
        "uid": pa.types.is_integer(kind),
        "number": is_number(kind) or pa.types.is_boolean(kind),
        "entity": is_text(kind) or pa.types.is_integer(kind),
        "categorical": is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind),
        "list": (is_text(kind) and separator is not None) or _is_term_list(kind),
        "text": is_text(kind),
        "vector": _is_vector(kind),
        "name_term_value": _is_name_term_value(kind),
    }
    if not fits[use]:
        return f"found type {kind}; allowed: {_ALLOWED[use]}"
    if use == "vector" and column is not None:
        return _dimension_misfit(kind, column, column.column in description.dimensions)
    return None


def _csv_misfit(kind: pa.DataType, use: Use, column: FeatureColumn | None) -> str | None:
    if use == "uid" and not pa.types.is_integer(kind):
        return f"found {_in_words(kind)}; allowed: {_ALLOWED['uid']}"
    if use == "number" and is_text(kind):
        return f"found text; allowed: {_ALLOWED['number']}"
    if use == "entity" and pa.types.is_floating(kind):
        return "found numbers with fractions; allowed: strings and integers (write ids without `.0`)"
    if use == "list" and (column is None or column.separator is None):
        return "a list in a CSV file needs a separator"
    if use in {"vector", "name_term_value"}:
        return "a CSV file cannot hold vectors; use Parquet or JSON Lines"
    return None


def _in_words(kind: pa.DataType) -> str:
    return "text" if is_text(kind) else "booleans" if pa.types.is_boolean(kind) else "numbers with fractions"


def _is_term_list(kind: pa.DataType) -> bool:
    if not is_list(kind):
        return False
    item = kind.value_type
    return bool(
        is_text(item) or pa.types.is_integer(item) or pa.types.is_boolean(item) or pa.types.is_null(item)
    )


def _is_vector(kind: pa.DataType) -> bool:
    if is_list(kind):
        return is_number(kind.value_type) or pa.types.is_null(kind.value_type)
    if not pa.types.is_struct(kind):
        return False
    places = [kind.get_field_index(name) for name in ("indices", "values")]
    if min(places) < 0:
        return False
    indices, values = (kind.field(place).type for place in places)
    return bool(
        is_list(indices)
        and (pa.types.is_integer(indices.value_type) or pa.types.is_null(indices.value_type))
        and is_list(values)
        and (is_number(values.value_type) or pa.types.is_null(values.value_type))
    )


def _is_name_term_value(kind: pa.DataType) -> bool:
    if not (is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    item = kind.value_type
    places = [item.get_field_index(name) for name in ("name", "term", "value")]
    if min(places) < 0:
        return False
    name, term, value = (item.field(place).type for place in places)
    return is_text(name) and (is_text(term) or pa.types.is_null(term)) and is_number(value)


def _dimension_misfit(kind: pa.DataType, column: FeatureColumn, declared: bool) -> str | None:
    known = column.dimension is not None or column.names is not None or declared
    if pa.types.is_struct(kind) and not known:
        return "a sparse vector needs a dimension"
    fixed = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    if fixed is not None and column.dimension is not None and fixed != column.dimension:
        return f"found vectors of {fixed} numbers; the config says dimension {column.dimension}"
    return None
