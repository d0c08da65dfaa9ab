"""What a client says of the file that it is about to send, and which of it makes sense."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gdmix_core.config.strict import check_name
from gdmix_core.errors import UsageError

FORMATS: Final = ("parquet", "avro", "csv")
ROLES: Final = ("", "train", "validation")
FORBIDDEN_ENDINGS: Final = (".parquet", ".csv", ".csv.gz", ".avro", ".jsonl", ".tfrecord")
"""A name with one of these would be taken for a file where a config may name either."""
_MAX_COLUMN_CHARACTERS: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadHeader:
    """What a client says of the file that it is about to send.

    Attributes:
        name: What the scores are to be called.
        format: One of `FORMATS`.
        byte_size: Of the whole file.
        sha256: Of the whole file, in hexadecimal digits.
        uid_column: Column of the row ids.
        score_column: Column of the scores.
        role: One of `ROLES`: which rows the scores are of.
        replace: Whether scores of this name give way to these.
        offset: Where in the file the bytes begin that follow.
    """

    name: str
    format: str
    byte_size: int
    sha256: str
    uid_column: str = "uid"
    score_column: str = "score"
    role: str = ""
    replace: bool = False
    offset: int = 0


def check_header(header: UploadHeader, max_bytes: int) -> None:
    """Raise UsageError when the header makes no sense, or the file is larger than allowed."""
    if fault := fault_of_name(header.name):
        raise UsageError(fault)
    allowed: dict[str, tuple[str, tuple[str, ...]]] = {
        "format": (header.format, FORMATS),
        "role": (header.role, ROLES),
    }
    for field, (value, values) in allowed.items():
        if value not in values:
            named = ", ".join(map(repr, values))
            raise UsageError(f"{field}: found {value!r}; allowed are {named}")
    for field, column in (("uid_column", header.uid_column), ("score_column", header.score_column)):
        if not (0 < len(column) <= _MAX_COLUMN_CHARACTERS and column.isprintable()):
            raise UsageError(f"{field}: allowed are 1 to {_MAX_COLUMN_CHARACTERS} printable characters")
    if not _DIGEST.fullmatch(header.sha256):
        raise UsageError(f"sha256: found {header.sha256[:80]!r}; allowed are 64 hexadecimal digits")
    if not 0 < header.byte_size <= max_bytes:
        raise UsageError(
            f"byte_size: found {header.byte_size}; allowed are 1 to {max_bytes} bytes"
            " (the coordinator's --max-upload-bytes)"
        )
    if not 0 <= header.offset <= header.byte_size:
        raise UsageError(f"offset: found {header.offset}; allowed are 0 to {header.byte_size}")


def fault_of_name(name: str) -> str:
    """Return what is wrong with a name; "" when nothing is."""
    try:
        check_name(name, "upload")
    except ValueError as error:
        return str(error)
    if name.lower().endswith(FORBIDDEN_ENDINGS):
        return f"upload {name!r} is not a name: it ends like a file's ({', '.join(FORBIDDEN_ENDINGS)})"
    return ""
