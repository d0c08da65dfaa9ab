"""What both scorer clients do about time and failure: one deadline, few tries, errors by the catalog."""

from __future__ import annotations

import random
import time
from typing import Any, Final

import grpc

from gdmix_client.transport import CHANNEL_OPTIONS, error_from_rpc, is_broken
from gdmix_core.errors import (
    DeadlineExceeded,
    GdmixError,
    InternalError,
    Overloaded,
    Unavailable,
    UsageError,
)

TIMEOUT_KEY: Final = "gdmix-timeout-ms"
"""Metadata: the time budget. A scorer sees by it how much of the budget a request has waited away."""
TIMEOUT_SECONDS: Final = 1.0
STREAM_TIMEOUT_SECONDS: Final = 60.0
CHANNELS: Final = 4
RETRY_DELAYS_SECONDS: Final = (0.0, 0.05)
SCORER_CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    *((name, value) for name, value in CHANNEL_OPTIONS if "reconnect_backoff" not in name),
    # A scorer that is back is to be used at once, and calls have no time to wait for a connection.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Attempts:
    """The tries of one call, all within one deadline."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        """Begin now.

        Raises:
            UsageError: there is no time at all.
        """
        if not timeout_seconds > 0:
            raise UsageError(f"timeout_seconds: found {timeout_seconds}; allowed is more than 0")
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._delays = iter(RETRY_DELAYS_SECONDS)
        self._seconds_left = timeout_seconds

    @property
    def seconds_left(self) -> float:
        """The time that the coming try has."""
        return self._seconds_left

    @property
    def budget(self) -> tuple[str, str]:
        """The metadata that tell the scorer of it."""
        return TIMEOUT_KEY, str(max(1, int(1000 * self._seconds_left)))

    def delay_after(self, error: grpc.RpcError) -> float:
        """Return how many seconds to wait before another try.

        Only calls that found nobody, or one about to leave, are tried again: a scorer with too much to do is
        not to be given more.

        Raises:
            GdmixError: there is to be no other try.
        """
        delay = next(self._delays, None) if is_broken(error) else None
        if delay is not None:
            delay *= 0.5 + random.random()  # noqa: S311 - spreads retries, guards nothing
            self._seconds_left = self._deadline - time.monotonic() - delay
            if self._seconds_left > 0:
                return delay
        raise scorer_error(error, self._address, self._timeout_seconds) from error


def scorer_error(error: grpc.RpcError, address: str, timeout_seconds: float) -> GdmixError:
    """Return the error of ours that a failed call to a scorer stands for."""
    found = error_from_rpc(error, address, timeout_seconds, server="scorer")
    if not isinstance(found, Unavailable | InternalError):
        return found
    details = error.details() or ""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the scorer at {address} did not answer within {timeout_seconds:g} s")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "larger than max" in details:
            return UsageError(f"the request, or its answer, is too large for one message: {details}")
        return Overloaded(f"the scorer at {address} has too much to do: {details or 'no details'}")
    return found
