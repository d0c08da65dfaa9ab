"""What a worker and the process in which a plug-in works tell each other.

The request is one JSON object on stdin. Answers are lines of JSON on the inherited socket (`ParentLink`): any number
of `progress` and `notice`, then one `done` or `failed`. When the worker's end closes, the process ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROGRESS: Final = "progress"
NOTICE: Final = "notice"
DONE: Final = "done"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRequest:
    """A task of the worker's, as it came from the coordinator."""

    kind: str
    task_json: str
    threads: int
    """Threads that the work may keep busy."""
    checkpoints: str
    """Directory that outlives attempts of the unit."""
    logs: str
    """Directory for event files."""
    rank: int = 0
    """Of a gang's member."""
    addresses: tuple[str, ...] = ()
    """HOST:PORT of a gang's members by rank; none where one process fits."""
