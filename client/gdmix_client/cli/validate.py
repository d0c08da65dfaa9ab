"""`gdmix-cli validate`: every mistake of a job config at once, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import JsonOption
from gdmix_client.cli.printing import note, result, result_document, table
from gdmix_client.cli.train import ConfigArgument

if TYPE_CHECKING:
    from gdmix_core.config import AnyCoordinate, JobConfig


def validate(
    config: ConfigArgument,
    data: Annotated[
        bool, typer.Option("--data", help="Look at the files as well: columns and types.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check a job config, and with --data the files it names."""
    from gdmix_client.cli.train import read_config
    from gdmix_core.config import config_digest, with_means

    checked = read_config(config)
    document: dict[str, object] = {
        "config": str(config),
        "valid": True,
        "model": checked.model,
        "coordinates": list(checked.coordinates),
        "config_digest": config_digest(checked),
    }
    if data:
        document["data"] = _inspect(checked)
    if json:
        result_document(document)
        return
    result(f"{config}: valid\n\n{_coordinates(checked)}")
    for change in with_means(checked)[1]:
        result(change)
    if data:
        files = document["data"]
        assert isinstance(files, dict)
        result(
            f"\ndata: {files['train_files']:,} training and {files['validation_files']:,} validation files; "
            f"{len(files['columns']):,} feature columns, all there and of types that fit"
        )


def entity_columns(config: JobConfig) -> tuple[str, ...]:
    """Return the columns that hold entity ids: of random effects and of per-entity metrics."""
    from gdmix_core.config import RandomEffect

    effects = [c.random_effect for c in config.coordinates.values() if isinstance(c, RandomEffect)]
    metrics = [metric.partition(":")[2] for metric in config.effective_metrics if ":" in metric]
    return tuple(dict.fromkeys([*effects, *metrics]))


def _inspect(config: JobConfig) -> dict[str, object]:
    """Look at the input without reading its rows.

    Raises:
        ConfigError: files are not there, or columns' kinds cannot be told.
        DataError: columns are missing or of a wrong type, or there are no rows.
    """
    from gdmix_core.config import ExternalEffect, input_specs, is_path
    from gdmix_core.data.inspection import inspect_data

    external = {name: c.scores for name, c in config.coordinates.items() if isinstance(c, ExternalEffect)}
    scores = {name: given for name, given in external.items() if is_path(given.train)}
    for name in external.keys() - scores.keys():
        note(f"{name}: uploaded scores are the coordinator's to look at (gdmix-cli scores list)")
    splits, encoding = inspect_data(
        config.data, config.features, entity_columns(config), config.task, scores, input_specs(config)
    )
    files = {role: {split.path for split in splits if split.role == role} for role in ("train", "validation")}
    return {
        "train_files": len(files["train"]),
        "validation_files": len(files["validation"]),
        "columns": {
            **{f"{c.bag}.{c.column.column}": c.column.kind for c in encoding.columns},
            **{f"{name}.{c.name}": c.kind for name, read in encoding.inputs.items() for c in read},
        },
    }


def _coordinates(config: JobConfig) -> str:
    rows = [[name, *_described(coordinate)] for name, coordinate in config.coordinates.items()]
    return table(["coordinate", "what it is", "features", "l2"], rows)


def _described(coordinate: AnyCoordinate) -> list[str]:
    from gdmix_core.config import ExternalEffect, FixedEffect, PluggedEffect

    if isinstance(coordinate, ExternalEffect):
        return [f"scores of {coordinate.scores.train}", "", ""]
    if isinstance(coordinate, PluggedEffect):
        columns = ", ".join(column.name for column in coordinate.columns)
        return [f"one model for all ({coordinate.fixed_effect})", columns, ""]
    kind = (
        f"one model for all ({coordinate.fixed_effect})"
        if isinstance(coordinate, FixedEffect)
        else f"a model per {coordinate.random_effect}"
    )
    return [kind, ", ".join(coordinate.features) or "intercept only", str(coordinate.l2)]
