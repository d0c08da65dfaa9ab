"""Fixed effects that are plugged in: fit, score; for those that the coordinator fits, derivatives."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdmix_core.data.layout import InputSpec
from gdmix_core.tasks.home_shard import ShardInput
from gdmix_core.tasks.task import Role, Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginUse:
    """A plug-in as one coordinate uses it."""

    coordinate: str
    plugin: str
    options_json: str
    """What its model of options reads."""
    columns: tuple[InputSpec, ...]
    task: str
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginNotice:
    """Something that a plug-in said and that is kept in the job's record."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFileFacts:
    """A file of a saved model."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlugin(Task):
    """Have a plug-in fit its model; save it into PLUGIN_MODEL_FOLDER, which the first member of a gang does."""

    kind = "fit_plugin"
    use: PluginUse
    train: tuple[ShardInput, ...]
    validation: tuple[ShardInput, ...]
    members: int = 1
    """Workers that fit it together; with more than one, the unit's number is the member's rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFitted(TaskResult):
    """A saved model lies in the attempt's directory."""

    distribution: str
    version: str
    files: dict[str, PluginFileFacts]
    facts: dict[str, float | str] = field(default_factory=dict)
    """What the model says of itself: steps, trees, parameters."""
    steps: int = 0
    notices: tuple[PluginNotice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredShard:
    """A home shard that is to be scored."""

    role: Role
    shard: int
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlugin(Task):
    """Write the score blocks of some home shards, each into its `plugin_scores` directory."""

    kind = "score_plugin"
    use: PluginUse
    directory: str
    """Of the saved model's files."""
    shards: tuple[ScoredShard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginScored(TaskResult):
    """Score blocks lie below the attempt's directory."""

    rows: int
