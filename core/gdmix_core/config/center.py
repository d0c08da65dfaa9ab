"""Random effects around a mean that is learned, not around 0 (`center: true`)."""

from __future__ import annotations

from gdmix_core.config.coordinates import AnyCoordinate, FixedEffect, RandomEffect
from gdmix_core.config.job import JobConfig, mean_coordinate


def with_means(config: JobConfig) -> tuple[JobConfig, list[str]]:
    """Return the config with the means of centred random effects in the fixed effect's place, and what that changed.

    An entity's coefficients are then the mean's, which are the fixed effect's, plus deviations around 0; an entity
    without a model has the mean. The first native fixed effect gets the features that it lacks; where there is none,
    each random effect gets one of its own, named `<random effect>_mean`, ahead of the first random effect.
    """
    changes: list[str] = []
    coordinates = dict(config.coordinates)
    for name, coordinate in config.coordinates.items():
        if not (isinstance(coordinate, RandomEffect) and coordinate.center):
            continue
        target = mean_coordinate(config, name)
        fixed = coordinates.get(target)
        if isinstance(fixed, FixedEffect):
            bags = tuple(bag for bag in coordinate.features if bag not in fixed.features)
            intercept = coordinate.intercept and not fixed.intercept
            added = [*(f"bag {bag}" for bag in bags), *(["an intercept"] if intercept else [])]
            what = f"{', '.join(added)} added" if added else "it has all of their features already"
            coordinates[target] = fixed.model_copy(
                update={"features": (*fixed.features, *bags), "intercept": fixed.intercept or intercept}
            )
            changes.append(f"center: {name}'s mean coefficients are fitted by {target}: {what}")
        else:
            mean = FixedEffect(
                fixed_effect=config.task, features=coordinate.features, intercept=coordinate.intercept
            )
            coordinates = _ahead_of_random_effects(coordinates, target, mean)
            changes.append(
                f"center: {name}'s mean coefficients are fitted by {target}, a fixed effect of their own"
            )
    return (config.model_copy(update={"coordinates": coordinates}) if changes else config), changes


def _ahead_of_random_effects(
    coordinates: dict[str, AnyCoordinate], name: str, mean: FixedEffect
) -> dict[str, AnyCoordinate]:
    found: dict[str, AnyCoordinate] = {}
    for other, coordinate in coordinates.items():
        if isinstance(coordinate, RandomEffect):
            found.setdefault(name, mean)
        found[other] = coordinate
    return found
