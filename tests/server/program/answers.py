"""What stages are answered with, where tests of programs need the same."""

from __future__ import annotations

from gdmix_core import tasks
from gdmix_server.state.model import FixedEffectOutcome

OPENED = (
    tasks.OpenedCoordinate(
        name="global",
        effect="logistic_regression",
        features=("user", "movie"),
        intercept=True,
        entity_column="",
        parts=0,
    ),
    tasks.OpenedCoordinate(
        name="per_user",
        effect="random_effect",
        features=("movie",),
        intercept=True,
        entity_column="user_id",
        parts=3,
    ),
)
"""The coordinates of the model that a job begins with."""
OPTIMISED = FixedEffectOutcome(
    status="converged",
    converged=True,
    iterations=6,
    evaluations=7,
    objective=1.0,
    gradient_norm=0.0,
    gradient_ratio=0.5,
    has_variances=False,
    seconds=1.0,
)
