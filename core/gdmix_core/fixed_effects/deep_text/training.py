"""The fit: steps, evaluations, checkpoints, reports.

Every member of a gang runs this with its own rows. Decisions (stop, keep) come from numbers that all members have
alike, so they come to the same ones without being told.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow as tf

from gdmix_core.errors import DataError, Unavailable
from gdmix_core.fixed_effects.deep_text.checkpoints import Checkpoint, Checkpoints
from gdmix_core.fixed_effects.deep_text.evaluation import METRICS, better, evaluate
from gdmix_core.fixed_effects.deep_text.events import EventLog
from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.labels import LabelSummary
from gdmix_core.fixed_effects.deep_text.network import signature
from gdmix_core.fixed_effects.deep_text.pretrained import Pretrained
from gdmix_core.fixed_effects.deep_text.split import Part, Selection, parts_of
from gdmix_core.fixed_effects.deep_text.steps import Trainee, Weights
from gdmix_core.fixed_effects.deep_text.stream import TrainingStream, evaluation_batches, prefetched
from gdmix_core.fixed_effects.plugin import FitContext, FitData, FitProgress

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.deep_text.options import DeepTextOptions, EarlyStopping, EarlyStoppingMetric

_REPORT_SECONDS: Final = 1.0
_LOST: Final = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What TensorFlow raises in the other members when one is gone."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training came to.

    Attributes:
        weights: of the network.
        step: after which they were taken.
        steps: that were made.
        metrics: of the evaluation that they are the best of; empty without early stopping.
    """

    weights: Weights
    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(slots=True)
class _Best:
    """The best evaluation until now."""

    value: float | None = None
    step: int = 0
    worse: int = 0
    metrics: dict[str, float] | None = None
    weights: Weights | None = None


class Training:
    """One course of training, from fresh weights or from its last checkpoint to its end."""

    def __init__(
        self,
        name: str,
        inputs: Inputs,
        labels: LabelSummary,
        data: FitData,
        context: FitContext,
        strategy: tf.distribute.Strategy,
        pretrained: Pretrained,
        stopping: EarlyStopping | None,
        stop_after: float | None = None,
    ) -> None:
        """Prepare.

        Args:
            name: of its checkpoints and event files.
            inputs: encode rows.
            labels: sums over the training rows.
            data: all rows.
            context: of the fit.
            strategy: what trains.
            pretrained: weights that come from files.
            stopping: early stopping; None trains on all training rows to the end.
            stop_after: end after so many epochs, though the schedule is that of the options.
        """
        options = inputs.options
        self._inputs, self._context, self._options = inputs, context, options
        self._stopping = stopping
        self._metric = _metric(options, context)
        gang = context.gang
        self._rank, self._size = (gang.rank, gang.size) if gang else (0, 1)
        self._parts = parts_of(data.train, self._rank, self._size)
        everything = parts_of(data.train, 0, 1)
        held_out = stopping.share if stopping is not None and stopping.on == "holdout" else 0.0
        self._selection = Selection(context.seed, held_out, drawn=False)
        self._rows = self._selection.count(everything) if held_out else data.train_rows
        if not self._rows:
            raise DataError("there are no training rows to fit the deep text effect to")
        if not self._selection.count(self._parts):
            raise DataError(
                f"member {self._rank} of the gang has no training rows: {self._rows} rows are too few for {self._size} "
                "workers"
            )
        self._epoch = math.ceil(self._rows / options.batch_size)
        self._schedule = options.steps or math.ceil(options.epochs * self._rows / options.batch_size)
        self._steps = self._schedule
        if stop_after is not None:
            self._steps = min(self._schedule, max(1, round(stop_after * self._rows / options.batch_size)))
        self._evaluated = self._evaluation_rows(data)
        mean_weight = labels.weight / labels.rows or 1.0
        self._trainee = Trainee(
            inputs, context.task, context.seed, self._schedule, mean_weight, strategy, pretrained
        )
        directory = context.checkpoints / name
        directory.mkdir(exist_ok=True)
        self._checkpoints = Checkpoints(directory, _fingerprint(options, labels, context))
        self._events = EventLog(context.logs / name) if self._rank == 0 else None

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return self._epoch

    def run(self) -> Trained:
        """Train to the end.

        Raises:
            DataError: the loss is no number any more.
            Unavailable: another member of the gang is gone.
        """
        try:
            return self._run()
        except _LOST as error:
            if self._size == 1:
                raise
            raise Unavailable(f"a member of the gang is gone: {_cause(error)}") from error
        finally:
            if self._events is not None:
                self._events.close()

    def _run(self) -> Trained:
        step, best = self._resume()
        watch = _Watch(self._context, self._events, self._options.batch_size, self._steps, step)
        every = (self._stopping.every_steps if self._stopping else None) or self._epoch
        while step < self._steps and not self._has_stopped(best):
            for batch in self._batches(step):
                watch.loss(self._trainee.step(batch, step))
                step += 1
                if self._stopping and (step % every == 0 or step == self._steps):
                    metrics = self._evaluate()
                    self._keep(best, step, metrics)
                    watch.report(step, metrics)
                elif watch.due():
                    watch.report(step, {})
                last = step == self._steps or self._has_stopped(best)
                if last or step % self._options.checkpoint_steps == 0:
                    self._checkpoint(step, best)
                if last:
                    watch.report(step, {})
                    break
        weights = best.weights if best.weights is not None else self._trainee.weights()
        kept = best.step if best.weights is not None else step
        return Trained(weights, kept, step, best.metrics or {})

    def _batches(self, step: int) -> Iterator[dict[str, tf.Tensor]]:
        stream = TrainingStream(
            self._inputs,
            self._parts,
            self._selection,
            self._context.seed,
            self._rank,
            max(1, round(self._options.batch_size / self._size)),
        )
        return iter(prefetched(lambda: stream.batches(step), signature(self._inputs)))

    # ---- early stopping ----------------------------------------------------------------------------------

    def _evaluation_rows(self, data: FitData) -> tuple[list[Part], Selection]:
        stopping, seed = self._stopping, self._context.seed
        if stopping is None:
            return [], Selection(seed, 0.0, drawn=True)
        shards = data.train if stopping.on == "holdout" else data.validation
        rows = sum(shard.rows for shard in shards)
        share = min(stopping.share if stopping.on == "holdout" else 1.0, stopping.rows / max(rows, 1))
        parts, selection = parts_of(shards, self._rank, self._size), Selection(seed, share, drawn=True)
        if not selection.count(parts_of(shards, 0, 1)):
            raise DataError(f"early stopping on {stopping.on}: found no rows to evaluate on")
        return parts, selection

    def _evaluate(self) -> dict[str, float]:
        batches = evaluation_batches(self._inputs, *self._evaluated)
        rows = self._trainee.scored(
            {name: tf.constant(value) for name, value in batch.items()} for batch in batches
        )
        return evaluate(self._context.task, rows[:, 0], rows[:, 1], rows[:, 2])

    def _keep(self, best: _Best, step: int, metrics: dict[str, float]) -> None:
        value = metrics[self._metric]
        if math.isnan(value) and best.value is None and self._rank == 0:
            self._context.notice(
                f"early stopping: {self._metric} is undefined on the rows to evaluate on, which are of one class or "
                "weigh nothing; the last weights are kept",
                warning=True,
            )
        if better(self._metric, value, best.value):
            best.value, best.step, best.worse, best.metrics = value, step, 0, metrics
            best.weights = self._trainee.weights()
        else:
            best.worse += 1

    def _has_stopped(self, best: _Best) -> bool:
        return self._stopping is not None and best.worse >= self._stopping.patience

    # ---- checkpoints -------------------------------------------------------------------------------------

    def _checkpoint(self, step: int, best: _Best) -> None:
        if self._rank:
            return
        facts = {
            "step": step,
            "value": best.value,
            "best": best.step,
            "worse": best.worse,
            "metrics": best.metrics,
        }
        arrays: dict[str, Sequence[Any]] = {
            "weights": self._trainee.weights(),
            "optimizer": self._trainee.optimizer_state(),
            "best": best.weights or [],
        }
        self._checkpoints.write(step, Checkpoint(facts, arrays))

    def _resume(self) -> tuple[int, _Best]:
        found = self._checkpoints.last()
        if found is None:
            return 0, _Best()
        facts, arrays = found.facts, found.arrays
        self._trainee.set_weights(arrays["weights"])
        self._trainee.set_optimizer_state(arrays["optimizer"])
        best = _Best(
            facts["value"], facts["best"], facts["worse"], facts["metrics"], list(arrays["best"]) or None
        )
        if self._rank == 0:
            self._context.notice(f"training goes on from its checkpoint of step {facts['step']:,}")
        return int(facts["step"]), best


