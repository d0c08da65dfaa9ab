"""`gdmix-cli models`: versions in a coefficient store, seen, switched, refilled and removed."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.models_files import SourceArgument, export, model_directory, split
from gdmix_client.cli.options import (
    CoordinatorOption,
    JsonOption,
    OutputOption,
    StoreOption,
    TlsCaOption,
    TokenFileOption,
)
from gdmix_client.cli.printing import note, result, result_document, table
from gdmix_client.cli.target import Target
from gdmix_core.errors import ActivationConflict, UsageError

if TYPE_CHECKING:
    from gdmix_client.types import Metric, ModelVersion
    from gdmix_core.model import CoordinateManifest

commands = typer.Typer(
    help="Versions in a coefficient store: through the coordinator, or directly with --store or --output.",
    no_args_is_help=True,
)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Number of the version.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, metavar="N", help="Instead of the active one.")
]


@commands.command("list")
def list_models(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="One model only.", show_default=False)] = "",
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """List versions, newest first."""
    from gdmix_client.cli.model_source import open_models

    with open_models(Target(coordinator, token_file, tls_ca, output), store) as models:
        versions = models.versions(model)
    if json:
        result_document({"versions": [version_document(version) for version in versions]})
        return
    headers = ["model", "version", "state", "entities", "aliases", "store"]
    rows = [
        [v.model, str(v.version), v.state, f"{v.entities:,}", ", ".join(v.aliases), v.store] for v in versions
    ]
    result(table(headers, rows, numbers=(1, 3)) if rows else "no versions")


@commands.command()
def show(
    model: ModelArgument,
    version: VersionOption = None,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Show one version: its coordinates and how well it did."""
    from gdmix_client.cli.model_source import open_models

    with open_models(Target(coordinator, token_file, tls_ca, output), store) as models:
        found = models.version(model, version or 0)
    manifest = json_format.loads(found.manifest_json) if found.manifest_json else None
    if json:
        result_document({**version_document(found), "manifest": manifest})
        return
    result(f"model    {found.model}\nversion  {found.version} ({found.state})\nstore    {found.store}")
    if found.aliases:
        result(f"aliases  {', '.join(found.aliases)}")
    if found.manifest_json:
        result("\n" + _manifest_table(found))


@commands.command()
def activate(
    model: ModelArgument,
    version: VersionArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
) -> None:
    """Make a version the active one, newer or older than the one that is."""
    from gdmix_client.cli.model_source import open_models

    with open_models(Target(coordinator, token_file, tls_ca, output), store) as models:
        now = models.activate(model, version)
    result(f"version {now.version} of {now.model} is {now.state} in {now.store}")


@commands.command()
def rollback(
    model: ModelArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
) -> None:
    """Go back to the newest complete version older than the active one."""
    from gdmix_client.cli.model_source import open_models

    with open_models(Target(coordinator, token_file, tls_ca, output), store) as models:
        now = models.rollback(model)
    result(f"version {now.version} of {now.model} is {now.state} in {now.store}")


@commands.command()
def delete(
    model: ModelArgument,
    version: VersionArgument,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
) -> None:
    """Delete an inactive version from the store; its model directory stays."""
    from gdmix_client.cli.model_source import open_models

    with open_models(Target(coordinator, token_file, tls_ca, output), store) as models:
        models.delete(model, version)
    result(f"version {version} of {model} is deleted")


