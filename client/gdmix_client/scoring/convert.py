"""Between the client's requests and results and the messages of the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from gdmix_client.scoring.packing import packed_float64, packed_ids, packed_int32, packed_values
from gdmix_client.scoring.requests import (
    Candidates,
    ColumnarRequest,
    FeatureRows,
    ReadableRequest,
    ScoreRequest,
)
from gdmix_client.scoring.results import (
    Float64Array,
    ScoreAnswer,
    ScorerStatus,
    Scores,
    VersionState,
    VersionStatus,
)
from gdmix_core.errors import GdmixError, InternalError, UsageError, catalog
from gdmix_proto.v1 import scoring_pb2 as wire

_LONGEST_TEXT: Final = 60
_ALLOWED: Final = (
    "allowed are text, booleans, integers of 64 bits, finite numbers, lists of text or of numbers, "
    "sparse vectors (indices, values), and None"
)
_STATES: Final = {
    wire.VERSION_STATE_START: VersionState.START,
    wire.VERSION_STATE_LOADING: VersionState.LOADING,
    wire.VERSION_STATE_AVAILABLE: VersionState.AVAILABLE,
    wire.VERSION_STATE_UNLOADING: VersionState.UNLOADING,
    wire.VERSION_STATE_END: VersionState.END,
}


# ---- requests --------------------------------------------------------------------------------------------


def request_to_proto(request: ScoreRequest) -> wire.ScoreRequest:
    """Return the message of a request.

    Raises:
        UsageError: something in it cannot be sent; the message names the candidate and the column.
    """
    message = wire.ScoreRequest(contributions=request.contributions, request_id=_id(request.request_id))
    if request.model:
        message.model.name = request.model
    if request.version is not None:
        message.model.version = request.version
    elif request.alias is not None:
        message.model.alias = request.alias
    if isinstance(request, ReadableRequest):
        _fill_readable(message.readable, request)
    else:
        _fill_columnar(message.columnar, request)
    return message


def _id(request_id: str) -> str:
    if len(request_id) > 128:
        raise UsageError(f"request_id: found {len(request_id)} characters; allowed are at most 128")
    return request_id


def _fill_readable(message: wire.ReadableInput, request: ReadableRequest) -> None:
    message.SetInParent()
    for name, value in request.context.items():
        _set_column([message.context], name, [value], ["context"])
    count, columns = _columns(request.candidates)
    rows = [message.candidates.add() for _ in range(count)]
    names = [f"candidates[{i}]" for i in range(count)]
    for name, values in columns.items():
        _set_column(rows, name, values, names)
    _fill_fixed_effect(message, request)


def _columns(candidates: Candidates) -> tuple[int, dict[str, Sequence[object]]]:
    """Return how many candidates there are, and their values by column."""
    if isinstance(candidates, Mapping):
        columns = {name: _items(values) for name, values in candidates.items()}
        count = len(next(iter(columns.values()), ()))
        for name, values in columns.items():
            if len(values) != count:
                first = next(iter(columns))
                raise UsageError(f"candidates[{name!r}]: found {len(values)} values; {first!r} has {count}")
        return count, columns
    for i, row in enumerate(candidates):
        if not isinstance(row, Mapping):
            raise UsageError(f"candidates[{i}]: found {_shown(row)}; allowed are mappings by column")
    names = dict.fromkeys(name for row in candidates for name in row)
    return len(candidates), {name: [row.get(name) for row in candidates] for name in names}


def _fill_fixed_effect(message: wire.ReadableInput, request: ReadableRequest) -> None:
    scores = request.fixed_effect_scores
    if scores is None:
        return
    rows: Sequence[wire.Row]
    if isinstance(scores, float | int | np.number):
        message.context.fixed_effect_score = _finite(scores, "fixed_effect_scores")
        return
    rows, given = message.candidates, scores.tolist() if isinstance(scores, np.ndarray) else scores
    if len(given) != len(rows):
        raise UsageError(f"fixed_effect_scores: found {len(given)}; there are {len(rows)} candidates")
    for i, (row, score) in enumerate(zip(rows, given, strict=True)):
        row.fixed_effect_score = _finite(score, f"fixed_effect_scores[{i}]")


def _finite(value: object, where: str) -> float:
    try:
        return _number(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where}: found {_shown(value)}; allowed are finite numbers") from error


def _items(values: Any) -> Sequence[object]:
    """Return a column's values as Python objects; numpy, pandas, polars and Arrow know how."""
    for method in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, method):
            found: Sequence[object] = getattr(values, method)()
            return found
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise UsageError(f"candidates: found {_shown(values)} for a column; allowed are sequences of values")
    return values


