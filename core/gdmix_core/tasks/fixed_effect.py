"""Fixed effects: prepare, rounds of derivatives, coefficients, scores."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.data.layout import DesignSpec
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.regularization import Regularization
from gdmix_core.tasks.task import Role, Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFixedEffect(Task):
    """Work out the ridge vector (and penalty scaling) of a fixed effect and push it as array `l2`."""

    kind = "prepare_fixed_effect"
    design: DesignSpec
    index: str
    regularization: Regularization


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectPrepared(TaskResult):
    """The ridge vector has been pushed."""

    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateFixedEffect(Task):
    """Sum loss, gradient and, when asked, Hessian at the round's theta over a worker's shards.

    The worker pulls array `theta` of its lease and pushes array `sums`: float64 [nodes, length], one row for
    each maximal whole subtree of its shards, in the order of `gdmix_core.solvers.summation_tree.owned_nodes`.
    It keeps the shards in memory for the next round under `cache_key`.
    """

    kind = "evaluate_fixed_effect"
    design: DesignSpec
    dimension: int
    loss: int
    hessian: bool
    cache_key: str
    shards: tuple[ShardInput, ...]
    shard_count: int
    """Home shards of the job: the width of the summation tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectEvaluated(TaskResult):
    """The sums have been pushed."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishFixedEffect(Task):
    """Pull array `theta` (and `variances`), write THETA_FILE and COEFFICIENTS_FILE."""

    kind = "finish_fixed_effect"
    design: DesignSpec
    index: str
    has_variances: bool
    sparsity_threshold: float = 0.0
    """Coefficients of features that are not larger become 0."""
    initial: str | None = None
    """Directory of the model to begin with: what training left at exactly 0, being in no row, is taken from it."""
    crossing: str | None = None
    """Directory of the joint systems' last solution: what its variances owe to other coordinates is added."""
    regularization: Regularization | None = None
    """With it, the result says the penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectFinished(TaskResult):
    """The fixed effect's files lie in the attempt's directory."""

    nonzero: int
    penalty: float = 0.0
    """½ Σ l2 θ²."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFixedEffect(Task):
    """Write one home shard's score block of a fixed effect."""

    kind = "score_fixed_effect"
    role: Role
    design: DesignSpec
    shard: int
    directory: str
    model: str
    """Directory of the finished fixed effect."""
