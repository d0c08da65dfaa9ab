"""Passes until the joint optimum of all coordinates: block coordinate descent, accelerated.

A pass maps the scores of all trained coordinates but the first, which are all that the first one's solve depends
on, to new ones. At the joint optimum they stay what they were. Plain passes get there slowly where coordinates
can explain the same thing, as users and items can; Anderson acceleration of the map needs a few instead. Only
offsets are ever extrapolated: coefficients and scores of a pass are those of exact solves.

A fixed effect that is plugged in need not have an optimum. It is fitted in the first pass and given from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import fsum, sqrt
from typing import Final, cast

from gdmix_core.config import ExternalEffect, PluggedEffect
from gdmix_core.solvers.anderson import mixing_weights
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    GradientMeasured,
    MeasureGradient,
    MeasurePass,
    MixScores,
    PassMeasured,
    ScoreChange,
    ShardInput,
    TrainedAgainst,
    WriteSlopeChanges,
)
from gdmix_server.program.descent import Descent
from gdmix_server.program.joint_system import joint_coordinate
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.state.model import Report

TOLERANCE: Final = 1e-4
"""Converged: the root mean square over the rows of what a pass changed, all coordinates' changes side by side."""
MOST_PASSES: Final = 100
_WINDOW: Final = 8
"""Passes that are mixed."""
_GROWTH: Final = 2.0
"""When a pass changes so many times more than the one before, the passes before it are forgotten."""

Blocks = dict[str, tuple[str, ...]]
"""Directories of training score blocks by coordinate, in shard order."""


@dataclass(slots=True)
class History:
    """The last passes: what stood for the coordinates when they began, what came out, products of the changes."""

    before: list[Blocks] = field(default_factory=list)
    after: list[Blocks] = field(default_factory=list)
    products: list[list[float]] = field(default_factory=list)

    def add(self, before: Blocks, after: Blocks) -> None:
        """Append a pass, forgetting the oldest one of a full window."""
        if len(self.after) == _WINDOW:
            self.forget(1)
        self.before.append(before)
        self.after.append(after)

    def forget(self, passes: int) -> None:
        """Drop the oldest passes."""
        del self.before[:passes], self.after[:passes], self.products[:passes]
        for row in self.products:
            del row[:passes]


def descend_until_converged(descent: Descent) -> Steps[None]:
    """Make passes until one changes next to nothing, reporting the joint objective after each."""
    config, trial = descent.config, descent.trial.number
    given = (ExternalEffect, PluggedEffect)
    trained = [name for name, of in config.coordinates.items() if not isinstance(of, given)]
    plugged = [name for name, of in config.coordinates.items() if isinstance(of, PluggedEffect)]
    if plugged:
        yield Report(
            notice=f"{', '.join(plugged)}: fitted in pass 1 and an offset of the passes after it; the joint optimum is "
            "that of the other coordinates"
        )
    last_change = float("inf")
    history, followers = History(), trained[1:]
    before = Blocks({name: descent.standing[name] for name in followers if name in descent.standing})
    for pass_number in range(1, MOST_PASSES + 1):
        descent.standing = dict(before)
        for coordinate in config.coordinates:
            yield from descent.train(coordinate, pass_number)
        descent.finish_pass(pass_number)
        history.add(before, {name: descent.trained[name].scores["train"] for name in followers})
        step = CoordinateStep(list(config.coordinates)[-1], pass_number, trial)
        objective, change = yield from _measure(descent, step, history)
        largest, norm = yield from _measure_gradient(descent, step, trained)
        yield Report(
            notice=f"pass {pass_number}: joint objective {objective:,.6f}, largest gradient {largest:.2g} (norm "
            f"{norm:.2g}), scores changed by {change:.2g} (root mean square)"
        )
        if change <= TOLERANCE:
            yield Report(notice=f"the joint optimum is reached in pass {pass_number}")
            return
        if change > _GROWTH * last_change:
            history.forget(len(history.after) - 1)
        last_change = change
        if pass_number < MOST_PASSES:
            before = yield from _mix(descent, pass_number, history)
    yield Report(
        warning=True,
        notice=f"the joint optimum is not reached in {MOST_PASSES} passes; the last one is published. A larger l2 "
        "of the coordinates that compete helps",
    )


