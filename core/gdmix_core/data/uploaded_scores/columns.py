"""The two columns: whether a file has them, and what is said of one of another type."""

from __future__ import annotations

from collections.abc import Sequence

from gdmix_core.data.row_checks import shown
from gdmix_core.data.uploaded_scores.types import UploadedFile
from gdmix_core.errors import DataError


def check_columns(file: UploadedFile, names: Sequence[str]) -> None:
    """Raise DataError unless each of both columns is there once."""
    for column in file.columns:
        if names.count(column) != 1:
            fault = "is there more than once" if column in names else "is missing"
            there = ", ".join(map(shown, names[:10])) + (", …" if len(names) > 10 else "")
            raise DataError(f"{file.name}: column {column!r} {fault}; its columns are {there or 'none'}")


def wrong_type(file: UploadedFile, column: str, kind: object) -> DataError:
    """Return the error for a column of a type that it may not have."""
    allowed = "integers" if column == file.uid_column else "floating-point numbers and integers"
    return DataError(f"{file.name}: column {column!r} is of type {kind}; allowed: {allowed}")
