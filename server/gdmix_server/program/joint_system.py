"""Linear systems of the joint Hessian of all coordinates, solved in turn by parts and home shards.

Conjugate gradients with each entity's own Hessian as preconditioner, all right-hand sides at once; one iteration is
a stage of the parts and a stage of the home shards. Nobody holds a whole vector: step lengths come from sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Final, TypeVar, cast

from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    AdvanceSolve,
    BeginSolve,
    EndSolve,
    JointColumn,
    JointPart,
    JointTask,
    LineariseShard,
    MultiplyRows,
    PartColumns,
    Regularization,
    RowsMultiplied,
    ShardInput,
    ShardLinearised,
    SolveAdvanced,
    SolveBegun,
    SolvedColumns,
    SolvedGroup,
    SolveEnded,
    WarmStart,
    WriteJointScores,
)
from gdmix_server.program.prepared import Prepared
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.state.model import UnitsOutcome

T = TypeVar("T")

MOST_ITERATIONS: Final = 6
"""Of a round; what is not solved yet goes on in the next one."""
TOLERANCE: Final = 0.2
"""Residual of all but the Newton step, in the norm of M⁻¹, relative to the right-hand side's: what the columns are
wanted for is wrong by the third power of this (`unsolved_products`)."""
SEED: Final = 20_260_101
_BATCH_ROWS: Final = 50_000
"""Rows of a unit that takes several parts or shards: below, a unit's own costs would be most of it."""
_MOST_DENSE: Final = 512
"""Coefficients of a fixed effect whose whole Hessian preconditions."""


@dataclass(frozen=True, slots=True)
class JointCoordinate:
    """A coordinate of the joint model and its parts.

    Attributes:
        name: of the coordinate.
        design: of a fixed effect.
        grouping: of a random effect.
        parts: a random effect's partitions, or the one part of a fixed effect.
        rows: of each part.
        initial: directory with a fixed effect's coefficients to begin with.
    """

    name: str
    design: DesignSpec | None
    grouping: GroupingSpec | None
    parts: tuple[JointPart, ...]
    rows: tuple[int, ...]
    initial: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Where the model stands.

    Attributes:
        folders: of all shards' linearisations.
        value: Σ w ℓ.
        rows: training rows with a weight.
    """

    folders: tuple[str, ...]
    value: float
    rows: int


@dataclass(frozen=True, slots=True)
class Solved:
    """Solutions of the systems at one point.

    Attributes:
        columns: what was solved for.
        folders: by part, with the Newton step and warm starts.
        groups: sums over all parts, by number of the group.
        decrement: ⟨−gradient, Newton step⟩.
        at_once: columns that were solved where they began.
        left: ⟨r, M⁻¹·r⟩ of what the Newton step leaves.
        iterations: of conjugate gradients.
    """

    columns: tuple[JointColumn, ...]
    folders: tuple[str, ...]
    groups: dict[int, SolvedGroup]
    decrement: float
    at_once: tuple[JointColumn, ...]
    left: float
    iterations: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one unit takes: parts of one coordinate, or home shards.

    Attributes:
        place: of the coordinate.
        numbers: of the parts, counted over all coordinates, or of the shards.
        rows: in all.
    """

    place: int
    numbers: range
    rows: int


