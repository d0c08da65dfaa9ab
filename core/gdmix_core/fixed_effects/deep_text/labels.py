"""What is known of the labels before training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from gdmix_core.fixed_effects.plugin import Rows, Task

_MARGIN: Final = 1e-3


@dataclass(slots=True)
class LabelSummary:
    """Sums over the training rows.

    Attributes:
        rows: number of rows.
        weight: sum of weights.
        label: weighted sum of labels.
        offset: weighted sum of offsets.
        residual: weighted sum of label - offset.
        squares: weighted sum of its squares.
    """

    rows: int = 0
    weight: float = 0.0
    label: float = 0.0
    offset: float = 0.0
    residual: float = 0.0
    squares: float = 0.0

    def add(self, rows: Rows) -> None:
        """Count some rows."""
        residual = rows.label - rows.offset
        self.rows += len(rows)
        self.weight += float(rows.weight.sum())
        self.label += float(rows.weight @ rows.label)
        self.offset += float(rows.weight @ rows.offset)
        self.residual += float(rows.weight @ residual)
        self.squares += float(rows.weight @ np.square(residual))

    def start(self, task: Task) -> float:
        """Return the best constant score, offsets taken as their mean."""
        if not self.weight:
            return 0.0
        mean, offset = self.label / self.weight, self.offset / self.weight
        if task == "logistic_regression":
            mean = min(max(mean, _MARGIN), 1 - _MARGIN)
            return math.log(mean / (1 - mean)) - offset
        if task == "poisson_regression":
            return math.log(max(mean, _MARGIN)) - offset
        return mean - offset

    def spread(self, task: Task) -> float:
        """Return the standard deviation of label - offset for a linear regression, 1 for the others."""
        if task != "linear_regression" or not self.weight:
            return 1.0
        mean = self.residual / self.weight
        return math.sqrt(max(self.squares / self.weight - mean * mean, 0.0)) or 1.0
