"""All coordinates together: the joint objective and its gradient, and mixtures of scores."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.shrinkage import JointPart
from gdmix_core.tasks.task import Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreChange:
    """A coordinate's score blocks of one home shard, by directory: what stood for it in a pass, what came out."""

    before: str | None
    """None: nothing stood for it, that is 0."""
    scores: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePass(Task):
    """Sum one training shard's loss, and the products of what the last pass and those before it changed."""

    kind = "measure_pass"
    loss: int
    input: ShardInput
    """With the score blocks of all coordinates."""
    changes: tuple[tuple[ScoreChange, ...], ...]
    """By pass, oldest first, and by coordinate; the last one is the pass that has just ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMeasured(TaskResult):
    """A shard's share of the joint objective and of the products."""

    loss: float
    """Σ w ℓ(y, z), without penalties."""
    products: tuple[float, ...]
    """⟨change of a pass, change of the last pass⟩, over rows and coordinates; oldest pass first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAgainst:
    """A coordinate's scores of one home shard with the others' that it was trained against."""

    input: ShardInput
    design: DesignSpec | None = None
    grouping: GroupingSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSlopeChanges(Task):
    """Hand each coordinate's parts what ℓ' of one training shard's rows has changed by since it was trained.

    Its own gradient was 0 then, up to its certificate, so that Xᵀ times this, weighted, is its gradient now.
    """

    kind = "write_slope_changes"
    loss: int
    input: ShardInput
    """With the score blocks of all coordinates now."""
    coordinates: tuple[TrainedAgainst, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlopeChangesWritten(TaskResult):
    """The changes lie in the attempt's directory."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureGradient(Task):
    """Measure one part's gradient of the joint objective."""

    kind = "measure_gradient"
    part: JointPart
    shards: tuple[str, ...]
    """Directories of all shards' changes, in shard order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientMeasured(TaskResult):
    """Of the part's coefficients."""

    largest: float
    """Largest |g_j|."""
    square: float
    """Σ g_j²."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixScores(Task):
    """Write one shard's weighted sum of score blocks of a coordinate."""

    kind = "mix_scores"
    shard: int
    scores: tuple[str, ...]
    """Directories of the score blocks."""
    weights: tuple[float, ...]