class JointSystem:
    """The joint model between stages; what no later stage reads is handed to the next one's units to remove.

    Attributes:
        coordinates: of the model.
    """

    def __init__(
        self,
        prepared: Prepared,
        task: str,
        coordinates: tuple[JointCoordinate, ...],
        inputs: tuple[ShardInput, ...],
        first_groups: tuple[int, ...],
    ) -> None:
        """Put the model together.

        Args:
            prepared: the data.
            task: of the job.
            coordinates: of the model.
            inputs: training shards with the score blocks to begin with.
            first_groups: by coordinate, the number of its first group in the model.
        """
        self.coordinates = coordinates
        self._loss = int(Loss.from_task(task))
        self._inputs = inputs
        self._first_groups = first_groups
        self._dense = tuple(
            of.name
            for of in coordinates
            if of.design is not None
            and prepared.dimension(of.design.bags, of.design.intercept) <= _MOST_DENSE
        )
        self._parts = [part for of in coordinates for part in of.parts]
        self._shard_batches = _batches(0, 0, prepared.shards["train"].rows)
        self._part_batches: list[Batch] = []
        start = 0
        for place, of in enumerate(coordinates):
            self._part_batches.extend(_batches(place, start, of.rows))
            start += len(of.parts)
        self._obsolete: list[str] = []

    def linearise(
        self, step: CoordinateStep, attempt: int, before: Point | None, solved: Solved | None, length: float
    ) -> Steps[Point]:
        """Take the loss's derivatives `length` of the solved Newton step away from `before`."""
        units = [
            LineariseShard(
                output="",
                loss=self._loss,
                inputs=_cut(self._inputs, batch),
                before=() if before is None else _cut(before.folders, batch),
                step=length,
                parts=self._columns_of(() if solved is None else solved.folders),
                dense_fixed_effects=self._dense,
            )
            for batch in self._shard_batches
        ]
        outcome = yield from self._run(
            step, f"linearise-{attempt}", "taking derivatives", units, self._shard_batches
        )
        results = [cast("ShardLinearised", result) for result in outcome.results]
        return Point(
            _folders(outcome, self._shard_batches),
            fsum(result.value for result in results),
            sum(result.weighted_rows for result in results),
        )

    def solve(
        self,
        step: CoordinateStep,
        point: Point,
        regularizations: Sequence[Regularization],
        columns: tuple[JointColumn, ...],
        before: tuple[Solved, float] | None,
        warm: tuple[WarmStart | None, ...],
        newton_tolerance: float,
        negligible: float,
    ) -> Steps[Solved]:
        """Solve the systems at a point; a column that is solved takes no part in what follows.

        Args:
            step: names the stages.
            point: where.
            regularizations: of the coordinates.
            columns: right-hand sides, the Newton step first.
            before: the last solution, and how much of its Newton step led to the point.
            warm: where columns begin.
            newton_tolerance: residual of the Newton step, in the norm of M⁻¹, relative to the gradient's;
            negligible: the square of one that need not be solved in any case, in units of the objective.
        """
        system, targets = yield from self._begin(step, point, regularizations, columns, before, warm)
        if before is not None:
            self.forget(before[0].folders)
        lengths = StepLengths(
            tuple(
                max(newton_tolerance**2 * target, negligible)
                if column.kind == "newton"
                else TOLERANCE**2 * target
                for column, target in zip(columns, targets, strict=True)
            ),
            trusted=frozenset(
                k
                for k, column in enumerate(columns)
                if column.kind == "probe" and before is not None and column in before[0].at_once
            ),
        )
        everything = tuple(range(len(columns)))
        begun = Iterate(system, everything, everything)
        shares, _ = yield from self._multiply(step, 0, begun, everything, point)
        iterate = yield from self._advance(step, 0, system, begun, shares, lengths)
        solved: list[SolvedColumns] = []
        while True:
            taken = lengths.take(iterate.gamma, iterate.ridge)
            over = not lengths.pending or lengths.iterations == MOST_ITERATIONS
            if over:
                taken = (*taken, *lengths.pending)
            if taken:
                solved.append(SolvedColumns(directories=iterate.folders, held=iterate.columns, taken=taken))
            if over:
                return (yield from self._end(step, system, solved, columns, lengths))
            number, last = lengths.iterations + 1, iterate
            shares, curvatures = yield from self._multiply(step, number, last, lengths.pending, point)
            lengths.update(curvatures)
            iterate = yield from self._advance(step, number, system, last, shares, lengths)
            if not taken:
                self.forget(last.folders)

    def write_scores(self, step: CoordinateStep, solved: Solved) -> Steps[dict[str, tuple[str, ...]]]:
        """Write score blocks at the end of the last Newton step; return their directories by coordinate."""
        units = [
            WriteJointScores(
                output="",
                shard=shard.shard,
                directory=shard.directory,
                parts=self._columns_of(solved.folders),
            )
            for shard in self._inputs
        ]
        outcome = yield from step.run("scores", "scoring", units)
        return {
            of.name: tuple(f"{directory}/{of.name}" for directory in outcome.directories)
            for of in self.coordinates
        }

    def forget(self, folders: Iterable[str]) -> None:
        """Have the directories of these folders removed by the units of the next stage."""
        self._obsolete.extend(dict.fromkeys(folder.rpartition("/")[0] for folder in folders))

    def _begin(
        self,
        step: CoordinateStep,
        point: Point,
        regularizations: Sequence[Regularization],
        columns: tuple[JointColumn, ...],
        before: tuple[Solved, float] | None,
        warm: tuple[WarmStart | None, ...],
    ) -> Steps[tuple[tuple[str, ...], list[float]]]:
        """Set the systems up; return their folders, and ⟨b, M⁻¹·b⟩ by column."""
        units = [
            BeginSolve(
                output="",
                parts=_cut(self._parts, batch),
                regularization=regularizations[batch.place],
                first_group=self._first_groups[batch.place],
                columns=columns,
                seed=SEED,
                linearised=point.folders,
                before=() if before is None else _cut(before[0].folders, batch),
                columns_before=0 if before is None else len(before[0].columns),
                step=0.0 if before is None else before[1],
                warm=warm,
                initial=self.coordinates[batch.place].initial,
            )
            for batch in self._part_batches
        ]
        outcome = yield from self._run(step, "begin", "factoring blocks", units, self._part_batches)
        targets = _sums(cast("SolveBegun", result).target for result in outcome.results)
        return _folders(outcome, self._part_batches), targets

    def _advance(
        self,
        step: CoordinateStep,
        iteration: int,
        system: tuple[str, ...],
        before: Iterate,
        shares: tuple[str, ...],
        lengths: StepLengths,
    ) -> Steps[Iterate]:
        """Take the first residuals (iteration 0), or make an iteration, given the shares of the product."""
        units = [
            AdvanceSolve(
                output="",
                parts=_cut(self._parts, batch),
                systems=_cut(system, batch),
                before=_cut(before.folders, batch),
                columns=len(lengths.goals),
                held=before.columns,
                kept=lengths.pending,
                written=lengths.going_on,
                begins=iteration == 0,
                products=shares,
                alpha=lengths.alpha,
                beta=lengths.beta,
            )
            for batch in self._part_batches
        ]
        outcome = yield from self._run(
            step, f"advance-{iteration}", "solving the joint systems", units, self._part_batches
        )
        self.forget(shares)
        results = [cast("SolveAdvanced", result) for result in outcome.results]
        return Iterate(
            _folders(outcome, self._part_batches),
            lengths.pending,
            lengths.going_on,
            _sums(result.gamma for result in results),
            _sums(result.ridge for result in results),
        )

    def _multiply(
        self, step: CoordinateStep, iteration: int, written: Iterate, kept: tuple[int, ...], point: Point
    ) -> Steps[tuple[tuple[str, ...], list[float]]]:
        """Multiply kept columns of what all parts wrote by the weighted rows; return the shares, and ⟨t, W·t⟩."""
        units = [
            MultiplyRows(
                output="",
                inputs=_cut(self._inputs, batch),
                linearised=_cut(point.folders, batch),
                columns=len(written.written),
                kept=tuple(map(written.written.index, kept)),
                parts=self._columns_of(written.folders),
            )
            for batch in self._shard_batches
        ]
        outcome = yield from self._run(
            step, f"multiply-{iteration}", "solving the joint systems", units, self._shard_batches
        )
        curvatures = _sums(cast("RowsMultiplied", result).curvatures for result in outcome.results)
        return _folders(outcome, self._shard_batches), curvatures

    def _end(
        self,
        step: CoordinateStep,
        system: tuple[str, ...],
        solved: Sequence[SolvedColumns],
        columns: tuple[JointColumn, ...],
        lengths: StepLengths,
    ) -> Steps[Solved]:
        """Take the solutions."""
        units = [
            EndSolve(
                output="",
                parts=_cut(self._parts, batch),
                systems=_cut(system, batch),
                solved=tuple(replace(of, directories=_cut(of.directories, batch)) for of in solved),
                columns=columns,
            )
            for batch in self._part_batches
        ]
        outcome = yield from self._run(step, "end", "taking the step", units, self._part_batches)
        self.forget(system)
        for of in solved:
            self.forget(of.directories)
        results = [cast("SolveEnded", result) for result in outcome.results]
        return Solved(
            columns,
            _folders(outcome, self._part_batches),
            _groups(columns, results),
            fsum(result.decrement for result in results),
            tuple(columns[k] for k in lengths.at_once),
            lengths.left(0),
            lengths.iterations,
        )

    def _columns_of(self, folders: Sequence[str]) -> tuple[PartColumns, ...]:
        """Cut the parts' folders by coordinate; without any, say what the parts are alone."""
        found, start = [], 0
        for of in self.coordinates:
            own = tuple(folders[start : start + len(of.parts)]) if folders else ()
            found.append(PartColumns(design=of.design, grouping=of.grouping, directories=own))
            start += len(of.parts)
        return tuple(found)

    def _run(
        self, step: CoordinateStep, suffix: str, title: str, units: Sequence[JointTask], batches: list[Batch]
    ) -> Steps[UnitsOutcome]:
        """Run a stage whose units remove, between them, what is obsolete."""
        shares = [tuple(self._obsolete[number :: len(units)]) for number in range(len(units))]
        self._obsolete.clear()
        cleaning = [replace(unit, obsolete=share) for unit, share in zip(units, shares, strict=True)]
        rows = tuple(batch.rows for batch in batches)
        return (yield from step.run(suffix, title, cleaning, rows=rows))


