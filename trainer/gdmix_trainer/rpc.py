"""The connection to a coordinator over gRPC."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from gdmix_core.errors import (
    Conflict,
    GdmixError,
    NotPermitted,
    StaleLease,
    Unavailable,
    UsageError,
)
from gdmix_proto.v1 import worker_pb2 as wire
from gdmix_trainer.convert import lease_to_proto, message_from_proto, message_to_proto
from gdmix_trainer.messages import Incoming, Lease, Outgoing

if TYPE_CHECKING:
    from gdmix_trainer.context import Array

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_SERVICE = "/gdmix.v1.WorkerService/"
_OPTIONS: tuple[tuple[str, Any], ...] = (
    # A channel of its own per connection: a shared subchannel would carry its back-off into the next try.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_FULL_TRIES = 8
_ERRORS: dict[grpc.StatusCode, type[GdmixError]] = {
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
    grpc.StatusCode.UNAUTHENTICATED: NotPermitted,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: StaleLease,
    grpc.StatusCode.NOT_FOUND: StaleLease,
    grpc.StatusCode.INVALID_ARGUMENT: UsageError,
}
_BY_CODE: dict[str, type[GdmixError]] = {StaleLease.code: StaleLease}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the coordinator is and how to speak to it.

    Attributes:
        target: HOST:PORT.
        metadata: Sent with every call: the token.
        ca: Certificate authority (PEM file) that signed the coordinator's certificate; None: no TLS.
        certificate: This worker's own certificate and key (PEM files), where the coordinator asks for one.
    """

    target: str
    metadata: Metadata = ()
    ca: Path | None = None
    certificate: tuple[Path, Path] | None = None


