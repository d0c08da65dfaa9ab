"""A fixed effect that is plugged into GDMix: one level for each segment, and one for all that are not known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.plugin import (
    FitContext,
    FitData,
    FitProgress,
    FixedEffectModel,
    FixedEffectPlugin,
    Float64Array,
    InputColumn,
    PluginOptions,
    Task,
)

if TYPE_CHECKING:
    import pyarrow as pa

_FILE = "levels.json"
_LONGEST = 2.0


class SegmentOptions(PluginOptions):
    """What a config may say of a `segment_levels` fixed effect."""

    column: str
    """Column of the segment: text, integers or booleans."""
    l2: Annotated[float, Field(gt=0.0)] = 1.0
    """How strongly the levels of segments are pulled to 0."""
    steps: Annotated[int, Field(strict=True, ge=1)] = 25
    """Newton steps."""


class SegmentLevels(FixedEffectPlugin[SegmentOptions]):
    """Levels by Newton's method, each segment for itself."""

    options = SegmentOptions

    def columns(self, options: SegmentOptions) -> Sequence[InputColumn]:
        """Return the one column."""
        return [InputColumn(options.column, "string")]

    def fit(self, options: SegmentOptions, data: FitData, context: FitContext) -> FixedEffectModel:
        """Minimise Σ weight · loss(label, offset + level) + ½ l2 Σ level²."""
        import pyarrow as pa
        import pyarrow.compute as pc

        shards = [shard.read() for shard in data.train]
        column = pa.chunked_array([rows.columns.column(options.column) for rows in shards])
        segments = sorted(pc.unique(column.drop_null()).to_pylist())
        codes = _codes(column.combine_chunks(), segments)
        label, weight, offset = (
            np.concatenate([getattr(rows, name) for rows in shards]) for name in ("label", "weight", "offset")
        )
        levels = np.zeros(len(segments) + 1)
        for step in range(options.steps):
            mean, slope = _mean(context.task, offset + levels[codes])
            gradient = np.bincount(codes, weight * (mean - label), len(levels)) + options.l2 * levels
            curvature = np.bincount(codes, weight * slope, len(levels)) + options.l2
            levels -= np.clip(gradient / curvature, -_LONGEST, _LONGEST)
            context.report(FitProgress(step=step + 1, steps=options.steps, rows=(step + 1) * len(label)))
        return LevelsModel(options.column, segments, levels)

    def load(self, directory: Path) -> FixedEffectModel:
        """Return the model that lies in a directory."""
        try:
            found = json.loads((directory / _FILE).read_text(encoding="utf-8"))
            return LevelsModel(found["column"], found["segments"], np.array(found["levels"], np.float64))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{directory}: holds no levels of segments: {error}") from error


class LevelsModel(FixedEffectModel):
    """The levels: one for each segment, and the last one for rows without a known segment."""

    def __init__(self, column: str, segments: Sequence[str], levels: Float64Array) -> None:
        self._column = column
        self._segments = list(segments)
        self._levels = levels

    def score(self, columns: pa.RecordBatch) -> Float64Array:
        """Return the level of each row's segment."""
        scores: Float64Array = self._levels[_codes(columns.column(self._column), self._segments)]
        return scores

    def save(self, directory: Path) -> None:
        """Write the levels as JSON."""
        found = {"column": self._column, "segments": self._segments, "levels": self._levels.tolist()}
        (directory / _FILE).write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")

    def describe(self) -> dict[str, float | str]:
        """Return the number of segments."""
        return {"segments": float(len(self._segments))}


def _codes(column: Any, segments: Sequence[str]) -> Any:
    """Return each row's segment by its place, int64[rows]; what is not known is behind the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, value_set=pa.array(segments, pa.string()))
    return pc.fill_null(found, len(segments)).to_numpy(zero_copy_only=False).astype(np.int64)


def _mean(task: Task, predictor: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return means and their derivatives by the linear predictor."""
    if task == "linear_regression":
        return predictor, np.ones_like(predictor)
    if task == "poisson_regression":
        mean = np.exp(np.minimum(predictor, 30.0))
        return mean, mean
    mean = 0.5 * (1.0 + np.tanh(0.5 * predictor))
    return mean, mean * (1.0 - mean)
