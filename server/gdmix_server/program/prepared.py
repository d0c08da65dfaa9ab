"""What preparation leaves: the index, home shards and partitions that every later stage reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gdmix_core.config import AnyCoordinate, DataConfig, ExternalEffect, PluggedEffect
from gdmix_core.data.layout import DesignSpec, GroupingSpec, InputSpec
from gdmix_core.tasks import Role, ShardBuilt

ROLES: tuple[Role, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Shards:
    """The home shards of a role: their directories and sizes."""

    directories: tuple[str, ...]
    rows: tuple[int, ...]
    results: tuple[ShardBuilt, ...]


@dataclass(frozen=True, slots=True)
class Partitions:
    """The partitions of a grouping."""

    directories: tuple[str, ...]
    rows: tuple[int, ...]
    entities: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model version to begin with.

    Attributes:
        directory: Its directory.
        partitions: By coordinate that it has, the number of coefficient files; 0 for a fixed effect.
    """

    directory: str
    partitions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything training reads; `partitions` by (role, grouping)."""

    index: str
    schema_fingerprint: str
    bag_sizes: Mapping[str, int]
    designs: Mapping[str, DesignSpec]
    groupings: Mapping[str, GroupingSpec]
    metric_groupings: Mapping[str, GroupingSpec]
    """By entity column."""
    shards: Mapping[Role, Shards]
    partitions: Mapping[tuple[Role, str], Partitions]
    data: DataConfig
    """As inspected: roles whose optional column is not there are None."""
    initial: InitialModel | None = None
    """The model to begin with."""
    inputs: Mapping[str, tuple[InputSpec, ...]] = field(default_factory=dict)
    """Columns that plug-ins read, by coordinate."""

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to measure on."""
        return bool(self.shards["validation"].directories)

    @property
    def is_labelled(self) -> bool:
        """Whether the rows have labels to measure against."""
        return bool(self.data.columns.label)

    @property
    def all_rows(self) -> tuple[int, ...]:
        """Rows of every home shard, the training ones first."""
        return (*self.shards["train"].rows, *self.shards["validation"].rows)

    def initial_of(self, coordinate: str) -> str | None:
        """Return the directory of the model that a coordinate begins with; None when it begins from nothing."""
        if self.initial is None or coordinate not in self.initial.partitions:
            return None
        return self.initial.directory

    def dimension(self, bags: tuple[str, ...], intercept: bool) -> int:
        """Number of coefficients of a coordinate."""
        return sum(self.bag_sizes[bag] for bag in bags) + int(intercept)

    def dimension_of(self, coordinate: AnyCoordinate) -> int:
        """Number of coefficients of a coordinate of the config; 0 where it has none."""
        if isinstance(coordinate, (ExternalEffect, PluggedEffect)):
            return 0
        return self.dimension(coordinate.features, coordinate.intercept)
