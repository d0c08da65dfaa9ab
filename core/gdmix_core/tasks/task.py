"""What every task and every result has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Role = Literal["train", "validation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Base of all tasks; `kind` names the class on the wire."""

    kind: ClassVar[str] = ""
    output: str
    """Directory of this attempt; the worker creates it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Base of all results."""

    seconds: float
    """Wall time of the work."""
