"""Block coordinate descent: train a coordinate against the others' scores, measure, keep the best pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gdmix_core.config import FixedEffect, JobConfig
from gdmix_core.metrics import MetricValue, parse_metric
from gdmix_core.tasks import Role, ShardInput
from gdmix_server.program.fixed_effect import train_fixed_effect
from gdmix_server.program.preparation import Prepared
from gdmix_server.program.random_effect import train_random_effect
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.program.trained import Trained
from gdmix_server.program.validation import measure
from gdmix_server.state.model import Report


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
    trained: dict[str, Trained] = field(default_factory=dict)
    passes: list[Pass] = field(default_factory=list)

    @property
    def best(self) -> Pass:
        """The pass to publish: the best by the first metric, the last one when nothing was measured."""
        if not self.prepared.has_validation:
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
        step = CoordinateStep(name, pass_number)
        offsets = self._inputs("train", without=name)
        if isinstance(coordinate, FixedEffect):
            trained = yield from train_fixed_effect(self.prepared, step, coordinate, offsets)
        else:
            trained = yield from train_random_effect(
                self.prepared, step, coordinate, self.config.task, offsets
            )
        self.trained[name] = trained
        if self.prepared.has_validation:
            metrics = yield from measure(self.config, self.prepared, step, self._inputs("validation"))
            self.trained[name] = replace(trained, report=replace(trained.report, validation=metrics))
        yield Report(coordinate=self.trained[name].report)

    def finish_pass(self, pass_number: int) -> bool:
        """Record the pass; return whether it is the best so far (always, when nothing is measured)."""
        value = None
        if self.prepared.has_validation:
            last = self.trained[list(self.config.coordinates)[-1]].report.validation[0]
            value = MetricValue(last.value, last.reason, last.entities, last.entities_undefined)
        self.passes.append(Pass(pass_number, dict(self.trained), value))
        return not self.prepared.has_validation or self.best.pass_number == pass_number

    def _inputs(self, role: Role, without: str | None = None) -> tuple[ShardInput, ...]:
        """Return the home shards with the score blocks of all trained coordinates but `without`."""
        others = [name for name in self.config.coordinates if name in self.trained and name != without]
        return tuple(
            ShardInput(
                shard=shard,
                directory=directory,
                scores=tuple(self.trained[name].scores[role][shard] for name in others),
            )
            for shard, directory in enumerate(self.prepared.shards[role].directories)
        )
