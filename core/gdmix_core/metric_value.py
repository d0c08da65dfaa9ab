"""The value of a metric, as it travels from workers to people; plain facts, cheap to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric's value, or why there is none.

    Attributes:
        value: The value, finite; None when it is undefined.
        reason: Why there is no value.
        entities: Per-entity metrics: entities where the metric is defined.
        entities_undefined: Per-entity metrics: entities where it is not, and which the mean leaves out.
    """

    value: float | None
    reason: str = ""
    entities: int | None = None
    entities_undefined: int | None = None
