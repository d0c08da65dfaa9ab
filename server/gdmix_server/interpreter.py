"""Does what the state machine wants done: the only place where events meet the journal, workers and clocks.

Events wait in one queue. They are handled in batches: drain the queue, let the machine handle every event,
put what is to be kept of all their instructions into the journal in one transaction, and only then let the
other instructions out, in order. So nothing the world sees can be forgotten. When the journal cannot be
written, or the machine itself fails, the coordinator ends: its next run starts from what is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gdmix_core.errors import GdmixError, InternalError, NotFound, Unavailable
from gdmix_server.array_store import ArrayStore
from gdmix_server.journal import Journal, is_kept
from gdmix_server.optimiser_runner import OptimiserRunner
from gdmix_server.sessions import Outgoing, Session, Sessions
from gdmix_server.state.events import Event, Tick, WorkerConnected
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    DeleteJob,
    DropCache,
    Emit,
    Instruction,
    KeepArrays,
    RefuseWorker,
    RevokeLease,
    SaveJob,
    SaveStage,
    SendTask,
    StartGang,
    StartOptimiser,
    StopOptimiser,
    TellOptimiser,
    WakeAt,
)
from gdmix_server.state.model import JobRow, Lease, Progress, StageRow, UnitRow
from gdmix_server.state.workers import WorkerView
from gdmix_server.watching import JobStories

logger = logging.getLogger(__name__)

MAX_BATCH_EVENTS: Final = 512


class Machine(Protocol):
    """The state machine as it is used here."""

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event; a GdmixError leaves the state untouched and goes to whoever asked."""
        ...

    def restore(
        self, snapshot: tuple[Sequence[JobRow], Sequence[StageRow], Sequence[UnitRow]], now: float
    ) -> list[Instruction]:
        """Take the journal's rows, before any event."""
        ...

    def progress(self, job_id: str) -> Progress | None:
        """Return where a job's running stage stands."""
        ...

    def workers(self) -> Sequence[WorkerView]:
        """Return the workers that are known."""
        ...

    def is_current(self, lease: Lease) -> bool:
        """Return whether a lease stands."""
        ...


@dataclass(frozen=True, slots=True)
class _Posted:
    event: Event
    answer: asyncio.Future[None] | None


