"""Brings one version into memory: manifest, feature index, fixed effects, and the entities that will be asked for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from gdmix_core.errors import GdmixError
from gdmix_core.model.manifest import manifest_from_json
from gdmix_core.scoring.request import Columns
from gdmix_core.scoring.scoring_model import ScoringModel
from gdmix_core.store import CoefficientStore
from gdmix_scorer.coefficients import Coefficients
from gdmix_scorer.versions.version import Version

_WARM_SECONDS: Final = 0.4
"""How long entities of the version before are read ahead: a new version is to answer within a second."""


class VersionLoader:
    """Loads versions of one store."""

    def __init__(self, store: CoefficientStore, coefficients: Coefficients) -> None:
        self._store = store
        self._coefficients = coefficients

    async def load(self, version: Version, before: Version | None) -> int:
        """Fill `version.scoring`, and warm it by what the version before is asked for most.

        Args:
            version: to be loaded.
            before: the version that answers now, None if there is none.

        Returns:
            Entities that were read ahead.

        Raises:
            StoreError: the version is gone, or damaged.
        """
        scoring = await asyncio.to_thread(read_version, self._store, version.model, version.number)
        version.scoring = scoring
        if before is None or before.scoring is None:
            return 0
        with suppress(GdmixError):  # a store that fails now does not stop the load: requests will see it
            return await self._coefficients.warm(scoring, version.token, before.scoring, _WARM_SECONDS)
        return 0


def read_version(store: CoefficientStore, model: str, number: int) -> ScoringModel:
    """Read a version's manifest and files, and let it encode nothing once; runs in a thread.

    Raises:
        StoreError: the version is gone, or damaged.
    """
    manifest = manifest_from_json(store.read_manifest(model, number), f"version {number} of model {model!r}")
    scoring = ScoringModel.from_files(manifest, lambda name: store.read_blob(model, number, name))
    scoring.encode(Columns(1, {}, {}))
    return scoring