@dataclass(frozen=True, slots=True)
class Iterate:
    """An iterate of all parts.

    Attributes:
        folders: by part.
        columns: that it has.
        written: those whose products are written for the next iteration.
        gamma: ⟨r, u⟩ of u = M⁻¹·r by column.
        ridge: ⟨u, L·u⟩.
    """

    folders: tuple[str, ...]
    columns: tuple[int, ...]
    written: tuple[int, ...]
    gamma: Sequence[float] = ()
    ridge: Sequence[float] = ()


def _batches(place: int, start: int, rows: Sequence[int]) -> list[Batch]:
    """Cut neighbouring parts or shards into batches of up to `_BATCH_ROWS` rows, but of at least one."""
    found: list[Batch] = []
    first, total = 0, 0
    for number, count in enumerate(rows):
        if number > first and total + count > _BATCH_ROWS:
            found.append(Batch(place, range(start + first, start + number), total))
            first, total = number, 0
        total += count
    found.append(Batch(place, range(start + first, start + len(rows)), total))
    return found


def _cut(items: Sequence[T], batch: Batch) -> tuple[T, ...]:
    return tuple(items[batch.numbers.start : batch.numbers.stop])


def _folders(outcome: UnitsOutcome, batches: Sequence[Batch]) -> tuple[str, ...]:
    """Return the folders of a stage's parts or shards, in their order."""
    return tuple(
        f"{directory}/{number}"
        for directory, batch in zip(outcome.directories, batches, strict=True)
        for number in range(len(batch.numbers))
    )


