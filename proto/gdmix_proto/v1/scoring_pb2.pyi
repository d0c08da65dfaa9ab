from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ElementType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ELEMENT_TYPE_UNSPECIFIED: _ClassVar[ElementType]
    ELEMENT_TYPE_FLOAT64: _ClassVar[ElementType]
    ELEMENT_TYPE_FLOAT32: _ClassVar[ElementType]

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_START: _ClassVar[VersionState]
    VERSION_STATE_LOADING: _ClassVar[VersionState]
    VERSION_STATE_AVAILABLE: _ClassVar[VersionState]
    VERSION_STATE_UNLOADING: _ClassVar[VersionState]
    VERSION_STATE_END: _ClassVar[VersionState]
ELEMENT_TYPE_UNSPECIFIED: ElementType
ELEMENT_TYPE_FLOAT64: ElementType
ELEMENT_TYPE_FLOAT32: ElementType
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_START: VersionState
VERSION_STATE_LOADING: VersionState
VERSION_STATE_AVAILABLE: VersionState
VERSION_STATE_UNLOADING: VersionState
VERSION_STATE_END: VersionState

class ModelChoice(_message.Message):
    __slots__ = ("name", "version", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    alias: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., alias: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "contributions", "request_id", "readable", "columnar")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    READABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNAR_FIELD_NUMBER: _ClassVar[int]
    model: ModelChoice
    contributions: bool
    request_id: str
    readable: ReadableInput
    columnar: ColumnarInput
    def __init__(self, model: _Optional[_Union[ModelChoice, _Mapping]] = ..., contributions: bool = ..., request_id: _Optional[str] = ..., readable: _Optional[_Union[ReadableInput, _Mapping]] = ..., columnar: _Optional[_Union[ColumnarInput, _Mapping]] = ...) -> None: ...

class ReadableInput(_message.Message):
    __slots__ = ("context", "candidates")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    context: Row
    candidates: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, context: _Optional[_Union[Row, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("values", "fixed_effect_score")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FIXED_EFFECT_SCORE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.MessageMap[str, Value]
    fixed_effect_score: float
    def __init__(self, values: _Optional[_Mapping[str, Value]] = ..., fixed_effect_score: _Optional[float] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("number", "integer", "boolean", "text", "texts", "numbers", "sparse")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    number: float
    integer: int
    boolean: bool
    text: str
    texts: TextList
    numbers: NumberList
    sparse: SparseVector
    def __init__(self, number: _Optional[float] = ..., integer: _Optional[int] = ..., boolean: bool = ..., text: _Optional[str] = ..., texts: _Optional[_Union[TextList, _Mapping]] = ..., numbers: _Optional[_Union[NumberList, _Mapping]] = ..., sparse: _Optional[_Union[SparseVector, _Mapping]] = ...) -> None: ...

class TextList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class NumberList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class SparseVector(_message.Message):
    __slots__ = ("indices", "values")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ColumnarInput(_message.Message):
    __slots__ = ("candidates", "schema_fingerprint", "features", "entities", "fixed_effect_scores")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    FIXED_EFFECT_SCORES_FIELD_NUMBER: _ClassVar[int]
    candidates: int
    schema_fingerprint: str
    features: _containers.RepeatedCompositeFieldContainer[SparseRows]
    entities: _containers.RepeatedCompositeFieldContainer[EntityIds]
    fixed_effect_scores: bytes
    def __init__(self, candidates: _Optional[int] = ..., schema_fingerprint: _Optional[str] = ..., features: _Optional[_Iterable[_Union[SparseRows, _Mapping]]] = ..., entities: _Optional[_Iterable[_Union[EntityIds, _Mapping]]] = ..., fixed_effect_scores: _Optional[bytes] = ...) -> None: ...

class SparseRows(_message.Message):
    __slots__ = ("bag", "context", "row_offsets", "indices", "values", "element_type")
    BAG_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    ROW_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    bag: str
    context: bool
    row_offsets: bytes
    indices: bytes
    values: bytes
    element_type: ElementType
    def __init__(self, bag: _Optional[str] = ..., context: bool = ..., row_offsets: _Optional[bytes] = ..., indices: _Optional[bytes] = ..., values: _Optional[bytes] = ..., element_type: _Optional[_Union[ElementType, str]] = ...) -> None: ...

class EntityIds(_message.Message):
    __slots__ = ("column", "context", "ids", "offsets")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    column: str
    context: bool
    ids: bytes
    offsets: bytes
    def __init__(self, column: _Optional[str] = ..., context: bool = ..., ids: _Optional[bytes] = ..., offsets: _Optional[bytes] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("request_id", "model", "version", "instance", "scores", "predictions", "packed_scores", "packed_predictions", "coordinates", "unknown_features", "degraded", "degraded_reason", "error")
    class UnknownFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    PACKED_SCORES_FIELD_NUMBER: _ClassVar[int]
    PACKED_PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    version: int
    instance: str
    scores: _containers.RepeatedScalarFieldContainer[float]
    predictions: _containers.RepeatedScalarFieldContainer[float]
    packed_scores: bytes
    packed_predictions: bytes
    coordinates: _containers.RepeatedCompositeFieldContainer[CoordinateResult]
    unknown_features: _containers.ScalarMap[str, int]
    degraded: bool
    degraded_reason: str
    error: ScoreError
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., instance: _Optional[str] = ..., scores: _Optional[_Iterable[float]] = ..., predictions: _Optional[_Iterable[float]] = ..., packed_scores: _Optional[bytes] = ..., packed_predictions: _Optional[bytes] = ..., coordinates: _Optional[_Iterable[_Union[CoordinateResult, _Mapping]]] = ..., unknown_features: _Optional[_Mapping[str, int]] = ..., degraded: bool = ..., degraded_reason: _Optional[str] = ..., error: _Optional[_Union[ScoreError, _Mapping]] = ...) -> None: ...

class CoordinateResult(_message.Message):
    __slots__ = ("name", "unknown_entities", "unknown_ids", "contributions", "packed_contributions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ENTITIES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_IDS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    PACKED_CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    unknown_entities: int
    unknown_ids: _containers.RepeatedScalarFieldContainer[str]
    contributions: _containers.RepeatedScalarFieldContainer[float]
    packed_contributions: bytes
    def __init__(self, name: _Optional[str] = ..., unknown_entities: _Optional[int] = ..., unknown_ids: _Optional[_Iterable[str]] = ..., contributions: _Optional[_Iterable[float]] = ..., packed_contributions: _Optional[bytes] = ...) -> None: ...

class ScoreError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetModelStatusRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelStatusResponse(_message.Message):
    __slots__ = ("instance", "versions")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersionStatus]
    def __init__(self, instance: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersionStatus, _Mapping]]] = ...) -> None: ...

class ModelVersionStatus(_message.Message):
    __slots__ = ("model", "version", "state", "active", "aliases", "since", "requests", "in_flight", "error_code", "error", "schema_fingerprint", "entities")
    class EntitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    state: VersionState
    active: bool
    aliases: _containers.RepeatedScalarFieldContainer[str]
    since: float
    requests: int
    in_flight: int
    error_code: str
    error: str
    schema_fingerprint: str
    entities: _containers.ScalarMap[str, int]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[_Union[VersionState, str]] = ..., active: bool = ..., aliases: _Optional[_Iterable[str]] = ..., since: _Optional[float] = ..., requests: _Optional[int] = ..., in_flight: _Optional[int] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., schema_fingerprint: _Optional[str] = ..., entities: _Optional[_Mapping[str, int]] = ...) -> None: ...
