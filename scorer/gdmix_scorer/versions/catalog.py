"""Follows the store: loads what becomes active or aliased, switches between two requests, unloads the rest."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from typing import Final

from gdmix_core.errors import (
    GdmixError,
    InternalError,
    NotFound,
    Overloaded,
    Unavailable,
    UsageError,
    VersionGone,
)
from gdmix_core.store import CoefficientStore, Pointers
from gdmix_scorer.calls import ModelChoice
from gdmix_scorer.coefficients import Coefficients
from gdmix_scorer.metrics import ScorerMetrics
from gdmix_scorer.settings import ScorerSettings
from gdmix_scorer.versions.loading import VersionLoader
from gdmix_scorer.versions.version import ServedModel, Version, VersionState

logger = logging.getLogger(__name__)

_MAX_PINNED: Final = 4
"""Versions of one model that are loaded because requests name them, and nothing in the store does."""


class Versions:
    """All models of a serving process; bound to its event loop."""

    def __init__(
        self,
        store: CoefficientStore,
        coefficients: Coefficients,
        settings: ScorerSettings,
        metrics: ScorerMetrics,
    ) -> None:
        self._store = store
        self._loader = VersionLoader(store, coefficients)
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, ServedModel] = {name: ServedModel(name) for name in settings.models}
        self._loads: dict[Version, asyncio.Task[None]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._asked = -math.inf
        self._asking = asyncio.Lock()
        self._store_fails = False

    # ---- choosing ----------------------------------------------------------------------------------------

    def choose(self, choice: ModelChoice) -> Version | None:
        """Return the version that a request gets; None if it has to be loaded first (`load`).

        Raises:
            NotFound: the model or the alias is not served.
            Unavailable: the model has no active version yet.
        """
        model = self._model(choice.name)
        if not choice.pinned:
            if model.active is None:
                raise self._no_version(model)
            return model.active
        if choice.alias:
            found = model.aliases.get(choice.alias)
            if found is None and choice.alias not in model.pointers.aliases:
                raise NotFound(
                    f"alias: model {model.name!r} has no alias {choice.alias!r}; "
                    f"it has {', '.join(model.pointers.aliases) or 'none'}"
                )
        else:
            found = model.versions.get(choice.version)
        return found if found is not None and found.available and not found.lost else None

    async def load(self, choice: ModelChoice, seconds: float) -> Version:
        """Load the version that a request names, and wait for it.

        Raises:
            NotFound: it is not in the store.
            Unavailable: it cannot be loaded, or was not loaded in time; it may be later.
            Overloaded: requests pin too many versions.
        """
        model = self._model(choice.name)
        number = choice.version or model.pointers.aliases.get(choice.alias, 0)
        if number not in model.pointers.tokens:
            await self.refresh()
        token = model.pointers.tokens.get(number)
        if token is None:
            known = ", ".join(map(str, model.pointers.tokens)) or "none"
            raise NotFound(f"version {number} of model {model.name!r} is not in the store; there: {known}")
        version = model.versions.get(number)
        if version is None or (version.state is VersionState.END and version.retry_at <= time.monotonic()):
            self._make_room(model)
            version = self._start(model, number, token)
        task = self._loads.get(version)
        if task is not None:
            await asyncio.wait([task], timeout=None if math.isinf(seconds) else max(0.0, seconds))
        if version.available:
            return version
        if version.error:
            raise Unavailable(f"version {number} of model {model.name!r} cannot be loaded: {version.error}")
        raise Unavailable(f"version {number} of model {model.name!r} is still being loaded")

    async def refresh(self) -> None:
        """Ask the store what there is; those who ask together share one answer.

        Raises:
            StoreError: it cannot be read.
        """
        called = time.monotonic()
        async with self._asking:
            if self._asked < called:  # nobody asked since
                await self._refresh()

    # ---- looking -----------------------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Whether every model that has, or should have, an active version answers requests."""
        named = set(self._settings.models)
        due = [
            m for m in self._models.values() if m.name in named or m.pointers.active is not None or m.active
        ]
        return bool(due) and all(model.active is not None for model in due)

    def all(self, name: str = "", number: int = 0) -> Iterable[tuple[ServedModel, Version]]:
        """Yield the versions that are known, ended ones last.

        Raises:
            NotFound: `name` is not served.
        """
        models = [self._model(name)] if name else list(self._models.values())
        for model in models:
            known = [*model.versions.values(), *model.ended]
            if model.active is not None and model.active not in known:
                known.insert(0, model.active)
            for version in known:
                if number in (0, version.number):
                    yield model, version

    # ---- its life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the store; it need not be there yet."""
        self._polling = asyncio.create_task(self._poll(), name="versions")

    async def stop(self) -> None:
        """Stop following it."""
        tasks = [*self._loads.values()]
        if self._polling is not None:
            tasks.append(self._polling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            try:
                await self.refresh()
            except GdmixError as error:
                if not self._store_fails:
                    logger.warning("the store cannot be asked for versions: %s", error)
                self._store_fails = True
            except Exception:
                logger.exception("following the store failed; trying again")
            else:
                if self._store_fails:
                    logger.info("the store can be asked for versions again")
                self._store_fails = False
            await asyncio.sleep(self._settings.poll_seconds)

    async def _refresh(self) -> None:
        began = time.monotonic()
        found = await asyncio.to_thread(self._ask)
        self._asked = began
        for name, pointers in found.items():
            model = self._models.setdefault(name, ServedModel(name))
            model.pointers = pointers
            self._follow(model)

    def _ask(self) -> dict[str, Pointers]:
        """Read all models' pointers; runs in a thread."""
        names = self._settings.models or self._store.list_models()
        # A model of which an emptied store knows nothing any more is asked for all the same.
        return {name: self._store.pointers(name) for name in dict.fromkeys([*names, *list(self._models)])}

    # ---- following ---------------------------------------------------------------------------------------

    def _follow(self, model: ServedModel) -> None:
        """Bring what is loaded in line with the store's pointers."""
        self._drop_lost(model)
        wanted = model.pointed_to()
        for number in wanted:
            version = model.versions.get(number)
            if version is None or (
                version.state is VersionState.END and version.retry_at <= time.monotonic()
            ):
                self._start(model, number, model.pointers.tokens[number])
        self._switch(model)
        for alias, number in model.pointers.aliases.items():
            target = model.versions.get(number)
            if target is not None and target.available:
                model.aliases[alias] = target
        for alias in [*model.aliases]:
            if alias not in model.pointers.aliases:
                del model.aliases[alias]
        kept = {*wanted, *(version.number for version in model.aliases.values())}
        for version in [*model.versions.values()]:
            if version.number in kept or version is model.active:
                version.used = time.monotonic()
            elif self._is_over(version):
                self._retire(model, version)

    def _is_over(self, version: Version) -> bool:
        """Whether a version that nothing points to has been idle for long, or failed to load."""
        now = time.monotonic()
        if version.state is VersionState.END:
            return version.retry_at <= now
        return (
            version.available
            and version.in_flight == 0
            and now - version.used > self._settings.linger_seconds
        )

    def _drop_lost(self, model: ServedModel) -> None:
        """Give up versions that the store no longer has, or has anew under the same number."""
        for number, version in [*model.versions.items()]:
            if model.pointers.tokens.get(number) == version.token:
                continue
            version.lost = True
            if version is model.active and self._settings.on_store_failure == "fixed-effect-only":
                del model.versions[number]  # its fixed effect is all there is, until another one takes over
                continue
            if version is model.active:
                model.active = None
                self._metrics.active(model.name, None)
                logger.warning("version %d of model %r is gone from the store", number, model.name)
            for alias in [alias for alias, target in model.aliases.items() if target is version]:
                del model.aliases[alias]
            self._retire(model, version, "the store no longer has it", VersionGone.code)

    def _switch(self, model: ServedModel) -> None:
        """Make the store's active version the one that answers, if it is available."""
        number = model.pointers.active
        target = None if number is None else model.versions.get(number)
        if target is None or not target.available or target is model.active:
            return
        before, model.active = model.active, target
        self._metrics.active(model.name, target.number)
        logger.info(
            "model %r: version %d answers now%s",
            model.name,
            target.number,
            "" if before is None else f", instead of version {before.number}",
        )
        if before is not None:
            before.used = time.monotonic()
            if before.lost:
                self._retire(model, before, "the store no longer has it", VersionGone.code)

    def _retire(self, model: ServedModel, version: Version, reason: str = "", code: str = "") -> None:
        """Unload a version, once nothing is under way."""
        task = self._loads.get(version)
        if task is not None:
            task.cancel()
        version.unload(reason, code)
        if model.versions.get(version.number) is version:
            del model.versions[version.number]
        model.ended.append(version)

    def _make_room(self, model: ServedModel) -> None:
        """Unload an idle version that only requests asked for, when there are too many of them."""
        kept = model.pointed_to()
        own = [v for n, v in model.versions.items() if n not in kept and v is not model.active]
        if len(own) < _MAX_PINNED:
            return
        idle = [version for version in own if version.in_flight == 0 and version not in self._loads]
        if not idle:
            raise Overloaded(
                f"requests pin {len(own)} versions of model {model.name!r} besides the active one; allowed: "
                f"{_MAX_PINNED}"
            )
        self._retire(model, min(idle, key=lambda version: version.used))

    # ---- loading -----------------------------------------------------------------------------------------

    def _start(self, model: ServedModel, number: int, token: str) -> Version:
        """Begin to load a version; one that failed before is tried again."""
        failed = model.versions.get(number)
        version = Version(model.name, number, token, self._changed)
        if failed is not None:
            version.failures = failed.failures
        model.versions[number] = version
        self._loads[version] = asyncio.create_task(
            self._load(model, version), name=f"load-{model.name}-{number}"
        )
        return version

    async def _load(self, model: ServedModel, version: Version) -> None:
        began = time.monotonic()
        version.to(VersionState.LOADING)
        try:
            warm = await self._loader.load(version, model.active)
        except asyncio.CancelledError:
            version.to(VersionState.END)
            raise
        except GdmixError as error:
            self._fail(version, error)
        except Exception as error:
            logger.exception("version %d of model %r cannot be loaded", version.number, version.model)
            self._fail(
                version, InternalError(f"an internal error ({type(error).__name__}); see the scorer's log")
            )
        else:
            version.to(VersionState.AVAILABLE)
            logger.info(
                "version %d of model %r is loaded after %.2f s, %d entities warm",
                version.number,
                version.model,
                time.monotonic() - began,
                warm,
            )
        finally:
            self._loads.pop(version, None)
        self._follow(model)

    def _fail(self, version: Version, error: GdmixError) -> None:
        self._metrics.load_failed(version.model)
        logger.warning("version %d of model %r cannot be loaded: %s", version.number, version.model, error)
        version.scoring = None
        version.fail(error)

    def _changed(self, version: Version) -> None:
        self._metrics.version(version.model, version.number, version.state.value)

    # ---- models ------------------------------------------------------------------------------------------

    def _model(self, name: str) -> ServedModel:
        if name:
            model = self._models.get(name)
            if model is None:
                raise NotFound(f"model.name: {name!r} is not served here; served: {self._shown_names()}")
            return model
        if len(self._models) != 1:
            if not self._models:
                raise Unavailable("the store holds no model yet")
            raise UsageError(f"model.name: several models are served, name one of {self._shown_names()}")
        return next(iter(self._models.values()))

    def _shown_names(self) -> str:
        return ", ".join(map(repr, self._models)) or "none"

    def _no_version(self, model: ServedModel) -> GdmixError:
        number = model.pointers.active
        version = None if number is None else model.versions.get(number)
        if version is not None and version.error:
            return Unavailable(f"version {number} of model {model.name!r} cannot be loaded: {version.error}")
        if version is not None:
            return Unavailable(f"version {number} of model {model.name!r} is being loaded")
        return Unavailable(f"model {model.name!r} has no active version in the store")
