"""The blocking client of a scorer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from gdmix_client.connection import Connection, scorer_connection_to
from gdmix_client.rpc import Call
from gdmix_client.scoring import rpc
from gdmix_client.scoring.attempts import (
    CHANNELS,
    SCORER_CHANNEL_OPTIONS,
    STREAM_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    Attempts,
    scorer_error,
)
from gdmix_client.scoring.requests import (
    Candidates,
    ColumnarRequest,
    FloatArray,
    ReadableRequest,
    Row,
    ScoreRequest,
)
from gdmix_client.scoring.results import ScoreAnswer, ScorerStatus, Scores
from gdmix_client.scoring.stream_order import StreamOrder
from gdmix_client.transport import serialize
from gdmix_core.errors import UsageError
from gdmix_core.security import bearer_metadata

Result = TypeVar("Result")


class Scorer:
    """Speaks to one scorer; safe to share between threads.

        with Scorer("127.0.0.1:50061") as scorer:
            scores = scorer.score({"user_id": "ann"}, [{"movie_id": 7}, {"movie_id": 9}])
            print(scores.predictions, scores.version)

    Calls take turns on a few connections, for one connection stays in one of the scorer's processes. Every
    method raises an error of `gdmix_core.errors`: `Unavailable` when nobody answers (after a second try on
    another connection: asking twice does no harm), `DeadlineExceeded`, `Overloaded`, `NotPermitted` without
    the right token, else what the scorer says.
    """

    def __init__(self, scorer: str | Connection | None = None, *, channels: int = CHANNELS) -> None:
        """Prepare the connections; nothing is sent before the first call.

        Args:
            scorer: HOST:PORT, or a `Connection` with token and TLS; `GDMIX_SCORER` when None.
            channels: connections to keep.
        """
        connection = scorer if isinstance(scorer, Connection) else scorer_connection_to(scorer)
        self.address = connection.address
        self._metadata = bearer_metadata(connection.token)
        self._channels = [_opened(connection) for _ in range(checked_channels(channels))]
        self._turns = itertools.count()
        self._closed = False

    def score(
        self,
        context: Row,
        candidates: Candidates,
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        fixed_effect_scores: float | Sequence[float] | FloatArray | None = None,
        contributions: bool = False,
        request_id: str = "",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Scores:
        """Score candidates for a context, by the names of the data's columns; see `ReadableRequest`.

        Args:
            context: what holds for all candidates, say the user and the user's features.
            candidates: what differs: a mapping for each candidate, or for each column its values.
            model: name of the model; "" for the one that the scorer serves.
            version: number of a version, instead of the active one.
            alias: a name for a version, instead of the active one.
            fixed_effect_scores: of the outside fixed effect, where the model was trained with one.
            contributions: also return what each coordinate adds.
            request_id: comes back with the scores.
            timeout_seconds: the time that the scorer has, tries on other connections included.

        Raises:
            UsageError: a value cannot be sent, or the scorer cannot make sense of the request.
            NotFound: there is no such model, version or alias.
        """
        request = ReadableRequest(
            model=model,
            version=version,
            alias=alias,
            context=context,
            candidates=candidates,
            fixed_effect_scores=fixed_effect_scores,
            contributions=contributions,
            request_id=request_id,
        )
        return self._call(rpc.score(request, timeout_seconds), timeout_seconds)

    def score_columnar(self, request: ColumnarRequest, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Scores:
        """Score candidates that are given as arrays; errors as `score`."""
        return self._call(rpc.score(request, timeout_seconds), timeout_seconds)

    def stream(
        self, requests: Iterable[ScoreRequest], *, timeout_seconds: float = STREAM_TIMEOUT_SECONDS
    ) -> Iterator[ScoreAnswer]:
        """Score many requests over one call; yield their answers in the same order.

        A request that fails, or cannot be sent, gives an answer with an error; the others go on. The requests
        are taken from the iterator in another thread, ahead of the answers.

        Args:
            requests: of either form, mixed as you like.
            timeout_seconds: for the whole stream.

        Raises:
            GdmixError: the stream broke; it is not begun again.
            Exception: whatever the iterator raises, behind the answers to what it gave before.
        """
        order = StreamOrder()
        attempts = Attempts(self.address, timeout_seconds)
        call = rpc.score_stream(timeout_seconds)
        method = self._next_channel().stream_stream(call.path, serialize, call.response.FromString)
        responses = method(order.sent(requests), timeout=attempts.seconds_left, metadata=self._metadata)
        try:
            for response in responses:
                yield from order.answers(call.read(response))
            yield from order.answers(None)
        except grpc.RpcError as error:
            raise scorer_error(error, self.address, timeout_seconds) from error
        finally:
            responses.cancel()

    def status(
        self, model: str = "", version: int = 0, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> ScorerStatus:
        """Return the versions that the scorer knows; "" and 0 stand for all.

        A scorer of several processes answers with what one of them knows.
        """
        return self._call(rpc.get_model_status(model, version, timeout_seconds), timeout_seconds)

    def close(self) -> None:
        """Close the connections; calls under way fail with `Unavailable`."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[Result], timeout_seconds: float) -> Result:
        attempts = Attempts(self.address, timeout_seconds)
        while True:
            method: Callable[..., Any] = self._next_channel().unary_unary(
                call.path, serialize, call.response.FromString
            )
            try:
                response = method(
                    call.request,
                    timeout=attempts.seconds_left,
                    metadata=(*self._metadata, attempts.budget),
                )
            except grpc.RpcError as error:
                delay = attempts.delay_after(error)
            else:
                return call.read(response)
            time.sleep(delay)

    def _next_channel(self) -> grpc.Channel:
        if self._closed:
            raise UsageError("this scorer client is closed")
        return self._channels[next(self._turns) % len(self._channels)]


def checked_channels(channels: int) -> int:
    """Return a number of connections.

    Raises:
        UsageError: it is none.
    """
    if channels < 1:
        raise UsageError(f"channels: found {channels}; allowed are 1 and above")
    return channels


def _opened(connection: Connection) -> grpc.Channel:
    if connection.tls_ca is None:
        return grpc.insecure_channel(connection.address, options=SCORER_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(connection.tls_ca)
    return grpc.secure_channel(connection.address, credentials, options=SCORER_CHANNEL_OPTIONS)
