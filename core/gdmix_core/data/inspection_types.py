"""Which Arrow types fit which use of a column, and what is said about those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from gdmix_core.config import DataConfig, FeatureColumn, FeatureKind
from gdmix_core.data.arrow_strings import is_list, is_number, is_text
from gdmix_core.data.input_files import Use
from gdmix_core.data.inspection_files import InputFile
from gdmix_core.tasks import ResolvedColumn, Role

_ALLOWED: Final[dict[Use, str]] = {
    "uid": "integers",
    "number": "numbers and booleans",
    "entity": "strings and integers",
    "categorical": "strings, integers and booleans",
    "list": "lists of strings, integers or booleans, or strings with a separator",
    "text": "strings",
    "vector": "lists of numbers, or structs of indices (a list of integers) and values (a list of numbers)",
}


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What a file tells without being read.

    Attributes:
        file: Its path and format.
        role: Which data set it belongs to.
        types: Column types; of a text file, those that its first block suggests.
        duplicates: Column names that stand more than once.
        row_groups: Rows of each row group; of a text file, the rows of its first block.
        flawed_numbers: Text columns that look like numbers with a few mistakes: those are better named by
            their rows, on reading, than called a wrong type.
    """

    file: InputFile
    role: Role
    types: Mapping[str, pa.DataType]
    duplicates: tuple[str, ...]
    row_groups: tuple[int, ...]
    flawed_numbers: frozenset[str] = frozenset()

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
    if is_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "vector"
        return "list" if is_text(kind.value_type) or pa.types.is_integer(kind.value_type) else None
    if pa.types.is_struct(kind) and kind.get_field_index("indices") >= 0 <= kind.get_field_index("values"):
        return "vector"
    return None


def type_problems(
    description: FileDescription,
    data: DataConfig,
    resolved: tuple[ResolvedColumn, ...],
    entity_columns: tuple[str, ...],
    elsewhere: frozenset[str],
) -> list[str]:
    """Return what is wrong with the columns of one file; `elsewhere` are the columns of all files."""
    roles = data.columns
    wanted: list[tuple[str, str, Use, FeatureColumn | None]] = [
        (roles.uid, "columns.uid", "uid", None),
        (roles.label, "columns.label", "number", None),
    ]
    if roles.weight is not None:
        wanted.append((roles.weight, "columns.weight", "number", None))
    if roles.offset is not None:
        wanted.append((roles.offset, "columns.offset", "number", None))
    wanted += [(name, "entity id", "entity", None) for name in entity_columns]
    for item in resolved:
        kind = item.column.kind
        use: Use = "number" if kind in {"numeric", "auto"} else kind  # type: ignore[assignment]
        wanted.append((item.column.column, f"features.{item.bag}, kind {kind}", use, item.column))
    if sum(description.row_groups) == 0 and not description.types:
        return []  # an empty JSON Lines file names no columns
    problems = []
    for name, purpose, use, column in wanted:
        where = f"{description.path}: column {name!r} ({purpose})"
        if name in description.duplicates:
            problems.append(f"{where} stands more than once in the file")
        elif name not in description.types:
            if description.file.format == "jsonl" and name in elsewhere:
                continue  # a key that is absent is null, unless no file has it
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
    }
    if not fits[use]:
        return f"found type {kind}; allowed: {_ALLOWED[use]}"
    return _dimension_misfit(kind, column) if use == "vector" and column is not None else None


def _csv_misfit(kind: pa.DataType, use: Use, column: FeatureColumn | None) -> str | None:
    if use == "uid" and not pa.types.is_integer(kind):
        return f"found {_in_words(kind)}; allowed: {_ALLOWED['uid']}"
    if use == "number" and is_text(kind):
        return f"found text; allowed: {_ALLOWED['number']}"
    if use == "entity" and pa.types.is_floating(kind):
        return "found numbers with fractions; allowed: strings and integers (write ids without `.0`)"
    if use == "list" and (column is None or column.separator is None):
        return "a list in a CSV file needs a separator"
    if use == "vector":
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


def _dimension_misfit(kind: pa.DataType, column: FeatureColumn) -> str | None:
    if pa.types.is_struct(kind) and column.dimension is None:
        return "a sparse vector needs a dimension"
    fixed = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    if fixed is not None and column.dimension is not None and fixed != column.dimension:
        return f"found vectors of {fixed} numbers; the config says dimension {column.dimension}"
    return None
