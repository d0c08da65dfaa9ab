"""From trained coordinates to a model directory, and from there into the coefficient store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdmix_core.errors import InternalError, NotPermitted
from gdmix_core.tasks import (
    COEFFICIENTS_FILE,
    FEATURE_INDEX_FILE,
    SPILL_PART_FILE,
    BeginPublish,
    CheckStore,
    FinishModel,
    FinishPublish,
    ModelFinished,
    PartPublished,
    PublishBegun,
    PublishFinished,
    PublishPart,
    RemoveWork,
    StoreChecked,
    WorkRemoved,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.indexes import feature_index_of

if TYPE_CHECKING:
    from gdmix_core.config import JobConfig
    from gdmix_core.model import CoordinateManifest, ModelManifest, PluginManifest
    from gdmix_core.store import CoefficientStore, PublishedPart

_RUN_FILE = "run.json"
_WORK_FOLDER = ".gdmix"


def check_store(task: CheckStore, context: TaskContext) -> StoreChecked:
    """Ask the store whether it would take a version."""
    context.check()
    with _store(task.store) as store:
        store.check_ready(task.model)
    return StoreChecked(seconds=0.0)


def begin_publish(task: BeginPublish, context: TaskContext) -> PublishBegun:
    """Take a version number from the store and note what is active."""
    context.check()
    from gdmix_core.model import list_versions

    minimum = 1 + max(list_versions(Path(task.model_root)), default=0)
    with _store(task.store) as store:
        ticket = store.begin_version(task.model, epoch=task.epoch, owner=task.owner, minimum=minimum)
    return PublishBegun(ticket=ticket, seconds=0.0)


def finish_model(task: FinishModel, context: TaskContext) -> ModelFinished:
    """Put the model directory together; one that an earlier attempt left complete is taken as it is."""
    from gdmix_core.model import assemble_model, open_model

    root = Path(task.model_root)
    for target in (root / str(task.version), root / f"{task.version}-{task.job_id[:8]}"):
        if not target.exists():
            break
        if _job_of(target) == task.job_id:
            done = open_model(target)
            return ModelFinished(
                directory=str(target), content_digest=done.manifest.content_digest, seconds=0.0
            )
    else:
        raise InternalError(f"{root}: directories of version {task.version} of other jobs are in the way")
    context.check()
    manifest = _manifest(task)
    plugins = {
        part.coordinate: part.directories[0]
        for part in task.parts
        if manifest.coordinate(part.coordinate).plugin is not None
    }
    model = assemble_model(
        target,
        manifest,
        feature_index=Path(task.index) / FEATURE_INDEX_FILE,
        coefficients={
            part.coordinate: [Path(directory) / COEFFICIENTS_FILE for directory in part.directories]
            if part.coordinate not in plugins
            else []
            for part in task.parts
        },
        plugins=plugins,
        run={**task.run, "job_id": task.job_id},
    )
    return ModelFinished(directory=str(target), content_digest=model.manifest.content_digest, seconds=0.0)


def publish_part(task: PublishPart, context: TaskContext) -> PartPublished:
    """Write one coefficient file of a random effect to the store, or to a spill for an embedded one."""
    from gdmix_core.model import open_model
    from gdmix_core.model.publishing import publish_part as publish

    context.check()
    with _store(task.store) as store:
        part = publish(
            store,
            task.ticket,
            open_model(task.model_directory),
            task.coordinate,
            task.part,
            spill=Path(task.output) / SPILL_PART_FILE,
        )
    context.advance(entities=part.entities)
    return PartPublished(
        coordinate=task.coordinate, entities=part.entities, checksum=part.checksum, seconds=0.0
    )


def finish_publish(task: FinishPublish, context: TaskContext) -> PublishFinished:
    """Seal the version, activate it if nobody else was first, and remove versions that nobody needs."""
    from gdmix_core.model import open_model
    from gdmix_core.model.publishing import activate_published, finish_publication

    context.check()
    ticket = task.ticket
    with _store(task.store) as store:
        seal = finish_publication(store, ticket, open_model(task.model_directory), _published_parts(task))
        activated, winner = False, None
        if task.activate:
            publication = activate_published(store, ticket)
            activated, winner = publication.activated, publication.winner
        removed = store.cleanup(ticket.model, keep=task.keep)
    return PublishFinished(
        activated=activated,
        winner=winner,
        entities=sum(coordinate.entities for coordinate in seal.coordinates.values()),
        removed_versions=tuple(removed),
        seconds=0.0,
    )


def remove_work(task: RemoveWork, context: TaskContext) -> WorkRemoved:
    """Delete the job's working files; what is gone already is no error.

    Raises:
        NotPermitted: The directory is not one of a job's working directories.
    """
    directory = Path(task.directory)
    if _WORK_FOLDER not in directory.parts[:-1] or ".." in directory.parts:
        raise NotPermitted(f"{directory} is not below a {_WORK_FOLDER} folder: it is not removed")
    context.check()
    shutil.rmtree(directory, ignore_errors=True)
    return WorkRemoved(seconds=0.0)


@contextmanager
def _store(url: str) -> Iterator[CoefficientStore]:
    from gdmix_core.store import open_store

    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def _published_parts(task: FinishPublish) -> list[PublishedPart]:
    """Number the parts of each coordinate in the order given, and say where their records lie."""
    from gdmix_core.store import PublishedPart

    numbers: dict[str, int] = {}
    parts = []
    for part, spill in zip(task.parts, task.spills, strict=True):
        number = numbers.get(part.coordinate, 0)
        numbers[part.coordinate] = number + 1
        directory = str(Path(spill) / SPILL_PART_FILE)
        parts.append(PublishedPart(part.coordinate, number, part.entities, part.checksum, directory))
    return parts


def _job_of(directory: Path) -> str | None:
    """Return which job made a model directory, None when that cannot be told."""
    try:
        job = json.loads((directory / _RUN_FILE).read_bytes()).get("job_id")
    except (OSError, ValueError, AttributeError):
        return None
    return job if isinstance(job, str) else None


def _manifest(task: FinishModel) -> ModelManifest:
    """Join what the config says, what the coordinator found, and what the feature index holds."""
    from gdmix_core.config import config_from_json
    from gdmix_core.fingerprint import numerics_fingerprint
    from gdmix_core.model import ModelManifest

    config = config_from_json(task.config_json)
    index = feature_index_of(task.index)
    found: dict[str, Any] = task.manifest.get("coordinates", {})
    coordinates = tuple(
        _coordinate_manifest(config, part.coordinate, found.get(part.coordinate, {})) for part in task.parts
    )
    return ModelManifest(
        model=config.model,
        version=task.version,
        task=config.task,
        coordinates=coordinates,
        bag_sizes=dict(index.bag_sizes),
        schema_fingerprint=index.schema_fingerprint,
        features=config.model_dump(mode="json")["features"],
        offset_column=task.manifest["offset_column"],
        metrics=coordinates[-1].validation if coordinates else {},
        config_digest=task.manifest.get("config_digest", ""),
        reproducible=task.manifest["reproducible"],
        numerics=numerics_fingerprint(),
    )


def _coordinate_manifest(config: JobConfig, name: str, found: dict[str, Any]) -> CoordinateManifest:
    from gdmix_core.config import ExternalEffect, FixedEffect, PluggedEffect
    from gdmix_core.model import CoordinateManifest, GroupManifest

    coordinate = config.coordinates[name]
    statuses: dict[str, int] = dict(found.get("statuses", {}))
    if isinstance(coordinate, (ExternalEffect, PluggedEffect)):
        return CoordinateManifest(
            name=name,
            kind="fixed_effect",
            features=(),
            intercept=False,
            dimension=0,
            l2=0.0,
            model=coordinate.fixed_effect,
            rows=found.get("rows", 0),
            validation=dict(found.get("validation", {})),
            plugin=_plugin_manifest(found.get("plugin")),
        )
    fixed = isinstance(coordinate, FixedEffect)
    return CoordinateManifest(
        name=name,
        kind="fixed_effect" if isinstance(coordinate, FixedEffect) else "random_effect",
        features=coordinate.features,
        intercept=coordinate.intercept,
        dimension=found["dimension"],
        l2=coordinate.numeric_l2,
        model=coordinate.fixed_effect if isinstance(coordinate, FixedEffect) else None,
        entity_column=None if isinstance(coordinate, FixedEffect) else coordinate.random_effect,
        variances=coordinate.variance != "none",
        entities=0 if fixed else found.get("entities", 0),
        rows=found.get("rows", 0),
        unconverged=sum(statuses.values()) - statuses.get("converged", 0),
        statuses=statuses,
        validation=dict(found.get("validation", {})),
        shrinkage=tuple(GroupManifest(**group) for group in found.get("shrinkage", ())),
    )


def _plugin_manifest(found: dict[str, Any] | None) -> PluginManifest | None:
    from gdmix_core.model import PluginColumn, PluginFile, PluginManifest

    if found is None:
        return None
    return PluginManifest(
        distribution=found["distribution"],
        version=found["version"],
        columns=tuple(PluginColumn(**column) for column in found["columns"]),
        files={name: PluginFile(**facts) for name, facts in found["files"].items()},
    )
