"""What a program is given."""

from __future__ import annotations

from dataclasses import dataclass

from gdmix_core.config import JobConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInput:
    """What a program may know of its job; nothing in it changes while the job lives."""

    job_id: str
    config: JobConfig
    work_directory: str
    store: str
    epoch: int
    """Of the coordinator that runs the program now; only publishing uses it."""
    owner: str = ""
    """Identity of that coordinator's journal: epochs of different journals cannot be compared."""
