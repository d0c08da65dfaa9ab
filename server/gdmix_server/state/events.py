"""What happens to the coordinator: the only way anything gets into the state machine.

Every event carries `now`, Unix seconds; the machine has no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_server.state.model import FitProgress, FixedEffectOutcome, Lease, WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConnected(Event):
    """A worker opened a session (again): `session` tells its sessions apart."""

    worker: WorkerInfo
    session: int
    held: tuple[Lease, ...] = ()
    """Leases it works on, or whose results were not acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHeartbeat(Event):
    """A worker is alive."""

    worker_id: str
    session: int
    ready: bool
    rows_done: int = 0
    entities_done: int = 0
    fit: FitProgress | None = None
    """Of the plug-in that it fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDraining(Event):
    """A worker takes no more units."""

    worker_id: str
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDisconnected(Event):
    """A session broke or was closed."""

    worker_id: str
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFinished(Event):
    """A worker reports a result; its arrays have been received completely."""

    worker_id: str
    lease: Lease
    result_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailed(Event):
    """A worker reports that a unit failed."""

    worker_id: str
    lease: Lease
    error_code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GangJoined(Event):
    """A member of a gang holds a port at which the others will reach it: `address` is HOST:PORT."""

    worker_id: str
    lease: Lease
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(Event):
    """A checked config came in under a request id that is new."""

    job_id: str
    request_id: str
    config_json: str
    model: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelRequested(Event):
    """Somebody wants a job to end."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumeRequested(Event):
    """Somebody wants a failed or cancelled job to go on."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeleteRequested(Event):
    """Somebody wants an ended job forgotten."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserAsked(Event):
    """The driver of a fixed effect wants derivatives; theta lies under `<stage>/theta@<round>`."""

    job_id: str
    stage: str
    round_number: int
    hessian: bool
    objective: float = 0.0
    gradient_ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserFinished(Event):
    """The driver is done; theta (and variances) lie under the stage's keys, on disk."""

    job_id: str
    stage: str
    outcome: FixedEffectOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserFailed(Event):
    """The driver of a fixed effect cannot go on."""

    job_id: str
    stage: str
    error_code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """A timer went off."""
