"""Answering one scoring call: admission, the version, encoding, coefficients, the pass over the candidates."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gdmix_core.errors import (
    GdmixError,
    InternalError,
    Overloaded,
    StoreCorrupt,
    StoreError,
    Unavailable,
    UsageError,
    VersionGone,
)
from gdmix_core.scoring.request import Columns, EncodedCandidates, Float64Array
from gdmix_core.scoring.scoring_model import Located, ScoringModel
from gdmix_scorer.access_log import AccessLog, LoggedAnswer, LoggedCall
from gdmix_scorer.calls import Form, ModelChoice, ScoreAnswer, ScoreCall
from gdmix_scorer.coefficients import Coefficients
from gdmix_scorer.deadline import Deadline
from gdmix_scorer.metrics import ScorerMetrics
from gdmix_scorer.settings import MAX_CANDIDATES, ScorerSettings
from gdmix_scorer.tracing import RequestSpan
from gdmix_scorer.versions import Version, Versions

_MAX_REQUEST_ID: Final = 128
_SLOWEST_LOAD_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 0.25
"""How long a request waits to hear what is active now, when its version has vanished."""


class Scoring:
    """Scores the candidates of calls; bound to one event loop."""

    def __init__(
        self,
        settings: ScorerSettings,
        versions: Versions,
        coefficients: Coefficients,
        metrics: ScorerMetrics,
        access_log: AccessLog,
    ) -> None:
        self._settings = settings
        self._versions = versions
        self._coefficients = coefficients
        self._metrics = metrics
        self._log = access_log
        self._plugins = ThreadPoolExecutor(1, "plug-ins")

    def admit(self, deadline: Deadline) -> None:
        """Refuse a request that cannot be answered in time, before any work is done.

        Raises:
            Overloaded: too many are under way, or this one waited too long.
            DeadlineExceeded: its time is over.
        """
        if self._metrics.in_flight.value >= self._settings.max_in_flight:
            raise Overloaded(
                f"{self._settings.max_in_flight} requests are under way in this process; try another, or later"
            )
        deadline.check()

    async def score(self, call: ScoreCall, deadline: Deadline, timing: Timing) -> ScoreAnswer:
        """Score a call's candidates.

        Args:
            call: what is asked.
            deadline: until when.
            timing: the request's clock; phases are added to it.

        Raises:
            UsageError, DataError: the call makes no sense, or not for this model.
            NotFound, VersionGone: what it names is not served.
            Unavailable: there is no version yet, or the store failed and the policy is `unavailable`.
            DeadlineExceeded: the time was over before there was an answer.
        """
        _check(call)
        version = self._versions.choose(call.choice)
        if version is None:
            version = await self._versions.load(
                call.choice, min(_SLOWEST_LOAD_SECONDS, deadline.remaining_seconds)
            )
        try:
            return await self._score_by(version, call, deadline, timing)
        except VersionGone as error:
            if call.choice.pinned:
                raise
            gone = error
        other = None if version.lost else await self._instead_of(version, call.choice)
        if other is not None:
            try:
                return await self._score_by(other, call, deadline, timing)
            except VersionGone as error:
                version, gone = other, error
        return await self._score_by(version, call, deadline, timing, gone)

    async def _instead_of(self, gone: Version, choice: ModelChoice) -> Version | None:
        """Return the version that is active now, when the one that was has just vanished from the store."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._versions.refresh()
            other = self._versions.choose(choice)
        except (GdmixError, TimeoutError):
            return None
        return None if other is gone else other

    async def _score_by(
        self,
        version: Version,
        call: ScoreCall,
        deadline: Deadline,
        timing: Timing,
        gone: VersionGone | None = None,
    ) -> ScoreAnswer:
        """Score by one version; with `gone`, by what the policy leaves of a version that vanished."""
        version.begin()
        try:
            scoring = version.scoring
            if scoring is None:
                if gone is not None:
                    raise Unavailable(str(gone)) from gone
                raise InternalError(f"version {version.number} of model {version.model!r} is not loaded")
            timing.version = version
            given = call.candidates
            if isinstance(given, Columns):
                request = scoring.encode(given)
            else:
                request = given
                scoring.check(request)
            timing.request = request
            timing.phase("decode")
            plugged = await self._score_plugged(scoring, request, deadline, timing)
            if gone is None:
                located, reason = await self._locate(version, request, deadline, timing)
            else:
                located, reason = self._by_policy(scoring, gone)
            scores = scoring.score(request, located, plugged)
            timing.phase("compute")
            return ScoreAnswer(
                model=version.model,
                version=version.number,
                coordinates=scoring.coordinate_names,
                scores=scores,
                unknown_features=scoring.unknown_columns(request),
                degraded_reason=reason,
            )
        finally:
            version.end()

    async def _score_plugged(
        self, scoring: ScoringModel, request: EncodedCandidates, deadline: Deadline, timing: Timing
    ) -> Float64Array | None:
        """Have plug-ins score, in a thread of their own; before coefficients are located, which must not wait."""
        if not scoring.plugged:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline.remaining_seconds):
                scores = await loop.run_in_executor(self._plugins, scoring.score_plugged, request)
        except TimeoutError:
            deadline.check()
            raise
        timing.phase("plugin")
        return scores

    async def _locate(
        self, version: Version, request: EncodedCandidates, deadline: Deadline, timing: Timing
    ) -> tuple[Located, str]:
        """Return the request's coefficients; when the store fails, what the policy says, and why."""
        assert version.scoring is not None
        if version.lost:
            raise VersionGone(
                f"version {version.number} of model {version.model!r} is no longer in the store"
            )
        try:
            seconds = deadline.store_seconds(self._settings.store_seconds)
            located, waited = await self._coefficients.locate(
                version.scoring, version.token, request, seconds
            )
        except VersionGone:
            raise
        except StoreError as error:
            if isinstance(error, StoreCorrupt):
                self._metrics.damaged_record()
            timing.phase("store")
            return self._by_policy(version.scoring, error)
        if waited:
            timing.phase("store")
        return located, ""

    def _by_policy(self, scoring: ScoringModel, error: StoreError) -> tuple[Located, str]:
        """Return no coefficients, if the declared policy allows an answer without them.

        Raises:
            Unavailable: it does not.
            StoreCorrupt: it does not, and a record was damaged.
        """
        if self._settings.on_store_failure == "fixed-effect-only":
            return self._coefficients.nothing(scoring), str(error)
        if isinstance(error, StoreCorrupt):
            raise error
        raise Unavailable(str(error)) from error

    def finish(self, call: ScoreCall | None, timing: Timing, answer: ScoreAnswer | GdmixError) -> None:
        """Count, log and trace a request that was answered, or refused."""
        metrics, version = self._metrics, timing.version
        total = timing.total()
        model, number = ("", 0) if version is None else (version.model, version.number)
        candidates = 0 if call is None else call.candidates.candidates
        if isinstance(answer, GdmixError):
            outcome, number = answer.status, 0
            logged = LoggedAnswer(outcome, error=str(answer))
        else:
            outcome = "OK"
            unknown = {name: len(ids) for name, ids in answer.scores.unknown_entities.items()}
            for name, count in unknown.items():
                metrics.unknown_entities(name, count)
            for name, count in answer.unknown_features.items():
                metrics.unknown_features(name, count)
            if answer.degraded_reason:
                metrics.degraded("store")
            logged = LoggedAnswer(
                outcome, answer.version, answer.scores.scores, unknown, answer.degraded_reason
            )
        metrics.request(model, number, outcome, timing.form, candidates)
        for name, seconds in timing.phases.items():
            metrics.phase(name, seconds)  # type: ignore[arg-type]
            timing.span.phase(name, seconds)
        metrics.phase("total", total)
        timing.span.end(outcome)
        if self._log.enabled:
            self._log.write(_logged_call(call, timing, model), logged, {**timing.phases, "total": total})


