"""A model of gradient-boosted trees: LightGBM's own text, and what encodes rows for it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.lightgbm_trees.features import Features
from gdmix_core.fixed_effects.plugin import FixedEffectModel, Float64Array, batches

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

_TREES: Final = "trees.txt"
_FEATURES: Final = "features.json"
_BATCH_ROWS: Final = 65_536


class TreesModel(FixedEffectModel):
    """Trees, ready to score."""

    def __init__(self, trees: str, features: Features, intercept: float) -> None:
        """Read LightGBM's text.

        Args:
            trees: the text.
            features: what encodes rows.
            intercept: added to the sum of the trees.
        """
        import lightgbm

        self._text = trees
        self._features = features
        self._intercept = intercept
        self._booster: lightgbm.Booster = lightgbm.Booster(model_str=trees)

    @classmethod
    def load(cls, directory: Path) -> TreesModel:
        """Read what `save` wrote.

        Raises:
            DataError: files are missing or of another form.
        """
        try:
            values = json.loads((directory / _FEATURES).read_text(encoding="utf-8"))
            features = Features(
                numeric=tuple(values["numeric"]),
                categories={name: tuple(known) for name, known in values["categories"].items()},
                terms={name: tuple(known) for name, known in values["terms"].items()},
            )
            return cls((directory / _TREES).read_text(encoding="utf-8"), features, float(values["intercept"]))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{directory}: holds no model of trees: {error}") from error

    def score(self, columns: pa.RecordBatch) -> Float64Array:
        """Return intercept plus trees, float64[rows]."""
        scores = np.full(columns.num_rows, self._intercept)
        start = 0
        for batch in batches(columns, _BATCH_ROWS):
            stop = start + batch.num_rows
            scores[start:stop] += self._booster.predict(self._features.matrix(batch), raw_score=True)
            start = stop
        return scores

    def save(self, directory: Path) -> None:
        """Write the trees and what encodes rows."""
        (directory / _TREES).write_text(self._text, encoding="utf-8")
        values = {
            "numeric": self._features.numeric,
            "categories": self._features.categories,
            "terms": self._features.terms,
            "intercept": self._intercept,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        (directory / _FEATURES).write_text(text + "\n", encoding="utf-8")

    def describe(self) -> Mapping[str, float | str]:
        """Return the number of trees and features."""
        return {
            "trees": float(self._booster.num_trees()),
            "features": float(self._booster.num_feature()),
            "intercept": self._intercept,
        }
