"""Options of gradient-boosted trees, and what others call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from gdmix_core.fixed_effects.plugin import (
    FitContext,
    FitData,
    FixedEffectModel,
    FixedEffectPlugin,
    InputColumn,
    PluginOptions,
    Task,
)

Columns = tuple[str, ...]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0)]


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
        """Grow trees on the training rows, offsets and a constant being their initial scores."""
        from gdmix_core.fixed_effects.lightgbm_trees.fitting import fit

        return fit(options, data, context)

    def load(self, directory: Path) -> FixedEffectModel:
        """Return the model that lies in a directory."""
        from gdmix_core.fixed_effects.lightgbm_trees.model import TreesModel

        return TreesModel.load(directory)
