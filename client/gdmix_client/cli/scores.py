"""`gdmix-cli scores`: scores computed elsewhere, sent to a coordinator so that jobs can build on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import CoordinatorOption, JsonOption, TlsCaOption, TokenFileOption
from gdmix_client.cli.printing import result, result_document, table
from gdmix_client.cli.target import Target

if TYPE_CHECKING:
    from gdmix_client.types import ScoresUpload

commands = typer.Typer(
    help="Scores computed elsewhere: uploaded to a coordinator, seen and removed.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the upload.")]


@commands.command()
def upload(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file with a uid and a score in every row.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What jobs are to call the scores.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="parquet, avro or csv (default: by the file's ending)."
        ),
    ] = "",
    uid_column: Annotated[
        str, typer.Option("--uid-column", metavar="COLUMN", help="Column of the row ids.")
    ] = "uid",
    score_column: Annotated[
        str, typer.Option("--score-column", metavar="COLUMN", help="Column of the scores.")
    ] = "score",
    role: Annotated[
        str,
        typer.Option("--role", metavar="ROLE", help="train or validation, when they are of these rows only."),
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the scores that are there under this name.")
    ] = False,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    json: JsonOption = False,
) -> None:
    """Send a file of scores; one whose sending was interrupted goes on where it was."""
    with Target(coordinator, token_file, tls_ca).client() as client, _progress(file) as progress:
        done = client.upload_scores(
            file,
            name,
            form=form,
            uid_column=uid_column,
            score_column=score_column,
            role=role,
            replace=replace,
            progress=progress,
        )
    if json:
        result_document(upload_document(done))
        return
    result(
        f"upload {done.name}: {done.rows:,} scores from {done.min_score:.6g} to {done.max_score:.6g}, "
        f"mean {done.mean_score:.6g}"
    )


@commands.command("list")
def list_uploads(
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    json: JsonOption = False,
) -> None:
    """List uploads by name."""
    with Target(coordinator, token_file, tls_ca).client() as client:
        uploads = client.list_uploads()
    if json:
        result_document({"uploads": [upload_document(upload) for upload in uploads]})
        return
    headers = ["name", "state", "role", "rows", "format", "bytes"]
    rows = [[u.name, _state(u), u.role, f"{u.rows:,}", u.format, f"{u.byte_size:,}"] for u in uploads]
    result(table(headers, rows, numbers=(3, 5)) if rows else "no uploads")


@commands.command()
def show(
    name: NameArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    json: JsonOption = False,
) -> None:
    """Show one upload."""
    with Target(coordinator, token_file, tls_ca).client() as client:
        found = client.get_upload(name)
    if json:
        result_document(upload_document(found))
        return
    result(
        f"name    {found.name}\nstate   {_state(found)}\nfile    {found.format}, {found.byte_size:,} bytes"
    )
    result(f"sha256  {found.sha256}")
    if found.role:
        result(f"role    {found.role}")
    if found.rows:
        scores = f"{found.min_score:.6g} to {found.max_score:.6g}, mean {found.mean_score:.6g}"
        result(f"rows    {found.rows:,}\nscores  {scores}")


@commands.command()
def delete(
    name: NameArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
) -> None:
    """Remove an upload, ready or not."""
    with Target(coordinator, token_file, tls_ca).client() as client:
        client.delete_upload(name)
    result(f"upload {name} is deleted")


def upload_document(upload: ScoresUpload) -> dict[str, object]:
    """Return an upload as `upload --json`, `list --json` and `show --json` print it."""
    ready = bool(upload.rows)
    return {
        "name": upload.name,
        "state": str(upload.state),
        "role": upload.role,
        "format": upload.format,
        "byte_size": upload.byte_size,
        "sha256": upload.sha256,
        "received": upload.received,
        "created": upload.created,
        "rows": upload.rows,
        "min_score": upload.min_score if ready else None,
        "max_score": upload.max_score if ready else None,
        "mean_score": upload.mean_score if ready else None,
    }


def _state(upload: ScoresUpload) -> str:
    if upload.rows:
        return str(upload.state)
    return f"{upload.state} ({100 * upload.received // max(1, upload.byte_size)} %)"


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"reading {file.name}", total=None)

        def show_progress(sent: int, total: int) -> None:
            stage = f"sending {file.name}" if sent < total else "the coordinator checks the scores"
            bar.update(task, description=stage, completed=sent, total=total)

        yield show_progress
