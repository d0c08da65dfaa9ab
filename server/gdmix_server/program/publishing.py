"""From the best pass to a model directory, a sealed version in the store, and the active pointer."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

from gdmix_core.config import JobConfig, RandomEffect, config_digest, config_to_json
from gdmix_core.tasks import (
    BeginPublish,
    FinishModel,
    FinishPublish,
    ModelFinished,
    PartPublished,
    PublishBegun,
    PublishFinished,
    PublishPart,
    RemoveWork,
)
from gdmix_server.program.descent import Pass, Trial
from gdmix_server.program.prepared import Prepared
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.steps import Steps, run
from gdmix_server.program.trained import Trained
from gdmix_server.state.model import Published, Report


def publish(job: ProgramInput, prepared: Prepared, best: Pass, trial: Trial) -> Steps[None]:
    """Take a version number, put the model directory together, write the store, seal, activate, clean up."""
    config = job.config
    model_root = f"{config.output}/models"
    begin = BeginPublish(
        output="",
        store=job.store,
        model=config.model,
        epoch=job.epoch,
        owner=job.owner,
        model_root=model_root,
    )
    begun = yield from run("publish.begin", "taking a version number", [begin])
    # A later run of the coordinator goes on under its own epoch, not under the one that took the number.
    ticket = replace(cast("PublishBegun", begun.results[0]).ticket, epoch=job.epoch, owner=job.owner)
    finish = FinishModel(
        output="",
        job_id=job.job_id,
        config_json=config_to_json(config),
        model_root=model_root,
        version=ticket.version,
        index=prepared.index,
        parts=tuple(trained.part for trained in best.trained.values()),
        manifest={**_manifest(config, prepared, best), "reproducible": begun.reproducible},
        run=_run(best, trial),
    )
    made = yield from run("publish.model", "putting the model together", [finish])
    model = cast("ModelFinished", made.results[0])
    random_effects = [n for n, c in config.coordinates.items() if isinstance(c, RandomEffect)]
    units = [
        PublishPart(
            output="",
            store=job.store,
            ticket=ticket,
            coordinate=name,
            part=part,
            model_directory=model.directory,
        )
        for name in random_effects
        for part in range(len(best.trained[name].part.directories))
    ]
    parts: tuple[PartPublished, ...] = ()
    spills: tuple[str, ...] = ()
    if units:
        written = yield from run("publish.parts", "publishing coefficients", units)
        parts = tuple(cast("PartPublished", result) for result in written.results)
        spills = written.directories
    seal = FinishPublish(
        output="",
        store=job.store,
        ticket=ticket,
        activate=config.activate,
        keep=config.keep,
        model_directory=model.directory,
        parts=parts,
        spills=spills,
    )
    sealed = yield from run("publish.seal", "sealing and activating", [seal])
    result = cast("PublishFinished", sealed.results[0])
    if config.activate and not result.activated:
        yield Report(
            warning=True,
            notice=f"version {ticket.version} is sealed but not active: "
            f"version {result.winner} was activated in between",
        )
    if result.removed_versions:
        removed = ", ".join(map(str, result.removed_versions))
        yield Report(notice=f"superseded versions are removed: {removed} (keep: {config.keep})")
    yield Report(
        published=Published(
            store=job.store,
            version=ticket.version,
            activated=result.activated,
            winner=result.winner,
            directory=model.directory,
            content_digest=model.content_digest,
        )
    )
    # Last, so that everything before it could still be resumed from these files.
    remove = RemoveWork(output="", directory=job.work_directory)
    yield from run("clean-up", "removing working files", [remove])


def _manifest(config: JobConfig, prepared: Prepared, best: Pass) -> dict[str, Any]:
    """Return what the manifest says beyond names and kinds, which the worker reads off the config."""
    return {
        "schema_fingerprint": prepared.schema_fingerprint,
        "config_digest": config_digest(config),
        "offset_column": prepared.data.columns.offset,
        "train_rows": sum(prepared.shards["train"].rows),
        "validation_rows": sum(prepared.shards["validation"].rows),
        "coordinates": {
            name: {
                "dimension": prepared.dimension_of(config.coordinates[name]),
                "entities": trained.report.entities + trained.carried_over,
                "rows": trained.report.rows,
                "coefficients": trained.report.coefficients,
                "statuses": dict(trained.report.statuses),
                "shrinkage": [asdict(group) for group in trained.report.shrinkage],
                "validation": {metric.name: asdict(metric) for metric in trained.report.validation},
                "plugin": _plugin(prepared, name, trained),
            }
            for name, trained in best.trained.items()
        },
    }


def _plugin(prepared: Prepared, name: str, trained: Trained) -> dict[str, Any] | None:
    """Return what the manifest says of a plug-in's model."""
    if trained.plugin is None:
        return None
    return {
        "distribution": trained.plugin.distribution,
        "version": trained.plugin.version,
        "columns": [
            {"name": c.name, "kind": c.kind, "dimension": c.dimension} for c in prepared.inputs[name]
        ],
        "files": {file: asdict(facts) for file, facts in trained.plugin.files.items()},
    }


def _run(best: Pass, trial: Trial) -> dict[str, Any]:
    return {
        **({"trial": trial.number, "trial_values": dict(trial.values)} if trial.number else {}),
        "kept_pass": best.pass_number,
        "seconds": {name: trained.report.seconds for name, trained in best.trained.items()},
    }