@dataclass(slots=True)
class StepLengths:
    """α and β of conjugate gradients, column by column, until the column is solved.

    Attributes:
        goals: ⟨r, M⁻¹·r⟩ that counts as solved, by column.
        trusted: columns that take no iteration: the last systems' were solved where they began, as these probably are.
        pending: columns that are not solved yet.
        iterations: made so far.
    """

    goals: tuple[float, ...]
    trusted: frozenset[int] = frozenset()
    pending: tuple[int, ...] = field(init=False)
    iterations: int = 0
    _alpha: dict[int, float] = field(default_factory=dict)
    _beta: dict[int, float] = field(default_factory=dict)
    _gamma: dict[int, float] = field(default_factory=dict)
    _before: dict[int, float] = field(default_factory=dict)
    """γ of the iterate before."""
    _ridge: dict[int, float] = field(default_factory=dict)
    _first: dict[int, float] = field(default_factory=dict)
    """γ at the beginning."""

    def __post_init__(self) -> None:
        self.pending = tuple(range(len(self.goals)))

    @property
    def alpha(self) -> tuple[float, ...]:
        """Step along the directions, by pending column."""
        return tuple(self._alpha.get(k, 0.0) for k in self.pending)

    @property
    def beta(self) -> tuple[float, ...]:
        """Share of the last direction in the next one, by pending column."""
        return tuple(self._beta.get(k, 0.0) for k in self.pending)

    @property
    def going_on(self) -> tuple[int, ...]:
        """Pending columns that may take part in the next iteration."""
        return tuple(k for k in self.pending if k not in self.trusted)

    @property
    def at_once(self) -> tuple[int, ...]:
        """Columns that were solved where they began."""
        return tuple(k for k, gamma in self._first.items() if gamma <= self.goals[k])

    def left(self, column: int) -> float:
        """Return ⟨r, M⁻¹·r⟩ of a column where it is now."""
        return self._gamma[column]

    def take(self, gamma: Sequence[float], ridge: Sequence[float]) -> tuple[int, ...]:
        """Take ⟨r, u⟩ and ⟨u, L·u⟩ of u = M⁻¹·r by pending column; return the columns that are solved now."""
        self._before = dict(self._gamma)
        self._gamma.update(zip(self.pending, gamma, strict=True))
        self._ridge.update(zip(self.pending, ridge, strict=True))
        if not self.iterations:
            self._first = dict(self._gamma)
        stuck = {k for k in self.pending if self.iterations and not self._alpha[k]}
        solved = tuple(
            k for k in self.pending if k in self.trusted or k in stuck or self._gamma[k] <= self.goals[k]
        )
        self.pending = tuple(k for k in self.pending if k not in solved)
        return solved

    def update(self, curvatures: Sequence[float]) -> None:
        """Set the next step lengths from ⟨u, XᵀWX·u⟩ by pending column; 0 where there is no curvature left."""
        self.iterations += 1
        for k, curvature in zip(self.pending, curvatures, strict=True):
            gamma, bend = self._gamma[k], curvature + self._ridge[k]
            beta = gamma / self._before[k] if self._before.get(k, 0.0) > 0.0 else 0.0
            if beta:
                bend -= beta * gamma / self._alpha[k]
            self._alpha[k], self._beta[k] = (gamma / bend, beta) if bend > 0.0 else (0.0, 0.0)


