"""Job configs: models, reading, checking."""

from gdmix_core.config.features import FeatureColumn, FeatureKind, columns_of_bags
from gdmix_core.config.job import (
    AnyCoordinate,
    Columns,
    Coordinate,
    DataConfig,
    FixedEffect,
    JobConfig,
    RandomEffect,
)
from gdmix_core.config.load import (
    config_digest,
    config_from_json,
    config_to_json,
    load_config,
    parse_config,
    resolve_paths,
)

__all__ = [
    "AnyCoordinate",
    "Columns",
    "Coordinate",
    "DataConfig",
    "FeatureColumn",
    "FeatureKind",
    "FixedEffect",
    "JobConfig",
    "RandomEffect",
    "columns_of_bags",
    "config_digest",
    "config_from_json",
    "config_to_json",
    "load_config",
    "parse_config",
    "resolve_paths",
]
