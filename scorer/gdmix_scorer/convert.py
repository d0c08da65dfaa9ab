"""Between `gdmix.v1.ScoringService`'s messages and the scorer's own words: pairs of functions, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.errors import GdmixError, UsageError
from gdmix_core.scoring.request import Columns, EncodedCandidates, EntityIds, FeatureRows
from gdmix_proto.v1 import scoring_pb2 as wire
from gdmix_scorer.calls import ModelChoice, ScoreAnswer, ScoreCall
from gdmix_scorer.settings import MAX_CANDIDATES
from gdmix_scorer.versions import Version, VersionState
from gdmix_scorer.versions.version import ServedModel

_SHOWN_IDS: Final = 100
_MAX_NAME: Final = 256
"""Characters of a column's name: unknown ones become labels of metrics."""
_INT32: Final = np.dtype("<i4")
_DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    wire.ELEMENT_TYPE_UNSPECIFIED: np.dtype("<f8"),
    wire.ELEMENT_TYPE_FLOAT64: np.dtype("<f8"),
    wire.ELEMENT_TYPE_FLOAT32: np.dtype("<f4"),
}
_STATES: Final = {
    VersionState.START: wire.VERSION_STATE_START,
    VersionState.LOADING: wire.VERSION_STATE_LOADING,
    VersionState.AVAILABLE: wire.VERSION_STATE_AVAILABLE,
    VersionState.UNLOADING: wire.VERSION_STATE_UNLOADING,
    VersionState.END: wire.VERSION_STATE_END,
}


