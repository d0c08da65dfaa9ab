"""Performing calls over gRPC: channels, deadlines, retries, and errors back from statuses.

An error that GDMix raised on the other side comes back as the same class with the same message, by the code
in the trailing metadata. What gRPC itself reports (nobody there, no answer in time) becomes `Unavailable`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from gdmix_client.connection import Connection
from gdmix_client.rpc import Call
from gdmix_core.errors import (
    GdmixError,
    InternalError,
    NotPermitted,
    Overloaded,
    Unavailable,
    UsageError,
    catalog,
)
from gdmix_core.security import bearer_metadata

Result = TypeVar("Result")

ERROR_CODE_KEY: Final = "gdmix-error-code"
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # A channel of its own: a shared subchannel would carry one client's back-off into another's first try.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: how long one attempt to connect may take, handshakes included.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
RETRY_DELAYS_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
_SHED: Final = "CANCELLED"
"""What gRPC says of a call that a server with too many of them waiting let go of before any handler saw it."""
_NO_HOST: Final = "there is no host of that name"
_BROKEN: Final = "the connection broke (a server with TLS needs --tls-ca)"


class Transport:
    """Performs calls and waits for them; safe to share between threads."""

    def __init__(self, connection: Connection) -> None:
        self._address = connection.address
        self._metadata = bearer_metadata(connection.token)
        if connection.tls_ca is None:
            self._channel = grpc.insecure_channel(connection.address, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(connection.tls_ca)
            self._channel = grpc.secure_channel(connection.address, credentials, options=CHANNEL_OPTIONS)

    def call(self, call: Call[Result]) -> Result:
        """Return what a call answers.

        Raises:
            GdmixError: the coordinator refused, or cannot be reached.
        """
        method = self._channel.unary_unary(call.path, serialize, call.response.FromString)
        delays = iter(RETRY_DELAYS_SECONDS if call.repeatable else ())
        while True:
            try:
                return call.read(method(call.request, timeout=call.timeout_seconds, metadata=self._metadata))
            except grpc.RpcError as error:
                delay = next(delays, None) if is_broken(error) else None
                if delay is None:
                    raise error_from_rpc(error, self._address, call.timeout_seconds) from error
            time.sleep(_jittered(delay))

    def stream(self, call: Call[Result]) -> Iterator[Result]:
        """Yield what a streaming call sends; leaving the loop early ends the call.

        Raises:
            GdmixError: as `call`.
        """
        method = self._channel.unary_stream(call.path, serialize, call.response.FromString)
        messages = method(call.request, timeout=call.timeout_seconds, metadata=self._metadata)
        try:
            for message in messages:
                yield call.read(message)
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._address, call.timeout_seconds) from error
        finally:
            messages.cancel()

    def send(self, call: Call[Result], messages: Iterator[Any]) -> Result:
        """Return what a call answers when messages follow its request; it is not repeated, errors as `call`."""
        sending = self.start_sending(call, messages)
        try:
            return self.sent(call, sending)
        finally:
            sending.cancel()

    def start_sending(self, call: Call[Any], messages: Iterator[Any]) -> Any:
        """Begin a call whose messages follow its request, and return gRPC's future of the answer."""
        method = self._channel.stream_unary(call.path, serialize, call.response.FromString)
        requests = itertools.chain([call.request], messages)
        return method.future(requests, timeout=call.timeout_seconds, metadata=self._metadata)

    def sent(self, call: Call[Result], sending: Any) -> Result:
        """Wait for what `start_sending` began; errors as `call`."""
        try:
            return call.read(sending.result())
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._address, call.timeout_seconds) from error

    def close(self) -> None:
        """Close the connection; calls under way fail with `Unavailable`."""
        self._channel.close()


