"""Watching a job: every kept event, in order, from anywhere, until its end."""

from __future__ import annotations

import asyncio
import random

import pytest

from gdmix_core.errors import Unavailable
from gdmix_server.state.model import JobEvent, JobState
from gdmix_server.watching import JobStories


class Kept:
    """Kept events in memory, read in small pages, with other tasks running in between."""

    def __init__(self, page=3):
        self.events = []
        self.page = page
        self.reads = 0

    async def kept_events(self, job_id, after_sequence):
        self.reads += 1
        found = [event for event in self.events if event.sequence > after_sequence][: self.page]
        await asyncio.sleep(0)
        return found


def event(sequence, state=JobState.RUNNING):
    return JobEvent(job_id="j", sequence=sequence, time=0.0, state=state)


def tell(stories, kept, sequence, *, keep=True, state=JobState.RUNNING):
    if keep:
        kept.events.append(event(sequence, state))
    stories.publish(event(sequence, state))


async def collect(stories, after=0):
    return [found.sequence async for found in stories.watch("j", after)]


def test_a_finished_job_is_told_from_the_journal():
    async def run():
        kept = Kept()
        kept.events = [event(number) for number in (1, 4, 5, 9, 11, 12, 13)]
        stories = JobStories(kept)
        stories.note_state("j", JobState.SUCCEEDED)
        return await collect(stories), await collect(stories, 5), await collect(stories, 13)

    assert asyncio.run(run()) == ([1, 4, 5, 9, 11, 12, 13], [9, 11, 12, 13], [])


def test_live_events_follow_those_of_the_journal():
    async def run():
        kept = Kept()
        kept.events = [event(1), event(2)]
        stories = JobStories(kept)
        stories.note_state("j", JobState.RUNNING)
        watching = asyncio.ensure_future(collect(stories))
        for _ in range(20):
            await asyncio.sleep(0)
        tell(stories, kept, 1_000_003, keep=False)
        await asyncio.sleep(0)
        tell(stories, kept, 1_000_004)
        stories.note_state("j", JobState.FAILED)
        tell(stories, kept, 1_000_005, state=JobState.FAILED)
        return await watching

    assert asyncio.run(run()) == [1, 2, 1_000_003, 1_000_004, 1_000_005]


def test_what_the_ring_still_holds_needs_no_journal():
    async def run():
        kept = Kept()
        stories = JobStories(kept)
        for number in range(1, 11):
            tell(stories, kept, number, keep=number % 3 == 0)
        stories.note_state("j", JobState.CANCELLED)
        return await collect(stories, 4), kept.reads

    assert asyncio.run(run()) == ([5, 6, 7, 8, 9, 10], 0)


def test_a_slow_watcher_loses_progress_only():
    async def run():
        kept = Kept()
        stories = JobStories(kept, ring_events=4)
        stories.note_state("j", JobState.RUNNING)
        watcher = stories.watch("j", 0)
        tell(stories, kept, 1)
        seen = [(await anext(watcher)).sequence]
        for number in range(2, 42):
            tell(stories, kept, number, keep=number % 5 == 0)
        stories.note_state("j", JobState.SUCCEEDED)
        seen += [found.sequence async for found in watcher]
        return seen, kept

    seen, kept = asyncio.run(run())
    assert set(seen) >= {found.sequence for found in kept.events}
    assert seen == sorted(set(seen))
    assert seen[-4:] == [38, 39, 40, 41]


@pytest.mark.parametrize("seed", range(20))
def test_any_interleaving_shows_every_kept_event_once(seed):
    async def run():
        chance = random.Random(seed)
        kept = Kept(page=chance.randint(1, 5))
        stories = JobStories(kept, ring_events=chance.randint(1, 8))
        stories.note_state("j", JobState.RUNNING)
        watchers = []
        for number in range(1, 120):
            if chance.random() < 0.1:
                after = chance.randint(0, number)
                watchers.append((after, asyncio.ensure_future(collect(stories, after))))
            tell(stories, kept, number, keep=chance.random() < 0.5)
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
        stories.note_state("j", JobState.SUCCEEDED)
        tell(stories, kept, 120, state=JobState.SUCCEEDED)
        return kept, [(after, await watcher) for after, watcher in watchers]

    kept, watched = asyncio.run(run())
    for after, seen in watched:
        assert seen == sorted(set(seen))
        assert set(seen) >= {found.sequence for found in kept.events if found.sequence > after}


def test_watchers_of_a_resumed_job_stay():
    async def run():
        kept = Kept()
        stories = JobStories(kept)
        stories.note_state("j", JobState.FAILED)
        tell(stories, kept, 1, state=JobState.FAILED)
        stories.note_state("j", JobState.QUEUED)
        tell(stories, kept, 2)
        watching = asyncio.ensure_future(collect(stories))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not watching.done()
        stories.note_state("j", JobState.SUCCEEDED)
        return await watching

    assert asyncio.run(run()) == [1, 2]


def test_a_deleted_job_and_the_coordinators_end_send_watchers_away():
    async def run():
        stories = JobStories(Kept())
        for name in ("j", "k"):
            stories.note_state(name, JobState.RUNNING)
        deleted = asyncio.ensure_future(collect(stories))
        waiting = asyncio.ensure_future(anext(stories.watch("k", 0)))
        for _ in range(5):
            await asyncio.sleep(0)
        stories.forget("j")
        assert await deleted == []
        stories.end(Unavailable("shutting down"))
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await anext(stories.watch("k", 0))

    asyncio.run(run())