def _set_column(rows: Sequence[wire.Row], name: str, values: Sequence[object], places: Sequence[str]) -> None:
    """Set one column's values; `places` are the names of the rows.

    Raises:
        UsageError: a value cannot be sent.
    """
    floats = any(_holds_floats(value) for value in values)
    for row, value, place in zip(rows, values, places, strict=True):
        if value is None:
            continue
        try:
            _set(row.values[name], value, floats)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise UsageError(f"{place}: column {name!r} holds {_shown(value)}; {_ALLOWED}") from error


def _set(target: wire.Value, value: object, floats: bool) -> None:
    """Set one value that is not None.

    Raises:
        TypeError, ValueError, KeyError, OverflowError: it cannot be sent.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        target.text = value
    elif isinstance(value, bool):
        target.boolean = value
    elif isinstance(value, int):
        target.integer = value
    elif isinstance(value, float):
        target.number = _number(value)
    elif isinstance(value, Mapping):
        target.sparse.indices.extend(value["indices"])
        target.sparse.values.extend(_numbers(value["values"]))
    elif isinstance(value, np.ndarray):
        _set_list(target, value.tolist(), floats)
    elif isinstance(value, list | tuple):
        _set_list(target, value, floats)
    else:
        raise TypeError


def _set_list(target: wire.Value, items: Sequence[object], floats: bool) -> None:
    """Set a list of text or of numbers.

    Integers and booleans may be terms, which float64 would change: they go as text, as the scorer reads them
    either way. What is None in a list is an empty text, or 0 among floats, as in training.
    """
    if floats:
        target.numbers.values.extend(_numbers([0.0 if item is None else item for item in items]))
    else:
        target.texts.SetInParent()
        target.texts.values.extend(map(_term, items))


def _term(item: object) -> str:
    if item is None:
        return ""
    if isinstance(item, bool | np.bool_):
        return str(bool(item)).lower()
    if isinstance(item, int | np.integer):
        return str(int(item))
    if isinstance(item, str):
        return item
    raise TypeError


def _numbers(items: Any) -> list[float]:
    return [_number(item) for item in (items.tolist() if isinstance(items, np.ndarray) else items)]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _holds_floats(value: object) -> bool:
    """Whether a value is a list with floats in it: then its column's lists are vectors."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind == "f")
    return isinstance(value, list | tuple) and any(isinstance(item, float | np.floating) for item in value)


def _shown(value: object) -> str:
    text = repr(value)
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + "…"
    return f"{text} ({type(value).__name__})" if not isinstance(value, float) else text


def _fill_columnar(message: wire.ColumnarInput, request: ColumnarRequest) -> None:
    if not 0 <= request.candidates <= np.iinfo(np.int32).max:
        raise UsageError(f"candidates: found {request.candidates}; allowed are 0 and above")
    message.candidates = request.candidates
    message.schema_fingerprint = request.schema_fingerprint
    for rows in request.features:
        _fill_features(message.features.add(), rows, request.candidates)
    for column, ids in request.entities.items():
        data, offsets, context = packed_ids(column, ids, request.candidates)
        message.entities.add(column=column, context=context, ids=data, offsets=offsets)
    scores = request.fixed_effect_scores
    if scores is not None:
        numbers = np.atleast_1d(np.asarray(scores))
        if numbers.size not in {1, request.candidates}:
            raise UsageError(
                f"fixed_effect_scores: found {numbers.size}; there are {request.candidates} candidates"
            )
        message.fixed_effect_scores = packed_float64(numbers, "fixed_effect_scores")


