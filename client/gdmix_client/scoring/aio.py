"""The asyncio client of a scorer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

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
)
from gdmix_client.scoring.results import ScoreAnswer, ScorerStatus, Scores
from gdmix_client.scoring.scorer import checked_channels
from gdmix_client.scoring.stream_order import ManyRequests, StreamOrder
from gdmix_client.transport import serialize
from gdmix_core.errors import UsageError
from gdmix_core.security import bearer_metadata

Result = TypeVar("Result")


class AsyncScorer:
    """Speaks to one scorer from one event loop; methods, arguments and errors are those of `Scorer`.

    async with AsyncScorer("127.0.0.1:50061") as scorer:
        scores = await scorer.score({"user_id": "ann"}, [{"movie_id": 7}, {"movie_id": 9}])
    """

    def __init__(self, scorer: str | Connection | None = None, *, channels: int = CHANNELS) -> None:
        """Prepare the connections; must be called while an event loop runs."""
        connection = scorer if isinstance(scorer, Connection) else scorer_connection_to(scorer)
        self.address = connection.address
        self._metadata = bearer_metadata(connection.token)
        self._channels = [_opened(connection) for _ in range(checked_channels(channels))]
        self._turns = itertools.count()
        self._closed = False

    async def score(
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
        """Score candidates for a context, by the names of the data's columns; see `Scorer.score`."""
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
        return await self._call(rpc.score(request, timeout_seconds), timeout_seconds)

    async def score_columnar(
        self, request: ColumnarRequest, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> Scores:
        """Score candidates that are given as arrays; errors as `Scorer.score`."""
        return await self._call(rpc.score(request, timeout_seconds), timeout_seconds)

    async def stream(
        self, requests: ManyRequests, *, timeout_seconds: float = STREAM_TIMEOUT_SECONDS
    ) -> AsyncGenerator[ScoreAnswer, None]:
        """Score many requests over one call; see `Scorer.stream`. The iterator may be an asynchronous one."""
        order = StreamOrder()
        attempts = Attempts(self.address, timeout_seconds)
        call = rpc.score_stream(timeout_seconds)
        method: Callable[..., Any] = self._next_channel().stream_stream(
            call.path, serialize, call.response.FromString
        )
        responses = method(order.sent_async(requests), timeout=attempts.seconds_left, metadata=self._metadata)
        try:
            async for response in responses:
                for answer in order.answers(call.read(response)):
                    yield answer
            for answer in order.answers(None):
                yield answer
        except grpc.RpcError as error:
            raise scorer_error(error, self.address, timeout_seconds) from error
        finally:
            responses.cancel()

    async def status(
        self, model: str = "", version: int = 0, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> ScorerStatus:
        """Return the versions that the scorer knows; see `Scorer.status`."""
        return await self._call(rpc.get_model_status(model, version, timeout_seconds), timeout_seconds)

    async def close(self) -> None:
        """Close the connections; calls under way fail with `Unavailable`."""
        self._closed = True
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[Result], timeout_seconds: float) -> Result:
        attempts = Attempts(self.address, timeout_seconds)
        while True:
            method: Callable[..., Any] = self._next_channel().unary_unary(
                call.path, serialize, call.response.FromString
            )
            metadata = grpc.aio.Metadata(*self._metadata, attempts.budget)
            try:
                response = await method(call.request, timeout=attempts.seconds_left, metadata=metadata)
            except grpc.RpcError as error:
                delay = attempts.delay_after(error)
            else:
                return call.read(response)
            await asyncio.sleep(delay)

    def _next_channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise UsageError("this scorer client is closed")
        return self._channels[next(self._turns) % len(self._channels)]


def _opened(connection: Connection) -> grpc.aio.Channel:
    if connection.tls_ca is None:
        return grpc.aio.insecure_channel(connection.address, options=SCORER_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(connection.tls_ca)
    return grpc.aio.secure_channel(connection.address, credentials, options=SCORER_CHANNEL_OPTIONS)
