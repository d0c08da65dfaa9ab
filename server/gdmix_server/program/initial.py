"""The model that a job begins with: whether it fits the config, and how it is cut."""

from __future__ import annotations

from typing import cast

from gdmix_core.config import (
    AnyCoordinate,
    ExternalEffect,
    JobConfig,
    PluggedEffect,
    RandomEffect,
    config_to_json,
)
from gdmix_core.errors import ConfigError
from gdmix_core.tasks import InspectData, ModelOpened, OpenedCoordinate, OpenModel
from gdmix_server.program.prepared import InitialModel
from gdmix_server.program.steps import Steps, run
from gdmix_server.state.model import Report


def open_initial_model(config: JobConfig, inspect: InspectData) -> Steps[InitialModel | None]:
    """Look at the config's initial model, if it names one; `inspect` is how the job's data are inspected.

    Raises:
        ConfigError: It is a model of another task, or what is to be scored is not in it as the config says.
    """
    if config.initial_model is None:
        return None
    opening = OpenModel(
        output="", initial=config.initial_model, config_json=config_to_json(config), inspect=inspect
    )
    outcome = yield from run("initial", "opening the initial model", [opening])
    model = cast("ModelOpened", outcome.results[0])
    problems = []
    if model.task != config.task:
        problems.append(f"initial_model: is a model of task {model.task}; the job's is {config.task}")
    there = {coordinate.name: coordinate for coordinate in model.coordinates}
    for name, coordinate in config.coordinates.items():
        if name in there:
            problems += _differences(name, there[name], coordinate, exactly=config.action == "inference")
        elif config.action == "inference":
            problems.append(
                f"coordinates.{name}: the initial model has none of it; it has {', '.join(there)}"
            )
    if problems:
        raise ConfigError("\n  ".join(["the initial model does not fit:", *problems]), tuple(problems))
    anew = [n for n, c in config.coordinates.items() if n in there and isinstance(c, PluggedEffect)]
    if anew and config.action == "train":
        yield Report(
            notice=f"{', '.join(anew)}: fitted anew; plug-ins take nothing over from an initial model"
        )
    for notice in model.notices:
        yield Report(notice=notice)
    kept = {name: c.parts for name, c in there.items() if name in config.coordinates}
    return InitialModel(model.directory or config.initial_model, kept)


def _differences(
    name: str,
    found: OpenedCoordinate,
    wanted: AnyCoordinate,
    *,
    exactly: bool,
) -> list[str]:
    """Say what a coordinate has to have in common with the model's: for scoring everything."""
    effect = "random_effect" if isinstance(wanted, RandomEffect) else wanted.fixed_effect
    where = f"coordinates.{name}"
    if effect != found.effect:
        return [f"{where}: is {effect}, in the initial model {found.effect}"]
    problems = []
    if isinstance(wanted, RandomEffect) and wanted.random_effect != found.entity_column:
        problems.append(
            f"{where}.random_effect: found {wanted.random_effect}, in the initial model {found.entity_column}"
        )
    if isinstance(wanted, RandomEffect) and wanted.partitions not in {None, found.parts}:
        problems.append(
            f"{where}.partitions: found {wanted.partitions}; the initial model has {found.parts}, leave it out"
        )
    if not exactly or isinstance(wanted, ExternalEffect):
        return problems
    if isinstance(wanted, PluggedEffect):
        columns = tuple(column.name for column in wanted.columns)
        if columns != found.columns:
            problems.append(f"{where}: reads {list(columns)}, in the initial model {list(found.columns)}")
    else:
        if wanted.features != found.features:
            problems.append(
                f"{where}.features: found {list(wanted.features)}, in the initial model {list(found.features)}"
            )
        if wanted.intercept != found.intercept:
            problems.append(
                f"{where}.intercept: found {wanted.intercept}, in the initial model {found.intercept}"
            )
    return problems
