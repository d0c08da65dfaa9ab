"""Where the `models` commands find versions: through a coordinator, or in a store directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gdmix_client.types import ModelVersion
from gdmix_core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gdmix_client.cli.target import Target
    from gdmix_client.client import Client
    from gdmix_core.store import CoefficientStore, VersionInfo


class ModelSource(Protocol):
    """What both ways have in common; errors are those of the store."""

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """Return the versions of a model, or of all for "", newest first."""

    def version(self, model: str, version: int) -> ModelVersion:
        """Return one version with its manifest; 0 stands for the active one."""

    def activate(self, model: str, version: int) -> ModelVersion:
        """Make a version the active one."""

    def rollback(self, model: str) -> ModelVersion:
        """Activate the newest complete version older than the active one."""

    def delete(self, model: str, version: int) -> None:
        """Delete an inactive version."""


@contextmanager
def open_models(target: Target, store: str | None) -> Iterator[ModelSource]:
    """Open the way that the options ask for: `--coordinator`, else `--store` or `--output`.

    Raises:
        UsageError: none of them was given and no local cluster runs here.
    """
    if target.coordinator is None and (store is not None or target.output is not None):
        with open_directly(target, store, model="") as opened:
            yield StoreModels(opened)
        return
    if target.output is not None:
        raise UsageError(
            "--output is for jobs without a coordinator: give --store or leave --coordinator out"
        )
    with target.client() as client:
        yield CoordinatorModels(client, store or "")


@contextmanager
def open_directly(
    target: Target, store: str | None, *, model: str, create: bool = False
) -> Iterator[CoefficientStore]:
    """Open a store in this process: the one named, the output's own, else where the coordinator has the model.

    Args:
        target: the options.
        store: URL.
        model: name of the model that is looked for; "" for none in particular.
        create: whether an embedded store that is not there may be made.

    Raises:
        UsageError: no store is named, and there is no coordinator to ask.
        NotFound: an embedded store is not there, or no store is known to hold the model.
    """
    from gdmix_core.store import open_store

    url = store or (f"lmdb:{target.output}/store" if target.output is not None else "")
    if not url:
        with target.client() as client:
            url = client.cluster().store or client.get_model(model).store
    directory = url.removeprefix("lmdb:")
    if url.startswith("lmdb:") and not create and not Path(directory).is_dir():
        raise NotFound(f"{directory}: there is no embedded store")
    with open_store(url) as opened:
        yield opened


class CoordinatorModels:
    """Versions as a coordinator sees them."""

    def __init__(self, client: Client, store: str) -> None:
        self._client = client
        self._store = store

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """Return the versions of a model, or of all for "", newest first."""
        return self._client.list_models(model, store=self._store)

    def version(self, model: str, version: int) -> ModelVersion:
        """Return one version with its manifest; 0 stands for the active one."""
        return self._client.get_model(model, version, store=self._store)

    def activate(self, model: str, version: int) -> ModelVersion:
        """Make a version the active one."""
        return self._client.activate_model(model, version, store=self._store)

    def rollback(self, model: str) -> ModelVersion:
        """Activate the newest complete version older than the active one."""
        found = self.versions(model)
        active = next((version for version in found if version.state == "active"), None)
        if active is None:
            raise NotFound(f"model {model!r} has no active version to go back from")
        older = [
            version.version
            for version in found
            if version.store == active.store
            and version.version < active.version
            and version.state in {"sealed", "superseded"}
        ]
        if not older:
            raise NotFound(f"model {model!r} has no version older than the active one ({active.version})")
        return self._client.activate_model(model, max(older), store=active.store)

    def delete(self, model: str, version: int) -> None:
        """Delete an inactive version."""
        self._client.delete_model(model, version, store=self._store)


class StoreModels:
    """Versions in a store that this process opened."""

    def __init__(self, store: CoefficientStore) -> None:
        self._store = store

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """Return the versions of a model, or of all for "", newest first."""
        names = [model] if model else self._store.list_models()
        return tuple(
            self._described(name, info)
            for name in names
            for info in reversed(self._store.list_versions(name))
        )

    def version(self, model: str, version: int) -> ModelVersion:
        """Return one version with its manifest; 0 stands for the active one."""
        info = self._info(model, version or self._active(model))
        manifest = "" if info.sealed is None else self._store.read_manifest(model, info.version).decode()
        return self._described(model, info, manifest)

    def activate(self, model: str, version: int) -> ModelVersion:
        """Make a version the active one."""
        self._info(model, version)
        self._store.activate(model, version, expected_active=self._store.get_active(model))
        return self._described(model, self._info(model, version))

    def rollback(self, model: str) -> ModelVersion:
        """Activate the newest complete version older than the active one."""
        return self._described(model, self._info(model, self._store.rollback(model)))

    def delete(self, model: str, version: int) -> None:
        """Delete an inactive version."""
        self._store.delete_version(model, version)

    def _active(self, model: str) -> int:
        active = self._store.get_active(model)
        if active is None:
            raise NotFound(f"model {model!r} has no active version in {self._store.url}")
        return active

    def _info(self, model: str, version: int) -> VersionInfo:
        for info in self._store.list_versions(model):
            if info.version == version:
                return info
        raise NotFound(f"model {model!r} has no version {version} in {self._store.url}")

    def _described(self, model: str, info: VersionInfo, manifest: str = "") -> ModelVersion:
        return ModelVersion(
            store=self._store.url,
            model=model,
            version=info.version,
            state=info.state.value,
            entities=sum(info.entities.values()),
            aliases=info.aliases,
            manifest_json=manifest,
        )