def parse(kind: Any, data: bytes) -> Any:
    """Read a message.

    Raises:
        UsageError: the bytes are not one.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise UsageError(
            f"the request is no {kind.DESCRIPTOR.full_name}: its encoding is broken, or a text is not UTF-8"
        ) from error


def request_id_of(data: bytes) -> str:
    """Return the id of a request that may be broken; "" where there is none to be read."""
    try:
        return wire.ScoreRequest.FromString(data).request_id
    except DecodeError:
        return ""


# ---- calls -----------------------------------------------------------------------------------------------


def call_from_proto(message: wire.ScoreRequest) -> ScoreCall:
    """Read a request.

    Raises:
        UsageError: arrays do not fit together; the message names the field.
    """
    form = message.WhichOneof("input")
    choice = ModelChoice(message.model.name, message.model.version, message.model.alias)
    if form is None:
        raise UsageError("input: neither readable nor columnar is set")
    columnar = form == "columnar"
    return ScoreCall(
        form="columnar" if columnar else "readable",
        choice=choice,
        candidates=_encoded(message.columnar) if columnar else _columns(message.readable),
        request_id=message.request_id,
        contributions=message.contributions,
    )


def _columns(message: wire.ReadableInput) -> Columns:
    candidates = message.candidates
    if len(candidates) > MAX_CANDIDATES:
        raise UsageError(f"readable.candidates: found {len(candidates)}; allowed are 1 to {MAX_CANDIDATES}")
    context = {name: [_value(value)] for name, value in message.context.values.items()}
    names = dict.fromkeys(name for row in candidates for name in row.values)
    longest = max((len(name) for part in (context, names) for name in part), default=0)
    if longest > _MAX_NAME:
        raise UsageError(f"readable: a column name has {longest} characters; allowed are {_MAX_NAME}")
    table: dict[str, list[Any]] = {name: [None] * len(candidates) for name in names}
    for number, row in enumerate(candidates):
        for name, value in row.values.items():
            table[name][number] = _value(value)
    return Columns(
        candidates=len(candidates),
        context=_arrays(context, "readable.context"),
        per_candidate=_arrays(table, "readable.candidates"),
        fixed_effect_scores=_outside_scores(message),
    )


def _value(message: wire.Value) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    value = getattr(message, kind)
    if kind in {"texts", "numbers"}:
        return list(value.values)
    if kind == "sparse":
        return {"indices": list(value.indices), "values": list(value.values)}
    return value


def _arrays(table: Mapping[str, Sequence[Any]], where: str) -> dict[str, Any]:
    import pyarrow as pa

    arrays = {}
    for name, values in table.items():
        try:
            arrays[name] = pa.array(values)
        except pa.ArrowException as error:
            raise UsageError(_mixed(name, values, where)) from error
    return arrays


def _mixed(name: str, values: Sequence[Any], where: str) -> str:
    """Say which value of a column is not of the kind of those before it."""
    kinds = [type(value).__name__ for value in values]
    first = next((kind for kind in kinds if kind != "NoneType"), "NoneType")
    odd = next((i for i, kind in enumerate(kinds) if kind not in {first, "NoneType"}), None)
    if odd is None:
        return f"{where}: column {name!r} holds lists or numbers that cannot stand in one column"
    return f"{where}[{odd}]: column {name!r} holds a {kinds[odd]}, and others a {first}; allowed: one kind"


def _outside_scores(message: wire.ReadableInput) -> npt.NDArray[np.float64] | None:
    own = [row.HasField("fixed_effect_score") for row in message.candidates]
    shared = message.context.HasField("fixed_effect_score")
    if not any(own):
        return np.array([message.context.fixed_effect_score]) if shared else None
    if shared:
        raise UsageError(
            "readable.context.fixed_effect_score: candidates have scores too; give it in one of them"
        )
    if not all(own):
        raise UsageError(
            f"readable.candidates[{own.index(False)}].fixed_effect_score: is missing; others have one"
        )
    return np.array([row.fixed_effect_score for row in message.candidates])


def _encoded(message: wire.ColumnarInput) -> EncodedCandidates:
    candidates = message.candidates
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"columnar.candidates: found {candidates}; allowed are 1 to {MAX_CANDIDATES}")
    scores = message.fixed_effect_scores
    entities: dict[str, EntityIds] = {}
    for number, ids in enumerate(message.entities):
        if len(ids.column) > _MAX_NAME:
            raise UsageError(f"columnar.entities[{number}].column: is longer than {_MAX_NAME} characters")
        if ids.column in entities:
            raise UsageError(f"columnar.entities[{number}].column: {ids.column!r} comes twice")
        entities[ids.column] = _ids(ids, number, candidates)
    return EncodedCandidates(
        candidates=candidates,
        features=[_rows(rows, number, candidates) for number, rows in enumerate(message.features)],
        entities=entities,
        fixed_effect_scores=_buffer(scores, np.dtype("<f8"), "columnar.fixed_effect_scores")
        if scores
        else None,
        schema_fingerprint=message.schema_fingerprint,
    )


def _rows(message: wire.SparseRows, number: int, candidates: int) -> FeatureRows:
    where = f"columnar.features[{number}]"
    indices = _buffer(message.indices, _INT32, f"{where}.indices")
    dtype = _DTYPES.get(message.element_type)
    if dtype is None:
        raise UsageError(
            f"{where}.element_type: found {message.element_type}; allowed are float64 and float32"
        )
    values = _buffer(message.values, dtype, f"{where}.values")
    if len(values) != len(indices):
        raise UsageError(f"{where}: found {len(indices)} indices and {len(values)} values; allowed: as many")
    bounds = _bounds(message.row_offsets, message.context, candidates, len(indices), f"{where}.row_offsets")
    return FeatureRows(
        message.bag, message.context, SparseRows(bounds, indices, values.astype(np.float64, copy=False))
    )


def _ids(message: wire.EntityIds, number: int, candidates: int) -> EntityIds:
    where = f"columnar.entities[{number}]"
    data = message.ids
    bounds = _bounds(message.offsets, message.context, candidates, len(data), f"{where}.offsets")
    if (bounds[1:] < bounds[:-1]).any() or bounds[0] != 0 or bounds[-1] != len(data):
        raise UsageError(
            f"{where}.offsets: must begin with 0, never fall and end with the length of ids, {len(data)}"
        )
    ids = np.frombuffer(data, np.uint8)
    if not data.isascii():
        _check_utf8(data, ids, bounds, f"{where}.ids")
    return EntityIds(message.context, ByteStrings(ids, bounds))


def _check_utf8(data: bytes, ids: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64], where: str) -> None:
    """Check that ids are UTF-8, each by itself: a bound inside a character would make two broken ids."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        row = int(np.searchsorted(bounds, error.start, "right")) - 1
        raise UsageError(f"{where}: id {row} is not UTF-8") from error
    starts = bounds[:-1][bounds[:-1] < bounds[1:]]
    broken = (ids[starts] & 0xC0) == 0x80
    if broken.any():
        row = int(np.searchsorted(bounds, starts[broken][0], "left"))
        raise UsageError(f"{where}: id {row} is not UTF-8: offsets cut a character")


