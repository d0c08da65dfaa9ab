"""What the state machine knows: jobs, stages, units, leases, workers. Plain data, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from gdmix_core.data.layout import DesignSpec
from gdmix_core.tasks import ShardInput, Task, TaskResult


class JobState(StrEnum):
    """Life of a job; the last three are ends, though a failed or cancelled job can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One attempt of one unit, granted to one worker; the fence rises with every grant of a coordinator."""

    job_id: str
    stage: str
    unit: int
    attempt: int
    fence: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker says of itself when it registers."""

    worker_id: str
    host: str
    pid: int
    threads: int
    version: str
    fingerprint: str
    fingerprint_parts: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False
    data_roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStage:
    """A list of units with a barrier behind it; each is retried on its own."""

    name: str
    """Unique in the job, made of letters, digits, '_', '.' and '-': it names a directory."""
    title: str
    """What a person reads while it runs."""
    units: tuple[Task, ...]
    """Tasks without their `output`, which every attempt gets for itself."""
    coordinate: str = ""
    pass_number: int = 0
    arrays: Mapping[str, str] = field(default_factory=dict)
    """Arrays that its units may pull: name → key under which the interpreter keeps it."""
    rows: tuple[int, ...] = ()
    """Rows of each unit, for progress; empty when not known before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangStage(UnitStage):
    """Units that run at the same time and talk to each other; unit k is the member of rank k.

    All are leased at once or none is, each knows where the others listen before it begins, and what one of them
    loses is lost for all. Their results count when the last one is there.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectStage:
    """An optimisation over distributed derivatives: rounds of evaluations until the driver is satisfied."""

    name: str
    title: str
    coordinate: str
    pass_number: int
    design: DesignSpec
    dimension: int
    loss: int
    shards: tuple[ShardInput, ...]
    shard_rows: tuple[int, ...]
    nonzeros: int
    l2: str
    """Key of the ridge vector, float64 [dimension]."""
    solver: str
    variance: Literal["none", "simple", "full"]
    max_iterations: int

    @property
    def theta(self) -> str:
        """Key under which the solution is kept."""
        return f"{self.name}/theta"

    @property
    def variances(self) -> str:
        """Key under which diag(H⁻¹) is kept."""
        return f"{self.name}/variances"


Stage = UnitStage | FixedEffectStage


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsOutcome:
    """What a finished `UnitStage` leaves: results and accepted directories, in unit order."""

    results: tuple[TaskResult, ...]
    directories: tuple[str, ...]
    seconds: float
    """Wall time of the stage."""
    reproducible: bool = True
    """Whether all workers that took units of the job so far have the same numerics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectOutcome:
    """What a finished `FixedEffectStage` leaves besides its arrays."""

    status: str
    """`converged`, `singular`, `max_iterations`, ..."""
    converged: bool
    iterations: int
    evaluations: int
    objective: float
    gradient_norm: float
    gradient_ratio: float
    """Largest |gradient| over what the certificate allows."""
    has_variances: bool
    seconds: float


StageOutcome = UnitsOutcome | FixedEffectOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A validation metric of a coordinate's report."""

    name: str
    value: float | None
    reason: str = ""
    entities: int | None = None
    entities_undefined: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShrinkage:
    """How strongly a group of coefficients is pulled to 0, and how much the data decide."""

    name: str
    """`intercept`, `<bag>.<column>`, ...: as in the config's `l2`."""
    coefficients: int
    l2: float
    variance: float | None
    """Prior variance τ²; None where nothing is penalised."""
    effective: float
    """Coefficients that the data decide."""
    shrinkage: float
    """1 − effective / coefficients: 0 is no pull, 1 is all."""
    error: float | None = None
    """Standard error of log τ²; None where it was not learned, or the data do not tell."""
    learned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateReport:
    """A trained and measured coordinate."""

    name: str
    kind: str
    what: str
    pass_number: int
    entities: int
    rows: int
    coefficients: int
    unconverged: int
    statuses: Mapping[str, int]
    iterations: int
    seconds: float
    validation: tuple[Metric, ...]
    kept: bool = False
    trial: int = 0
    """Of a search, from 1; 0 when nothing is searched."""
    trial_values: Mapping[str, str] = field(default_factory=dict)
    """What the trial tries: values as JSON by their place in the config."""
    shrinkage: tuple[GroupShrinkage, ...] = ()
    """By group of coefficients, where shrinkage was learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where the model went."""

    store: str
    version: int
    activated: bool
    winner: int | None
    directory: str
    content_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Yielded by a program between stages: something a person wants to see now."""

    coordinate: CoordinateReport | None = None
    published: Published | None = None
    notice: str = ""
    warning: bool = False
    train_rows: int | None = None
    validation_rows: int | None = None
    kept_pass: int | None = None
    """The published model is taken from this pass."""
    kept_trial: int = 0
    """And from this trial of a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as the journal holds it."""

    job_id: str
    request_id: str
    config_json: str
    model: str
    output: str
    state: JobState
    submitted: float
    started: float | None = None
    ended: float | None = None
    error: str = ""
    error_code: str = ""
    last_sequence: int = 0
    reproducible: bool = True
    fingerprint: str = ""
    """Numerics of the first worker that took a unit."""
    train_rows: int = 0
    validation_rows: int = 0
    coordinates: tuple[CoordinateReport, ...] = ()
    published: Published | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """A unit as the journal holds it: leased or done."""

    job_id: str
    stage: str
    unit: int
    attempts: int
    """Attempts begun."""
    failures: int
    deaths: int
    """Attempts that ended with their worker."""
    lease: Lease | None
    worker_id: str
    done: bool
    directory: str = ""
    result_json: str = ""
    reasons: tuple[str, ...] = ()
    """Of rank 0 of a gang: how attempts of the gang failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage as the journal holds it."""

    job_id: str
    stage: str
    started: float
    ended: float | None = None
    outcome: Mapping[str, Any] | None = None
    """A fixed effect's outcome; units have theirs in their rows."""


class MemberState(StrEnum):
    """How far a member of a gang is."""

    JOINING = "joining"
    """It has been leased; not all members have said where they listen."""
    RUNNING = "running"
    FINISHED = "finished"
    """Its result is there, and counts when all others are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangMember:
    """A member of a running gang; its rank is its position."""

    worker_id: str
    state: MemberState
    address: str = ""
    """HOST:PORT at which the others reach it, once known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far the fit of a plug-in is."""

    step: int
    steps: int
    rows: int
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    rows_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the running stage stands."""

    stage: str
    """Its title: what a person reads."""
    coordinate: str = ""
    pass_number: int = 0
    units_done: int = 0
    units_total: int = 0
    rows_done: int = 0
    entities_done: int = 0
    round_number: int = 0
    stage_seconds: float = 0.0
    objective: float = 0.0
    gradient_ratio: float = 0.0
    members: tuple[GangMember, ...] = ()
    """By rank, while a gang runs."""
    fit: FitProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One line of a job's story; exactly one of the last five is set, or none for a change of state."""

    job_id: str
    sequence: int
    time: float
    state: JobState
    error: str = ""
    error_code: str = ""
    progress: Progress | None = None
    coordinate: CoordinateReport | None = None
    notice: str = ""
    warning: bool = False
    published: Published | None = None
