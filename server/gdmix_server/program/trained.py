"""What a trained coordinate is to the rest of a program."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.config import AnyCoordinate
from gdmix_core.tasks import ModelPart, Regularization, Role
from gdmix_server.program.preparation import Prepared
from gdmix_server.state.model import CoordinateReport


@dataclass(frozen=True, slots=True)
class Trained:
    """A coordinate as it stands: coefficient directories, score blocks by role and shard, report."""

    part: ModelPart
    scores: dict[Role, tuple[str, ...]]
    report: CoordinateReport


def scores_by_role(prepared: Prepared, directories: tuple[str, ...]) -> dict[Role, tuple[str, ...]]:
    """Cut the directories of a scoring stage, training shards first, into roles."""
    train = len(prepared.shards["train"].directories)
    return {"train": directories[:train], "validation": directories[train:]}


def regularization(coordinate: AnyCoordinate) -> Regularization:
    """Return a coordinate's ridge strengths in the form that workers read."""
    l2 = coordinate.l2
    groups = {"default": 1.0, **l2} if isinstance(l2, dict) else {"default": l2}
    regularize_intercept = coordinate.regularize_bias or "intercept" in groups
    return Regularization(groups=groups, regularize_intercept=regularize_intercept)
