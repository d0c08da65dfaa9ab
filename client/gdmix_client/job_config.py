"""What a client accepts as a job: a checked config, a file, or plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from gdmix_core.config import JobConfig, config_from_json, config_to_json, load_config, resolve_paths

ConfigLike: TypeAlias = JobConfig | Mapping[str, object] | str | Path


def canonical_config(config: ConfigLike) -> str:
    """Return a job config as it crosses the wire, its paths absolute.

    Args:
        config: a checked config, a YAML file, or plain values; relative paths of a file are relative to the
            file, those of the others to the current directory.

    Raises:
        ConfigError: it has mistakes, or the file cannot be read.
    """
    if isinstance(config, (str, Path)):
        return config_to_json(load_config(config))
    checked = config if isinstance(config, JobConfig) else config_from_json(json.dumps(config, default=str))
    return config_to_json(resolve_paths(checked, Path.cwd()))
