"""What those who watch a job get to see: kept events from the journal, and recent ones from memory.

A watcher has a position and no queue: it reads on from the ring of recent events, or from the journal where
the ring no longer reaches back. So a slow one costs nothing, misses no kept event, and loses only progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from gdmix_core.errors import GdmixError
from gdmix_server.state.model import JobEvent, JobState

RING_EVENTS: Final = 256


class KeptEvents(Protocol):
    """Where kept events can be read again: the journal."""

    async def kept_events(self, job_id: str, after_sequence: int) -> list[JobEvent]:
        """Return the next kept events after a sequence number, in order; none when there are no more."""
        ...


@dataclass(slots=True)
class _Story:
    """Recent events of one job; complete from sequence number `complete_from` on."""

    state: JobState
    ring: deque[JobEvent] = field(default_factory=deque)
    complete_from: int | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobStories:
    """Tells the stories of all jobs to any number of watchers."""

    def __init__(self, kept: KeptEvents, *, ring_events: int = RING_EVENTS) -> None:
        self._kept = kept
        self._ring_events = ring_events
        self._stories: dict[str, _Story] = {}
        self._ended: GdmixError | None = None

    def note_state(self, job_id: str, state: JobState) -> None:
        """Take note of a job and its state; watchers of an ended job leave when they have read it all."""
        story = self._stories.setdefault(job_id, _Story(state))
        story.state = state
        self._wake(story)

    def publish(self, event: JobEvent) -> None:
        """Show an event; a kept one MUST be in the journal by now."""
        story = self._stories.setdefault(event.job_id, _Story(event.state))
        if story.complete_from is None:
            story.complete_from = event.sequence
        story.ring.append(event)
        if len(story.ring) > self._ring_events:
            story.complete_from = story.ring.popleft().sequence + 1
        self._wake(story)

    def forget(self, job_id: str) -> None:
        """Drop a deleted job; its watchers leave."""
        story = self._stories.pop(job_id, None)
        if story is not None:
            self._wake(story)

    def end(self, reason: GdmixError) -> None:
        """Send all watchers away, now and from now on, with an error."""
        self._ended = reason
        for story in self._stories.values():
            self._wake(story)

    async def watch(self, job_id: str, after_sequence: int) -> AsyncIterator[JobEvent]:
        """Yield a job's events after a sequence number, in order, until the job has ended or is deleted.

        Raises:
            GdmixError: the coordinator ends.
        """
        position = after_sequence
        while True:
            if self._ended is not None:
                raise self._ended
            story = self._stories.get(job_id)
            if story is None:
                return
            changed, complete_from = story.changed, story.complete_from
            if complete_from is not None and position + 1 >= complete_from:
                events = [event for event in story.ring if event.sequence > position]
            else:
                events = await self._before(job_id, position, complete_from)
                if not events and complete_from is not None:
                    position = complete_from - 1
                    continue
            for event in events:
                position = event.sequence
                yield event
            if events or changed.is_set():
                continue
            if story.state.ended:
                return
            await changed.wait()

    async def _before(self, job_id: str, position: int, complete_from: int | None) -> list[JobEvent]:
        """Read on in the journal, up to where the ring began before this was called."""
        kept = await self._kept.kept_events(job_id, position)
        return [event for event in kept if complete_from is None or event.sequence < complete_from]

    @staticmethod
    def _wake(story: _Story) -> None:
        story.changed.set()
        story.changed = asyncio.Event()
