"""Feature lists: the name of each position of a vector, one `name,term` a line, as LinkedIn GDMix keeps them."""

from __future__ import annotations

import csv
from typing import Final

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.input_files import file_faults
from gdmix_core.errors import DataError

TERM_SEPARATOR: Final = "\x01"
"""Between name and term where one string holds both, as in Photon-ML."""


def read_feature_names(path: str) -> ByteStrings:
    """Read a feature list as strings `name` + TERM_SEPARATOR + `term`; the line is the position, from 0.

    Raises:
        DataError: The file cannot be read, a line is not `name,term`, or two lines are the same.
    """
    names: list[str] = []
    seen: dict[str, int] = {}
    with file_faults(path, "a feature list"), open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
        try:
            for number, fields in enumerate(csv.reader(file), start=1):
                names.append(_name(path, number, fields))
                first = seen.setdefault(names[-1], number)
                if first != number:
                    raise DataError(f"{path}: lines {first} and {number} both name {','.join(fields)!r}")
        except csv.Error as error:
            raise DataError(f"{path}: cannot be read as a feature list: {error}") from error
    if not names:
        raise DataError(f"{path}: is empty; a feature list has one name,term a line")
    return ByteStrings.of(names)


def _name(path: str, number: int, fields: list[str]) -> str:
    if len(fields) != 2 or not fields[0]:
        raise DataError(
            f"{path}: line {number} holds {','.join(fields)!r}; allowed: name,term (the term may be empty)"
        )
    return fields[0] + TERM_SEPARATOR + fields[1]
