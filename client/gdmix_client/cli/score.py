"""`gdmix-cli score`: score the rows of a file, or of stdin, against a scorer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import (
    JsonOption,
    QuietOption,
    ScorerOption,
    ScorerTlsCaOption,
    TokenFileOption,
)
from gdmix_client.cli.printing import duration, note, result_document
from gdmix_core.errors import UsageError

if TYPE_CHECKING:
    from gdmix_client.cli.score_rows import OpenedRows
    from gdmix_client.cli.score_run import Summary


def score(
    rows: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Parquet, CSV or JSON Lines; - (or none): JSON Lines on stdin."),
    ] = "-",
    scorer: ScorerOption = None,
    token_file: TokenFileOption = None,
    tls_ca: ScorerTlsCaOption = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Model (default: the one that is served).")
    ] = "",
    version: Annotated[
        int | None, typer.Option("--version", min=1, metavar="N", help="Version (default: the active one).")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", metavar="NAME", help="A name for a version, say canary.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=".parquet, .csv or .jsonl (default: JSON Lines on stdout)."
        ),
    ] = None,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Also write what each coordinate adds.")
    ] = False,
    fixed_effect_column: Annotated[
        str | None,
        typer.Option(
            "--fixed-effect-column", metavar="COLUMN", help="Column with the outside fixed effect's scores."
        ),
    ] = None,
    uid_column: Annotated[
        str, typer.Option("--uid-column", metavar="COLUMN", help="Column to keep in the output.")
    ] = "uid",
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=10_000, metavar="N", help="Rows in one request.")
    ] = 200,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="For one request.")
    ] = 10.0,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Score the rows of a file, or of stdin, against a scorer; every row with one version of the model."""
    import asyncio

    from gdmix_client.cli.score_output import check_output, open_sink
    from gdmix_client.cli.score_rows import RowSource, open_rows
    from gdmix_client.cli.score_run import ScoreOptions, ScoreRun
    from gdmix_client.cli.scorer_target import scorer_connection

    if version is not None and alias is not None:
        raise UsageError("--version and --alias: give one of them, or neither for the active version")
    if json and output is None:
        raise UsageError("--json prints a summary on stdout: give --output for the scores")
    if output is not None:
        check_output(output)
    connection = scorer_connection(scorer, token_file, tls_ca)
    source = RowSource(
        path=rows, batch_rows=batch, uid_column=uid_column, fixed_effect_column=fixed_effect_column
    )
    options = ScoreOptions(
        model=model,
        version=version,
        alias=alias,
        contributions=contributions,
        timeout_seconds=timeout,
        input_name=source.name,
    )
    begun = time.monotonic()
    opened = open_rows(source)
    with open_sink(output, source) as sink, _progress(opened, quiet=quiet) as when_scored:
        run = ScoreRun(options, sink, when_scored)
        summary = asyncio.run(run.run(connection, opened.batches))
    seconds = time.monotonic() - begun
    if summary.degraded_rows:
        note(
            f"warning: {summary.degraded_rows:,} rows were scored without all that belongs to them: "
            f"{summary.degraded_reason}"
        )
    if json:
        result_document(_document(summary, opened, output, seconds))
    elif not quiet:
        _tell(summary, opened, seconds)


@contextmanager
def _progress(opened: OpenedRows, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far it is on a terminal; yields what is told of scored rows."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("scoring"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=opened.total)
        yield lambda rows: progress.advance(task, rows)


def _document(summary: Summary, opened: OpenedRows, output: Path | None, seconds: float) -> dict[str, object]:
    return {
        "rows": summary.rows,
        "model": summary.model or None,
        "version": summary.version or None,
        "output": str(output),
        "seconds": seconds,
        "unknown_entities": dict(summary.unknown_entities),
        "unknown_features": dict(summary.unknown_features),
        "unused_columns": [*summary.unused_columns, *opened.left_out],
        "degraded_rows": summary.degraded_rows,
    }


def _tell(summary: Summary, opened: OpenedRows, seconds: float) -> None:
    """Say on stderr what became of the rows."""
    with_what = f" with {summary.model}, version {summary.version}," if summary.rows else ""
    note(f"scored {summary.rows:,} rows{with_what} in {duration(seconds)}")
    if summary.unknown_entities:
        counts = ", ".join(
            f"{name} {'at least ' if name in summary.more_unknown else ''}{count:,}"
            for name, count in summary.unknown_entities.items()
        )
        note(f"entities without coefficients, which add nothing: {counts}")
    if summary.unknown_features:
        counts = ", ".join(f"{name} {count:,}" for name, count in summary.unknown_features.items())
        note(f"feature values that the model does not know: {counts}")
    unused = [*summary.unused_columns, *(f"{name} ({kind})" for name, kind in opened.left_out.items())]
    if unused:
        note(f"columns that the model has no use for: {', '.join(unused)}")
