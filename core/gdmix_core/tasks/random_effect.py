"""Random effects: offsets to partitions, one solve for each entity, scores back to home shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdmix_core.data.layout import GroupingSpec
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.regularization import Regularization
from gdmix_core.tasks.task import Role, Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOffsets(Task):
    """Write a training shard's offsets (given ones plus `scores`) in the order of a grouping's partitions."""

    kind = "write_offsets"
    grouping: GroupingSpec
    input: ShardInput


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetsWritten(TaskResult):
    """A shard's offsets lie in the attempt's directory, by partition."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRandomEffect(Task):
    """Solve every entity of one partition; write coefficients, training scores and validation scores."""

    kind = "train_random_effect"
    grouping: GroupingSpec
    partition: int
    loss: int
    dimension: int
    index: str
    regularization: Regularization
    variance: Literal["none", "simple", "full"]
    max_iterations: int
    partition_directory: str
    validation_directory: str | None
    """Directory of the same partition of the validation rows."""
    offsets: tuple[str, ...]
    """Directories of the offsets of all home shards, in shard order."""
    sparsity_threshold: float = 0.0
    """Coefficients of features that are not larger are left out."""
    initial: str | None = None
    """Directory of the model to begin with, cut into the same partitions: what this data does not have is kept."""
    crossing: str | None = None
    """Directory of the joint systems' last solution: what its variances owe to other coordinates is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconverged:
    """One entity that did not meet the certificate."""

    entity: str
    status: str
    gradient_ratio: float
    """Largest |gradient| over what the certificate allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomEffectTrained(TaskResult):
    """Coefficients and scores of a partition lie in the attempt's directory."""

    entities: int
    rows: int
    coefficients: int
    statuses: dict[str, int]
    """Entities by status name, only those that occur."""
    unconverged: tuple[Unconverged, ...]
    """At most 20, in id order."""
    validation_rows_unseen: int
    """Validation rows whose entity has no model: they score 0 here."""
    untrained: int = 0
    """Entities without a model, having too few rows to be trained on."""
    passive_rows: int = 0
    """Rows that were scored, not trained on."""
    carried_over: int = 0
    """Entities of the initial model that this data did not train."""
    penalty: float = 0.0
    """½ Σ l2 θ² over the partition's entities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleScores(Task):
    """Gather one home shard's score block of a random effect from the partitions."""

    kind = "assemble_scores"
    role: Role
    shard: int
    directory: str
    partitions: tuple[str, ...]
    """Directories of all partitions' training results, in partition order."""