class _Watch:
    """What people are told while it goes on: loss since the last report, rows a second."""

    def __init__(
        self, context: FitContext, events: EventLog | None, batch_rows: int, steps: int, step: int
    ) -> None:
        self._context, self._events = context, events
        self._batch_rows, self._steps = batch_rows, steps
        self._losses: list[tf.Tensor] = []
        self._since, self._step = time.monotonic(), step

    def loss(self, loss: tf.Tensor) -> None:
        self._losses.append(loss)

    def due(self) -> bool:
        return time.monotonic() - self._since >= _REPORT_SECONDS

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Report, unless nothing has been done since the last time.

        Raises:
            DataError: the loss is no number any more.
        """
        if not self._losses:
            return
        loss = float(np.mean([value.numpy() for value in self._losses]))
        if not math.isfinite(loss):
            raise DataError(
                f"training diverged: the loss is {loss} after step {step:,}; use a smaller learning_rate, a clip_norm, "
                "or look for labels and numbers of extreme size"
            )
        now = time.monotonic()
        speed = (step - self._step) * self._batch_rows / max(now - self._since, 1e-9)
        if self._events is not None:
            self._context.report(
                FitProgress(
                    step=step, steps=self._steps, rows=step * self._batch_rows, loss=loss, metrics=metrics
                )
            )
            self._events.write(step, {"loss": loss, "examples_per_second": speed, **metrics})
        self._losses, self._since, self._step = [], now, step


def _cause(error: tf.errors.OpError) -> str:
    """Return the line of TensorFlow's account that says what happened."""
    lines = [line for line in error.message.splitlines() if line.strip()]
    return next((line for line in lines if "aborted by" in line), lines[0] if lines else type(error).__name__)


def _metric(options: DeepTextOptions, context: FitContext) -> EarlyStoppingMetric:
    asked = options.early_stopping.metric if options.early_stopping else None
    return asked or METRICS[context.task][0]


def _fingerprint(options: DeepTextOptions, labels: LabelSummary, context: FitContext) -> str:
    """Return what tells one fit from another: a second pass has other offsets."""
    facts = f"{options.model_dump_json()} {asdict(labels)} {context.task} {context.seed}"
    return hashlib.sha256(facts.encode()).hexdigest()