def _fill_features(message: wire.SparseRows, rows: FeatureRows, candidates: int) -> None:
    where = f"features of bag {rows.bag!r}"
    if len(rows.indices) != len(rows.values):
        raise UsageError(f"{where}: found {len(rows.indices)} indices and {len(rows.values)} values")
    message.bag = rows.bag
    message.indices = packed_int32(rows.indices, f"{where}: indices")
    message.values, single = packed_values(rows.values, f"{where}: values")
    message.element_type = wire.ELEMENT_TYPE_FLOAT32 if single else wire.ELEMENT_TYPE_FLOAT64
    if rows.row_offsets is None:
        message.context = True
        return
    if len(rows.row_offsets) != candidates + 1:
        found = f"found {len(rows.row_offsets)} row offsets"
        raise UsageError(f"{where}: {found}; {candidates} candidates need {candidates + 1}")
    message.row_offsets = packed_int32(rows.row_offsets, f"{where}: row offsets")


# ---- results ---------------------------------------------------------------------------------------------


def scores_from_proto(message: wire.ScoreResponse) -> Scores:
    """Return the scores in a response of either form."""
    packed = bool(message.packed_scores)
    coordinates = message.coordinates
    return Scores(
        scores=_unpacked(message.packed_scores) if packed else _listed(message.scores),
        predictions=_unpacked(message.packed_predictions) if packed else _listed(message.predictions),
        model=message.model,
        version=message.version,
        instance=message.instance,
        contributions={
            each.name: _unpacked(each.packed_contributions)
            if each.packed_contributions
            else _listed(each.contributions)
            for each in coordinates
            if each.packed_contributions or each.contributions
        },
        unknown_entities={each.name: each.unknown_entities for each in coordinates if each.unknown_entities},
        unknown_ids={each.name: tuple(each.unknown_ids) for each in coordinates if each.unknown_ids},
        unknown_features=dict(sorted(message.unknown_features.items())),
        degraded=message.degraded,
        degraded_reason=message.degraded_reason,
        request_id=message.request_id,
    )


def answer_from_proto(message: wire.ScoreResponse) -> ScoreAnswer:
    """Return one answer of a stream."""
    if message.HasField("error"):
        error = error_from_proto(message.error.code, message.error.message)
        return ScoreAnswer(request_id=message.request_id, error=error)
    return ScoreAnswer(request_id=message.request_id, scores=scores_from_proto(message))


def error_from_proto(code: str, message: str) -> GdmixError:
    """Return the error that a code of the catalog stands for; one that this client does not know is internal."""
    return catalog().get(code, InternalError)(message)


def status_from_proto(message: wire.GetModelStatusResponse) -> ScorerStatus:
    """Return the versions that a scorer process knows."""
    return ScorerStatus(
        instance=message.instance, versions=tuple(_version_from_proto(each) for each in message.versions)
    )


def _version_from_proto(message: wire.ModelVersionStatus) -> VersionStatus:
    return VersionStatus(
        model=message.model,
        version=message.version,
        state=_STATES.get(message.state, VersionState.UNKNOWN),
        active=message.active,
        aliases=tuple(message.aliases),
        since=message.since,
        requests=message.requests,
        in_flight=message.in_flight,
        error=error_from_proto(message.error_code, message.error) if message.error_code else None,
        schema_fingerprint=message.schema_fingerprint,
        entities=dict(sorted(message.entities.items())),
    )


def _unpacked(data: bytes) -> Float64Array:
    return np.frombuffer(data, "<f8")


def _listed(values: Sequence[float]) -> Float64Array:
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array
