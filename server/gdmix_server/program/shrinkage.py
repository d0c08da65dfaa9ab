"""Learned shrinkage (`l2: auto`): the variance of every group of coefficients, by joint empirical Bayes.

A round takes one Newton step of all coordinates together, and one of the variances: the joint Hessian's systems tell
both (`solvers.joint`). What is left is what any job does: every coordinate is trained with the strengths found,
beginning at the others' scores at the joint optimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import fsum, inf
from typing import Final, cast

from gdmix_core.config import (
    AUTO,
    ExternalEffect,
    FixedEffect,
    JobConfig,
    PluggedEffect,
    RandomEffect,
    learned_groups,
)
from gdmix_core.solvers.joint.variance_components import (
    PRIOR_SHARE,
    Evidence,
    Update,
    VarianceComponents,
    VarianceGroup,
    effective_coefficients,
)
from gdmix_core.tasks import (
    JointColumn,
    PartSurveyed,
    Regularization,
    Role,
    ShardInput,
    SolvedGroup,
    SurveyPart,
    WarmStart,
)
from gdmix_server.program.external import take_external_effect
from gdmix_server.program.fixed_effect import train_fixed_effect
from gdmix_server.program.joint_system import JointSystem, Point, Solved, joint_coordinate
from gdmix_server.program.plugged_effect import train_plugged_effect
from gdmix_server.program.prepared import Prepared
from gdmix_server.program.steps import CoordinateStep, RoundStep, Steps
from gdmix_server.program.trained import Trained, regularization
from gdmix_server.program.validation import measure
from gdmix_server.state.model import GroupShrinkage, Report

MOST_ROUNDS: Final = 40
STAGES: Final = "shrinkage"
"""What the stages are called."""
_NEWTON_TOLERANCE: Final = 0.1
"""Residual of the Newton step, in the norm of M⁻¹, relative to the gradient's; looser ones mislead the variances."""
_NEGLIGIBLE: Final = 5e-5
"""What of the objective is not worth an iteration, for each effective coefficient and in units of the noise,"""
_NEGLIGIBLE_AT_LAST: Final = 1e-5
"""and when the variances have settled;"""
_LEAST_NEGLIGIBLE: Final = 0.02
"""but so much in any case."""
_FURTHER: Final = 5.0
"""Settled: further Newton steps would gain less than so many times that."""
_SETTLED_GAIN: Final = 0.1
"""Settled, too: what the variances' last steps have gained in log marginal likelihood,"""
_CALM_ROUNDS: Final = 2
"""so many rounds in a row."""
_PROBED: Final = 2000
"""Random signs that a group gets, over all of its probes."""
_LEAST_PROBES: Final = 1
_MOST_PROBES: Final = 8
_SIGNS_OF_VARIANCES: Final = 20_000
"""Random signs that posterior variances are estimated from, over all coefficients of a coordinate and all columns:"""
_DIAGONALS: Final = (8, 64)
"""so few and so many columns. What their mean has in common weighs less, the more coefficients there are."""
_BACKTRACKS: Final = 12
_ROUNDING: Final = 1e-10

Blocks = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LearnedShrinkage:
    """What was learned.

    Attributes:
        config: the job's, with numbers in the place of `auto`.
        standing: training score blocks of every trained coordinate at the joint optimum, by shard.
        crossing: by coordinate with posterior variances, where its parts have what these owe to other coordinates.
        groups: by coordinate, what to report of its groups.
        begun: fixed effects that are plugged in, fitted once: the joint model takes their scores as given.
    """

    config: JobConfig
    standing: Blocks
    crossing: Blocks
    groups: Mapping[str, tuple[GroupShrinkage, ...]]
    begun: Mapping[str, Trained]


def learns(config: JobConfig) -> bool:
    """Whether a coordinate's shrinkage is to be learned."""
    return any(learned_groups(config, name) for name in config.coordinates)


def learn_shrinkage(config: JobConfig, prepared: Prepared, trial: int) -> Steps[LearnedShrinkage]:
    """Estimate the variances of all groups with `l2: auto`."""
    learner = yield from _prepare(config, prepared, trial)
    yield from learner.run()
    standing = yield from learner.scores()
    return LearnedShrinkage(
        learner.resolved_config(), standing, learner.crossing(), learner.report(), learner.plugged
    )


