"""Where a request's coefficients come from: the record cache, and what it lacks from the store in one read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import StoreCorrupt, StoreError, StoreUnavailable, VersionGone
from gdmix_core.scoring.record_cache import MIN_BYTES, RecordCache, missed, unknown
from gdmix_core.scoring.request import EncodedCandidates, EntityIds
from gdmix_core.scoring.scoring_model import Located, ScoringModel
from gdmix_core.store import keys
from gdmix_core.store.async_reading import AsyncReader

Int64Array = npt.NDArray[np.int64]

_PAUSE_SECONDS: Final = 0.25
"""After a failure the store is left alone for so long: requests get the policy's answer at once."""
_NOBODY: Final = EntityIds(True, ByteStrings.of([b""]))
_WARM_BATCH: Final = 40


class StoreGate:
    """Remembers that the store just failed, so that not every request waits for it in vain."""

    def __init__(self) -> None:
        self._shut_until = 0.0
        self._reason = ""

    def check(self) -> None:
        """Refuse while the store is left alone.

        Raises:
            StoreUnavailable: it failed a moment ago.
        """
        if time.monotonic() < self._shut_until:
            raise StoreUnavailable(self._reason)

    def failed(self, reason: str) -> None:
        """Note a failure."""
        self._reason = reason
        self._shut_until = time.monotonic() + _PAUSE_SECONDS

    def answered(self) -> None:
        """Note that it works."""
        self._shut_until = 0.0


@dataclass(slots=True)
class _Wanted:
    """The ids that a request has for one random effect, and where their places go."""

    name: str
    scope: int
    ids: EntityIds
    places: Int64Array


