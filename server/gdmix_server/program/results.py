"""Results in the layout of LinkedIn GDMix, one folder a coordinate below the output.

<output>/<coordinate>/metric/evalSummary.json
                      models/global_model.avro, or part-00000.avro, …
                      train_scores/part-00000.avro, …
                      validation_scores/part-00000.avro, …
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gdmix_core.config import ExternalEffect, FixedEffect, JobConfig, PluggedEffect
from gdmix_core.tasks import ClearResults, Role, Task, WriteModelFile, WriteScores, WriteSummary
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.steps import Steps, run
from gdmix_server.program.trained import Trained

FOLDERS: dict[Role, str] = {"train": "train_scores", "validation": "validation_scores"}
_FIRST_FIXED_EFFECT = "global_model.avro"


def write_results(config: JobConfig, prepared: Prepared, trained: Mapping[str, Trained]) -> Steps[None]:
    """Write scores, models and metrics of every coordinate, in place of those of an earlier job."""
    own = ["metric", *(FOLDERS[role] for role in ROLES if prepared.shards[role].directories)]
    if config.action == "train":  # a scoring job may be scoring with the models that lie there
        own.append("models")
    folders = [f"{config.output}/{name}/{folder}" for name in trained for folder in own]
    yield from run(
        "results.clear", "clearing old results", [ClearResults(output="", directories=tuple(folders))]
    )
    units: list[Task] = []
    rows: list[int] = []
    for name, coordinate in trained.items():
        scores = _score_files(config, prepared, name, coordinate)
        units += scores
        rows += prepared.all_rows
        others = [*_model_files(config, prepared, name, coordinate), *_summary(config, name, coordinate)]
        units += others
        rows += [0] * len(others)
    yield from run("results", "writing results", units, rows=tuple(rows))


def _score_files(config: JobConfig, prepared: Prepared, name: str, trained: Trained) -> list[Task]:
    columns = prepared.data.columns
    return [
        WriteScores(
            output="",
            path=f"{config.output}/{name}/{FOLDERS[role]}/part-{shard.shard:05d}.avro",
            input=shard,
            own_scores=own,
            uid=columns.uid,
            label=columns.label,
            weight=columns.weight or "weight",
            integer_label=config.task == "logistic_regression",
        )
        for role in ROLES
        for shard, own in zip(trained.inputs[role], trained.scores[role], strict=True)
    ]


def _model_files(config: JobConfig, prepared: Prepared, name: str, trained: Trained) -> list[Task]:
    coordinate = config.coordinates[name]
    if isinstance(coordinate, (ExternalEffect, PluggedEffect)) or config.action == "inference":
        return []
    fixed = isinstance(coordinate, FixedEffect)
    effect: Literal["fixed_effect", "random_effect"] = "fixed_effect" if fixed else "random_effect"
    return [
        WriteModelFile(
            output="",
            path=f"{config.output}/{name}/models/{_FIRST_FIXED_EFFECT if fixed else f'part-{part:05d}.avro'}",
            coordinate=name,
            effect=effect,
            directory=directory,
            index=prepared.index,
            bags=coordinate.features,
            intercept=coordinate.intercept,
            task=config.task,
        )
        for part, directory in enumerate(trained.part.directories)
    ]


def _summary(config: JobConfig, name: str, trained: Trained) -> list[Task]:
    if not trained.report.validation:
        return []
    values = {metric.name: metric.value for metric in trained.report.validation}
    return [WriteSummary(output="", path=f"{config.output}/{name}/metric/evalSummary.json", values=values)]
