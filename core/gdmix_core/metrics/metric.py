"""What a metric is: its name, which direction is better, which tasks it fits, and its value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gdmix_core.errors import UsageError
from gdmix_core.metric_value import MetricValue
from gdmix_core.solvers.losses import Loss

__all__ = ["Metric", "MetricKind", "MetricValue", "parse_metric"]


class MetricKind(IntEnum):
    """The formulas; the number is what kernels branch on.

    With labels y, means μ(z) and weights w: log loss, MSE and Poisson deviance are weighted means over rows
    of log(1 + e^z) − y·z, (y − μ)² and 2(y·log(y/μ) − y + μ); RMSE is the square root of MSE. AUC is the
    weighted share of (positive, negative) pairs in the right order, a tie counting half. AUPR is average
    precision: Σ over distinct scores, descending, of the gain in recall × precision, ties being one step.
    """

    AUC = 0
    AUPR = 1
    LOGLOSS = 2
    RMSE = 3
    MSE = 4
    POISSON_DEVIANCE = 5


_RANKING: Final = frozenset({MetricKind.AUC, MetricKind.AUPR})
_LOSSES: Final[dict[MetricKind, frozenset[Loss]]] = {
    MetricKind.AUC: frozenset({Loss.LOGISTIC}),
    MetricKind.AUPR: frozenset({Loss.LOGISTIC}),
    MetricKind.LOGLOSS: frozenset({Loss.LOGISTIC}),
    MetricKind.RMSE: frozenset(Loss),
    MetricKind.MSE: frozenset(Loss),
    MetricKind.POISSON_DEVIANCE: frozenset({Loss.POISSON}),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as a job names it, such as `auc` or `auc:user_id`.

    Attributes:
        kind: The formula.
        entity_column: None over all rows; else the metric is the unweighted mean of its values for each
            entity of this column, over the entities where it is defined.
    """

    kind: MetricKind
    entity_column: str | None = None

    @property
    def name(self) -> str:
        """The name that `parse_metric` reads."""
        base = self.kind.name.lower()
        return base if self.entity_column is None else f"{base}:{self.entity_column}"

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.kind in _RANKING

    @property
    def ranking(self) -> bool:
        """Whether the order of all rows decides the value, which then takes sorted runs instead of sums."""
        return self.kind in _RANKING

    def fits(self, loss: Loss) -> bool:
        """Whether the metric makes sense for a model of this loss."""
        return loss in _LOSSES[self.kind]

    def improves(self, value: MetricValue, best: MetricValue | None) -> bool:
        """Whether `value` is strictly better than `best`; any value is better than none."""
        if value.value is None:
            return False
        if best is None or best.value is None:
            return True
        return value.value > best.value if self.higher_is_better else value.value < best.value


def parse_metric(name: str) -> Metric:
    """Read a metric's name: a formula's name, or that and `:` and the entity column of a per-entity average.

    Raises:
        UsageError: No metric has this name.
    """
    base, colon, column = name.partition(":")
    known = {kind.name.lower(): kind for kind in MetricKind}
    if base not in known or (colon and not column):
        raise UsageError(
            f"metric {name!r} is unknown; allowed are {', '.join(known)}, "
            "each alone or with :COLUMN for its average over entities"
        )
    return Metric(known[base], column if colon else None)
