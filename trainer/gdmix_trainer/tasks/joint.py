"""All coordinates together: the joint loss, what passes changed, and mixtures of their scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gdmix_core.data.score_blocks import read_score_block, write_score_block
from gdmix_core.data.scores import read_home_shard
from gdmix_core.solvers.losses import Loss, loss_terms, ordered_sum
from gdmix_core.tasks import (
    ROWS_FILE,
    SCORES_FILE,
    MeasurePass,
    MixScores,
    PassMeasured,
    ScoreChange,
    ShardScored,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.fixed_effect import offsets_of

Float64Array = npt.NDArray[np.float64]


def measure_pass(task: MeasurePass, context: TaskContext) -> PassMeasured:
    """Sum one training shard's loss and the products of the passes' changes, of two at a time."""
    rows = read_home_shard(Path(task.input.directory) / ROWS_FILE)
    value = loss_terms(Loss(task.loss), rows["label"], offsets_of(task.input)).value
    loss = ordered_sum(np.where(rows["weight"] == 0.0, 0.0, rows["weight"] * value))
    products = [0.0] * len(task.changes)
    for *earlier, last in zip(*task.changes, strict=True):  # coordinate by coordinate
        newest = _change(last, task.input.shard)
        products[-1] += ordered_sum(newest * newest)
        for number, change in enumerate(earlier):
            context.check()
            products[number] += ordered_sum(newest * _change(change, task.input.shard))
    context.advance(rows=len(rows["label"]))
    return PassMeasured(loss=loss, products=tuple(products), seconds=0.0)


def mix_scores(task: MixScores, context: TaskContext) -> ShardScored:
    """Write the weighted sum of score blocks, added in the order given."""
    total: Float64Array | None = None
    for directory, weight in zip(task.scores, task.weights, strict=True):
        context.check()
        scaled = weight * read_score_block(Path(directory) / SCORES_FILE, task.shard)
        total = scaled if total is None else total + scaled
    assert total is not None
    write_score_block(Path(task.output) / SCORES_FILE, task.shard, total)
    context.advance(rows=len(total))
    return ShardScored(rows=len(total), seconds=0.0)


def _change(change: ScoreChange, shard: int) -> Float64Array:
    scores = read_score_block(Path(change.scores) / SCORES_FILE, shard)
    if change.before is None:
        return scores
    return np.asarray(scores - read_score_block(Path(change.before) / SCORES_FILE, shard))