class Timing:
    """The clock of one request, and what was found out about it on the way."""

    __slots__ = ("_began", "_last", "form", "phases", "request", "span", "version")

    def __init__(self, form: Form, span: RequestSpan) -> None:
        self._began = self._last = time.perf_counter()
        self.form = form
        self.span = span
        self.phases: dict[str, float] = {}
        self.version: Version | None = None
        self.request: EncodedCandidates | None = None

    def phase(self, name: str) -> None:
        """End a phase: it took the time since the last one ended."""
        now = time.perf_counter()
        self.phases[name] = self.phases.get(name, 0.0) + now - self._last
        self._last = now

    def total(self) -> float:
        """Return the seconds since the request was begun."""
        return time.perf_counter() - self._began


def _check(call: ScoreCall) -> None:
    """Check what holds for every form and model."""
    candidates = call.candidates.candidates
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates: found {candidates}; allowed are 1 to {MAX_CANDIDATES}")
    if len(call.request_id) > _MAX_REQUEST_ID:
        raise UsageError(f"request_id: has {len(call.request_id)} characters; allowed are {_MAX_REQUEST_ID}")
    if call.choice.version < 0:
        raise UsageError(f"model.version: found {call.choice.version}; versions begin with 1")


def _logged_call(call: ScoreCall | None, timing: Timing, model: str) -> LoggedCall:
    if call is None:
        return LoggedCall("", model, timing.form, 0)
    request, scoring = timing.request, None if timing.version is None else timing.version.scoring
    columns = call.candidates if isinstance(call.candidates, Columns) else None
    if columns is not None and scoring is not None:
        columns = scoring.plain(columns)
    return LoggedCall(
        request_id=call.request_id,
        model=model or call.choice.name,
        form=timing.form,
        candidates=call.candidates.candidates,
        entities={} if request is None else request.entities,
        columns=columns,
    )
