"""Options and fitting of gradient-boosted trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gdmix_core.fixed_effects.lightgbm_trees.features import Features, learn_features
from gdmix_core.fixed_effects.lightgbm_trees.intercept import fit_intercept
from gdmix_core.fixed_effects.lightgbm_trees.model import TreesModel
from gdmix_core.fixed_effects.plugin import (
    FitContext,
    FitData,
    FitProgress,
    FixedEffectModel,
    FixedEffectPlugin,
    InputColumn,
    PluginOptions,
    Rows,
    Task,
)

if TYPE_CHECKING:
    import lightgbm

Columns = tuple[str, ...]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0)]

OBJECTIVES: Final[Mapping[Task, str]] = {
    "logistic_regression": "binary",
    "linear_regression": "regression",
    "poisson_regression": "poisson",
}
_HELD_OUT: Final = "held_out"
_QUIET: Final = -1
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64 (Steele, Lea and Flood 2014)."""


class EarlyStopping(PluginOptions):
    """When to stop before `rounds`."""

    rounds: Annotated[int, Field(strict=True, ge=1)] = 20
    """Rounds without an improvement of the loss on the rows held out."""
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training rows that are held out for it, chosen by a hash of the uid."""


class LightgbmOptions(PluginOptions):
    """What a config may say of a `lightgbm` fixed effect."""

    numeric: Columns = ()
    """Columns of numbers; null is missing."""
    categorical: Columns = ()
    """Columns of text, integers or booleans; categories are learned, others are missing."""
    lists: Columns = ()
    """Columns of lists of text; each frequent term becomes a feature that is there or not."""
    rounds: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 200
    """Trees at most."""
    learning_rate: Fraction = 0.05
    """What a tree adds of what it found."""
    num_leaves: Annotated[int, Field(strict=True, ge=2, le=131_072)] = 31
    """Leaves of a tree at most."""
    min_leaf_rows: Annotated[int, Field(strict=True, ge=0)] = 20
    """Rows in a leaf at least."""
    feature_fraction: Fraction = 1.0
    """Share of the features that a tree is made of."""
    row_fraction: Fraction = 1.0
    """Share of the rows that a tree is made of, drawn anew each round."""
    l2: Amount = 1.0
    """Ridge strength of the leaves' values."""
    max_categories: Annotated[int, Field(strict=True, ge=1)] = 10_000
    """Of each categorical column the most frequent ones."""
    max_terms: Annotated[int, Field(strict=True, ge=1)] = 256
    """Of each list column the most frequent ones."""
    early_stopping: EarlyStopping | None = None
    """Stop when rows that are held out say so; all rounds are made without it."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    """Of what is drawn; the job's when absent."""


class LightgbmTrees(FixedEffectPlugin[LightgbmOptions]):
    """Gradient-boosted trees over raw columns, by LightGBM."""

    options: ClassVar[type[PluginOptions]] = LightgbmOptions
    extra: ClassVar[str | None] = "gdmix[lightgbm]"

    def columns(self, options: LightgbmOptions) -> Sequence[InputColumn]:
        """Return the columns in the order of the features."""
        return [
            *(InputColumn(name, "number") for name in options.numeric),
            *(InputColumn(name, "string") for name in options.categorical),
            *(InputColumn(name, "strings") for name in options.lists),
        ]

    def check(self, options: LightgbmOptions, task: Task) -> None:
        """Refuse trees of nothing.

        Raises:
            ValueError: No column is named.
        """
        del task
        if not (options.numeric or options.categorical or options.lists):
            raise ValueError("no columns; name some under numeric, categorical or lists")

    def fit(self, options: LightgbmOptions, data: FitData, context: FitContext) -> FixedEffectModel:
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

    def load(self, directory: Path) -> FixedEffectModel:
        """Return the model that lies in a directory."""
        return TreesModel.load(directory)


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