@dataclass(slots=True)
class _Learner:
    """The rounds.

    Attributes:
        config: the job's.
        trial: of a search.
        system: the joint model.
        components: the variances, over all groups of all coordinates.
        free: coefficients without regularization.
        plugged: fixed effects that are plugged in, fitted once.
        solved: the last round's solutions.
        noise: σ² of a linear regression; 1 otherwise.
    """

    config: JobConfig
    trial: int
    system: JointSystem
    components: VarianceComponents
    free: int
    plugged: Mapping[str, Trained]
    solved: Solved | None = None
    noise: float = 1.0
    _length: float = 0.0
    """How much of the last Newton step was taken,"""
    _gain: float = 0.0
    """and by what that lowered the objective."""
    _factors: dict[int, float] = field(default_factory=dict)
    """By group, what the last update multiplied its l2 by."""

    def run(self) -> Steps[None]:
        """Make rounds until variances and coefficients have settled."""
        point = yield from self.system.linearise(self._step(0), 0, None, None, 0.0)
        gained, calm, settled = 0.0, 0, False
        for number in range(1, MOST_ROUNDS + 1):
            step = self._step(number)
            columns = tuple(self._columns(settled))
            before = None if self.solved is None else (self.solved, self._length)
            warm = self._warm_starts(columns)
            solved = yield from self.system.solve(
                step,
                point,
                self._regularizations(),
                columns,
                before,
                warm,
                newton_tolerance=0.0 if settled else _NEWTON_TOLERANCE,
                negligible=self._negligible(settled) * self.noise,
            )
            self.solved, self._factors = solved, {}
            point = yield from self._move(step, point, solved)
            told = f"shrinkage, round {number}: objective {self._objective(point, self._length):,.4f}"
            if settled:
                yield Report(notice=f"{told}; coefficients only")
                self._count_effective(solved)
                if self._left(solved) < _FURTHER * self._negligible(settled) * self.noise:
                    return
            elif self._length < 1.0:
                yield Report(notice=f"{told}; coefficients only")
            else:
                update = self._update(point, solved)
                gained += update.gained
                yield Report(notice=told + _told(number, gained, update))
                yield from self._tell_vanished(update)
                calm = calm + 1 if abs(update.gained) < _SETTLED_GAIN and not update.vanished else 0
                settled = update.settled or calm >= _CALM_ROUNDS or not self.components.learned
        yield Report(
            warning=True,
            notice=f"shrinkage: the variances have not settled in {MOST_ROUNDS} rounds; the last ones are used",
        )

    def _negligible(self, settled: bool) -> float:
        """Return what of the objective is not worth an iteration, in units of the noise."""
        effective = fsum(group.effective for group in self.components.groups)
        of_each = _NEGLIGIBLE_AT_LAST if settled else _NEGLIGIBLE
        return max(_LEAST_NEGLIGIBLE, of_each * effective)

    def _left(self, solved: Solved) -> float:
        """Return about twice what further Newton steps would gain.

        Besides what the last one's solution left, that is what it gained besides the ½ ⟨−gradient, step⟩ that it would
        have of a quadratic.
        """
        if self._length < 1.0:
            return inf
        missed = abs(2.0 * self._gain - solved.decrement)
        return min(solved.decrement, solved.left + missed)

    def scores(self) -> Steps[Blocks]:
        """Write score blocks at the point that was reached."""
        assert self.solved is not None
        return (yield from self.system.write_scores(self._step(MOST_ROUNDS + 1), self.solved))

    def crossing(self) -> Blocks:
        """Return where the parts of coordinates with posterior variances have what these owe to the others."""
        assert self.solved is not None
        if not any(column.kind == "diagonal" for column in self.solved.columns):
            return {}
        folders = self.system.folders_by_coordinate(self.solved)
        return {of.name: folders[of.name] for of in self.system.coordinates if self._has_variances(of.name)}

    def resolved_config(self) -> JobConfig:
        """Return the config with the strengths found in the place of `auto`."""
        coordinates = dict(self.config.coordinates)
        for name, of in self._regularizations_by_name().items():
            if learned_groups(self.config, name):
                coordinates[name] = coordinates[name].model_copy(update={"l2": dict(of.groups)})
        return self.config.model_copy(update={"coordinates": coordinates})

    def report(self) -> dict[str, tuple[GroupShrinkage, ...]]:
        """Return what was found of every group, by coordinate."""
        found: dict[str, tuple[GroupShrinkage, ...]] = {}
        for group in self.components.groups:
            if not group.size:
                continue
            variance = 0.0 if group.vanished else self.noise / group.l2 if group.l2 > 0.0 else None
            shrinkage = GroupShrinkage(
                name=group.name,
                coefficients=group.size,
                l2=group.l2,
                variance=variance,
                effective=group.effective,
                shrinkage=1.0 - group.effective / group.size,
                error=group.error,
                learned=group.name in learned_groups(self.config, group.coordinate),
            )
            found[group.coordinate] = (*found.get(group.coordinate, ()), shrinkage)
        return found

    def _step(self, number: int) -> CoordinateStep:
        return RoundStep(STAGES, number, self.trial)

    def _columns(self, settled: bool) -> Iterator[JointColumn]:
        """Yield a round's right-hand sides: first the Newton step, then what variances need until they have settled.

        What nothing is learned of is probed at last, to be reported.
        """
        yield JointColumn(kind="newton", group=-1, number=0)
        groups = self.components.groups
        if settled:
            for number, group in enumerate(groups):
                if group.size and not group.learned and not group.vanished:
                    yield JointColumn(kind="probe", group=number, number=0)
            for of, first_group in zip(self.system.coordinates, self.system.first_groups, strict=True):
                if self._has_variances(of.name):
                    for number in range(self._diagonals(of.name)):
                        yield JointColumn(kind="diagonal", group=first_group, number=number)
            return
        for number in self.components.learned:
            for probe in range(_probes(groups[number])):
                yield JointColumn(kind="probe", group=number, number=probe)
        if self.components.needs_information:
            for number in self.components.learned:
                yield JointColumn(kind="prior", group=number, number=0)

    def _warm_starts(self, columns: tuple[JointColumn, ...]) -> tuple[WarmStart | None, ...]:
        """Begin columns where they ended; prior gradients have grown with their l2."""
        if self.solved is None:
            return (None,) * len(columns)
        places = {column: place for place, column in enumerate(self.solved.columns)}
        starts: list[WarmStart | None] = []
        for column in columns:
            if column.kind == "newton" or column not in places:
                starts.append(None)
            else:
                factor = self._factors.get(column.group, 1.0) if column.kind == "prior" else 1.0
                starts.append(WarmStart(column=places[column], factor=factor))
        return tuple(starts)

    def _move(self, step: CoordinateStep, point: Point, solved: Solved) -> Steps[Point]:
        """Go along the Newton step, all the way unless the objective grows; set how far."""
        before = self._objective(point, 0.0)
        length = 1.0
        for attempt in range(1, _BACKTRACKS + 1):
            moved = yield from self.system.linearise(step, attempt, point, solved, length)
            self._length = length
            after = self._objective(moved, length)
            if after <= before + _ROUNDING * abs(before):
                break
            if attempt < _BACKTRACKS:
                self.system.forget(moved.folders)
                length *= 0.5
        self._gain = before - after
        self.system.forget(point.folders)
        return moved

    def _objective(self, point: Point, length: float) -> float:
        """Return the joint objective `length` of the way along the last solved step."""
        assert self.solved is not None
        penalty = fsum(
            0.5 * self.components.groups[number].l2 * _square(sums.squares, length)
            for number, sums in self.solved.groups.items()
        )
        return point.value + penalty

    def _update(self, point: Point, solved: Solved) -> Update:
        """Move the variances by what the round has measured."""
        groups = self.components.groups
        informed = any(column.kind == "prior" for column in solved.columns)
        nothing = (0.0,) * len(self.components.learned) if informed else None
        evidence = []
        for number, group in enumerate(groups):
            sums = solved.groups.get(number)
            if sums is None or group.vanished:
                evidence.append(Evidence(square=0.0, trace=0.0, prior=0.0, information=nothing))
                continue
            evidence.append(
                Evidence(
                    square=_square(sums.squares, self._length),
                    trace=_trace(sums),
                    prior=group.l2 * sums.squares[0],
                    information=sums.information or nothing,
                )
            )
        if self.config.task == "linear_regression":
            used = self.free + fsum(
                max(0.0, group.size - group.l2 * of.trace)
                for group, of in zip(groups, evidence, strict=True)
                if not group.vanished
            )
            self.noise = max(2.0 * point.value / max(1.0, point.rows - used), 1e-300)
        l2 = [group.l2 for group in groups]
        update = self.components.update(evidence, self.noise)
        self._factors = {n: group.l2 / l2[n] for n, group in enumerate(groups) if group.learned}
        return update

    def _count_effective(self, solved: Solved) -> None:
        """Take the effective coefficients of the groups that nothing is learned of."""
        for number, sums in solved.groups.items():
            group = self.components.groups[number]
            if not group.learned and not group.vanished:
                group.effective = effective_coefficients(group, _trace(sums))

    def _has_variances(self, name: str) -> bool:
        """Whether posterior variances are wanted that know of other coordinates."""
        coordinate = self.config.coordinates[name]
        return isinstance(coordinate, (FixedEffect, RandomEffect)) and coordinate.variance == "full"

    def _diagonals(self, name: str) -> int:
        size = sum(group.size for group in self.components.groups if group.coordinate == name)
        fewest, most = _DIAGONALS
        return min(most, max(fewest, -(-_SIGNS_OF_VARIANCES // max(1, size))))

    def _tell_vanished(self, update: Update) -> Steps[None]:
        for group in update.vanished:
            yield Report(
                notice=f"{group.full_name}: the data show no variance; its {group.size:,} coefficients are 0"
            )
        for name in {group.coordinate for group in update.vanished}:
            own = [group for group in self.components.groups if group.coordinate == name and group.size]
            if all(group.vanished for group in own):
                yield Report(notice=f"{name}: the whole coordinate vanishes, it would improve nothing")

    def _regularizations(self) -> list[Regularization]:
        by_name = self._regularizations_by_name()
        return [by_name[of.name] for of in self.system.coordinates]

    def _regularizations_by_name(self) -> dict[str, Regularization]:
        found = {}
        for of in self.system.coordinates:
            own = {g.name: g.l2 for g in self.components.groups if g.coordinate == of.name}
            coordinate = self.config.coordinates[of.name]
            assert not isinstance(coordinate, (ExternalEffect, PluggedEffect))
            found[of.name] = Regularization(
                groups=own, regularize_intercept=_starting(self.config, of.name).regularize_intercept
            )
        return found


def _probes(group: VarianceGroup) -> int:
    """Return how many probes a group gets whose variance is learned."""
    return min(_MOST_PROBES, max(_LEAST_PROBES, -(-_PROBED // group.size)))


def _trace(sums: SolvedGroup) -> float:
    """Return a group's share of tr(H⁻¹); of one without probes, that of its entities alone."""
    return sums.block_trace + (fsum(sums.probes) / len(sums.probes) if sums.probes else 0.0)


def _told(number: int, gained: float, update: Update) -> str:
    text = f", log marginal likelihood {gained:+,.2f} since the first" if number > 1 else ""
    return f"{text}; variances changed by up to {100 * update.largest:.3g} %"


def _square(squares: tuple[float, float, float], length: float) -> float:
    """Return Σ c(θ + length·δ)² from Σcθ², Σcθδ and Σcδ²."""
    return squares[0] + 2.0 * length * squares[1] + length * length * squares[2]


def _starting(config: JobConfig, name: str) -> Regularization:
    """Return a coordinate's groups with strength 1 in the place of `auto`, which says who is in which group."""
    return regularization(_with_numbers(config, name))


def _with_numbers(config: JobConfig, name: str) -> FixedEffect | RandomEffect:
    """Return a coordinate with strength 1 in the place of `auto`."""
    coordinate = config.coordinates[name]
    assert not isinstance(coordinate, (ExternalEffect, PluggedEffect))
    groups = learned_groups(config, name)
    if not groups:
        return coordinate
    given = coordinate.l2 if isinstance(coordinate.l2, dict) else {}
    fixed = {group: value for group, value in given.items() if value != AUTO}
    return coordinate.model_copy(update={"l2": {**fixed, **dict.fromkeys(groups, 1.0)}})


def _prepare(config: JobConfig, prepared: Prepared, trial: int) -> Steps[_Learner]:
    """Fit the fixed effects alone, count groups, and put the joint model together."""
    step = RoundStep(STAGES, 0, trial)
    begun: dict[str, Trained] = {}
    for name, coordinate in config.coordinates.items():
        own = CoordinateStep(name, 0, trial)
        if isinstance(coordinate, ExternalEffect):
            begun[name] = take_external_effect(prepared, own, coordinate, 0)
        elif isinstance(coordinate, PluggedEffect):
            begun[name] = yield from train_plugged_effect(
                config,
                prepared,
                own,
                coordinate,
                _inputs(prepared, "train", begun),
                _inputs(prepared, "validation", begun),
            )
        elif isinstance(coordinate, FixedEffect):
            numbers = cast("FixedEffect", _with_numbers(config, name))
            begun[name] = yield from train_fixed_effect(
                prepared, own, numbers, _inputs(prepared, "train", begun)
            )
        if isinstance(coordinate, (FixedEffect, PluggedEffect)):
            yield from _tell_alone(config, prepared, own, begun)
    coordinates = tuple(
        joint_coordinate(prepared, place, name, begun[name].part.directories[0] if name in begun else None)
        for place, name in enumerate(config.coordinates)
        if not isinstance(config.coordinates[name], (ExternalEffect, PluggedEffect))
    )
    regularizations = [_starting(config, of.name) for of in coordinates]
    units = [
        SurveyPart(
            output="",
            part=part,
            regularization=regularizations[place],
            shards=prepared.shards["train"].directories if of.design is not None else (),
        )
        for place, of in enumerate(coordinates)
        for part in of.parts
    ]
    surveyed = yield from step.run(
        "survey", "counting coefficients", units, rows=tuple(rows for of in coordinates for rows in of.rows)
    )
    results = [cast("PartSurveyed", result) for result in surveyed.results]
    groups: list[VarianceGroup] = []
    first_groups, position = [], 0
    rows = sum(prepared.shards["train"].rows)
    for place, of in enumerate(coordinates):
        own_results = results[position : position + len(of.parts)]
        position += len(of.parts)
        first_groups.append(len(groups))
        learned = learned_groups(config, of.name)
        for number, (name, l2) in enumerate(regularizations[place].groups.items()):
            size = sum(result.sizes[number] for result in own_results)
            energy = fsum(result.energies[number] for result in own_results) / max(1, rows)
            is_learned = name in learned and size > 0 and energy > 0.0
            groups.append(
                VarianceGroup(
                    coordinate=of.name,
                    name=name,
                    size=size,
                    l2=energy / PRIOR_SHARE if is_learned else l2,
                    learned=is_learned,
                )
            )
    system = JointSystem(
        prepared=prepared,
        task=config.task,
        coordinates=coordinates,
        inputs=_inputs(prepared, "train", begun),
        first_groups=tuple(first_groups),
    )
    return _Learner(
        config=config,
        trial=trial,
        system=system,
        components=VarianceComponents(groups),
        free=sum(result.free for result in results),
        plugged={n: of for n, of in begun.items() if isinstance(config.coordinates[n], PluggedEffect)},
    )


def _tell_alone(
    config: JobConfig, prepared: Prepared, step: CoordinateStep, begun: Mapping[str, Trained]
) -> Steps[None]:
    """Say what the fixed effects measure alone: what the mixed model is compared with."""
    if not (prepared.has_validation and prepared.is_labelled):
        return
    metrics = yield from measure(config, prepared, step, _inputs(prepared, "validation", begun))
    told = ", ".join(f"{metric.name} {metric.value:.4f}" for metric in metrics if metric.value is not None)
    yield Report(notice=f"{' and '.join(begun)} alone: validation {told}")


def _inputs(prepared: Prepared, role: Role, begun: Mapping[str, Trained]) -> tuple[ShardInput, ...]:
    """Return the shards of a role with the score blocks of the coordinates that have some."""
    return tuple(
        ShardInput(
            shard=shard,
            directory=directory,
            scores=tuple(trained.scores[role][shard] for trained in begun.values()),
        )
        for shard, directory in enumerate(prepared.shards[role].directories)
    )
