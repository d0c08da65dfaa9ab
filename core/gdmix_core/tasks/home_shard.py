"""A home shard as training and scoring read it, and what scoring one answers."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.tasks.task import TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInput:
    """One home shard as training and scoring read it."""

    shard: int
    directory: str
    scores: tuple[str, ...]
    """Directories of this shard's score blocks whose sum is the offset, in coordinate order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardScored(TaskResult):
    """A score block lies in the attempt's directory."""

    rows: int
