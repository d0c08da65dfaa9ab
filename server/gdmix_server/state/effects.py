"""What one event brings about: instructions in order, and each changed job's row once."""

from __future__ import annotations

from typing import Protocol

from gdmix_server.state.instructions import Instruction, SaveJob
from gdmix_server.state.model import JobRow


class HasRow(Protocol):
    """Something that keeps a job's row."""

    row: JobRow


class Effects:
    """The batch of one event; jobs are saved as they are when it is finished."""

    __slots__ = ("_changed", "_instructions", "now")

    def __init__(self, now: float) -> None:
        self.now = now
        self._instructions: list[Instruction] = []
        self._changed: dict[str, HasRow] = {}

    def add(self, instruction: Instruction) -> None:
        """Append an instruction."""
        self._instructions.append(instruction)

    def save(self, job: HasRow) -> None:
        """Have the job's row journaled with this batch."""
        self._changed[job.row.job_id] = job

    def finish(self) -> list[Instruction]:
        """Return the batch."""
        return [*(SaveJob(row=job.row) for job in self._changed.values()), *self._instructions]
