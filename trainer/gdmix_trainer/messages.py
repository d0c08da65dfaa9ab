"""What a worker and its coordinator tell each other, as plain values; `convert` maps them to the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """One attempt of one unit; two leases are the same only if every field is."""

    job_id: str
    stage: str
    unit: int
    attempt: int
    fence: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.job_id}/{self.stage}/{self.unit} attempt {self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What stays the same of a worker as long as its process lives."""

    worker_id: str
    host: str
    pid: int
    threads: int
    version: str
    fingerprint: str
    fingerprint_parts: Mapping[str, str] = field(default_factory=dict)
    data_roots: tuple[str, ...] = ()


# ---- from the worker -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """First message of every session; `held` are the leases whose end the coordinator has not confirmed."""

    identity: Identity
    ready: bool
    held: tuple[Lease, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far the fit of a plug-in is, as `gdmix_core.fixed_effects.plugin.FitProgress`, with its speed."""

    step: int
    steps: int
    rows: int
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    rows_per_second: float = 0.0
    """Since the report before."""


@dataclass(frozen=True, slots=True)
class UnitProgress:
    """How far a running unit is."""

    lease: Lease
    rows_done: int
    entities_done: int
    fit: FitProgress | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker is alive; units go only to ready ones."""

    ready: bool
    running: tuple[UnitProgress, ...]


@dataclass(frozen=True, slots=True)
class UnitFinished:
    """A unit's result; the arrays that belong to it have been pushed."""

    lease: Lease
    result_json: str


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """A unit's failure: an error code of the catalog, a public message, whether another try may help."""

    lease: Lease
    error_code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Draining:
    """The worker takes no more units."""


@dataclass(frozen=True, slots=True)
class GangJoined:
    """A member of a gang holds a port: the others reach it at `address`, HOST:PORT."""

    lease: Lease
    address: str


Outgoing = Register | Heartbeat | UnitFinished | UnitFailed | GangJoined | Draining


# ---- from the coordinator --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to `Register`."""

    epoch: int
    heartbeat_seconds: float
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class AssignUnit:
    """A unit to work on; `task_json` as `gdmix_core.tasks` reads it.

    With a `gang_size` it is a member of a gang of so many, that of rank `lease.unit`.
    """

    lease: Lease
    kind: str
    task_json: str
    gang_size: int = 0


@dataclass(frozen=True, slots=True)
class StartGang:
    """Every member of the lease's gang has joined: where they are, by rank."""

    lease: Lease
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevokeUnit:
    """The lease is void: stop working on it and forget its result."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class AcknowledgeResult:
    """The result has been journaled, or refused for good: forget it."""

    lease: Lease
    accepted: bool


@dataclass(frozen=True, slots=True)
class DropCache:
    """Shards kept in memory under this prefix are no longer needed."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The coordinator ends this session."""

    reason: str


Incoming = Registered | AssignUnit | StartGang | RevokeUnit | AcknowledgeResult | DropCache | Shutdown
