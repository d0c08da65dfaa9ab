"""Job configs: models, reading, checking."""

from gdmix_core.config.center import with_means
from gdmix_core.config.coordinates import (
    AUTO,
    AnyCoordinate,
    Coordinate,
    ExternalEffect,
    FixedEffect,
    RandomEffect,
    ScoreFiles,
    is_path,
)
from gdmix_core.config.data import Columns, DataConfig, DataFormat, Source
from gdmix_core.config.features import FeatureColumn, FeatureKind, columns_of_bags
from gdmix_core.config.inputs import input_specs
from gdmix_core.config.job import JobConfig, with_values
from gdmix_core.config.load import (
    config_digest,
    config_from_json,
    config_to_json,
    load_config,
    parse_config,
    resolve_paths,
)
from gdmix_core.config.plugged import PluggedEffect
from gdmix_core.config.shrinkage import learned_groups

__all__ = [
    "AUTO",
    "AnyCoordinate",
    "Columns",
    "Coordinate",
    "DataConfig",
    "DataFormat",
    "ExternalEffect",
    "FeatureColumn",
    "FeatureKind",
    "FixedEffect",
    "JobConfig",
    "PluggedEffect",
    "RandomEffect",
    "ScoreFiles",
    "Source",
    "columns_of_bags",
    "config_digest",
    "config_from_json",
    "config_to_json",
    "input_specs",
    "is_path",
    "learned_groups",
    "load_config",
    "parse_config",
    "resolve_paths",
    "with_means",
    "with_values",
]
