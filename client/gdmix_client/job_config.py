"""What a client accepts as a job: a checked config, a file, or plain values."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from gdmix_core.config import JobConfig, config_from_json, config_to_json, resolve_paths
from gdmix_core.config.load import load_with_notes

_log = logging.getLogger(__name__)

ConfigLike: TypeAlias = JobConfig | Mapping[str, object] | str | Path


def canonical_config(config: ConfigLike) -> str:
    """Return a job config as it crosses the wire, its paths absolute.

    Args:
        config: a checked config, a YAML file (of LinkedIn GDMix too: what is left out of it is logged), or plain
            values; relative paths of a file are relative to the file, those of the others to the current directory.

    Raises:
        ConfigError: it has mistakes, or the file cannot be read.
    """
    if isinstance(config, (str, Path)):
        loaded, notes = load_with_notes(config)
        for note in notes:
            _log.warning("%s", note)
        return config_to_json(loaded)
    checked = config if isinstance(config, JobConfig) else config_from_json(json.dumps(config, default=str))
    return config_to_json(resolve_paths(checked, Path.cwd()))
