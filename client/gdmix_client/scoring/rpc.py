"""The calls a scorer answers. All of them only read, so each may be tried again elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import Message

from gdmix_client.rpc import Call
from gdmix_client.scoring import convert
from gdmix_client.scoring.requests import ScoreRequest
from gdmix_client.scoring.results import ScoreAnswer, ScorerStatus, Scores
from gdmix_proto.v1 import scoring_pb2 as wire

SERVICE: Final = "ScoringService"


def score(request: ScoreRequest, timeout_seconds: float) -> Call[Scores]:
    """Score one request's candidates.

    Raises:
        UsageError: something in the request cannot be sent.
    """
    message = convert.request_to_proto(request)
    return _call("Score", message, wire.ScoreResponse, convert.scores_from_proto, timeout_seconds)


def score_stream(timeout_seconds: float) -> Call[ScoreAnswer]:
    """Score many requests; what is sent are `stream_message`s."""
    nothing = wire.ScoreRequest()
    return _call("ScoreStream", nothing, wire.ScoreResponse, convert.answer_from_proto, timeout_seconds)


def stream_message(request: ScoreRequest) -> Message:
    """Return one request of a stream as it is sent.

    Raises:
        UsageError: something in it cannot be sent.
    """
    return convert.request_to_proto(request)


def get_model_status(model: str, version: int, timeout_seconds: float) -> Call[ScorerStatus]:
    """Read the versions that a scorer process knows; "" and 0 stand for all."""
    request = wire.GetModelStatusRequest(name=model, version=version)
    read = convert.status_from_proto
    return _call("GetModelStatus", request, wire.GetModelStatusResponse, read, timeout_seconds)


def _call(
    method: str,
    request: Message,
    response: type[Message],
    read: Callable[[Any], Any],
    timeout_seconds: float,
) -> Call[Any]:
    return Call(method, request, response, read, timeout_seconds, repeatable=True, service=SERVICE)