@commands.command()
def publish(
    source: SourceArgument,
    store: StoreOption = None,
    output: OutputOption = None,
    activate_it: Annotated[
        bool, typer.Option("--activate/--no-activate", help="Whether it becomes the active version.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Publish a model directory as a new version; this is how an emptied store is refilled."""
    from gdmix_client.cli.model_source import open_directly
    from gdmix_core.model import publish_model

    directory = model_directory(source, output)
    if store is None and output is None:
        raise UsageError("no store: give --store URL, or --output DIRECTORY for that of a job")
    with open_directly(Target(output=output), store, model=directory.manifest.model, create=True) as opened:
        done = publish_model(directory, opened, activate=activate_it)
        url = opened.url
    if json:
        result_document(
            {
                "model": directory.manifest.model,
                "version": done.version,
                "activated": done.activated,
                "winner": done.winner,
                "entities": done.entities,
                "store": url,
            }
        )
    else:
        state = "active" if done.activated else "sealed, not active"
        result(
            f"published {directory.path} as version {done.version} of {directory.manifest.model} ({state}): "
            f"{sum(done.entities.values()):,} entities in {url}"
        )
    if activate_it and not done.activated:
        raise ActivationConflict(
            f"version {done.version} is complete but not active: version {done.winner} was activated meanwhile",
            done.winner,
        )


@commands.command()
def verify(
    model: ModelArgument,
    version: VersionOption = None,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Read a version back from its store and compare every record with its seal."""
    from gdmix_client.cli.model_source import StoreModels, open_directly

    with open_directly(Target(coordinator, token_file, tls_ca, output), store, model=model) as opened:
        number = version or StoreModels(opened).version(model, 0).version
        seal = opened.verify(model, number)
        url = opened.url
    entities = {name: coordinate.entities for name, coordinate in seal.coordinates.items()}
    if json:
        result_document(
            {"model": model, "version": number, "store": url, "entities": entities, "intact": True}
        )
    else:
        result(f"version {number} of {model} is intact: {sum(entities.values()):,} entities in {url}")


@commands.command()
def alias(
    model: ModelArgument,
    name: Annotated[str | None, typer.Argument(metavar="[ALIAS]", help="The alias; all without one.")] = None,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=1, help="Version to point it to.")
    ] = None,
    remove: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    store: StoreOption = None,
    output: OutputOption = None,
) -> None:
    """Name versions: show aliases, point one to a version, or delete it. Clean-up keeps versions with one."""
    from gdmix_client.cli.model_source import open_directly

    if remove and (name is None or version is not None):
        raise UsageError("--delete takes the name of an alias and no version")
    with open_directly(Target(coordinator, token_file, tls_ca, output), store, model=model) as opened:
        if name is None:
            aliases = opened.get_aliases(model)
            rows = [[alias_name, str(number)] for alias_name, number in aliases.items()]
            result(table(["alias", "version"], rows, numbers=(1,)) if rows else "no aliases")
        elif remove:
            opened.delete_alias(model, name)
            result(f"alias {name} of {model} is deleted")
        elif version is None:
            result(str(opened.get_alias(model, name)))
        else:
            opened.set_alias(model, name, version)
            result(f"alias {name} of {model} points to version {version}")


commands.command()(export)
commands.command()(split)


def version_document(version: ModelVersion) -> dict[str, object]:
    """Return a version as `list --json` and `show --json` print it."""
    return {
        "model": version.model,
        "version": version.version,
        "state": version.state,
        "entities": version.entities,
        "aliases": list(version.aliases),
        "store": version.store,
    }


def _manifest_table(version: ModelVersion) -> str:
    from gdmix_client.cli.report import metric_notes, metric_text, shrinkage_table
    from gdmix_core.model import manifest_from_json

    manifest = manifest_from_json(version.manifest_json.encode(), f"manifest of version {version.version}")
    metrics = [_metrics(coordinate) for coordinate in manifest.coordinates]
    names = list(dict.fromkeys(name for of_coordinate in metrics for name in of_coordinate))
    rows = [
        [
            c.name,
            f"one model for all ({c.model})" if c.model else f"a model per {c.entity_column}",
            "1" if c.model else f"{c.entities:,}",
            f"{c.rows:,}",
            f"{c.dimension:,}",
            *(metric_text(values[name]) if name in values else "" for name in names),
            f"{c.unconverged:,}",
        ]
        for c, values in zip(manifest.coordinates, metrics, strict=True)
    ]
    if not manifest.reproducible:
        note("the workers' numerics differed: another run may differ in the last bits")
    headers = ["coordinate", "what it is", "entities", "rows", "dimension", *names, "unconverged"]
    notes = metric_notes(metrics[-1].values()) if metrics else []
    lines = [table(headers, rows, numbers=range(2, len(headers))), *([""] if notes else []), *notes]
    learned = shrinkage_table((c.name, c.shrinkage) for c in manifest.coordinates)
    lines += ["", learned] if learned else []
    return "\n".join(lines)


def _metrics(coordinate: CoordinateManifest) -> dict[str, Metric]:
    """Return a coordinate's metrics; a manifest has them as a job reported them, or as plain numbers."""
    from gdmix_client.types import Metric

    metrics = {}
    for name, stored in coordinate.validation.items():
        said = stored if isinstance(stored, dict) else {"value": stored}
        metrics[name] = Metric(
            name=name,
            value=said.get("value"),
            reason=said.get("reason", ""),
            entities=said.get("entities"),
            entities_undefined=said.get("entities_undefined"),
        )
    return metrics
