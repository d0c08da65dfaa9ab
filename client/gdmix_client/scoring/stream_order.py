"""A stream's requests on their way out, and its answers in the same order."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TypeAlias

from google.protobuf.message import Message

from gdmix_client.scoring import rpc
from gdmix_client.scoring.requests import ScoreRequest
from gdmix_client.scoring.results import ScoreAnswer
from gdmix_core.errors import UsageError

ManyRequests: TypeAlias = Iterable[ScoreRequest] | AsyncIterable[ScoreRequest]


class StreamOrder:
    """Puts the answers of requests that could not be sent where they belong.

    `sent` runs ahead of `answers_before`, in another thread or task: it notes a refused request before it
    sends a later one, so a response is never read before the refusals that precede it are known.
    """

    def __init__(self) -> None:
        self._refused: dict[int, ScoreAnswer] = {}
        self._sent = 0
        self._answered = 0
        self.failure: BaseException | None = None
        """What the caller's own iterator raised."""

    def sent(self, requests: Iterable[ScoreRequest]) -> Iterator[Message]:
        """Yield the messages of the requests that can be sent; end quietly when the iterator raises."""
        try:
            for request in requests:
                message = self._message(request)
                if message is not None:
                    yield message
        except Exception as error:  # noqa: BLE001 - gRPC would swallow it; the answers' reader raises it
            self.failure = error

    async def sent_async(self, requests: ManyRequests) -> AsyncIterator[Message]:
        """Do the same for iterators of either kind."""
        try:
            async for request in _asynchronous(requests):
                message = self._message(request)
                if message is not None:
                    yield message
        except Exception as error:  # noqa: BLE001 - as above
            self.failure = error

    def answers(self, response: ScoreAnswer | None) -> Iterator[ScoreAnswer]:
        """Yield the answers up to a response and the response itself; None stands for the stream's end."""
        while self._answered in self._refused:
            yield self._refused.pop(self._answered)
            self._answered += 1
        if response is not None:
            yield response
            self._answered += 1
        elif self.failure is not None:
            raise self.failure

    def _message(self, request: ScoreRequest) -> Message | None:
        position = self._sent
        self._sent += 1
        try:
            return rpc.stream_message(request)
        except UsageError as error:
            self._refused[position] = ScoreAnswer(request_id=request.request_id, error=error)
            return None


async def _asynchronous(requests: ManyRequests) -> AsyncIterator[ScoreRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
