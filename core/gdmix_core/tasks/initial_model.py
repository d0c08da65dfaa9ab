"""The model that a job begins with: open it, take its index over, score with it."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.tasks.preparation import InspectData
from gdmix_core.tasks.task import Role, Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel(Task):
    """Look at the model that a job begins with; of a results tree of LinkedIn GDMix, make a model directory."""

    kind = "open_model"
    initial: str
    """Directory of a model version, or one that holds `<coordinate>/models/*.avro`."""
    config_json: str
    """The job's config, in its canonical form."""
    inspect: InspectData
    """How the job's data are inspected: their columns tell what the features of a results tree are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOpened(TaskResult):
    """What a job needs to know of the model that it begins with."""

    task: str
    coordinates: tuple[OpenedCoordinate, ...]
    directory: str = ""
    """The model directory to use from now on; empty for the one that was asked for."""
    notices: tuple[str, ...] = ()
    """What a person should know of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCoordinate:
    """A coordinate of the model that a job begins with."""

    name: str
    effect: str
    """`external`, another fixed effect's name, or `random_effect`."""
    features: tuple[str, ...]
    intercept: bool
    entity_column: str
    parts: int
    """Coefficient files of a random effect, cut by the hash of the entity."""
    columns: tuple[str, ...] = ()
    """Data columns that a plug-in reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeIndex(Task):
    """Take the feature index of a model as it is."""

    kind = "take_index"
    initial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFixedEffect(Task):
    """Write a model's fixed effect as THETA_FILE, as scoring reads it."""

    kind = "load_fixed_effect"
    initial: str
    coordinate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectLoaded(TaskResult):
    """A fixed effect lies in the attempt's directory."""

    coefficients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePartition(Task):
    """Score one partition's rows with the same partition of a model."""

    kind = "score_partition"
    role: Role
    initial: str
    coordinate: str
    partition: int
    partition_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScored(TaskResult):
    """Scores of a partition lie in the attempt's directory, under the role's name."""

    rows: int
    rows_unseen: int
    """Rows whose entity the model does not have: they score 0 here."""