class AsyncTransport:
    """Performs calls on the running event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._address = connection.address
        self._metadata = grpc.aio.Metadata(*bearer_metadata(connection.token))
        if connection.tls_ca is None:
            self._channel = grpc.aio.insecure_channel(connection.address, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(connection.tls_ca)
            self._channel = grpc.aio.secure_channel(connection.address, credentials, options=CHANNEL_OPTIONS)

    async def call(self, call: Call[Result]) -> Result:
        """Return what a call answers; errors as `Transport.call`."""
        method: Callable[..., Any] = self._channel.unary_unary(call.path, serialize, call.response.FromString)
        delays = iter(RETRY_DELAYS_SECONDS if call.repeatable else ())
        while True:
            try:
                return call.read(
                    await method(call.request, timeout=call.timeout_seconds, metadata=self._metadata)
                )
            except grpc.RpcError as error:
                delay = next(delays, None) if is_broken(error) else None
                if delay is None:
                    raise error_from_rpc(error, self._address, call.timeout_seconds) from error
            await asyncio.sleep(_jittered(delay))

    async def stream(self, call: Call[Result]) -> AsyncGenerator[Result, None]:
        """Yield what a streaming call sends; errors as `Transport.call`."""
        method: Callable[..., Any] = self._channel.unary_stream(
            call.path, serialize, call.response.FromString
        )
        messages = method(call.request, timeout=call.timeout_seconds, metadata=self._metadata)
        try:
            async for message in messages:
                yield call.read(message)
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._address, call.timeout_seconds) from error
        finally:
            messages.cancel()

    async def send(self, call: Call[Result], messages: Iterator[Any]) -> Result:
        """Return what a call answers when messages follow its request; they are made on a thread.

        The call has a connection without asyncio: where a coordinator refuses while messages are still on their
        way, `grpc.aio` may tell of its own failed write instead of the refusal (grpc issue 36066).
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(done.set)

        with closing(Transport(self._connection)) as transport:
            sending = transport.start_sending(call, messages)
            sending.add_done_callback(tell)
            try:
                await done.wait()
                return transport.sent(call, sending)
            finally:
                sending.cancel()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def error_from_rpc(
    error: grpc.RpcError, address: str, timeout_seconds: float | None = None, *, server: str = "coordinator"
) -> GdmixError:
    """Return the error of ours that a failed call stands for; `server` is what messages call the other side."""
    code: grpc.StatusCode = error.code()
    details = error.details() or ""
    ours = catalog().get(_error_code(error))
    if ours is not None:
        return ours(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"cannot reach the {server} at {address}: {_reason(details)}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        within = "in time" if timeout_seconds is None else f"within {timeout_seconds:g} s"
        return Unavailable(f"the {server} at {address} did not answer {within}")
    if code is grpc.StatusCode.CANCELLED and details == _SHED:
        return Overloaded(f"the {server} at {address} has too many requests waiting and refused this one")
    if code is grpc.StatusCode.CANCELLED:
        return Unavailable(f"the connection to the {server} at {address} was closed")
    if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return NotPermitted(f"the {server} at {address} refused: {details or 'no permission'}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UsageError(f"what answers at {address} is no {server} of this version of GDMix")
    return InternalError(f"the {server} at {address} failed: {details or code.name}")


def _error_code(error: grpc.RpcError) -> str:
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in metadata:
        if key == ERROR_CODE_KEY:
            return value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return ""


def _reason(details: str) -> str:
    """Return the part of gRPC's text that tells a person something."""
    lowered = details.lower()
    known = {
        "connection refused": "connection refused (nothing listens there; gdmix-cli up starts a cluster)",
        "dns resolution failed": _NO_HOST,
        "name or service not known": _NO_HOST,
        "hostname lookup error": _NO_HOST,
        "wrong_version_number": "it does not speak TLS: leave --tls-ca and GDMIX_TLS_CA out",
        "certificate_verify_failed": "TLS: its certificate is not signed by the authority of --tls-ca",
        "certificate": f"TLS: {details}",
        "handshake": f"the TLS handshake failed ({details}); is --tls-ca missing, or one too many?",
        "socket closed": _BROKEN,
        "connection reset": _BROKEN,
        "no route": "no route to the host",
        "timeout": "no answer",
        "timed out": "no answer",
    }
    for mark, text in known.items():
        if mark in lowered:
            return text
    return re.sub(r"\s+", " ", details) or "no answer"


def is_broken(error: grpc.RpcError) -> bool:
    """Return whether the call failed for want of somebody who answers, not by what one found."""
    code = _error_code(error)
    return error.code() is grpc.StatusCode.UNAVAILABLE and code in {"", Unavailable.code}


def _jittered(delay: float) -> float:
    return delay * (0.5 + random.random())  # noqa: S311 - spreads retries, guards nothing


def serialize(message: Any) -> bytes:
    """Return a message as it goes over the wire."""
    data: bytes = message.SerializeToString()
    return data
