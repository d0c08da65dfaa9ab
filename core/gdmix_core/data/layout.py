"""How a job's rows are laid out for its coordinates and metrics; plain facts, cheap to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSpec:
    """A fixed-effect coordinate's view of a home shard: its bags side by side, with or without intercept."""

    name: str
    bags: tuple[str, ...]
    intercept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """A data column that a plug-in reads, as `gdmix_core.fixed_effects.plugin.InputColumn` says.

    Attributes:
        name: Of the column.
        kind: What its values become.
        dimension: Length of a sparse or vector column; None for a vector whose length the data tell.
        source: Which source holds it; None for the first one that does.
    """

    name: str
    kind: Literal["number", "string", "strings", "vector", "sparse"]
    dimension: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupingSpec:
    """Rows grouped by an entity: for a random-effect coordinate, or for a per-entity metric.

    Attributes:
        name: The grouping's name.
        entity_column: The column that holds the entity ids.
        partitions: Into how many partitions the entities are hashed.
        bags: The coordinate's feature bags; None for a per-entity metric, which needs no features.
        intercept: Whether the coordinate has an intercept.
        min_rows: Entities with fewer training rows are not trained.
        max_rows: Entities with more are trained on so many of them.
    """

    name: str
    entity_column: str
    partitions: int
    bags: tuple[str, ...] | None
    intercept: bool
    min_rows: int | None = None
    max_rows: int | None = None
