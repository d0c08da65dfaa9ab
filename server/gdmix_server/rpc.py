"""What surrounds every call: who may make it, and how errors cross the wire."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from gdmix_core.errors import GdmixError, InternalError
from gdmix_core.security import Authorizer, Role

logger = logging.getLogger(__name__)

ERROR_CODE_KEY: Final = "gdmix-error-code"
"""Trailing metadata that carry the code of the error catalog."""
MAX_MESSAGE_BYTES: Final = 16 << 20
_MAX_STATUS_CHARACTERS: Final = 4_000
"""Of an error's message; HTTP/2 header lists are bounded by 8 KiB at many clients."""

SERVER_OPTIONS: Final = (
    # Without this two servers bind one port silently, and workers talk to either.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_ROLES: Final = {"gdmix.v1.TrainingService": Role.TRAIN, "gdmix.v1.WorkerService": Role.WORKER}
_OPEN: Final = frozenset({"grpc.health.v1.Health"})

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class Guard(grpc.aio.ServerInterceptor):
    """Checks tokens and maps errors to statuses, for every method of every service."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method or ""
        return _wrapped(handler, lambda inner: self._guarded(inner, method))

    def _guarded(self, inner: Handler, method: str) -> Handler:
        service = method.strip("/").partition("/")[0]
        role = _ROLES.get(service, Role.TRAIN)

        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                if service not in _OPEN:
                    self._authorizer.check(context.invocation_metadata() or (), role)
                return await inner(request, context)
            except GdmixError as error:
                await abort(context, error)
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except Exception:
                incident = secrets.token_hex(4)
                logger.exception("%s failed", method, extra={"incident": incident})
                await abort(
                    context,
                    InternalError(f"an internal error; the coordinator's log has it as incident {incident}"),
                )

        return guarded


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: GdmixError) -> None:
    """End a call with the status, message and code that the catalog has for an error."""
    message = str(error)
    if len(message) > _MAX_STATUS_CHARACTERS:
        message = message[:_MAX_STATUS_CHARACTERS] + " …"
    await context.abort(
        grpc.StatusCode[error.status], message, trailing_metadata=((ERROR_CODE_KEY, error.code),)
    )


def _wrapped(
    handler: grpc.RpcMethodHandler[Any, Any], wrap: Callable[[Handler], Handler]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler with its function wrapped."""
    # The stubs know the methods of synchronous servers only.
    unary_unary: Any = handler.unary_unary
    stream_unary: Any = handler.stream_unary
    coders: dict[str, Any] = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(wrap(unary_unary), **coders)
    if stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(wrap(stream_unary), **coders)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(wrap(_writing(handler.unary_stream)), **coders)
    return grpc.stream_stream_rpc_method_handler(wrap(_writing(handler.stream_stream)), **coders)


def _writing(inner: Any) -> Handler:
    """Return a coroutine function that writes what a handler yields, or writes itself."""
    if not inspect.isasyncgenfunction(inner):
        handler: Handler = inner
        return handler

    async def writing(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async for message in inner(request, context):
            await context.write(message)

    return writing
