from gdmix_proto.v1 import training_pb2 as _training_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lease(_message.Message):
    __slots__ = ("job_id", "stage", "unit", "attempt", "fence", "epoch")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    stage: str
    unit: int
    attempt: int
    fence: int
    epoch: int
    def __init__(self, job_id: _Optional[str] = ..., stage: _Optional[str] = ..., unit: _Optional[int] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("register", "heartbeat", "unit_finished", "unit_failed", "draining", "gang_joined")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FINISHED_FIELD_NUMBER: _ClassVar[int]
    UNIT_FAILED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    GANG_JOINED_FIELD_NUMBER: _ClassVar[int]
    register: Register
    heartbeat: Heartbeat
    unit_finished: UnitFinished
    unit_failed: UnitFailed
    draining: Draining
    gang_joined: GangJoined
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., unit_finished: _Optional[_Union[UnitFinished, _Mapping]] = ..., unit_failed: _Optional[_Union[UnitFailed, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., gang_joined: _Optional[_Union[GangJoined, _Mapping]] = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("registered", "assign_unit", "revoke_unit", "acknowledge_result", "drop_cache", "shutdown", "start_gang")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_UNIT_FIELD_NUMBER: _ClassVar[int]
    REVOKE_UNIT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_RESULT_FIELD_NUMBER: _ClassVar[int]
    DROP_CACHE_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    START_GANG_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    assign_unit: AssignUnit
    revoke_unit: RevokeUnit
    acknowledge_result: AcknowledgeResult
    drop_cache: DropCache
    shutdown: Shutdown
    start_gang: StartGang
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., assign_unit: _Optional[_Union[AssignUnit, _Mapping]] = ..., revoke_unit: _Optional[_Union[RevokeUnit, _Mapping]] = ..., acknowledge_result: _Optional[_Union[AcknowledgeResult, _Mapping]] = ..., drop_cache: _Optional[_Union[DropCache, _Mapping]] = ..., shutdown: _Optional[_Union[Shutdown, _Mapping]] = ..., start_gang: _Optional[_Union[StartGang, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("worker_id", "host", "pid", "threads", "version", "fingerprint", "fingerprint_parts", "ready", "held", "data_roots")
    class FingerprintPartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_PARTS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DATA_ROOTS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    host: str
    pid: int
    threads: int
    version: str
    fingerprint: str
    fingerprint_parts: _containers.ScalarMap[str, str]
    ready: bool
    held: _containers.RepeatedCompositeFieldContainer[Lease]
    data_roots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., threads: _Optional[int] = ..., version: _Optional[str] = ..., fingerprint: _Optional[str] = ..., fingerprint_parts: _Optional[_Mapping[str, str]] = ..., ready: bool = ..., held: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., data_roots: _Optional[_Iterable[str]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("epoch", "heartbeat_seconds", "lease_seconds")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    heartbeat_seconds: float
    lease_seconds: float
    def __init__(self, epoch: _Optional[int] = ..., heartbeat_seconds: _Optional[float] = ..., lease_seconds: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("ready", "running")
    READY_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    running: _containers.RepeatedCompositeFieldContainer[UnitProgress]
    def __init__(self, ready: bool = ..., running: _Optional[_Iterable[_Union[UnitProgress, _Mapping]]] = ...) -> None: ...

class UnitProgress(_message.Message):
    __slots__ = ("lease", "rows_done", "entities_done", "fit")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ROWS_DONE_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_DONE_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    rows_done: int
    entities_done: int
    fit: _training_pb2.FitProgress
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., rows_done: _Optional[int] = ..., entities_done: _Optional[int] = ..., fit: _Optional[_Union[_training_pb2.FitProgress, _Mapping]] = ...) -> None: ...

class AssignUnit(_message.Message):
    __slots__ = ("lease", "kind", "task_json", "gang_size")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_JSON_FIELD_NUMBER: _ClassVar[int]
    GANG_SIZE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    kind: str
    task_json: str
    gang_size: int
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., kind: _Optional[str] = ..., task_json: _Optional[str] = ..., gang_size: _Optional[int] = ...) -> None: ...

class RevokeUnit(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class AcknowledgeResult(_message.Message):
    __slots__ = ("lease", "accepted")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    accepted: bool
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., accepted: bool = ...) -> None: ...

class DropCache(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    def __init__(self, prefix: _Optional[str] = ...) -> None: ...

class Shutdown(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GangJoined(_message.Message):
    __slots__ = ("lease", "address")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    address: str
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., address: _Optional[str] = ...) -> None: ...

class StartGang(_message.Message):
    __slots__ = ("lease", "addresses")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class UnitFinished(_message.Message):
    __slots__ = ("lease", "result_json")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    result_json: str
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., result_json: _Optional[str] = ...) -> None: ...

class UnitFailed(_message.Message):
    __slots__ = ("lease", "error_code", "message", "retryable")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    error_code: str
    message: str
    retryable: bool
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., error_code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: bool = ...) -> None: ...

class ArrayChunk(_message.Message):
    __slots__ = ("lease", "name", "dtype", "shape", "data")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushArrayResponse(_message.Message):
    __slots__ = ("bytes_received",)
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    bytes_received: int
    def __init__(self, bytes_received: _Optional[int] = ...) -> None: ...

class PullArrayRequest(_message.Message):
    __slots__ = ("lease", "name")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    name: str
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...
