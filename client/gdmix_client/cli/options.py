"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CoordinatorOption = Annotated[
    str | None,
    typer.Option("--coordinator", metavar="HOST:PORT", envvar="GDMIX_COORDINATOR", help="The coordinator."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="File with the token; GDMIX_TOKEN holds the token itself."
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar="GDMIX_TLS_CA",
        help="Authority (PEM) that signed the coordinator's certificate.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output", metavar="DIRECTORY", help="Output of a job that was trained without a coordinator."
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Coefficient store: lmdb:DIRECTORY or redis://HOST:PORT/DB."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, metavar="N", help="Worker processes of the local cluster (default: the cores)."
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIRECTORY",
        help="Where a local cluster keeps its state (default: $GDMIX_STATE_DIR or ~/.local/state/gdmix).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ScorerOption = Annotated[
    str | None,
    typer.Option("--scorer", metavar="HOST:PORT", envvar="GDMIX_SCORER", help="The scorer."),
]
ScorerTlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar="GDMIX_TLS_CA",
        help="Authority (PEM) that signed the scorer's certificate.",
    ),
]
