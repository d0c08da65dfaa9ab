"""Input files as all readers see them: which columns are wanted, how files are opened, what their faults are."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from gdmix_core.errors import DataError

BLOCK_BYTES: Final = 4 << 20
"""Text files are parsed in blocks of this size; a row must fit into one."""

Use: TypeAlias = Literal[
    "uid", "number", "entity", "categorical", "list", "text", "vector", "name_term_value"
]


@dataclass(frozen=True, slots=True)
class NeededColumn:
    """A data column and everything that it is used for."""

    name: str
    uses: tuple[Use, ...]


@contextlib.contextmanager
def file_faults(path: str, form: str) -> Iterator[None]:
    """Turn whatever Arrow raises about a file into one DataError naming it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as {form}: {_first_line(error)}") from error


@contextlib.contextmanager
def opened_parquet(path: str, dictionaries: Sequence[str] = ()) -> Iterator[Any]:
    """Open a Parquet file; leaf columns named in `dictionaries` are read dictionary-encoded.

    Raises:
        DataError: It cannot be read as Parquet.
    """
    import pyarrow.parquet as pq

    with file_faults(path, "Parquet"):
        # Not mapped: a file that is cut short while it is read must not kill the process.
        file = pq.ParquetFile(path, read_dictionary=list(dictionaries), pre_buffer=True)
    with file:
        yield file


@contextlib.contextmanager
def opened_text(path: str, form: str) -> Iterator[pa.NativeFile]:
    """Open a text file, uncompressed or (by its ending) gzip.

    Raises:
        DataError: It cannot be opened.
    """
    with file_faults(path, form):
        stream = pa.input_stream(path, compression="gzip" if path.endswith(".gz") else None)
    with stream:
        yield stream


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"\s*\n.*", "", str(text), flags=re.DOTALL)
