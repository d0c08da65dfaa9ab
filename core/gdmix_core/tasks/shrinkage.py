"""Learned shrinkage: one linear system of the joint Hessian after another, solved by parts and home shards in turn.

A *part* is a partition of a random effect, or a fixed effect. Parts write their products with the columns that
are solved for, one number per row and column; home shards add them up, weight them, and hand each part its share
back (`solvers.joint`). A unit takes several small parts or shards at once, and writes what it has of the k-th one
into the folder k of its directory. What a stage no longer needs of earlier ones, its units remove (`obsolete`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.regularization import Regularization
from gdmix_core.tasks.task import Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPart:
    """One part: a partition of a random effect (`grouping`), or a fixed effect (`design`)."""

    number: int
    """No other part of the model has it; seeds the part's probes."""
    index: str
    design: DesignSpec | None = None
    grouping: GroupingSpec | None = None
    partition: int = 0
    partition_directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JointColumn:
    """One right-hand side (`solvers.joint.right_hand_sides.Column`)."""

    kind: Literal["newton", "probe", "prior"]
    group: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Begin a column at one of the last solution's columns, times a factor."""

    column: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartColumns:
    """What all parts of one coordinate wrote: directories in partition order, a single one for a fixed effect."""

    design: DesignSpec | None
    grouping: GroupingSpec | None
    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTask(Task):
    """A stage's share of the work on the joint systems."""

    obsolete: tuple[str, ...] = ()
    """Directories of earlier stages that nobody reads any more; the unit removes them at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyPart(Task):
    """Count one part's coefficients by group, and how much they can move the rows."""

    kind = "survey_part"
    part: JointPart
    regularization: Regularization
    shards: tuple[str, ...]
    """Directories of the training home shards; read for a fixed effect only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSurveyed(TaskResult):
    """By group of the regularization, in its order."""

    sizes: tuple[int, ...]
    free: int
    """Coefficients without regularization."""
    energies: tuple[float, ...]
    """Σ w x²/c over rows and the group's coefficients, with their scale c."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineariseShard(JointTask):
    """Move some shards' linear predictors along the Newton step and take the loss's derivatives there."""

    kind = "linearise_shard"
    loss: int
    inputs: tuple[ShardInput, ...]
    """Shards, with the score blocks to begin with."""
    before: tuple[str, ...]
    """Directories of the shards' last linearisations; none begins at the inputs' offsets."""
    step: float
    """How much of the Newton step is taken."""
    parts: tuple[PartColumns, ...]
    """Where the products with the Newton step are; for fixed effects, the step itself."""
    dense_fixed_effects: tuple[str, ...]
    """Fixed effects whose Hessian is wanted; of the others, its diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLinearised(TaskResult):
    """Predictors and derivatives lie in the attempt's directory."""

    value: float
    """Σ w ℓ."""
    weighted_rows: int
    """Rows with a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginSolve(JointTask):
    """Set some parts' systems up at the new linearisation: gradient, blocks, right-hand sides, warm starts."""

    kind = "begin_solve"
    parts: tuple[JointPart, ...]
    """Of one coordinate."""
    regularization: Regularization
    first_group: int
    """Number of the regularization's first group in the model."""
    columns: tuple[JointColumn, ...]
    """The Newton step first."""
    seed: int
    linearised: tuple[str, ...]
    """Directories of all shards' linearisations, in shard order."""
    before: tuple[str, ...]
    """Directories of the parts' last solutions, if any."""
    columns_before: int
    """Its columns."""
    step: float
    """How much of its Newton step was taken."""
    warm: tuple[WarmStart | None, ...]
    """By column; None starts one at its blocks' solution, and the Newton step at 0."""
    initial: str | None
    """Fixed effects: directory with the coefficients to begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveBegun(TaskResult):
    """A part's systems lie in the attempt's directory."""

    target: tuple[float, ...]
    """The unit's share of ⟨b, M⁻¹·b⟩, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplyRows(JointTask):
    """Add up some shards' products over the parts, weight them, and hand each part its share back."""

    kind = "multiply_rows"
    inputs: tuple[ShardInput, ...]
    linearised: tuple[str, ...]
    """Directories of the shards' linearisations."""
    columns: int
    """What the parts wrote."""
    kept: tuple[int, ...]
    """Places of the columns that are multiplied."""
    parts: tuple[PartColumns, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsMultiplied(TaskResult):
    """The shares lie in the attempt's directory."""

    curvatures: tuple[float, ...]
    """Σ w ℓ'' t² of the shard's products t, by kept column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvanceSolve(JointTask):
    """Make one iteration of some parts' conjugate gradients, or begin them; the iterate has the kept columns alone."""

    kind = "advance_solve"
    parts: tuple[JointPart, ...]
    systems: tuple[str, ...]
    """Directories of the parts' systems."""
    before: tuple[str, ...]
    """Directories of the last iterates, the systems' own at the beginning."""
    columns: int
    """Of the system."""
    held: tuple[int, ...]
    """Columns of the last iterates."""
    kept: tuple[int, ...]
    """Columns that go on."""
    written: tuple[int, ...]
    """Columns whose products are written for the next iteration."""
    begins: bool
    products: tuple[str, ...]
    """Directories of all shards' shares, in shard order."""
    alpha: tuple[float, ...]
    """Step along the directions, by kept column."""
    beta: tuple[float, ...]
    """Share of the last directions in the next ones, by kept column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveAdvanced(TaskResult):
    """The iterate lies in the attempt's directory."""

    gamma: tuple[float, ...]
    """Share of ⟨r, M⁻¹·r⟩, by kept column."""
    ridge: tuple[float, ...]
    """Share of ⟨M⁻¹·r, L·M⁻¹·r⟩ with the penalty's Hessian L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedColumns:
    """Columns that are solved, and the iterates that hold them."""

    directories: tuple[str, ...]
    """Of the parts."""
    held: tuple[int, ...]
    """Columns of these iterates."""
    taken: tuple[int, ...]
    """Columns whose solutions they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSolve(JointTask):
    """Take some parts' solutions: the Newton step, and sums over their groups."""

    kind = "end_solve"
    parts: tuple[JointPart, ...]
    systems: tuple[str, ...]
    solved: tuple[SolvedColumns, ...]
    """Where the columns are, each of them in one place."""
    columns: tuple[JointColumn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedGroup:
    """One part's sums over one group (`solvers.joint.right_hand_sides.GroupSums`)."""

    group: int
    squares: tuple[float, float, float]
    block_trace: float
    probes: tuple[float, ...]
    information: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveEnded(TaskResult):
    """The step and the warm starts lie in the attempt's directory."""

    groups: tuple[SolvedGroup, ...]
    decrement: float
    """Share of ⟨−gradient, step⟩."""
    unsolved: tuple[tuple[float, ...], ...]
    """Shares of ⟨x_k, r_l⟩ + ⟨r_k, M⁻¹·r_l⟩ by pair of columns: of probes with themselves, of prior gradients with
    each other (`solvers.joint.right_hand_sides.unsolved_products`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteJointScores(Task):
    """Write one shard's score blocks of all parts' coordinates at the point that the last step led to."""

    kind = "write_joint_scores"
    shard: int
    directory: str
    parts: tuple[PartColumns, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointScoresWritten(TaskResult):
    """The score blocks lie in the attempt's directory, each in a folder of its coordinate's name."""

    rows: int
