from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLING: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]

class UploadState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPLOAD_STATE_UNSPECIFIED: _ClassVar[UploadState]
    UPLOAD_STATE_UPLOADING: _ClassVar[UploadState]
    UPLOAD_STATE_READY: _ClassVar[UploadState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLING: JobState
JOB_STATE_CANCELLED: JobState
UPLOAD_STATE_UNSPECIFIED: UploadState
UPLOAD_STATE_UPLOADING: UploadState
UPLOAD_STATE_READY: UploadState

class SubmitJobRequest(_message.Message):
    __slots__ = ("request_id", "config_json")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    config_json: str
    def __init__(self, request_id: _Optional[str] = ..., config_json: _Optional[str] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("job_id", "after_sequence")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    after_sequence: int
    def __init__(self, job_id: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("version", "epoch", "workers", "store")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    version: str
    epoch: int
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    store: str
    def __init__(self, version: _Optional[str] = ..., epoch: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., store: _Optional[str] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("worker_id", "host", "pid", "threads", "running_units", "fingerprint", "connected_unix_seconds")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_UNITS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    host: str
    pid: int
    threads: int
    running_units: int
    fingerprint: str
    connected_unix_seconds: float
    def __init__(self, worker_id: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., threads: _Optional[int] = ..., running_units: _Optional[int] = ..., fingerprint: _Optional[str] = ..., connected_unix_seconds: _Optional[float] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "model", "state", "error", "error_code", "submitted_unix_seconds", "started_unix_seconds", "ended_unix_seconds", "progress", "coordinates", "published", "config_json", "output", "last_sequence", "reproducible", "train_rows", "validation_rows")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ROWS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    model: str
    state: JobState
    error: str
    error_code: str
    submitted_unix_seconds: float
    started_unix_seconds: float
    ended_unix_seconds: float
    progress: Progress
    coordinates: _containers.RepeatedCompositeFieldContainer[CoordinateReport]
    published: Published
    config_json: str
    output: str
    last_sequence: int
    reproducible: bool
    train_rows: int
    validation_rows: int
    def __init__(self, job_id: _Optional[str] = ..., model: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., error: _Optional[str] = ..., error_code: _Optional[str] = ..., submitted_unix_seconds: _Optional[float] = ..., started_unix_seconds: _Optional[float] = ..., ended_unix_seconds: _Optional[float] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., coordinates: _Optional[_Iterable[_Union[CoordinateReport, _Mapping]]] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., config_json: _Optional[str] = ..., output: _Optional[str] = ..., last_sequence: _Optional[int] = ..., reproducible: bool = ..., train_rows: _Optional[int] = ..., validation_rows: _Optional[int] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("store", "version", "activated", "winner", "directory", "content_digest")
    STORE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    store: str
    version: int
    activated: bool
    winner: int
    directory: str
    content_digest: str
    def __init__(self, store: _Optional[str] = ..., version: _Optional[int] = ..., activated: bool = ..., winner: _Optional[int] = ..., directory: _Optional[str] = ..., content_digest: _Optional[str] = ...) -> None: ...

class CoordinateReport(_message.Message):
    __slots__ = ("name", "kind", "entities", "rows", "unconverged", "seconds", "validation", "statuses", "iterations", "what", "coefficients", "kept", "trial", "trial_values", "shrinkage")
    class StatusesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TrialValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PASS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    UNCONVERGED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    TRIAL_VALUES_FIELD_NUMBER: _ClassVar[int]
    SHRINKAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    entities: int
    rows: int
    unconverged: int
    seconds: float
    validation: _containers.RepeatedCompositeFieldContainer[MetricValue]
    statuses: _containers.ScalarMap[str, int]
    iterations: int
    what: str
    coefficients: int
    kept: bool
    trial: int
    trial_values: _containers.ScalarMap[str, str]
    shrinkage: _containers.RepeatedCompositeFieldContainer[GroupShrinkage]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., entities: _Optional[int] = ..., rows: _Optional[int] = ..., unconverged: _Optional[int] = ..., seconds: _Optional[float] = ..., validation: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., statuses: _Optional[_Mapping[str, int]] = ..., iterations: _Optional[int] = ..., what: _Optional[str] = ..., coefficients: _Optional[int] = ..., kept: bool = ..., trial: _Optional[int] = ..., trial_values: _Optional[_Mapping[str, str]] = ..., shrinkage: _Optional[_Iterable[_Union[GroupShrinkage, _Mapping]]] = ..., **kwargs) -> None: ...

class GroupShrinkage(_message.Message):
    __slots__ = ("name", "coefficients", "l2", "variance", "effective", "shrinkage", "error", "learned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    SHRINKAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    name: str
    coefficients: int
    l2: float
    variance: float
    effective: float
    shrinkage: float
    error: float
    learned: bool
    def __init__(self, name: _Optional[str] = ..., coefficients: _Optional[int] = ..., l2: _Optional[float] = ..., variance: _Optional[float] = ..., effective: _Optional[float] = ..., shrinkage: _Optional[float] = ..., error: _Optional[float] = ..., learned: bool = ...) -> None: ...

class MetricValue(_message.Message):
    __slots__ = ("name", "value", "reason", "entities", "entities_undefined")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_UNDEFINED_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    reason: str
    entities: int
    entities_undefined: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., reason: _Optional[str] = ..., entities: _Optional[int] = ..., entities_undefined: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("stage", "coordinate", "units_done", "units_total", "rows_done", "entities_done", "round", "stage_seconds", "objective", "gradient_ratio", "members", "fit")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COORDINATE_FIELD_NUMBER: _ClassVar[int]
    PASS_FIELD_NUMBER: _ClassVar[int]
    UNITS_DONE_FIELD_NUMBER: _ClassVar[int]
    UNITS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_DONE_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_DONE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    stage: str
    coordinate: str
    units_done: int
    units_total: int
    rows_done: int
    entities_done: int
    round: int
    stage_seconds: float
    objective: float
    gradient_ratio: float
    members: _containers.RepeatedCompositeFieldContainer[GangMember]
    fit: FitProgress
    def __init__(self, stage: _Optional[str] = ..., coordinate: _Optional[str] = ..., units_done: _Optional[int] = ..., units_total: _Optional[int] = ..., rows_done: _Optional[int] = ..., entities_done: _Optional[int] = ..., round: _Optional[int] = ..., stage_seconds: _Optional[float] = ..., objective: _Optional[float] = ..., gradient_ratio: _Optional[float] = ..., members: _Optional[_Iterable[_Union[GangMember, _Mapping]]] = ..., fit: _Optional[_Union[FitProgress, _Mapping]] = ..., **kwargs) -> None: ...

class GangMember(_message.Message):
    __slots__ = ("worker_id", "state", "address")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[GangMember.State]
        STATE_JOINING: _ClassVar[GangMember.State]
        STATE_RUNNING: _ClassVar[GangMember.State]
        STATE_FINISHED: _ClassVar[GangMember.State]
    STATE_UNSPECIFIED: GangMember.State
    STATE_JOINING: GangMember.State
    STATE_RUNNING: GangMember.State
    STATE_FINISHED: GangMember.State
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    state: GangMember.State
    address: str
    def __init__(self, worker_id: _Optional[str] = ..., state: _Optional[_Union[GangMember.State, str]] = ..., address: _Optional[str] = ...) -> None: ...

class FitProgress(_message.Message):
    __slots__ = ("step", "steps", "rows", "loss", "metrics", "rows_per_second")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    rows: int
    loss: float
    metrics: _containers.ScalarMap[str, float]
    rows_per_second: float
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., rows: _Optional[int] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., rows_per_second: _Optional[float] = ...) -> None: ...

class JobEvent(_message.Message):
    __slots__ = ("job_id", "sequence", "unix_seconds", "state", "state_changed", "progress", "coordinate", "notice", "published")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    COORDINATE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    sequence: int
    unix_seconds: float
    state: JobState
    state_changed: StateChanged
    progress: Progress
    coordinate: CoordinateReport
    notice: Notice
    published: Published
    def __init__(self, job_id: _Optional[str] = ..., sequence: _Optional[int] = ..., unix_seconds: _Optional[float] = ..., state: _Optional[_Union[JobState, str]] = ..., state_changed: _Optional[_Union[StateChanged, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., coordinate: _Optional[_Union[CoordinateReport, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., published: _Optional[_Union[Published, _Mapping]] = ...) -> None: ...

class StateChanged(_message.Message):
    __slots__ = ("error", "error_code")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    error: str
    error_code: str
    def __init__(self, error: _Optional[str] = ..., error_code: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("severity", "text")
    class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SEVERITY_UNSPECIFIED: _ClassVar[Notice.Severity]
        SEVERITY_INFO: _ClassVar[Notice.Severity]
        SEVERITY_WARNING: _ClassVar[Notice.Severity]
    SEVERITY_UNSPECIFIED: Notice.Severity
    SEVERITY_INFO: Notice.Severity
    SEVERITY_WARNING: Notice.Severity
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    severity: Notice.Severity
    text: str
    def __init__(self, severity: _Optional[_Union[Notice.Severity, str]] = ..., text: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("store", "model")
    STORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    store: str
    model: str
    def __init__(self, store: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("store", "model", "version")
    STORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    store: str
    model: str
    version: int
    def __init__(self, store: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ActivateModelRequest(_message.Message):
    __slots__ = ("store", "model", "version")
    STORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    store: str
    model: str
    version: int
    def __init__(self, store: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("store", "model", "version")
    STORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    store: str
    model: str
    version: int
    def __init__(self, store: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("store", "model", "version", "state", "manifest_json", "aliases", "entities")
    STORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    store: str
    model: str
    version: int
    state: str
    manifest_json: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    entities: int
    def __init__(self, store: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[str] = ..., manifest_json: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., entities: _Optional[int] = ...) -> None: ...

class UploadScoresRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("name", "format", "uid_column", "score_column", "byte_size", "sha256", "role", "replace", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    UID_COLUMN_FIELD_NUMBER: _ClassVar[int]
    SCORE_COLUMN_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: str
    uid_column: str
    score_column: str
    byte_size: int
    sha256: str
    role: str
    replace: bool
    offset: int
    def __init__(self, name: _Optional[str] = ..., format: _Optional[str] = ..., uid_column: _Optional[str] = ..., score_column: _Optional[str] = ..., byte_size: _Optional[int] = ..., sha256: _Optional[str] = ..., role: _Optional[str] = ..., replace: bool = ..., offset: _Optional[int] = ...) -> None: ...

class GetUploadRequest(_message.Message):
    __slots__ = ("name", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class ListUploadsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListUploadsResponse(_message.Message):
    __slots__ = ("uploads",)
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[ScoresUpload]
    def __init__(self, uploads: _Optional[_Iterable[_Union[ScoresUpload, _Mapping]]] = ...) -> None: ...

class DeleteUploadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteUploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScoresUpload(_message.Message):
    __slots__ = ("name", "state", "role", "format", "byte_size", "sha256", "received", "created_unix_seconds", "rows", "min_score", "max_score", "mean_score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: UploadState
    role: str
    format: str
    byte_size: int
    sha256: str
    received: int
    created_unix_seconds: float
    rows: int
    min_score: float
    max_score: float
    mean_score: float
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[UploadState, str]] = ..., role: _Optional[str] = ..., format: _Optional[str] = ..., byte_size: _Optional[int] = ..., sha256: _Optional[str] = ..., received: _Optional[int] = ..., created_unix_seconds: _Optional[float] = ..., rows: _Optional[int] = ..., min_score: _Optional[float] = ..., max_score: _Optional[float] = ..., mean_score: _Optional[float] = ...) -> None: ...