def _sums(numbers: Iterable[Sequence[float]]) -> list[float]:
    """Add tuples of numbers place by place."""
    return [fsum(column) for column in zip(*numbers, strict=True)]


def _groups(columns: Sequence[JointColumn], results: Sequence[SolveEnded]) -> dict[int, SolvedGroup]:
    """Add the parts' sums up by group, and what the residuals add to products with solutions."""
    by_group: dict[int, list[SolvedGroup]] = {}
    for result in results:
        for share in result.groups:
            by_group.setdefault(share.group, []).append(share)
    unsolved: dict[tuple[str, int], list[float]] = {}
    for place, column in enumerate(columns):
        row = _sums(result.unsolved[place] for result in results)
        unsolved.setdefault((column.kind, column.group), []).extend(row)
    found = {}
    for number, several in sorted(by_group.items()):
        squares = _sums(share.squares for share in several)
        probes = _sums(share.probes for share in several)
        information = _sums(share.information for share in several)
        found[number] = SolvedGroup(
            group=number,
            squares=(squares[0], squares[1], squares[2]),
            block_trace=fsum(share.block_trace for share in several),
            probes=_added(probes, unsolved.get(("probe", number))),
            information=_added(information, unsolved.get(("prior", number))),
        )
    return found


def _added(numbers: Sequence[float], others: Sequence[float] | None) -> tuple[float, ...]:
    """Add numbers place by place; there may be no others."""
    if others is None:
        return tuple(numbers)
    return tuple(a + b for a, b in zip(numbers, others, strict=True))
