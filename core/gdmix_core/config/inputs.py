"""Which data columns the plug-ins of a job read."""

from __future__ import annotations

from gdmix_core.config.job import JobConfig
from gdmix_core.config.plugged import PluggedEffect
from gdmix_core.data.layout import InputSpec


def input_specs(config: JobConfig) -> dict[str, tuple[InputSpec, ...]]:
    """Return the columns by coordinate."""
    return {
        name: tuple(
            InputSpec(name=column.name, kind=column.kind, dimension=column.dimension, source=column.source)
            for column in coordinate.columns
        )
        for name, coordinate in config.coordinates.items()
        if isinstance(coordinate, PluggedEffect)
    }
