"""What the state machine wants done; the interpreter does it, in order, after the journal has been committed.

`Save*` and `Delete*` instructions are written to the journal, all of one batch in one transaction; the others
are released once that transaction is on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.tasks import Task
from gdmix_server.state.model import FixedEffectStage, JobEvent, JobRow, Lease, StageRow, UnitRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """Base of all instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveJob(Instruction):
    """Write a job's row."""

    row: JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveStage(Instruction):
    """Write a stage's row."""

    row: StageRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveUnit(Instruction):
    """Write a unit's row."""

    row: UnitRow


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteJob(Instruction):
    """Forget a job: its rows, events, arrays, and its working directory."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit(Instruction):
    """Tell those who watch; kept in the journal when `keep`, in memory else."""

    event: JobEvent
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptWorker(Instruction):
    """Answer a registration."""

    worker_id: str
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseWorker(Instruction):
    """End a session: FAILED_PRECONDITION with `reason`."""

    worker_id: str
    session: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTask(Instruction):
    """Hand a unit to a worker; `arrays` maps the names it may pull to their keys."""

    worker_id: str
    session: int
    lease: Lease
    task: Task
    arrays: tuple[tuple[str, str], ...] = ()
    gang_size: int = 0
    """Members of the gang that the unit belongs to; 0: it runs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGang(Instruction):
    """Tell a member of a gang where all of them listen, by rank."""

    worker_id: str
    session: int
    lease: Lease
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeLease(Instruction):
    """Tell a worker to stop, and forget arrays pushed under the lease."""

    worker_id: str
    session: int
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge(Instruction):
    """Tell a worker that its result was journaled (or refused for good); refused: forget its arrays."""

    worker_id: str
    lease: Lease
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepArrays(Instruction):
    """Keep the arrays pushed under an accepted lease on disk, before its SaveUnit is committed.

    Array `name` is kept under the key `<stage>/<name>`.
    """

    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCache(Instruction):
    """Tell a worker to forget shards it keeps in memory."""

    worker_id: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptimiser(Instruction):
    """Create the driver of a stage, replay its evaluation log, then ask (OptimiserAsked) or finish."""

    job_id: str
    stage: FixedEffectStage


@dataclass(frozen=True, slots=True, kw_only=True)
class TellOptimiser(Instruction):
    """All shards of a round are in: reduce the tree, log the evaluation, tell the driver.

    `nodes` names, for each accepted lease, its shards (ascending): array `sums` of the lease has one row for
    each of their maximal subtrees.
    """

    job_id: str
    stage: str
    round_number: int
    nodes: tuple[tuple[Lease, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOptimiser(Instruction):
    """Drop the driver of a stage (cancelled or failed); its evaluation log stays for a resume."""

    job_id: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt(Instruction):
    """Send a Tick at this time; replaces the earlier wish."""

    time: float
