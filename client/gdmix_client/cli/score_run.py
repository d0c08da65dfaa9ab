"""Scoring many batches of rows: a few requests under way at once, results in the order of the rows."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gdmix_client.scoring.aio import AsyncScorer
from gdmix_client.scoring.attempts import CHANNELS
from gdmix_core.errors import DataError, InternalError, Overloaded, UsageError

if TYPE_CHECKING:
    from gdmix_client.cli.score_output import ScoreSink
    from gdmix_client.cli.score_rows import RowBatch
    from gdmix_client.connection import Connection
    from gdmix_client.scoring.results import Scores

CONCURRENCY: Final = 2 * CHANNELS
"""A scorer takes a few streams on each connection; more would only wait in the client."""
PATIENCE_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""How long to stay away from a scorer that has too much to do: people who wait for a page come first."""
MAX_UNKNOWN_IDS: Final = 1_000_000
_CANDIDATE: Final = re.compile(
    r"^(?:\w+\.)?(?:candidates|fixed_effect_scores)\[(\d+)\](?:\.\w+)?:? ?(.*)$", re.DOTALL
)

_ALL_CANDIDATES: Final = re.compile(r"^(?:\w+\.)?candidates: (.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How rows are scored.

    Attributes:
        model: name; "" for the one that the scorer serves.
        version: instead of the active one.
        alias: instead of the active one.
        contributions: also what each coordinate adds.
        timeout_seconds: for one batch.
        input_name: how messages call the rows' source.
    """

    model: str
    version: int | None
    alias: str | None
    contributions: bool
    timeout_seconds: float
    input_name: str


@dataclass(slots=True, kw_only=True)
class Summary:
    """What became of all rows.

    Attributes:
        rows: scored.
        model: that scored them; "" when there were no rows.
        version: that scored them, all the same one.
        unknown_entities: by coordinate, distinct ids without coefficients.
        unknown_features: by `bag.column`, values that the feature index does not know.
        unused_columns: that the model has no use for.
        degraded_rows: scored without everything that belongs to them, by the scorer's policy.
        degraded_reason: what failed.
        more_unknown: coordinates of which not every unknown id was told: the count is a lower bound.
    """

    rows: int = 0
    model: str = ""
    version: int = 0
    unknown_entities: Counter[str] = field(default_factory=Counter)
    unknown_features: Counter[str] = field(default_factory=Counter)
    unused_columns: tuple[str, ...] = ()
    degraded_rows: int = 0
    degraded_reason: str = ""
    more_unknown: set[str] = field(default_factory=set)


class ScoreRun:
    """One pass over some rows."""

    def __init__(self, options: ScoreOptions, sink: ScoreSink, when_scored: Callable[[int], None]) -> None:
        """Take where scores go.

        Args:
            options: how rows are scored.
            sink: takes the scored batches.
            when_scored: called with a number of rows whenever that many more are done.
        """
        self._options = options
        self._sink = sink
        self._when_scored = when_scored
        self._unknown_ids: dict[str, set[str]] = {}
        self.summary = Summary()

    async def run(self, connection: Connection, batches: Iterator[RowBatch]) -> Summary:
        """Score all batches.

        Raises:
            DataError: a row is faulty; the message names it.
            GdmixError: the scorer refused, or cannot be reached.
        """
        async with AsyncScorer(connection) as scorer:
            pending: deque[tuple[RowBatch, asyncio.Task[Scores]]] = deque()
            try:
                # In a thread: what is under way goes on while a slow pipe has nothing to read.
                while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                    pending.append((batch, asyncio.create_task(self._score(scorer, batch))))
                    # The first answer settles the version, which the others then ask for.
                    if len(pending) >= (CONCURRENCY if self.summary.version else 1):
                        self._take(*await _first(pending))
                while pending:
                    self._take(*await _first(pending))
            finally:
                for _, task in pending:
                    task.cancel()
                await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
        self.summary.unknown_entities = Counter({name: len(ids) for name, ids in self._unknown_ids.items()})
        return self.summary

    async def _score(self, scorer: AsyncScorer, batch: RowBatch) -> Scores:
        settled = self.summary.version or None
        options, unused = self._options, set(self.summary.unused_columns)
        columns = {name: values for name, values in batch.columns.items() if name not in unused}
        patience = iter(PATIENCE_SECONDS)
        while True:
            try:
                return await scorer.score(
                    {},
                    columns or [{}] * batch.rows,
                    model=self.summary.model or options.model,
                    version=settled or options.version,
                    alias=None if settled else options.alias,
                    fixed_effect_scores=batch.fixed_effect_scores,
                    contributions=options.contributions,
                    timeout_seconds=options.timeout_seconds,
                )
            except Overloaded:
                delay = next(patience, None)
                if delay is None:
                    raise
            except (UsageError, DataError) as error:
                raise self._in_the_file(error, batch) from error
            await asyncio.sleep(delay)

    def _in_the_file(self, error: UsageError | DataError, batch: RowBatch) -> UsageError | DataError:
        """Return the error with the row's number in the file, where it is about a candidate."""
        name, text = self._options.input_name, str(error)
        if found := _CANDIDATE.match(text):
            return DataError(f"{name}: row {batch.first_row + int(found[1])}: {found[2]}")
        if found := _ALL_CANDIDATES.match(text):
            last = batch.first_row + batch.rows - 1
            return DataError(f"{name}: rows {batch.first_row} to {last}: {found[1]}")
        return DataError(f"{name}: {text}") if isinstance(error, DataError) else error

    def _take(self, batch: RowBatch, scores: Scores) -> None:
        if len(scores) != batch.rows:
            raise InternalError(f"the scorer answered {batch.rows} rows with {len(scores)} scores")
        summary = self.summary
        summary.rows += batch.rows
        summary.model, summary.version = scores.model, scores.version
        if scores.degraded:
            summary.degraded_rows += batch.rows
            summary.degraded_reason = scores.degraded_reason
        for name, count in scores.unknown_features.items():
            if name in batch.columns:
                summary.unused_columns = (*dict.fromkeys((*summary.unused_columns, name)),)
            else:
                summary.unknown_features[name] += count
        for name, count in scores.unknown_entities.items():
            told, known = scores.unknown_ids.get(name, ()), self._unknown_ids.setdefault(name, set())
            if len(told) < count or len(known) > MAX_UNKNOWN_IDS:
                summary.more_unknown.add(name)
            if len(known) <= MAX_UNKNOWN_IDS:
                known.update(told)
        self._sink.write(batch, scores)
        self._when_scored(batch.rows)


async def _first(pending: deque[tuple[RowBatch, asyncio.Task[Scores]]]) -> tuple[RowBatch, Scores]:
    batch, task = pending[0]
    scores = await task
    pending.popleft()
    return batch, scores
