"""What goes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import typer


def result(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def result_document(document: Mapping[str, object]) -> None:
    """Print the one document of a command that was asked for JSON."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Tell the person at the terminal something that is not a result."""
    typer.echo(text, err=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return an aligned table.

    Args:
        headers: of the columns.
        rows: cells, as many as headers.
        numbers: positions of the columns aligned to the right.
    """
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]
    lines = [headers, ["─" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """Return a span of time in the units that a person would choose."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
