"""Block coordinate descent: train a coordinate against the others' scores, measure, keep the best pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gdmix_core.config import ExternalEffect, FixedEffect, JobConfig, PluggedEffect
from gdmix_core.metrics import MetricValue, parse_metric
from gdmix_core.tasks import Role, ShardInput
from gdmix_server.program.external import take_external_effect
from gdmix_server.program.fixed_effect import train_fixed_effect
from gdmix_server.program.plugged_effect import train_plugged_effect
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.random_effect import train_random_effect
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.program.trained import Trained
from gdmix_server.program.validation import measure
from gdmix_server.state.model import GroupShrinkage, Report


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of a search's grid: its number, from 1, and the values by their place in the config."""

    number: int
    values: Mapping[str, Any]

    def as_json(self) -> dict[str, str]:
        """Return the values as JSON texts."""
        return {place: json.dumps(value, sort_keys=True) for place, value in self.values.items()}

    def __str__(self) -> str:
        return ", ".join(f"{place} = {value}" for place, value in self.as_json().items())


NO_TRIAL: Final = Trial(0, {})
NOTHING_STANDS: Final[Mapping[str, tuple[str, ...]]] = {}


@dataclass(frozen=True, slots=True)
class Pass:
    """All coordinates after a whole pass, and the first metric then."""

    pass_number: int
    trained: dict[str, Trained]
    value: MetricValue | None


@dataclass(slots=True)
class Descent:
    """The state of the descent; `train` and `finish_pass` are its only moves."""

    config: JobConfig
    prepared: Prepared
    trial: Trial = NO_TRIAL
    trained: dict[str, Trained] = field(default_factory=dict)
    passes: list[Pass] = field(default_factory=list)
    against: dict[str, tuple[ShardInput, ...]] = field(default_factory=dict)
    """What each coordinate was trained against: the training shards with the others' score blocks then."""
    standing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Training score blocks, by shard, that stand for a coordinate until this pass trains it."""
    begun: dict[str, Trained] = field(default_factory=dict)
    """Fixed effects that are plugged in and fitted already, which their first pass takes as they are."""
    shrinkage: Mapping[str, tuple[GroupShrinkage, ...]] = field(default_factory=dict)
    """What was learned of each coordinate's groups."""
    crossing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By coordinate with posterior variances, where its parts have what these owe to other coordinates."""

    @property
    def best(self) -> Pass:
        """The pass to publish: the best by the first metric.

        The last one when nothing was measured, or when the joint optimum was asked for.
        """
        if not self.prepared.has_validation or self.config.passes == "until_converged":
            return self.passes[-1]
        first_metric = parse_metric(self.config.effective_metrics[0])
        best = self.passes[0]
        for candidate in self.passes[1:]:
            if candidate.value is not None and first_metric.improves(candidate.value, best.value):
                best = candidate
        return best

    def train(self, name: str, pass_number: int) -> Steps[None]:
        """Train, score and measure one coordinate."""
        coordinate = self.config.coordinates[name]
        step = CoordinateStep(name, pass_number, self.trial.number)
        crossing = self.crossing.get(name, ())
        offsets = self._inputs("train", name, self.standing)
        self.standing.pop(name, None)
        self.against[name] = offsets
        if isinstance(coordinate, ExternalEffect):
            trained = take_external_effect(
                self.prepared, step, coordinate, sum(self.prepared.shards["train"].rows)
            )
        elif isinstance(coordinate, PluggedEffect):
            trained = yield from self._train_plugged_effect(step, coordinate, offsets)
        elif isinstance(coordinate, FixedEffect):
            trained = yield from train_fixed_effect(self.prepared, step, coordinate, offsets, crossing)
        else:
            trained = yield from train_random_effect(
                self.prepared, step, coordinate, self.config.task, offsets, crossing
            )
        yield from self.take(name, trained, pass_number)

    def _train_plugged_effect(
        self, step: CoordinateStep, coordinate: PluggedEffect, offsets: tuple[ShardInput, ...]
    ) -> Steps[Trained]:
        begun = self.begun.pop(step.coordinate, None)
        if begun is not None:
            return replace(begun, report=replace(begun.report, pass_number=step.pass_number))
        fitted = self.trained.get(step.coordinate)
        if fitted is not None and self.config.passes == "until_converged":
            return replace(fitted, report=replace(fitted.report, pass_number=step.pass_number, seconds=0.0))
        held_out = self._inputs("validation", step.coordinate)
        return (
            yield from train_plugged_effect(self.config, self.prepared, step, coordinate, offsets, held_out)
        )

    def take(self, name: str, trained: Trained, pass_number: int) -> Steps[None]:
        """Put a scored coordinate beside the others and measure them together."""
        step = CoordinateStep(name, pass_number, self.trial.number)
        trained = replace(
            trained,
            report=replace(
                trained.report,
                trial=self.trial.number,
                trial_values=self.trial.as_json(),
                shrinkage=self.shrinkage.get(name, ()),
            ),
        )
        inputs = {role: self._inputs(role, name) for role in ROLES}
        self.trained[name] = replace(trained, inputs=inputs)
        if self.prepared.has_validation and self.prepared.is_labelled:
            metrics = yield from measure(self.config, self.prepared, step, self.scored("validation"))
            report = replace(trained.report, validation=metrics)
            self.trained[name] = replace(self.trained[name], report=report)
        yield Report(coordinate=self.trained[name].report)

    def finish_pass(self, pass_number: int) -> bool:
        """Record the pass; return whether it is the best so far (always, when nothing is measured)."""
        value = None
        if self.prepared.has_validation:
            last = self.trained[list(self.config.coordinates)[-1]].report.validation[0]
            value = MetricValue(last.value, last.reason, last.entities, last.entities_undefined)
        self.passes.append(Pass(pass_number, dict(self.trained), value))
        return not self.prepared.has_validation or self.best.pass_number == pass_number

    def scored(self, role: Role) -> tuple[ShardInput, ...]:
        """Return the home shards with the score blocks of all trained coordinates."""
        return self._inputs(role)

    def _inputs(
        self, role: Role, without: str | None = None, standing: Mapping[str, tuple[str, ...]] = NOTHING_STANDS
    ) -> tuple[ShardInput, ...]:
        """Return the home shards with the score blocks of all coordinates that have some, but `without`."""
        others = [
            name
            for name in self.config.coordinates
            if (name in self.trained or name in standing) and name != without
        ]
        return tuple(
            ShardInput(
                shard=shard,
                directory=directory,
                scores=tuple(
                    (standing[name] if name in standing else self.trained[name].scores[role])[shard]
                    for name in others
                ),
            )
            for shard, directory in enumerate(self.prepared.shards[role].directories)
        )
