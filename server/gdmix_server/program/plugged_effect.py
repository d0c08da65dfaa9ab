"""A fixed effect that is plugged in: one worker fits it, then the workers score its rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import cast

from gdmix_core.config import JobConfig, PluggedEffect
from gdmix_core.tasks import (
    PLUGIN_MODEL_FOLDER,
    FitPlugin,
    ModelPart,
    PluginFitted,
    PluginUse,
    Role,
    ScoredShard,
    ScorePlugin,
    ShardInput,
    plugin_scores,
)
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.program.trained import Trained
from gdmix_server.state.model import CoordinateReport, Report

ROWS_OF_A_SCORING = 1 << 20
"""A unit scores shards of so many rows: libraries are loaded, and the model is read, once for all of them."""


def train_plugged_effect(
    config: JobConfig,
    prepared: Prepared,
    step: CoordinateStep,
    coordinate: PluggedEffect,
    train: tuple[ShardInput, ...],
    validation: tuple[ShardInput, ...],
) -> Steps[Trained]:
    """Have a plug-in fit its model against the scores in `train` and `validation`, and score all rows."""
    use = plugin_use(config, prepared, step, coordinate)
    members, rows = coordinate.members, (sum(prepared.shards["train"].rows),)
    fit = FitPlugin(output="", use=use, train=train, validation=validation, members=members)
    title = f"fitting {coordinate.fixed_effect}"
    if members == 1:
        outcome = yield from step.run("fit", title, [fit], rows=rows)
    else:
        outcome = yield from step.run_gang("fit", title, [fit] * members, rows=rows * members)
    fitted = cast("PluginFitted", outcome.results[0])
    for notice in fitted.notices:
        yield Report(notice=f"{step.coordinate}: {notice.text}", warning=notice.warning)
    if fitted.facts:
        yield Report(notice=f"{step.coordinate}: {_described(fitted)}")
    model = f"{outcome.directories[0]}/{PLUGIN_MODEL_FOLDER}"
    scores, seconds = yield from score_plugged_effect(prepared, step, use, model)
    report = report_of(step, coordinate, rows[0], outcome.seconds + seconds, fitted.steps)
    part = ModelPart(coordinate=step.coordinate, directories=(model,))
    return Trained(part, scores, report, plugin=fitted)


def score_plugged_effect(
    prepared: Prepared, step: CoordinateStep, use: PluginUse, model: str
) -> Steps[tuple[dict[Role, tuple[str, ...]], float]]:
    """Score all rows with the files in `model`; return score blocks by role and shard, and how long it took."""
    batches = list(_batches(prepared))
    units = [
        ScorePlugin(output="", use=use, directory=model, shards=tuple(shard for shard, _ in batch))
        for batch in batches
    ]
    rows = tuple(sum(count for _, count in batch) for batch in batches)
    outcome = yield from step.run("score", "scoring", units, rows=rows)
    scores: dict[Role, tuple[str, ...]] = dict.fromkeys(ROLES, ())
    for directory, unit in zip(outcome.directories, units, strict=True):
        for shard in unit.shards:
            block = plugin_scores(directory, shard.role, shard.shard)
            scores[shard.role] = (*scores[shard.role], block)
    return scores, outcome.seconds


def plugin_use(
    config: JobConfig, prepared: Prepared, step: CoordinateStep, coordinate: PluggedEffect
) -> PluginUse:
    """Return the plug-in as the coordinate uses it; its seed depends on the names of model and coordinate."""
    return PluginUse(
        coordinate=step.coordinate,
        plugin=coordinate.fixed_effect,
        options_json=coordinate.options.model_dump_json(),
        columns=prepared.inputs[step.coordinate],
        task=config.task,
        seed=zlib.crc32(f"{config.model}/{step.coordinate}".encode()),
    )


def report_of(
    step: CoordinateStep,
    coordinate: PluggedEffect,
    rows: int,
    seconds: float,
    iterations: int = 0,
) -> CoordinateReport:
    """Return what people see of the coordinate."""
    return CoordinateReport(
        name=step.coordinate,
        kind="fixed_effect",
        what=coordinate.fixed_effect,
        pass_number=step.pass_number,
        entities=1,
        rows=rows,
        coefficients=0,
        unconverged=0,
        statuses={},
        iterations=iterations,
        seconds=seconds,
        validation=(),
    )


def _batches(prepared: Prepared) -> Iterator[list[tuple[ScoredShard, int]]]:
    """Cut the home shards, training ones first, into runs of at most so many rows; a larger shard is alone."""
    batch: list[tuple[ScoredShard, int]] = []
    for role in ROLES:
        shards = prepared.shards[role]
        for shard, (directory, rows) in enumerate(zip(shards.directories, shards.rows, strict=True)):
            if batch and sum(count for _, count in batch) + rows > ROWS_OF_A_SCORING:
                yield batch
                batch = []
            batch.append((ScoredShard(role=role, shard=shard, directory=directory), rows))
    if batch:
        yield batch


def _described(fitted: PluginFitted) -> str:
    return ", ".join(
        f"{name} {value:,.6g}" if isinstance(value, (int, float)) else f"{name} {value}"
        for name, value in fitted.facts.items()
    )
