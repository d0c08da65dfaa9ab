"""`gdmix-cli data`: real data to try things on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gdmix_client.cli.options import JsonOption
from gdmix_client.cli.printing import result, result_document

commands = typer.Typer(help="Get real data to try things on.", no_args_is_help=True)


class DataSet(StrEnum):
    """What can be fetched."""

    MOVIELENS_100K = "movielens-100k"


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
    json: JsonOption = False,
) -> None:
    """Download a data set and prepare it for training."""
    from gdmix_client.movielens import fetch_movielens

    assert data_set is DataSet.MOVIELENS_100K
    done = fetch_movielens(directory, source)
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
