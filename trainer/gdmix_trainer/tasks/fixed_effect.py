"""Fixed effects: penalties, distributed derivatives, coefficient files, scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import read_segment, write_arrays
from gdmix_core.data.score_blocks import total_offset, write_score_block
from gdmix_core.data.scores import read_home_shard
from gdmix_core.errors import InternalError
from gdmix_core.solvers.fixed_effect.derivatives import evaluate, score
from gdmix_core.solvers.fixed_effect.shard import FixedEffectShard, FixedEffectSums
from gdmix_core.solvers.losses import Loss, ridge_penalty
from gdmix_core.solvers.summation_tree import owned_nodes, subtree_sum
from gdmix_core.tasks import (
    COEFFICIENTS_FILE,
    CROSSING_FILE,
    ROWS_FILE,
    SCORES_FILE,
    THETA_FILE,
    EvaluateFixedEffect,
    FinishFixedEffect,
    FixedEffectEvaluated,
    FixedEffectFinished,
    FixedEffectPrepared,
    PrepareFixedEffect,
    ScoreFixedEffect,
    ShardInput,
    ShardScored,
    design_file,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.indexes import feature_index_of

Float64Array = npt.NDArray[np.float64]


def prepare(task: PrepareFixedEffect, context: TaskContext) -> FixedEffectPrepared:
    """Work out the ridge vector and push it as `l2`."""
    index = feature_index_of(task.index)
    l2 = index.ridge(task.design.bags, task.design.intercept, task.regularization)
    context.push("l2", l2)
    return FixedEffectPrepared(dimension=len(l2), seconds=0.0)


def evaluate_shards(task: EvaluateFixedEffect, context: TaskContext) -> FixedEffectEvaluated:
    """Sum loss and derivatives over this unit's shards, one row of `sums` for each maximal whole subtree.

    At most one sum per level of the tree is alive at a time, whatever the number of shards.
    """
    theta = context.pull("theta")
    inputs = {shard.shard: shard for shard in task.shards}
    rows = 0

    def sums_of(number: int) -> FixedEffectSums:
        nonlocal rows
        context.check()
        shard = context.cache.get(
            task.cache_key, (inputs[number], task.design), lambda: _load_shard(task, inputs[number])
        )
        found = evaluate(
            shard, theta, Loss(task.loss), task.dimension, task.design.intercept, hessian=task.hessian
        )
        rows += shard.rows
        context.advance(rows=shard.rows)
        return found

    nodes = owned_nodes(inputs, task.shard_count)
    sums = [subtree_sum(node, task.shard_count, sums_of).to_array() for node in nodes]
    context.push("sums", np.stack(sums) if sums else np.empty((0, 0)))
    return FixedEffectEvaluated(rows=rows, seconds=0.0)


def finish(task: FinishFixedEffect, context: TaskContext) -> FixedEffectFinished:
    """Write the solution: as an array for scoring, as a coefficient file for the model."""
    from gdmix_core.model.coefficients import write_fixed_effect

    theta = context.pull("theta").copy()
    variances = context.pull("variances") if task.has_variances else None
    if variances is not None and task.crossing is not None:
        variances = variances + read_segment(Path(task.crossing) / CROSSING_FILE)["crossing"]
    index = feature_index_of(task.index)
    bags, names, terms = index.coordinate_names(task.design.bags, task.design.intercept)
    if len(bags) != len(theta):
        raise InternalError(f"{task.design.name}: {len(theta)} coefficients for {len(bags)} features")
    unseen = theta == 0.0
    if task.regularization is not None:
        theta[index.vanished(task.design.bags, task.design.intercept, task.regularization)] = 0.0
    if task.sparsity_threshold:
        first = 1 if task.design.intercept else 0
        theta[first:][np.abs(theta[first:]) <= task.sparsity_threshold] = 0.0
    if task.initial is not None:
        theta = _carried_over(task, theta, unseen)
    output = Path(task.output)
    write_arrays(output / THETA_FILE, [{"theta": theta}])
    write_fixed_effect(
        output / COEFFICIENTS_FILE, theta, bags=bags, names=names, terms=terms, variances=variances
    )
    penalty = 0.0
    if task.regularization is not None:
        l2 = index.ridge(task.design.bags, task.design.intercept, task.regularization)
        penalty = ridge_penalty(l2, theta)
    return FixedEffectFinished(nonzero=int(np.count_nonzero(theta)), penalty=penalty, seconds=0.0)


def _carried_over(
    task: FinishFixedEffect, theta: Float64Array, unseen: npt.NDArray[np.bool_]
) -> Float64Array:
    """Return the solution with the initial model's coefficients of features that no training row has.

    The gradient of such a feature is that of its penalty alone, so that solvers leave it at exactly 0. What became
    0 by being small is not one of these.
    """
    from gdmix_core.data.feature_index import FeatureIndex
    from gdmix_core.data.feature_mapping import feature_mapping
    from gdmix_core.model import open_model
    from gdmix_core.model.coefficients import read_fixed_effect

    assert task.initial is not None
    model = open_model(task.initial)
    manifest = model.manifest.coordinate(task.design.name)
    if manifest.kind != "fixed_effect" or not manifest.native:
        return theta
    number = feature_mapping(
        FeatureIndex.load(model.feature_index),
        (manifest.features, manifest.intercept),
        feature_index_of(task.index),
        (task.design.bags, task.design.intercept),
    )
    known = number >= 0
    before = np.zeros(len(theta))
    before[number[known]] = read_fixed_effect(model.fixed_effect(task.design.name)).coefficients[known]
    return np.where(unseen, before, theta)


def score_shard(task: ScoreFixedEffect, context: TaskContext) -> ShardScored:
    """Write one home shard's score block."""
    design = read_segment(Path(task.directory) / design_file(task.design.name))
    theta = read_segment(Path(task.model) / THETA_FILE)["theta"]
    context.check()
    scores = score(design["indptr"], design["indices"], design["values"], theta, task.design.intercept)
    write_score_block(Path(task.output) / SCORES_FILE, task.shard, scores)
    context.advance(rows=len(scores))
    return ShardScored(rows=len(scores), seconds=0.0)


def offsets_of(shard: ShardInput) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the rows' own offsets plus the score blocks of the other coordinates, float64[rows]."""
    offset = read_home_shard(Path(shard.directory) / ROWS_FILE)["offset"]
    total: np.ndarray[tuple[int], np.dtype[np.float64]] = total_offset(
        offset, [Path(block) / SCORES_FILE for block in shard.scores], shard.shard
    )
    return total


def _load_shard(task: EvaluateFixedEffect, shard: ShardInput) -> FixedEffectShard:
    directory = Path(shard.directory)
    rows = read_home_shard(directory / ROWS_FILE)
    design = read_segment(directory / design_file(task.design.name))
    return FixedEffectShard(
        indptr=design["indptr"],
        indices=design["indices"],
        values=design["values"],
        labels=rows["label"],
        weights=rows["weight"],
        offsets=offsets_of(shard),
    )
