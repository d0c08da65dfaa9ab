"""From a model directory into a coefficient store, in one process or many.

One process: `publish_model`. Many: one begins the version (`CoefficientStore.begin_version`), each writes
parts (`publish_part`), one completes it (`finish_publication`) and activates it (`activate_published`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gdmix_core.errors import ActivationConflict, DataError, GdmixError
from gdmix_core.model.coefficients import iterate_blocks
from gdmix_core.model.directory import FEATURE_INDEX_FILE, FIXED_EFFECT_FILE, ModelDirectory, plugin_file_name
from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.publication import PublishedPart, Seal


@dataclass(frozen=True, slots=True)
class Publication:
    """What came of publishing a model.

    Attributes:
        version: its number in the store.
        activated: whether it is the active version now.
        winner: the version that another publisher activated instead, None otherwise.
        entities: entities written, by coordinate.
    """

    version: int
    activated: bool
    winner: int | None
    entities: dict[str, int]


def publish_part(
    store: CoefficientStore,
    ticket: PublishTicket,
    directory: ModelDirectory,
    coordinate: str,
    part: int,
    *,
    spill: str | Path | None = None,
) -> PublishedPart:
    """Write one coefficient file of a random effect to the store; memory stays at one row group.

    Args:
        store: where to.
        ticket: the publication.
        directory: the model.
        coordinate: name of the random effect.
        part: number of the file.
        spill: directory of this attempt, for an embedded store.

    Raises:
        DataError: the file is damaged, or holds an id or a number that cannot be stored.
        VersionGone, Conflict, StaleLease: as `CoefficientStore.write_part`.
    """
    return store.write_part(
        ticket,
        coordinate,
        part,
        iterate_blocks(directory.parts(coordinate)[part]),
        schema=directory.manifest.schema,
        element_type=directory.manifest.element_type,
        spill=spill,
    )


def finish_publication(
    store: CoefficientStore,
    ticket: PublishTicket,
    directory: ModelDirectory,
    parts: Iterable[PublishedPart],
    *,
    verify: bool = True,
) -> Seal:
    """Write manifest, feature index, fixed effects and plug-ins' files, check everything, seal the version.

    Raises:
        StoreCorrupt, VersionGone, Conflict, StaleLease: as `CoefficientStore.finish`.
        DataError: a file of the model is missing.
    """
    manifest = replace(directory.manifest, version=ticket.version)
    files = {FEATURE_INDEX_FILE: directory.feature_index}
    for coordinate in manifest.fixed_effects():
        if coordinate.plugin is not None:
            for name in coordinate.plugin.files:
                file = directory.plugin(coordinate.name) / name
                files[plugin_file_name(coordinate.name, name)] = file
        if not coordinate.native:
            continue
        files[f"{coordinate.name}/{FIXED_EFFECT_FILE}"] = directory.fixed_effect(coordinate.name)
    return store.finish(
        ticket,
        parts,
        manifest.to_json(),
        {name: _contents(path) for name, path in files.items()},
        schema=manifest.schema,
        element_type=manifest.element_type,
        expected={coordinate.name: coordinate.entities for coordinate in manifest.random_effects()},
        verify=verify,
    )


def activate_published(store: CoefficientStore, ticket: PublishTicket) -> Publication:
    """Activate a completed publication; when another publisher was first, say which version won.

    Raises:
        StaleLease: a newer coordinator has taken this publication over.
        VersionGone: the version, or its seal, is not there.
    """
    seal = store.read_seal(ticket.model, ticket.version)
    entities = {name: coordinate.entities for name, coordinate in seal.coordinates.items()}
    try:
        store.activate(
            ticket.model,
            ticket.version,
            expected_active=ticket.active,
            epoch=ticket.epoch,
            owner=ticket.owner,
        )
    except ActivationConflict as conflict:
        return Publication(ticket.version, False, conflict.winner, entities)
    return Publication(ticket.version, True, None, entities)


def publish_model(
    directory: ModelDirectory,
    store: CoefficientStore,
    *,
    activate: bool = True,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Publication:
    """Publish a model directory from this process, as a new version; so an emptied store is refilled.

    A store that knows nothing of the model gives the version its directory's number; any other the next one.

    Args:
        directory: the model.
        store: where to.
        activate: make it the active version.
        verify: read every record back before sealing.
        progress: called with (entities written, entities in all) after each file.

    Raises:
        DataError: the directory's files are not those of its manifest, or cannot be stored.
        StoreError: the store failed; what was written is removed again as far as it can be reached.
    """
    manifest = directory.manifest
    if manifest.content_digest:
        directory.verify()
    total = sum(coordinate.entities for coordinate in manifest.random_effects())
    ticket = store.begin_version(manifest.model, minimum=manifest.version)
    parts: list[PublishedPart] = []
    try:
        for coordinate in manifest.random_effects():
            for number in range(coordinate.parts):
                parts.append(publish_part(store, ticket, directory, coordinate.name, number))
                if progress is not None:
                    progress(sum(part.entities for part in parts), total)
        seal = finish_publication(store, ticket, directory, parts, verify=verify)
    except Exception:
        with suppress(GdmixError):  # the first failure is the one to report
            store.abandon(ticket)
        raise
    if activate:
        return activate_published(store, ticket)
    entities = {name: coordinate.entities for name, coordinate in seal.coordinates.items()}
    return Publication(ticket.version, False, None, entities)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
