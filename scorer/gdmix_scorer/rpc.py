"""What surrounds every call: who may make it, its clock and deadline, counting, and errors on the wire."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from gdmix_core.errors import Cancelled, GdmixError, InternalError
from gdmix_core.security import Authorizer, Role
from gdmix_scorer.calls import Form, ScoreAnswer, ScoreCall
from gdmix_scorer.deadline import BUDGET_KEY, Deadline
from gdmix_scorer.metrics import ScorerMetrics
from gdmix_scorer.service import Scoring, Timing
from gdmix_scorer.settings import MAX_MESSAGE_BYTES, ScorerSettings
from gdmix_scorer.tracing import Tracing

logger = logging.getLogger(__name__)

ERROR_CODE_KEY: Final = "gdmix-error-code"
"""Trailing metadata that carry the code of the error catalog."""
_MAX_STATUS_CHARACTERS: Final = 4_000
_CONNECTION_AGE_MS: Final = 600_000
"""Connections are made anew now and then: a restarted process gets its share, a drained one none."""

Context = grpc.aio.ServicerContext[Any, Any]
Read = Callable[[bytes], ScoreCall]
Write = Callable[[ScoreCall, ScoreAnswer], bytes]
Handler = Callable[[bytes, Context], Awaitable[bytes]]


def server_options(settings: ScorerSettings) -> tuple[tuple[str, int], ...]:
    """Return the options of a serving process's gRPC server."""
    return (
        ("grpc.so_reuseport", 1),  # all serving processes share the port that the parent holds
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Under overload requests queue inside gRPC, where no check of ours reaches them. What a connection may have
        # under way is held back by its client; what waits here all the same is refused from some length on, by gRPC.
        ("grpc.max_concurrent_streams", settings.streams_per_connection),
        ("grpc.server.max_pending_requests", settings.waiting_requests),
        ("grpc.server.max_pending_requests_hard_limit", 2 * settings.waiting_requests),
        # Else streams that ended but are not yet taken down count too: clients that keep to the bound are refused.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", 10_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
    )


class Calls:
    """Runs the calls of every protocol."""

    def __init__(
        self, scoring: Scoring, metrics: ScorerMetrics, authorizer: Authorizer, tracing: Tracing
    ) -> None:
        self._scoring = scoring
        self._metrics = metrics
        self._authorizer = authorizer
        self._tracing = tracing

    def scoring(self, method: str, form: Form, read: Read, write: Write) -> Handler:
        """Return the handler of a unary method that scores.

        Args:
            method: its full name, say `gdmix.v1.ScoringService/Score`.
            form: that it is counted under until the request says otherwise.
            read: turns the request into a call.
            write: turns an answer into the response.
        """

        async def handler(data: bytes, context: Context) -> bytes:
            try:
                return await self.respond(method, form, data, context, read, write)
            except GdmixError as error:
                await abort(context, error)
                raise

        return handler

    def looking(self, answer: Callable[[bytes], bytes], *, anyone: bool = False) -> Handler:
        """Return the handler of a unary method that only tells something, to `anyone` or to those who may score."""

        async def handler(data: bytes, context: Context) -> bytes:
            try:
                if not anyone:
                    self.authorize(context)
                return answer(data)
            except GdmixError as error:
                await abort(context, error)
                raise
            except Exception as error:
                await abort(context, incident("a request", error))
                raise

        return handler

    def authorize(self, context: Context) -> None:
        """Let a call pass that may score.

        Raises:
            NotPermitted: it may not.
        """
        if self._authorizer.enforced:
            self._authorizer.check(context.invocation_metadata() or (), Role.SCORE)

    async def respond(
        self, method: str, form: Form, data: bytes, context: Context, read: Read, write: Write
    ) -> bytes:
        """Answer one scoring request; it is counted, logged and traced, however it ends.

        Raises:
            GdmixError: it was refused, or failed.
        """
        metadata = context.invocation_metadata() or ()
        timing = Timing(form, self._tracing.request(method, metadata))
        call: ScoreCall | None = None
        outcome: ScoreAnswer | GdmixError = Cancelled("the caller no longer waits")
        admitted = False
        try:
            self.authorize(context)
            budget = next((value for key, value in metadata if key == BUDGET_KEY), None)
            deadline = Deadline.of(context.time_remaining(), budget)
            if math.isfinite(deadline.budget_seconds) and math.isfinite(deadline.ends):
                waited = deadline.budget_seconds - deadline.remaining_seconds
                timing.phases["queue"] = max(0.0, waited)
            self._scoring.admit(deadline)
            self._metrics.in_flight.inc()
            admitted = True
            call = read(data)
            timing.form = call.form
            answer = await self._scoring.score(call, deadline, timing)
            response = write(call, answer)
            outcome = answer
        except GdmixError as error:
            outcome = error
            raise
        except Exception as error:
            outcome = incident(method, error)
            raise outcome from error
        finally:
            if admitted:
                self._metrics.in_flight.dec()
            self._scoring.finish(call, timing, outcome)
        return response


class CallersGone(logging.Filter):
    """Leaves out what gRPC logs, with a stack trace, when a caller went away before its answer was written.

    Under overload that is the rule and nobody's fault; such calls are counted by their outcome.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        return not record.getMessage().startswith("ExecuteBatchError")


def quieten_grpc() -> None:
    """Install `CallersGone`."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(CallersGone())


def incident(method: str, error: Exception) -> InternalError:
    """Log a fault of ours under a number, and return what the caller may know of it."""
    number = secrets.token_hex(4)
    logger.error("%s failed", method, exc_info=error, extra={"incident": number})
    return InternalError(f"an internal error; the scorer's log has it as incident {number}")


async def abort(context: Context, error: GdmixError) -> None:
    """End a call with the status, message and code that the catalog has for an error."""
    message = str(error)
    if len(message) > _MAX_STATUS_CHARACTERS:
        message = message[:_MAX_STATUS_CHARACTERS] + " …"
    await context.abort(
        grpc.StatusCode[error.status], message, trailing_metadata=((ERROR_CODE_KEY, error.code),)
    )
