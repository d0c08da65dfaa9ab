"""The scoring program: prepare the rows, score them with a model coordinate by coordinate, measure, write."""

from __future__ import annotations

from typing import cast

from gdmix_core.config import ExternalEffect, FixedEffect, PluggedEffect, RandomEffect
from gdmix_core.tasks import (
    AssembleScores,
    LoadFixedEffect,
    ModelPart,
    PartitionScored,
    RemoveWork,
    ScoreFixedEffect,
    ScorePartition,
)
from gdmix_core.tasks.files import PLUGIN_FOLDER
from gdmix_server.program.descent import Descent
from gdmix_server.program.external import take_external_effect
from gdmix_server.program.plugged_effect import plugin_use, report_of, score_plugged_effect
from gdmix_server.program.preparation import prepare_data
from gdmix_server.program.prepared import ROLES, InitialModel, Prepared
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.results import write_results
from gdmix_server.program.steps import CoordinateStep, Steps, run
from gdmix_server.program.trained import Trained, scores_by_role
from gdmix_server.state.model import CoordinateReport, Report


def inference_program(job: ProgramInput) -> Steps[None]:
    """Score rows with the config's initial model and write the scores; nothing is trained or published.

    Raises:
        gdmix_core.errors.GdmixError: The job cannot succeed; the message says why.
    """
    prepared = yield from prepare_data(job.config)
    assert prepared.initial is not None
    descent = Descent(job.config, prepared)
    for name, coordinate in job.config.coordinates.items():
        step = CoordinateStep(name, 1)
        if isinstance(coordinate, ExternalEffect):
            scored = take_external_effect(prepared, step, coordinate, sum(prepared.all_rows))
        elif isinstance(coordinate, PluggedEffect):
            scored = yield from _score_plugged_effect(job, prepared, prepared.initial, step, coordinate)
        elif isinstance(coordinate, FixedEffect):
            scored = yield from _score_fixed_effect(prepared, prepared.initial, step, coordinate)
        else:
            scored = yield from _score_random_effect(prepared, prepared.initial, step, coordinate)
        yield from descent.take(name, scored, 1)
    yield Report(kept_pass=1)
    yield from write_results(job.config, prepared, descent.trained)
    remove = RemoveWork(output="", directory=job.work_directory)
    yield from run("clean-up", "removing working files", [remove])


def _score_plugged_effect(
    job: ProgramInput,
    prepared: Prepared,
    initial: InitialModel,
    step: CoordinateStep,
    coordinate: PluggedEffect,
) -> Steps[Trained]:
    use = plugin_use(job.config, prepared, step, coordinate)
    model = f"{initial.directory}/{step.coordinate}/{PLUGIN_FOLDER}"
    scores, seconds = yield from score_plugged_effect(prepared, step, use, model)
    report = report_of(step, coordinate, sum(prepared.all_rows), seconds)
    return Trained(ModelPart(coordinate=step.coordinate, directories=()), scores, report)


def _score_fixed_effect(
    prepared: Prepared, initial: InitialModel, step: CoordinateStep, coordinate: FixedEffect
) -> Steps[Trained]:
    load = LoadFixedEffect(output="", initial=initial.directory, coordinate=step.coordinate)
    loaded = yield from step.run("load", "loading the fixed effect", [load])
    units = [
        ScoreFixedEffect(
            output="",
            role=role,
            design=prepared.designs[step.coordinate],
            shard=shard,
            directory=directory,
            model=loaded.directories[0],
        )
        for role in ROLES
        for shard, directory in enumerate(prepared.shards[role].directories)
    ]
    scored = yield from step.run("score", "scoring", units, rows=prepared.all_rows)
    report = _report(prepared, step, "fixed_effect", coordinate.fixed_effect, 1, scored.seconds)
    return Trained(
        ModelPart(coordinate=step.coordinate, directories=()),
        scores_by_role(prepared, scored.directories),
        report,
    )


def _score_random_effect(
    prepared: Prepared, initial: InitialModel, step: CoordinateStep, coordinate: RandomEffect
) -> Steps[Trained]:
    units = [
        ScorePartition(
            output="",
            role=role,
            initial=initial.directory,
            coordinate=step.coordinate,
            partition=partition,
            partition_directory=directory,
        )
        for role in ROLES
        if prepared.shards[role].directories
        for partition, directory in enumerate(prepared.partitions[role, step.coordinate].directories)
    ]
    scored = yield from step.run("score", "scoring", units)
    unseen = sum(cast("PartitionScored", result).rows_unseen for result in scored.results)
    if unseen:
        yield Report(
            notice=f"{step.coordinate}: {unseen:,} rows have a {coordinate.random_effect} that the model does "
            "not know; they score 0 there"
        )
    of_role = {
        role: tuple(d for d, unit in zip(scored.directories, units, strict=True) if unit.role == role)
        for role in ROLES
    }
    assembled = yield from step.run(
        "assemble",
        "gathering scores",
        [
            AssembleScores(output="", role=role, shard=shard, directory=directory, partitions=of_role[role])
            for role in ROLES
            for shard, directory in enumerate(prepared.shards[role].directories)
        ],
        rows=prepared.all_rows,
    )
    entities = sum(
        sum(prepared.partitions[role, step.coordinate].entities)
        for role in ROLES
        if prepared.shards[role].directories
    )
    report = _report(
        prepared,
        step,
        "random_effect",
        coordinate.random_effect,
        entities,
        scored.seconds + assembled.seconds,
    )
    return Trained(
        ModelPart(coordinate=step.coordinate, directories=()),
        scores_by_role(prepared, assembled.directories),
        report,
    )


def _report(
    prepared: Prepared, step: CoordinateStep, kind: str, what: str, entities: int, seconds: float
) -> CoordinateReport:
    return CoordinateReport(
        name=step.coordinate,
        kind=kind,
        what=what,
        pass_number=1,
        entities=entities,
        rows=sum(prepared.all_rows),
        coefficients=0,
        unconverged=0,
        statuses={},
        iterations=0,
        seconds=seconds,
        validation=(),
    )
