"""Names of sources, and of the files in the directories of attempts."""

from __future__ import annotations

MAIN_SOURCE = ""
"""The source of the files that hold labels, weights and offsets: `data` itself."""
PARTIAL_INDEX_FILE = "partial_index.arrow"
FEATURE_INDEX_FILE = "feature_index.parquet"
SPILL_FILE = "spill.arrow"
ROWS_FILE = "rows.arrow"
PARTITION_FILE = "partition.arrow"
SCORES_FILE = "scores.arrow"
VALIDATION_SCORES_FILE = "validation_scores.arrow"
OFFSETS_FILE = "offsets.arrow"
COEFFICIENTS_FILE = "coefficients.parquet"
THETA_FILE = "theta.arrow"
RUN_FILE = "run.arrow"
LINEARISED_FILE = "linearised.arrow"
SYSTEM_FILE = "system.arrow"
ITERATE_FILE = "iterate.arrow"
STEP_FILE = "step.arrow"
CROSSING_FILE = "crossing.arrow"
COLUMNS_FILE = "columns.arrow"
SPILL_PART_FILE = "store_part"
INPUT_SPILL_FILE = "input_spill.arrow"
PLUGIN_MODEL_FOLDER = "model"
PLUGIN_FOLDER = "plugin"
"""Of a coordinate in a model directory, and in a store."""


def design_file(coordinate: str) -> str:
    """Name of a home shard's design file for a fixed-effect coordinate."""
    return f"design-{coordinate}.arrow"


def inputs_file(coordinate: str) -> str:
    """Name of a home shard's columns for a fixed effect that is plugged in."""
    return f"inputs-{coordinate}.arrow"


def plugin_scores(directory: str, role: str, shard: int) -> str:
    """Directory of one home shard's score block below that of a unit which scores several."""
    return f"{directory}/{role}-{shard:05d}"


def grouping_file(grouping: str) -> str:
    """Name of a home shard's rows grouped by partition, for a random effect or a per-entity metric."""
    return f"grouping-{grouping}.arrow"


def external_directory(shard_directory: str, coordinate: str) -> str:
    """Where a home shard's directory holds the score block of an external fixed effect."""
    return f"{shard_directory}/external-{coordinate}"


def score_source(coordinate: str) -> str:
    """Name of the source that holds the scores of an external fixed effect; no config can give it."""
    return f"scores:{coordinate}"


def metric_offsets_file(grouping: str) -> str:
    """Name of a validation shard's linear predictors grouped by partition, for a per-entity metric."""
    return f"predictors-{grouping}.arrow"


def shares_file(coordinate: str) -> str:
    """Name of what a home shard hands to the parts of a coordinate while the joint systems are solved."""
    return f"shares-{coordinate}.arrow"
