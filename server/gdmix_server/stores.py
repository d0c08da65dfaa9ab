"""Model versions in coefficient stores, as clients see and change them through the coordinator.

Everything here waits for a store: it belongs on a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gdmix_core.config import config_from_json
from gdmix_core.errors import GdmixError, NotFound, StoreError, UsageError
from gdmix_server.permitted_paths import PermittedPaths
from gdmix_server.state.model import JobRow

if TYPE_CHECKING:
    from gdmix_core.store import CoefficientStore, VersionInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model in a store."""

    store: str
    model: str
    version: int
    state: str
    manifest_json: str = ""
    aliases: tuple[str, ...] = ()
    entities: int = 0


class ModelStores:
    """The stores that the coordinator may look into."""

    def __init__(
        self,
        default_store: str,
        epoch: int,
        owner: str,
        paths: PermittedPaths,
        jobs: Callable[[], Iterable[JobRow]],
    ) -> None:
        """Take the default store (may be empty), this run's epoch and journal, and where jobs that published are."""
        self._default = default_store
        self._epoch = epoch
        self._owner = owner
        self._paths = paths
        self._jobs = jobs

    def versions(self, store: str, model: str) -> list[ModelVersion]:
        """Return the versions of a model, or of all, newest first; of all known stores when none is named.

        Raises:
            StoreError: the store that was named cannot be read; of several, those are left out.
        """
        if store:
            return self._versions_in(store, model)
        found: list[ModelVersion] = []
        for url in self._known_stores():
            try:
                found += self._versions_in(url, model)
            except GdmixError as error:
                logger.warning("store left out of the list of models: %s", error)
        return found

    def version(self, store: str, model: str, version: int) -> ModelVersion:
        """Return one version with its manifest; 0 means the active one.

        Raises:
            NotFound: there is no such version, or none is active.
            StoreError: the store cannot be read.
        """
        with self._open(self._url(store, model)) as opened:
            if version == 0:
                active = opened.get_active(model)
                if active is None:
                    raise NotFound(f"model {model!r} has no active version in {opened.url}")
                version = active
            return _described(opened, model, version)

    def activate(self, store: str, model: str, version: int) -> ModelVersion:
        """Make a complete version the active one, by compare-and-set with what is active now.

        The epoch goes along where this coordinator's jobs published the version: epochs of different
        coordinators say nothing about each other.

        Raises:
            NotFound: there is no such version.
            Conflict: it is not complete, another one was activated meanwhile, or a newer run of this
                coordinator has taken over.
            StoreError: the store fails.
        """
        url = self._url(store, model)
        with self._open(url) as opened:
            _require_version(opened, model, version)
            opened.activate(
                model,
                version,
                expected_active=opened.get_active(model),
                epoch=self._epoch if self._published_here(url, model, version) else None,
                owner=self._owner,
            )
            return _described(opened, model, version)

    def delete(self, store: str, model: str, version: int) -> None:
        """Delete an inactive version.

        Raises:
            NotFound, Conflict: there is no such version, or it is active or has an alias.
            StoreError: the store fails.
        """
        with self._open(self._url(store, model)) as opened:
            opened.delete_version(model, version)

    def _open(self, url: str) -> CoefficientStore:
        # Redis, LMDB and the kernels behind them are not on the coordinator's start path.
        from gdmix_core.store import open_store

        self._paths.check_store(url, "store")
        return open_store(url)

    def _url(self, store: str, model: str) -> str:
        """Return the store to look into: the one named, the default, or the one where jobs put the model."""
        if store or self._default:
            return store or self._default
        if not model:
            raise UsageError("model: missing; name a model")
        for job in self._jobs():
            if job.model == model and (url := _store_of(job)):
                return url
        raise NotFound(f"no store is known to hold model {model!r}; name one by --store")

    def _known_stores(self) -> list[str]:
        urls = [self._default, *(_store_of(job) for job in self._jobs())]
        return list(dict.fromkeys(url for url in urls if url))

    def _versions_in(self, url: str, model: str) -> list[ModelVersion]:
        with self._open(url) as opened:
            names = opened.list_models() if not model else [model]
            return [
                _described_briefly(opened, name, info)
                for name in names
                for info in reversed(opened.list_versions(name))
            ]

    def _published_here(self, url: str, model: str, version: int) -> bool:
        return any(
            job.published is not None
            and (job.published.store, job.model, job.published.version) == (url, model, version)
            for job in self._jobs()
        )


def _store_of(job: JobRow) -> str:
    if job.published is not None:
        return job.published.store
    return config_from_json(job.config_json).store or ""


def _described_briefly(store: CoefficientStore, model: str, info: VersionInfo) -> ModelVersion:
    return ModelVersion(
        store=store.url,
        model=model,
        version=info.version,
        state=info.state.value,
        aliases=info.aliases,
        entities=sum(info.entities.values()),
    )


def _require_version(store: CoefficientStore, model: str, version: int) -> VersionInfo:
    for info in store.list_versions(model):
        if info.version == version:
            return info
    raise NotFound(f"model {model!r} has no version {version} in {store.url}")


def _described(store: CoefficientStore, model: str, version: int) -> ModelVersion:
    info = _require_version(store, model, version)
    brief = _described_briefly(store, model, info)
    try:
        manifest = store.read_manifest(model, version).decode() if info.sealed is not None else ""
    except StoreError:
        if info.state != "deleting":
            raise
        manifest = ""
    return ModelVersion(
        store=brief.store,
        model=model,
        version=version,
        state=brief.state,
        manifest_json=manifest,
        aliases=brief.aliases,
        entities=brief.entities,
    )
