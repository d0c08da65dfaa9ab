"""Growing trees on home shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.fixed_effects.lightgbm_trees.features import Features, learn_features
from gdmix_core.fixed_effects.lightgbm_trees.intercept import fit_intercept
from gdmix_core.fixed_effects.lightgbm_trees.model import TreesModel
from gdmix_core.fixed_effects.plugin import FitContext, FitData, FitProgress, Rows, Task

if TYPE_CHECKING:
    import lightgbm

    from gdmix_core.fixed_effects.lightgbm_trees.plugin import LightgbmOptions

OBJECTIVES: Final[Mapping[Task, str]] = {
    "logistic_regression": "binary",
    "linear_regression": "regression",
    "poisson_regression": "poisson",
}
_HELD_OUT: Final = "held_out"
_QUIET: Final = -1
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64 (Steele, Lea and Flood 2014)."""


def fit(options: LightgbmOptions, data: FitData, context: FitContext) -> TreesModel:
    """Grow trees on the training rows, offsets and a constant being their initial scores.

    The data are binned by LightGBM from the mapped columns, shard by shard: in memory are the bins, the codes of
    categories, and four numbers a row.
    """
    features = learn_features(
        data.train,
        options.numeric,
        options.categorical,
        options.lists,
        max_categories=options.max_categories,
        max_terms=options.max_terms,
    )
    booster, intercept = _boosted(options, data, features, context)
    stopped = options.early_stopping is not None and booster.best_iteration > 0
    trees = booster.best_iteration if stopped else booster.current_iteration()
    return TreesModel(booster.model_to_string(num_iteration=trees), features, intercept)


def _boosted(
    options: LightgbmOptions, data: FitData, features: Features, context: FitContext
) -> tuple[lightgbm.Booster, float]:
    import lightgbm
    import pyarrow as pa

    parts = [shard.read() for shard in data.train]
    label, weight, offset = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "weight", "offset")
    )
    intercept = fit_intercept(context.task, label, weight, offset)
    params = _params(options, context)
    whole = lightgbm.Dataset(
        pa.Table.from_batches([features.encoded(part.columns) for part in parts]),
        label=label,
        weight=weight,
        init_score=offset + intercept,
        categorical_feature=features.categorical_places,
        params=params,
    ).construct()
    train, watched, callbacks = whole, [], [_reporting(context, options.rounds, len(label))]
    if options.early_stopping is not None:
        held_out = _held_out(parts, options.early_stopping.fraction)
        train = whole.subset(np.flatnonzero(~held_out).tolist())
        watched = [whole.subset(np.flatnonzero(held_out).tolist())]
        callbacks.append(lightgbm.early_stopping(options.early_stopping.rounds, verbose=False))
    del parts
    booster = lightgbm.train(
        params,
        train,
        num_boost_round=options.rounds,
        valid_sets=watched,
        valid_names=[_HELD_OUT for _ in watched],
        callbacks=callbacks,
    )
    return booster, intercept


def _params(options: LightgbmOptions, context: FitContext) -> dict[str, Any]:
    return {
        "objective": OBJECTIVES[context.task],
        "learning_rate": options.learning_rate,
        "num_leaves": options.num_leaves,
        "min_data_in_leaf": options.min_leaf_rows,
        "feature_fraction": options.feature_fraction,
        "bagging_fraction": options.row_fraction,
        "bagging_freq": int(options.row_fraction < 1.0),
        "lambda_l2": options.l2,
        "num_threads": context.threads,
        "seed": context.seed % 2**31 if options.seed is None else options.seed,
        "deterministic": True,
        "force_row_wise": True,
        "boost_from_average": False,
        "verbosity": _QUIET,
    }


def _held_out(parts: Sequence[Rows], fraction: float) -> npt.NDArray[np.bool_]:
    """Return which rows are held out, bool[rows]: a hash of the uid decides; at least one is and one is not."""
    hashes = []
    for number, part in enumerate(parts):
        uid = part.uid if part.uid is not None else np.arange(len(part)) + (number << 40)
        mixed = uid.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in zip((30, 27), _MIX, strict=True):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        hashes.append(mixed ^ (mixed >> np.uint64(31)))
    joined = np.concatenate(hashes)
    held_out: npt.NDArray[np.bool_] = joined < np.uint64(int(fraction * 2**64))
    held_out[np.argmin(joined)] = True
    held_out[np.argmax(joined)] = False
    return held_out


def _reporting(
    context: FitContext, rounds: int, rows: int
) -> Callable[[lightgbm.callback.CallbackEnv], None]:
    def report(state: lightgbm.callback.CallbackEnv) -> None:
        losses = {f"{name}_loss": float(value) for name, _, value, *_ in state.evaluation_result_list or ()}
        done = state.iteration + 1
        context.report(
            FitProgress(step=done, steps=rounds, rows=done * rows, loss=losses.get(f"{_HELD_OUT}_loss"))
        )

    return report
