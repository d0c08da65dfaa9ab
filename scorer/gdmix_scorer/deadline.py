"""How long a request may still take, and whether it is worth beginning."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

from gdmix_core.errors import DeadlineExceeded, Overloaded

BUDGET_KEY: Final = "gdmix-timeout-ms"
"""Metadata in which a caller says how much time it gave the request when it sent it."""
_OLD_SHARE: Final = 0.75
_STORE_SHARE: Final = 0.6
"""Of what is left of a request's time, what reading the store may take: there must be time to answer."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time of one request.

    Attributes:
        ends: `time.monotonic()` of its end; infinite without a deadline.
        budget_seconds: what the caller gave it; infinite where it did not say.
    """

    ends: float = math.inf
    budget_seconds: float = math.inf

    @classmethod
    def of(cls, remaining_seconds: float | None, budget: str | bytes | None) -> Deadline:
        """Take what gRPC knows (None: no deadline) and what the caller said in its metadata."""
        ends = math.inf if remaining_seconds is None else time.monotonic() + remaining_seconds
        try:
            seconds = math.inf if budget is None else max(0.0, int(budget) / 1000)
        except ValueError:
            seconds = math.inf
        return cls(ends, seconds)

    @property
    def remaining_seconds(self) -> float:
        """What is left; may be negative."""
        return self.ends - time.monotonic()

    def check(self) -> None:
        """Refuse a request that waited too long to be begun: its caller will not wait for the answer.

        Raises:
            DeadlineExceeded: its time is over.
            Overloaded: most of its time went by before it was begun.
        """
        remaining = self.remaining_seconds
        if remaining <= 0.0:
            raise DeadlineExceeded("the deadline was over before the request was begun")
        if remaining < self.budget_seconds * (1.0 - _OLD_SHARE) and math.isfinite(self.budget_seconds):
            raise Overloaded(
                f"the request waited for {(self.budget_seconds - remaining) * 1000:.0f} of its "
                f"{self.budget_seconds * 1000:.0f} ms: the scorer is overloaded"
            )

    def store_seconds(self, longest: float) -> float:
        """Return how long the request may wait for the store."""
        return min(longest, max(0.0, _STORE_SHARE * self.remaining_seconds))
