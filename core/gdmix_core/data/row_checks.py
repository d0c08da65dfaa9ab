"""What rows may hold, and the one message that names everything that breaks the rules in a piece of input.

Checks are made on whole columns; a broken rule is a `Fault` with the positions of its rows. `RowFaults`
gathers the faults of all batches of a split, so that a person sees every wrong column at once, with the first
rows by number (from 1) and uid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import DataError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

EXAMPLES: Final = 5
_LONGEST_TEXT: Final = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """Rows of a batch whose value in one column breaks one rule.

    Attributes:
        column: The data column.
        allowed: What the rule allows, as the message says it.
        rows: int64, positions in the batch, ascending; never empty.
        found: What the first rows hold, at most `EXAMPLES`.
    """

    column: str
    allowed: str
    rows: Int64Array
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchRows:
    """How messages name the rows of a batch.

    Attributes:
        first_row: Number in the file, from 0, of the batch's first row.
        uid: int64[n].
        uid_known: bool[n]; False where the uid itself is missing or wrong.
    """

    first_row: int
    uid: Int64Array
    uid_known: BoolArray

    def name(self, position: int) -> str:
        """Return `row N (uid U)`, N from 1."""
        number = self.first_row + position + 1
        return f"row {number} (uid {self.uid[position]})" if self.uid_known[position] else f"row {number}"


@dataclass(slots=True)
class RowFaults:
    """The faults of one input file (or piece of it), over all its batches."""

    path: str
    _counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, faults: Iterable[Fault], rows: BatchRows) -> None:
        """Note the faults of a batch."""
        for fault in faults:
            key = (fault.column, fault.allowed)
            self._counts[key] = self._counts.get(key, 0) + len(fault.rows)
            examples = self._examples.setdefault(key, [])
            for position, found in zip(fault.rows[: EXAMPLES - len(examples)], fault.found, strict=False):
                examples.append(f"{rows.name(int(position))} holds {found}")

    def raise_if_any(self) -> None:
        """Raise one DataError that lists every fault; return when there is none."""
        if not self._counts:
            return
        lines = [
            f"{self.path}: column {column!r}: {_rows(count)} not allowed: "
            f"{', '.join(self._examples[column, allowed])}{', …' if count > EXAMPLES else ''}; "
            f"allowed: {allowed}"
            for (column, allowed), count in self._counts.items()
        ]
        raise DataError("\n".join(lines))


@contextlib.contextmanager
def in_file(path: str) -> Iterator[None]:
    """Put the file's name in front of a DataError about one of its columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def fault_of(column: str, allowed: str, bad: BoolArray, found: Callable[[int], str]) -> list[Fault]:
    """Return a fault for the rows where `bad` is set, in a list; an empty list when there is none."""
    if not bad.any():
        return []
    rows = np.flatnonzero(bad).astype(np.int64)
    return [Fault(column, allowed, rows, tuple(found(int(row)) for row in rows[:EXAMPLES]))]


def shown(value: object) -> str:
    """Return a value as messages show it: text quoted and cut, null as null."""
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def label_faults(column: str, values: Float64Array, task: str) -> list[Fault]:
    """Check labels: 0 or 1 for logistic regression, finite and not negative for Poisson, else finite."""
    if task == "logistic_regression":
        bad, allowed = (values != 0.0) & (values != 1.0), "0 or 1"
    elif task == "poisson_regression":
        bad, allowed = ~((values >= 0.0) & np.isfinite(values)), "finite numbers, 0 or more"
    else:
        bad, allowed = ~np.isfinite(values), "finite numbers"
    return fault_of(column, f"{allowed}, for task {task}", bad, lambda row: shown(float(values[row])))


def weight_faults(column: str, values: Float64Array) -> list[Fault]:
    """Check weights: finite and not negative."""
    bad = ~((values >= 0.0) & np.isfinite(values))
    return fault_of(column, "finite numbers, 0 or more", bad, lambda row: shown(float(values[row])))


def finite_faults(column: str, values: Float64Array) -> list[Fault]:
    """Check offsets and numeric features: neither NaN nor infinite."""
    bad = ~np.isfinite(values)
    return fault_of(column, "finite numbers", bad, lambda row: shown(float(values[row])))


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"
