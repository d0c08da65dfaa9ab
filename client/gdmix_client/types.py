"""What the client hands out: jobs, events, workers, model versions, uploads. Frozen values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class JobState(StrEnum):
    """Life of a job; a failed or cancelled one can be resumed."""

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
class Metric:
    """A validation metric.

    Attributes:
        name: as in the config, say `auc` or `auc:user_id`.
        value: None when it is undefined; `reason` says why.
        reason: "" when there is a value.
        entities: per-entity metrics: how many entities it is defined for.
        entities_undefined: per-entity metrics: how many it is not defined for.
    """

    name: str
    value: float | None
    reason: str = ""
    entities: int | None = None
    entities_undefined: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShrinkage:
    """How strongly a group of coefficients is pulled to 0, and how much the data decide.

    Attributes:
        name: `intercept`, `<bag>.<column>`, ...: as in the config's `l2`.
        coefficients: how many it has.
        l2: ridge strength.
        variance: prior variance τ²; None where nothing is penalised.
        effective: coefficients that the data decide.
        shrinkage: 1 − effective / coefficients: 0 is no pull, 1 is all.
        error: standard error of log τ²; None where it was not learned, or the data do not tell.
        learned: whether it was `auto`.
    """

    name: str
    coefficients: int
    l2: float
    variance: float | None
    effective: float
    shrinkage: float
    error: float | None
    learned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateReport:
    """A trained and measured coordinate.

    Attributes:
        name: of the coordinate.
        kind: `fixed_effect` or `random_effect`.
        what: the fixed effect's model, or the column of the random effect's entity id.
        pass_number: from 1.
        entities: models fitted; 1 for a fixed effect.
        rows: training rows that took part.
        coefficients: stored coefficients.
        unconverged: entities (or 1) that missed the certificate.
        statuses: entities by solver status.
        iterations: of the optimiser; 0 for a random effect.
        seconds: wall time.
        validation: metrics of the model as it stood after this coordinate, in the config's order.
        kept: whether the published model was taken from this pass, and this trial.
        trial: of a search, from 1; 0 when nothing is searched.
        trial_values: what the trial tried: values as JSON by their place in the config.
        shrinkage: by group of coefficients, where shrinkage was learned.
    """

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
    trial_values: Mapping[str, str] = field(default_factory=dict)
    shrinkage: tuple[GroupShrinkage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a job's model went.

    Attributes:
        store: URL of the coefficient store.
        version: number of the version there.
        activated: whether it became the active one.
        winner: the version that another publisher activated instead, if that is why it did not.
        directory: of the model version.
        content_digest: equal digests, equal models.
    """

    store: str
    version: int
    activated: bool
    winner: int | None
    directory: str
    content_digest: str


class MemberState(StrEnum):
    """How far a member of a gang is."""

    JOINING = "joining"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class GangMember:
    """A worker's part in a stage that several workers train together.

    Attributes:
        worker_id: who has it.
        state: joining until all members know where the others listen; finished: its result waits for theirs.
        address: HOST:PORT at which the others reach it; "" until it is known.
    """

    worker_id: str
    state: MemberState
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far the fit of a plug-in is.

    Attributes:
        step: steps done.
        steps: steps at most.
        rows: training rows seen, repetitions included.
        loss: mean training loss since the last report, None where it is not known.
        metrics: what was measured, by name.
        rows_per_second: since the last report.
    """

    step: int
    steps: int
    rows: int
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    rows_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the running stage of a job stands.

    Attributes:
        stage: what it does, in words.
        coordinate: "" outside a coordinate.
        pass_number: from 1; 0 outside the passes.
        units_done: pieces of work finished.
        units_total: pieces of work of the stage.
        rows_done: rows gone through.
        entities_done: entities solved.
        round_number: of a fixed effect's optimiser; 0 in other stages.
        stage_seconds: since the stage began.
        objective: after the latest round.
        gradient_ratio: largest |gradient| over what the certificate allows; at most 1 once converged.
        members: of a gang while it runs, by rank.
        fit: of a fixed effect that is plugged in, while it is fitted.
    """

    stage: str
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
    fit: FitProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training job as its coordinator sees it; times are seconds since 1970, None until they come."""

    job_id: str
    model: str
    state: JobState
    output: str = ""
    error: str = ""
    error_code: str = ""
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None
    progress: Progress | None = None
    coordinates: tuple[CoordinateReport, ...] = ()
    published: Published | None = None
    config_json: str = ""
    last_sequence: int = 0
    reproducible: bool = True
    train_rows: int = 0
    validation_rows: int = 0

    @property
    def seconds(self) -> float | None:
        """Wall time from start to end; None while the job has not ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def kept_coordinates(self) -> tuple[CoordinateReport, ...]:
        """The coordinates of the published pass; before there is one, each coordinate's latest report."""
        kept = tuple(report for report in self.coordinates if report.kept)
        return kept or tuple({report.name: report for report in self.coordinates}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a person should know: a lost worker, a retried unit, rows without an entity."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The job took on the state that its event carries."""

    error: str = ""
    error_code: str = ""


EventDetail = StateChanged | Progress | CoordinateReport | Notice | Published


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One line of a job's story; sequence numbers rise, progress that nobody saw may be missing."""

    job_id: str
    sequence: int
    time: float
    state: JobState
    detail: EventDetail


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A connected worker."""

    worker_id: str
    host: str
    pid: int
    threads: int
    running_units: int
    fingerprint: str
    connected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A coordinator and its workers; `store` is its default store, "" when each job uses its own."""

    version: str
    epoch: int
    workers: tuple[Worker, ...]
    store: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version in a coefficient store.

    Attributes:
        store: URL of the store.
        model: name of the model.
        version: its number.
        state: `writing`, `sealed`, `active`, `superseded` or `deleting`.
        entities: entities in all its random effects.
        aliases: names that point to it.
        manifest_json: the manifest; "" in listings.
    """

    store: str
    model: str
    version: int
    state: str
    entities: int = 0
    aliases: tuple[str, ...] = field(default=())
    manifest_json: str = ""


class UploadState(StrEnum):
    """Life of an upload; one that is uploading goes on when its file is uploaded again."""

    UPLOADING = "uploading"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresUpload:
    """Scores that were computed elsewhere and sent to a coordinator.

    Attributes:
        name: what a job config calls them.
        state: whether jobs can use them.
        role: `train`, `validation` or "": which rows they are of.
        format: `parquet`, `avro` or `csv`: what the file was.
        byte_size: of the file.
        sha256: of the file, in hexadecimal digits.
        received: bytes that have arrived.
        created: when it became ready, or began; seconds since 1970.
        rows: number of scores; 0 until it is ready, as is all that follows.
        min_score: smallest score.
        max_score: largest score.
        mean_score: mean of the scores.
    """

    name: str
    state: UploadState
    role: str
    format: str
    byte_size: int
    sha256: str
    received: int
    created: float
    rows: int = 0
    min_score: float = 0.0
    max_score: float = 0.0
    mean_score: float = 0.0
