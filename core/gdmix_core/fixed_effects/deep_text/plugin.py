"""The plug-in: what others call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gdmix_core.fixed_effects.deep_text.evaluation import METRICS
from gdmix_core.fixed_effects.deep_text.options import DeepTextOptions
from gdmix_core.fixed_effects.plugin import (
    FitContext,
    FitData,
    FixedEffectModel,
    FixedEffectPlugin,
    InputColumn,
    Task,
)

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.deep_text.model import DeepTextModel


class DeepText(FixedEffectPlugin[DeepTextOptions]):
    """Deep and wide networks over texts, numbers and categories, by TensorFlow."""

    options = DeepTextOptions
    training = "gang"
    extra = "gdmix[tensorflow]"

    def columns(self, options: DeepTextOptions) -> Sequence[InputColumn]:
        """Return every column that the options name."""
        return tuple(options.inputs())

    def check(self, options: DeepTextOptions, task: Task) -> None:
        """Refuse an early stopping metric that the task does not have."""
        metric = options.early_stopping.metric if options.early_stopping else None
        if metric is not None and metric not in METRICS[task]:
            raise ValueError(
                f"early_stopping.metric: found {metric} with {task}; allowed are {', '.join(METRICS[task])}"
            )

    def members(self, options: DeepTextOptions) -> int:
        """Return `workers`."""
        return options.workers

    def fit(self, options: DeepTextOptions, data: FitData, context: FitContext) -> FixedEffectModel:
        """Train the network."""
        from gdmix_core.fixed_effects.deep_text.fitting import fit

        return fit(options, data, context)

    def load(self, directory: Path) -> DeepTextModel:
        """Load the exported graph."""
        from gdmix_core.fixed_effects.deep_text.model import DeepTextModel

        return DeepTextModel.load(directory)