def _measure(descent: Descent, step: CoordinateStep, history: History) -> Steps[tuple[float, float]]:
    """Complete the history's products; return the joint objective and what the last pass changed per row."""
    shards = descent.prepared.shards["train"]
    followers = list(history.after[-1])
    units = [
        MeasurePass(
            output="",
            loss=int(Loss.from_task(descent.config.task)),
            input=shard,
            changes=tuple(
                tuple(
                    ScoreChange(
                        before=before[name][shard.shard] if name in before else None,
                        scores=after[name][shard.shard],
                    )
                    for name in followers
                )
                for before, after in zip(history.before, history.after, strict=True)
            ),
        )
        for shard in descent.scored("train")
    ]
    measured = yield from step.run("joint", "measuring the joint objective", units, rows=shards.rows)
    results = [cast("PassMeasured", result) for result in measured.results]
    products = [fsum(of_pass) for of_pass in zip(*(r.products for r in results), strict=True)]
    history.products.append(products)
    penalty = fsum(of.penalty for of in descent.trained.values())
    objective = fsum(result.loss for result in results) + penalty
    return objective, sqrt(max(0.0, products[-1]) / max(1, sum(shards.rows)))


def _measure_gradient(
    descent: Descent, step: CoordinateStep, trained: list[str]
) -> Steps[tuple[float, float]]:
    """Return the largest component and the norm of the joint objective's gradient.

    The last coordinate has just been solved: its share is what its certificate allows.
    """
    prepared, shards = descent.prepared, descent.prepared.shards["train"]
    moved = [joint_coordinate(prepared, place, name) for place, name in enumerate(trained[:-1])]
    if not moved:
        return 0.0, 0.0
    units = [
        WriteSlopeChanges(
            output="",
            loss=int(Loss.from_task(descent.config.task)),
            input=shard,
            coordinates=tuple(
                TrainedAgainst(
                    input=_with_own_scores(descent, of.name, shard.shard),
                    design=of.design,
                    grouping=of.grouping,
                )
                for of in moved
            ),
        )
        for shard in descent.scored("train")
    ]
    written = yield from step.run("slopes", "taking the joint gradient", units, rows=shards.rows)
    parts = [part for of in moved for part in of.parts]
    measured = yield from step.run(
        "gradient",
        "taking the joint gradient",
        [MeasureGradient(output="", part=part, shards=written.directories) for part in parts],
        rows=tuple(rows for of in moved for rows in of.rows),
    )
    results = [cast("GradientMeasured", result) for result in measured.results]
    return max(result.largest for result in results), sqrt(fsum(result.square for result in results))


def _with_own_scores(descent: Descent, name: str, shard: int) -> ShardInput:
    """Return what a coordinate was trained against, with the scores that came out of it."""
    against = descent.against[name][shard]
    return replace(against, scores=(*against.scores, descent.trained[name].scores["train"][shard]))


def _mix(descent: Descent, pass_number: int, history: History) -> Steps[Blocks]:
    """Return the score blocks that stand for the coordinates in the next pass."""
    if len(history.after) == 1:
        return history.after[0]
    weights = mixing_weights(history.products)
    rows = descent.prepared.shards["train"].rows
    mixed = Blocks()
    for name in history.after[-1]:
        units = [
            MixScores(
                output="",
                shard=shard,
                scores=tuple(after[name][shard] for after in history.after),
                weights=weights,
            )
            for shard in range(len(rows))
        ]
        step = CoordinateStep(name, pass_number, descent.trial.number)
        outcome = yield from step.run("mix", "extrapolating scores", units, rows=rows)
        mixed[name] = outcome.directories
    return mixed
