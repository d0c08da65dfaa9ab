"""Which groups of a coordinate's coefficients have a shrinkage that is learned."""

from __future__ import annotations

from gdmix_core.config.coordinates import AUTO, MOST_LEARNED_COLUMNS, ExternalEffect
from gdmix_core.config.features import columns_of_bags
from gdmix_core.config.job import JobConfig
from gdmix_core.config.plugged import PluggedEffect


def learned_groups(config: JobConfig, name: str) -> tuple[str, ...]:
    """Return the groups of a coordinate whose ridge strength is `auto`, by their names in `l2`.

    With `l2: auto` they are the intercept, where it is regularised, and each feature column, or each bag where there
    are more than 16 columns; with strengths by group, those that say so.
    """
    coordinate = config.coordinates[name]
    if isinstance(coordinate, (ExternalEffect, PluggedEffect)):
        return ()
    if isinstance(coordinate.l2, dict):
        return tuple(group for group, strength in coordinate.l2.items() if strength == AUTO)
    if coordinate.l2 != AUTO:
        return ()
    columns = tuple(dict.fromkeys(columns_of_bags(config.features, coordinate.features)))
    intercept = ("intercept",) if coordinate.intercept and coordinate.regularize_bias else ()
    return (*intercept, *(columns if len(columns) <= MOST_LEARNED_COLUMNS else coordinate.features))