class GrpcConnection:
    """One channel with one session stream; see `session.Connection`."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Open the channel and begin the session; whether anybody answers shows at the first message.

        Raises:
            UsageError: A certificate file cannot be used.
        """
        self._metadata = grpc.aio.Metadata(*endpoint.metadata)
        self._channel = _channel(endpoint)
        self._writing = asyncio.Lock()
        session: grpc.aio.StreamStreamMultiCallable[Any, Any] = self._channel.stream_stream(
            _SERVICE + "Session",
            request_serializer=wire.WorkerMessage.SerializeToString,
            response_deserializer=wire.CoordinatorMessage.FromString,
        )
        self._push: grpc.aio.StreamUnaryMultiCallable[Any, Any] = self._channel.stream_unary(
            _SERVICE + "PushArray",
            request_serializer=wire.ArrayChunk.SerializeToString,
            response_deserializer=wire.PushArrayResponse.FromString,
        )
        self._pull: grpc.aio.UnaryStreamMultiCallable[Any, Any] = self._channel.unary_stream(
            _SERVICE + "PullArray",
            request_serializer=wire.PullArrayRequest.SerializeToString,
            response_deserializer=wire.ArrayChunk.FromString,
        )
        self._session = session(metadata=self._metadata)
        self._closed = False

    async def send(self, message: Outgoing) -> None:
        """Send a control message; once begun, it is sent even if the caller is cancelled."""
        # gRPC cancels the whole stream when a task is cancelled inside of `write`.
        writing = asyncio.create_task(self._write(message))
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(writing)

    async def _write(self, message: Outgoing) -> None:
        try:
            async with self._writing:
                await self._session.write(message_to_proto(message))
        except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            raise await self._session_error() from error

    async def receive(self) -> Incoming | None:
        """Wait for the next message that this version knows; None when the stream has ended."""
        while True:
            try:
                answer = await self._session.read()
            except grpc.aio.AioRpcError as error:
                raise _as_error(error.code(), error.details(), error.trailing_metadata()) from error
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                raise Unavailable("the connection was closed") from error
            if not isinstance(answer, wire.CoordinatorMessage):
                return None
            message = message_from_proto(answer)
            if message is not None:
                return message

    async def push_array(self, lease: Lease, name: str, array: Array) -> None:
        """Send an array in chunks; a coordinator that has no room for it now is asked again a few times."""
        for attempt in range(_FULL_TRIES):
            try:
                response = await self._push(_chunks(lease, name, array), metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if _is_full(error) and attempt + 1 < _FULL_TRIES:
                    await asyncio.sleep(0.05 * 2.0**attempt)
                    continue
                raise _as_error(error.code(), error.details(), error.trailing_metadata()) from error
            if response.bytes_received != array.nbytes:
                raise Unavailable(
                    f"array {name!r} of {lease} has {array.nbytes} bytes; {response.bytes_received} arrived"
                )
            return

    async def pull_array(self, lease: Lease, name: str) -> Array:
        """Fetch an array."""
        from gdmix_core.arrays import ArrayAssembler

        assembler: ArrayAssembler | None = None
        request = wire.PullArrayRequest(lease=lease_to_proto(lease), name=name)
        try:
            async for chunk in self._pull(request, metadata=self._metadata):
                if assembler is None:
                    assembler = ArrayAssembler(chunk.dtype, tuple(chunk.shape))
                assembler.append(chunk.data)
        except grpc.aio.AioRpcError as error:
            raise _as_error(error.code(), error.details(), error.trailing_metadata()) from error
        if assembler is None:
            raise Unavailable(f"array {name!r} of {lease} came without a single chunk")
        return assembler.finish()

    async def close(self) -> None:
        """Cancel the stream and close the channel."""
        if self._closed:
            return
        self._closed = True
        self._session.cancel()
        await self._channel.close()

    async def _session_error(self) -> GdmixError:
        """Return why the session stream ended."""
        if self._closed:
            return Unavailable("the connection was closed")
        code = await self._session.code()
        return _as_error(code, await self._session.details(), await self._session.trailing_metadata())


def connector(endpoint: Endpoint) -> Callable[[], _Opening]:
    """Return a function that opens a new connection to `endpoint`."""
    return lambda: _open(endpoint)


async def _open(endpoint: Endpoint) -> GrpcConnection:
    return GrpcConnection(endpoint)


if TYPE_CHECKING:
    from collections.abc import Coroutine

    _Opening: TypeAlias = Coroutine[None, None, GrpcConnection]


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    if endpoint.ca is None:
        return grpc.aio.insecure_channel(endpoint.target, options=_OPTIONS)
    try:
        chain = key = None
        if endpoint.certificate is not None:
            chain, key = (path.read_bytes() for path in endpoint.certificate)
        credentials = grpc.ssl_channel_credentials(endpoint.ca.read_bytes(), key, chain)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"a TLS certificate cannot be read: {error}") from error
    return grpc.aio.secure_channel(endpoint.target, credentials, options=_OPTIONS)


async def _chunks(lease: Lease, name: str, array: Array) -> AsyncIterator[wire.ArrayChunk]:
    """Cut an array into messages; the first one says what it is."""
    from gdmix_core.arrays import iter_chunks, wire_dtype

    first = True
    for data in iter_chunks(array):
        if first:
            yield wire.ArrayChunk(
                lease=lease_to_proto(lease), name=name, dtype=wire_dtype(array), shape=array.shape, data=data
            )
            first = False
        else:
            yield wire.ArrayChunk(data=data)


def _is_full(error: grpc.aio.AioRpcError) -> bool:
    """Return whether a coordinator that is alive has no room for an array now."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return True
    return error.code() is grpc.StatusCode.UNAVAILABLE and bool(_code_in(error.trailing_metadata()))


def _code_in(trailing: Any) -> str:
    """Return the error catalog's code that the coordinator sent along; empty when it sent none."""
    return next((str(value) for key, value in trailing or () if key == "gdmix-error-code"), "")


def _as_error(code: grpc.StatusCode, details: str | None, trailing: Any) -> GdmixError:
    """Return the domain's error for a status; what is not a clear refusal counts as a broken connection."""
    kind = _BY_CODE.get(_code_in(trailing)) or _ERRORS.get(code, Unavailable)
    return kind(details or code.name)
