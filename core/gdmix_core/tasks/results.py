"""Results in the layout of LinkedIn GDMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.task import Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearResults(Task):
    """Remove the results of an earlier job of the same output, and make room for those of this one."""

    kind = "clear_results"
    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsCleared(TaskResult):
    """The directories are there, and empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteScores(Task):
    """Write one home shard's scores of a coordinate as Avro."""

    kind = "write_scores"
    path: str
    input: ShardInput
    """The shard, with the other coordinates' scores that were its offset."""
    own_scores: str
    """Directory of the coordinate's own score block."""
    uid: str
    label: str
    weight: str
    integer_label: bool
    """Whether labels are written as integers, as they are 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresWritten(TaskResult):
    """A score file is there."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteModelFile(Task):
    """Write one coefficient file of a coordinate as Avro."""

    kind = "write_model_file"
    path: str
    coordinate: str
    effect: Literal["fixed_effect", "random_effect"]
    directory: str
    """Where COEFFICIENTS_FILE lies."""
    index: str
    bags: tuple[str, ...]
    intercept: bool
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFileWritten(TaskResult):
    """A model file is there."""

    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSummary(Task):
    """Write a coordinate's metrics as JSON."""

    kind = "write_summary"
    path: str
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryWritten(TaskResult):
    """A summary is there."""