class Coefficients:
    """Cache and store of one process; bound to its event loop."""

    def __init__(self, reader: AsyncReader, cache_bytes: int) -> None:
        """Read from a store, and keep what was read in so many bytes (0: nothing)."""
        self._reader = reader
        self.cache = RecordCache(max(MIN_BYTES, cache_bytes))
        self._keep = cache_bytes > 0
        self._gate = StoreGate()

    async def locate(
        self, scoring: ScoringModel, token: str, request: EncodedCandidates, store_seconds: float
    ) -> tuple[Located, float]:
        """Find the coefficients of a request's entities.

        Args:
            scoring: the version.
            token: of its publication: a version of the same number published anew is another one.
            request: what is to be scored.
            store_seconds: how long to wait for the store.

        Returns:
            The places, valid until the event loop turns, and the seconds spent on reading the store.

        Raises:
            VersionGone: the store no longer has the version.
            StoreUnavailable: the store did not answer in time.
            StoreError: it refused, or a record is damaged.
        """
        places, wanted = _wanted(scoring, request)
        misses, absent = self._find(self.cache, wanted)
        if not misses:
            return _located(self.cache, places, wanted, absent), 0.0
        began = time.perf_counter()
        missing = [missed(one.ids.ids, one.places) for one in wanted]
        if self._keep:
            await self._fill(self.cache, scoring, token, wanted, missing, store_seconds)
            misses, absent = self._find(self.cache, wanted)
        cache = self.cache
        if misses:  # the request is larger than what may be kept: it gets memory of its own
            everything = [list(dict.fromkeys(filter(None, one.ids.ids.to_list()))) for one in wanted]
            cache = await self._fill(None, scoring, token, wanted, everything, store_seconds)
            _, absent = self._find(cache, wanted)
        return _located(cache, places, wanted, absent), time.perf_counter() - began

    def nothing(self, scoring: ScoringModel) -> Located:
        """Return no coefficients for anybody: what is left is the fixed effect."""
        count = max(1, len(scoring.random_effects))
        nowhere = kernel_input(np.full(count, -1), np.int64)
        return Located(self.cache.words, nowhere, kernel_input(np.zeros((count, 2)), np.int64), {})

    async def warm(self, scoring: ScoringModel, token: str, like: ScoringModel, seconds: float) -> int:
        """Read records of the entities that another version is asked for; return how many.

        Args:
            scoring: the version.
            token: of its publication.
            like: the other version.
            seconds: when to stop, whatever is missing then.

        Raises:
            StoreError: as `locate`.
        """
        read = 0
        ends = time.monotonic() + seconds
        older = {effect.name: effect for effect in like.random_effects}
        for effect in scoring.random_effects:
            if effect.name not in older or not self._keep:
                continue
            for ids in self.cache.ids_of(older[effect.name].scope, _WARM_BATCH):
                began = time.monotonic()
                if began > ends:
                    return read
                if ids:
                    wanted = [keys.entity_key(effect.name, one) for one in ids]
                    records = await self._read(scoring, token, wanted, seconds)
                    self.cache.insert(effect.scope, scoring.manifest.schema, ids, records)
                    read += len(ids)
                await asyncio.sleep(time.monotonic() - began)  # half of the time is left to requests
        return read

    async def close(self) -> None:
        """Close the store."""
        await self._reader.close()

    @staticmethod
    def _find(cache: RecordCache, wanted: Sequence[_Wanted]) -> tuple[int, int]:
        misses = absent = 0
        for one in wanted:
            found = cache.find(one.scope, one.ids.ids, one.places)
            misses += found[0]
            absent += found[1]
        return misses, absent

    async def _fill(
        self,
        cache: RecordCache | None,
        scoring: ScoringModel,
        token: str,
        wanted: Sequence[_Wanted],
        ids: Sequence[Sequence[bytes]],
        store_seconds: float,
    ) -> RecordCache:
        """Read ids into a cache, in one round trip; None: into a new one of the right size."""
        names = [
            keys.entity_key(one.name, entity) for one, own in zip(wanted, ids, strict=True) for entity in own
        ]
        records = await self._read(scoring, token, names, store_seconds)
        target = cache
        if target is None:
            target = RecordCache.for_records([entity for own in ids for entity in own], records)
        start = 0
        for one, own in zip(wanted, ids, strict=True):
            target.insert(one.scope, scoring.manifest.schema, own, records[start : start + len(own)])
            start += len(own)
        return target

    async def _read(
        self, scoring: ScoringModel, token: str, wanted: Sequence[bytes], seconds: float
    ) -> list[bytes | None]:
        self._gate.check()
        model, version = scoring.manifest.model, scoring.manifest.version
        try:
            async with asyncio.timeout(seconds):
                seal, records = await self._reader.read_records(model, version, wanted)
        except TimeoutError as error:
            reason = f"the store did not answer within {seconds * 1000:.0f} ms"
            self._gate.failed(reason)
            raise StoreUnavailable(reason) from error
        except (VersionGone, StoreCorrupt):
            raise
        except StoreError as error:
            self._gate.failed(str(error))
            raise
        self._gate.answered()
        if seal.token != token:
            raise VersionGone(f"version {version} of model {model!r} was published anew")
        return records


def _wanted(scoring: ScoringModel, request: EncodedCandidates) -> tuple[Int64Array, list[_Wanted]]:
    """Lay out where the places of a request's entities go."""
    given = [request.entities.get(effect.entity_column, _NOBODY) for effect in scoring.random_effects]
    places = np.empty(sum(len(ids.ids) for ids in given) or 1, np.int64)
    wanted: list[_Wanted] = []
    start = 0
    for effect, ids in zip(scoring.random_effects, given, strict=True):
        end = start + len(ids.ids)
        wanted.append(_Wanted(effect.name, effect.scope, ids, places[start:end]))
        start = end
    return places, wanted


def _located(cache: RecordCache, places: Int64Array, wanted: Sequence[_Wanted], absent: int) -> Located:
    spans: list[tuple[int, int]] = []
    start = 0
    for one in wanted:
        spans.append((start, 0 if one.ids.context else 1))
        start += len(one.places)
    nobody: dict[str, list[bytes]] = {}
    if absent:
        nobody = {one.name: ids for one in wanted if (ids := unknown(one.ids.ids, one.places))}
    table = np.array(spans or [(0, 0)], np.int64)
    return Located(cache.words, kernel_input(places, np.int64), kernel_input(table, np.int64), nobody)
