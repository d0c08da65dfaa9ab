"""`gdmix-cli data`: real data to try things on, and rows out of a scorer's access log."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gdmix_client.cli.options import JsonOption
from gdmix_client.cli.printing import result, result_document

commands = typer.Typer(
    help="Get real data to try things on, or rows out of an access log.", no_args_is_help=True
)


class DataSet(StrEnum):
    """What can be fetched."""

    MOVIELENS_100K = "movielens-100k"


class Layout(StrEnum):
    """What the files look like."""

    PARQUET = "parquet"
    GDMIX = "gdmix"


@commands.callback()
def _group() -> None:
    pass


@commands.command()
def fetch(
    data_set: Annotated[DataSet, typer.Argument(metavar="DATASET", help="movielens-100k")],
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIRECTORY", help="Where to write it.")
    ] = Path("data/movielens-100k"),
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PATH", help="A copy of ml-100k (zip or folder) instead of the network."
        ),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout",
            help="parquet: one file a split; gdmix: TFRecord files as in LinkedIn GDMix's example.",
        ),
    ] = Layout.PARQUET,
    json: JsonOption = False,
) -> None:
    """Download a data set and prepare it for training."""
    from gdmix_client.movielens import fetch_movielens
    from gdmix_client.movielens_gdmix import fetch_movielens_gdmix

    assert data_set is DataSet.MOVIELENS_100K
    done = (fetch_movielens if layout is Layout.PARQUET else fetch_movielens_gdmix)(directory, source)
    if json:
        result_document(
            {
                "data_set": data_set.value,
                "directory": str(done.directory),
                "train_rows": done.train_rows,
                "validation_rows": done.validation_rows,
            }
        )
    else:
        result(
            f"{done.directory}: {done.train_rows:,} training rows, {done.validation_rows:,} validation rows; "
            "README.txt has the terms of use"
        )


@commands.command("from-access-log")
def from_access_log(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG…", help="Access logs of scorers (.gz too).")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="JSON Lines file of the rows.")],
    first_uid: Annotated[int, typer.Option("--first-uid", metavar="N", help="uid of the first row.")] = 1,
    json: JsonOption = False,
) -> None:
    """Turn logged requests into rows as in the training data; labels are yours to join.

    The scorer must run with --access-log and --access-log-features.
    """
    from gdmix_client.logged_rows import convert_access_logs

    done = convert_access_logs(logs, output, first_uid=first_uid)
    if json:
        result_document(
            {
                "output": str(output.absolute()),
                "requests": done.requests,
                "rows": done.rows,
                "left_out": dict(done.left_out),
            }
        )
        return
    rest = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.left_out.items()))
    result(
        f"{output}: {done.rows:,} rows of {done.requests:,} requests"
        + (f"; left out: {rest}" if rest else "")
    )
