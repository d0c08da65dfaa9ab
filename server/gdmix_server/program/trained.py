"""What a trained coordinate is to the rest of a program."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdmix_core.config import FixedEffect, RandomEffect
from gdmix_core.tasks import ModelPart, PluginFitted, Regularization, Role, ShardInput
from gdmix_server.program.prepared import Prepared
from gdmix_server.state.model import CoordinateReport


@dataclass(frozen=True, slots=True)
class Trained:
    """A coordinate as it stands: coefficient directories, score blocks by role and shard, report.

    `inputs` are the home shards with the score blocks of the other coordinates that were its offset;
    `carried_over` counts the entities in its files that an initial model gave, which the report does not count;
    `penalty` is ½ Σ l2 θ²; `plugin` is what the model of a fixed effect that is plugged in consists of.
    """

    part: ModelPart
    scores: dict[Role, tuple[str, ...]]
    report: CoordinateReport
    inputs: dict[Role, tuple[ShardInput, ...]] = field(default_factory=dict)
    carried_over: int = 0
    penalty: float = 0.0
    plugin: PluginFitted | None = None


def scores_by_role(prepared: Prepared, directories: tuple[str, ...]) -> dict[Role, tuple[str, ...]]:
    """Cut the directories of a scoring stage, training shards first, into roles."""
    train = len(prepared.shards["train"].directories)
    return {"train": directories[:train], "validation": directories[train:]}


def regularization(coordinate: FixedEffect | RandomEffect) -> Regularization:
    """Return a coordinate's ridge strengths in the form that workers read, with 1 in the place of `auto`."""
    l2 = coordinate.numeric_l2
    groups = {"default": 1.0} | (l2 if isinstance(l2, dict) else {"default": l2})
    regularize_intercept = coordinate.regularize_bias or "intercept" in groups
    return Regularization(groups=groups, regularize_intercept=regularize_intercept)