def _bounds(data: bytes, context: bool, candidates: int, end: int, where: str) -> npt.NDArray[np.int64]:
    """Return row bounds: given, or those of the one row of a context."""
    rows = 1 if context else candidates
    if not data and context:
        return np.array([0, end], np.int64)
    if len(data) != 4 * (rows + 1):
        raise UsageError(f"{where}: has {len(data)} bytes; allowed are {4 * (rows + 1)}, int32[{rows + 1}]")
    return np.frombuffer(data, _INT32).astype(np.int64)


def _buffer(data: bytes, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    if len(data) % dtype.itemsize:
        raise UsageError(f"{where}: has {len(data)} bytes, not a multiple of {dtype.itemsize} ({dtype.name})")
    return np.frombuffer(data, dtype)


# ---- answers ---------------------------------------------------------------------------------------------


def answer_to_proto(answer: ScoreAnswer, call: ScoreCall, instance: str) -> wire.ScoreResponse:
    """Return an answer in the form of its call."""
    packed = call.form == "columnar"
    found = answer.scores
    response = wire.ScoreResponse(
        request_id=call.request_id,
        model=answer.model,
        version=answer.version,
        instance=instance,
        degraded=bool(answer.degraded_reason),
        degraded_reason=answer.degraded_reason,
    )
    if packed:
        response.packed_scores = found.scores.tobytes()
        response.packed_predictions = found.predictions.tobytes()
    else:
        response.scores.extend(found.scores.tolist())
        response.predictions.extend(found.predictions.tolist())
    response.unknown_features.update(answer.unknown_features)
    for number, name in enumerate(answer.coordinates):
        unknown = found.unknown_entities.get(name, ())
        result = response.coordinates.add(name=name, unknown_entities=len(unknown))
        if call.contributions and packed:
            result.packed_contributions = found.contributions[number].tobytes()
        elif call.contributions:
            result.contributions.extend(found.contributions[number].tolist())
        if unknown and not packed:
            result.unknown_ids.extend(one.decode(errors="replace") for one in unknown[:_SHOWN_IDS])
    return response


def error_to_proto(error: GdmixError, request_id: str, instance: str) -> wire.ScoreResponse:
    """Return the answer of a request in a stream that failed."""
    return wire.ScoreResponse(
        request_id=request_id,
        instance=instance,
        error=wire.ScoreError(code=error.code, message=str(error)),
    )


def status_to_proto(model: ServedModel, version: Version) -> wire.ModelVersionStatus:
    """Return how a version stands."""
    manifest = None if version.scoring is None else version.scoring.manifest
    return wire.ModelVersionStatus(
        model=version.model,
        version=version.number,
        state=_STATES[version.state],
        active=version is model.active,
        aliases=sorted(alias for alias, target in model.aliases.items() if target is version),
        since=version.since,
        requests=version.requests,
        in_flight=version.in_flight,
        error_code=version.error_code,
        error=version.error,
        schema_fingerprint="" if manifest is None else manifest.schema_fingerprint,
        entities={} if manifest is None else {c.name: c.entities for c in manifest.random_effects()},
    )
