"""The commands put together."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gdmix_client.cli import cluster, data, jobs, models, scores
from gdmix_client.cli.command_group import CommandGroup
from gdmix_client.cli.convert import convert
from gdmix_client.cli.doctor import doctor
from gdmix_client.cli.printing import result
from gdmix_client.cli.quickstart import quickstart
from gdmix_client.cli.score import score
from gdmix_client.cli.train import train
from gdmix_client.cli.validate import validate

app = typer.Typer(
    cls=CommandGroup,
    name="gdmix-cli",
    help="Personalization by mixed-effect models: train, publish, score with, look after them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(quickstart)
app.command()(validate)
app.command()(convert)
app.command()(train)
app.command()(cluster.up)
app.command()(cluster.down)
app.command(context_settings=cluster.PASS_ON)(cluster.coordinator)
app.command(context_settings=cluster.PASS_ON)(cluster.worker)
app.command(context_settings=cluster.PASS_ON)(cluster.scorer)
app.command()(score)
app.add_typer(jobs.commands, name="jobs")
app.add_typer(models.commands, name="models")
app.add_typer(scores.commands, name="scores")
app.add_typer(data.commands, name="data")
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        result(f"gdmix {version('gdmix')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run gdmix-cli."""
    # gRPC's own remarks on a connection that fails would stand before the one message that explains it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    app(prog_name="gdmix-cli")