class Interpreter:
    """Runs a state machine.

    Attributes:
        arrays: bulk arrays.
        sessions: the workers' streams.
        stories: what watchers see.
        failed: done, with an exception, when the coordinator cannot go on.
    """

    def __init__(self, machine: Machine, journal: Journal, *, clock: Callable[[], float] = time.time) -> None:
        self._machine = machine
        self._journal = journal
        self._clock = clock
        self.arrays = ArrayStore(journal.directory)
        self.sessions = Sessions(self.arrays, self.post)
        self.stories = JobStories(journal)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._optimisers = OptimiserRunner(self.arrays, self.post)
        self._rows: dict[str, JobRow] = {}
        self._requests: dict[str, str] = {}
        self._queue: asyncio.Queue[_Posted | None] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        self._stopping = False

    # ---- life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Restore the machine from the journal and begin to handle events.

        Raises:
            GdmixError: the journal cannot be read or written.
        """
        rows = self._journal.load()
        for row in rows.jobs:
            self._note(row)
        instructions = self._machine.restore((rows.jobs, rows.stages, rows.units), self._clock())
        await self._perform(instructions)
        self._loop_task = asyncio.get_running_loop().create_task(self._run(), name="interpreter")

    async def stop(self) -> None:
        """Handle what is queued, then end; nothing that was acknowledged is lost."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self._loop_task is not None:
            self._queue.put_nowait(None)
            await asyncio.wait([self._loop_task])
        await self._optimisers.close()
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        if self.failed.done():
            self.failed.exception()

    # ---- events ------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Queue an event that nobody waits for."""
        if not self._stopping:
            self._queue.put_nowait(_Posted(event, None))

    async def request(self, event: Event) -> None:
        """Queue an event and wait until its effects are in the journal.

        Raises:
            GdmixError: the machine refuses it, or the coordinator ends.
        """
        if self._stopping or self.failed.done():
            raise Unavailable("the coordinator is shutting down")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Posted(event, answer))
        await asyncio.shield(answer)

    # ---- queries: what is in the journal -----------------------------------------------------------------

    def job(self, job_id: str) -> JobRow:
        """Return a job.

        Raises:
            NotFound: there is none.
        """
        row = self._rows.get(job_id)
        if row is None:
            raise NotFound(f"no job {job_id!r}; jobs list shows those that exist")
        return row

    def jobs(self) -> list[JobRow]:
        """Return all jobs, newest first."""
        return sorted(self._rows.values(), key=lambda row: (row.submitted, row.job_id), reverse=True)

    def job_of_request(self, request_id: str) -> JobRow | None:
        """Return the job that was submitted under a request id."""
        job_id = self._requests.get(request_id)
        return None if job_id is None else self._rows[job_id]

    def progress(self, job_id: str) -> Progress | None:
        """Return where a job's running stage stands."""
        return self._machine.progress(job_id)

    def workers(self) -> Sequence[WorkerView]:
        """Return the workers that are known."""
        return self._machine.workers()

    # ---- the loop ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._handle_batch():
                pass
        except Exception as error:
            logger.exception("the coordinator cannot go on")
            reason = (
                error
                if isinstance(error, GdmixError)
                else InternalError(f"the coordinator failed: {error!r}")
            )
            self._refuse_all(reason)
            if not self.failed.done():
                self.failed.set_exception(reason)

    async def _handle_batch(self) -> bool:
        """Handle what is queued, waiting for the first event; return False when the end is queued."""
        batch = [await self._queue.get()]
        while len(batch) < MAX_BATCH_EVENTS and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        events = [posted for posted in batch if posted is not None]
        instructions: list[Instruction] = []
        try:
            refusals = [self._handle(posted.event, instructions) for posted in events]
            await self._perform(instructions)
        except Exception:
            for posted in events:
                _answer(posted, InternalError("the coordinator failed; its log has the reason"))
            raise
        for posted, refusal in zip(events, refusals, strict=True):
            _answer(posted, refusal)
        return len(events) == len(batch)

    def _handle(self, event: Event, instructions: list[Instruction]) -> GdmixError | None:
        try:
            instructions.extend(self._machine.handle(event))
        except GdmixError as refusal:
            return refusal
        if isinstance(event, WorkerConnected):
            # After a restart nobody else knows of them here; what they may pull is no longer known.
            for lease in event.held:
                if self._machine.is_current(lease):
                    self.arrays.grant(lease, None)
        return None

    async def _perform(self, instructions: Sequence[Instruction]) -> None:
        """Journal, then release."""
        for instruction in instructions:
            if isinstance(instruction, KeepArrays):
                await self.arrays.keep(instruction.lease)
        kept = [instruction for instruction in instructions if is_kept(instruction)]
        if kept:
            await self._journal.commit(kept)
        for instruction in instructions:
            self._release(instruction)

    def _release(self, instruction: Instruction) -> None:
        match instruction:
            case SaveJob(row=row):
                self._note(row)
            case SaveStage(row=stage) if stage.ended is not None:
                self._optimisers.end_stage(stage.job_id, stage.stage)
                self.arrays.end_stage(stage.job_id, stage.stage)
            case DeleteJob(job_id=job_id):
                self._delete(job_id)
            case Emit(event=event):
                self.stories.publish(event)
            case StartOptimiser(job_id=job_id, stage=optimised):
                self._optimisers.start(job_id, optimised)
            case TellOptimiser():
                self._tell(instruction)
            case StopOptimiser(job_id=job_id, stage=name):
                self._optimisers.stop(job_id, name)
            case KeepArrays(lease=lease):
                self.arrays.release(lease)
            case WakeAt(time=wanted):
                self._wake_at(wanted)
            case _:
                self._tell_worker(instruction)

    def _tell_worker(self, instruction: Instruction) -> None:
        match instruction:
            case AcceptWorker(session=number) | StartGang(session=number):
                self._send(self.sessions.numbered(number), instruction)
            case RefuseWorker(session=number, reason=reason):
                session = self.sessions.numbered(number)
                if session is not None:
                    session.refuse(reason)
            case SendTask(session=number, lease=lease, arrays=arrays):
                self.arrays.grant(lease, arrays)
                self._send(self.sessions.numbered(number), instruction)
            case RevokeLease(session=number, lease=lease):
                self.arrays.release(lease)
                self._send(self.sessions.numbered(number), instruction)
            case Acknowledge(worker_id=worker_id, lease=lease, accepted=accepted):
                if not accepted:
                    self.arrays.release(lease)
                self._send(self.sessions.of_worker(worker_id), instruction)
            case DropCache(worker_id=worker_id):
                self._send(self.sessions.of_worker(worker_id), instruction)
            case _:
                return

    @staticmethod
    def _send(session: Session | None, message: Outgoing) -> None:
        if session is not None:
            session.send(message)

    def _tell(self, told: TellOptimiser) -> None:
        self._optimisers.tell(told)
        for lease, _ in told.nodes:
            self.arrays.release(lease)

    def _note(self, row: JobRow) -> None:
        self._rows[row.job_id] = row
        self._requests[row.request_id] = row.job_id
        self.stories.note_state(row.job_id, row.state)
        if row.state.ended:
            self._optimisers.end_job(row.job_id)
            self.arrays.end_job(row.job_id)
        else:
            self._optimisers.prepare()

    def _wake_at(self, wanted: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, wanted - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Tick(now=self._clock()))

    def _delete(self, job_id: str) -> None:
        row = self._rows.pop(job_id, None)
        self.stories.forget(job_id)
        if row is None:
            return
        self._requests.pop(row.request_id, None)
        self.arrays.end_job(job_id)
        task = asyncio.get_running_loop().create_task(self._clean(row), name=f"clean {job_id}")
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _clean(self, row: JobRow) -> None:
        """Remove a deleted job's files: what was kept here, and its working files if they are in reach."""
        await self._optimisers.idle(row.job_id)
        await asyncio.to_thread(self.arrays.remove_job, row.job_id)
        working = Path(row.output) / ".gdmix" / "jobs" / row.job_id
        if working.is_absolute() and working.name == row.job_id:
            await asyncio.to_thread(shutil.rmtree, working, ignore_errors=True)

    def _refuse_all(self, reason: GdmixError) -> None:
        while not self._queue.empty():
            posted = self._queue.get_nowait()
            if posted is not None:
                _answer(posted, reason)


def _answer(posted: _Posted, refusal: GdmixError | None) -> None:
    """Tell whoever waits for an event what became of it."""
    if posted.answer is None:
        if refusal is not None:
            logger.warning("%s was refused: %s", type(posted.event).__name__, refusal)
    elif posted.answer.done():
        return
    elif refusal is None:
        posted.answer.set_result(None)
    else:
        posted.answer.set_exception(refusal)
