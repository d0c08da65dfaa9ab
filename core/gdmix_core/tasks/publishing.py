"""The model, the store, and the end of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.tasks.task import Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStore(Task):
    """Look whether the store can be published to, before hours of training."""

    kind = "check_store"
    store: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChecked(TaskResult):
    """The store answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginPublish(Task):
    """Take a version number from the store and read what is active."""

    kind = "begin_publish"
    store: str
    model: str
    epoch: int
    owner: str
    """Identity of the journal that the epoch belongs to."""
    model_root: str
    """`<output>/models`: versions that lie there are not given out again by a store that was emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBegun(TaskResult):
    """The version to be written."""

    ticket: PublishTicket


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """What a trained coordinate leaves to be put together."""

    coordinate: str
    directories: tuple[str, ...]
    """Fixed effect: the finished one. Random effect: all partitions' results, in partition order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishModel(Task):
    """Put the model directory together under a temporary name and rename it into place."""

    kind = "finish_model"
    job_id: str
    config_json: str
    model_root: str
    """`<output>/models`."""
    version: int
    index: str
    parts: tuple[ModelPart, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    """What only the coordinator knows: metrics, counts, dimensions, by the manifest's keys."""
    run: dict[str, Any] = field(default_factory=dict)
    """Times, hosts and job ids, for run.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFinished(TaskResult):
    """Where the model directory is, and the digest of what decides its scores."""

    directory: str
    content_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPart(Task):
    """Write one coefficient file of a random effect to the store (or to a spill for an embedded one)."""

    kind = "publish_part"
    store: str
    ticket: PublishTicket
    coordinate: str
    part: int
    model_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPublished(TaskResult):
    """One coefficient file is in the store, or in a spill."""

    coordinate: str
    entities: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishPublish(Task):
    """Write blobs and manifest, verify counts and checksums, seal, activate by compare-and-set, clean up."""

    kind = "finish_publish"
    store: str
    ticket: PublishTicket
    activate: bool
    keep: int
    model_directory: str
    parts: tuple[PartPublished, ...]
    spills: tuple[str, ...]
    """Directories of the accepted PublishPart attempts, for an embedded store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishFinished(TaskResult):
    """The version is sealed."""

    activated: bool
    winner: int | None
    """The version that is active instead, when `activated` is false because of another publisher."""
    entities: int
    removed_versions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveWork(Task):
    """Delete the job's working files."""

    kind = "remove_work"
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRemoved(TaskResult):
    """The working files are gone."""
