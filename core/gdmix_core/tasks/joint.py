"""All coordinates together: the joint objective, and mixtures of scores."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.tasks.home_shard import ShardInput
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
class MixScores(Task):
    """Write one shard's weighted sum of score blocks of a coordinate."""

    kind = "mix_scores"
    shard: int
    scores: tuple[str, ...]
    """Directories of the score blocks."""
    weights: tuple[float, ...]
