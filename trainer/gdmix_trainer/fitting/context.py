"""What a fit may use, in the process that it runs in."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gdmix_core.fixed_effects.plugin import FitProgress as Reported
from gdmix_core.fixed_effects.plugin import Gang, Task
from gdmix_core.tasks import PluginNotice
from gdmix_trainer.fitting.request import NOTICE, PROGRESS
from gdmix_trainer.messages import FitProgress

if TYPE_CHECKING:
    from gdmix_core.parent_link import ParentLink

_SECONDS_BETWEEN_REPORTS = 0.2


class ProcessContext:
    """A `FitContext` that tells the worker what it is told; reports that come too fast are dropped.

    Attributes:
        steps: Done, as last reported.
        notices: All so far.
    """

    def __init__(
        self,
        link: ParentLink,
        *,
        task: Task,
        seed: int,
        threads: int,
        checkpoints: Path,
        logs: Path,
        gang: Gang | None = None,
    ) -> None:
        self.task = task
        self.seed = seed
        self.threads = threads
        self.checkpoints = checkpoints
        self.logs = logs
        self.gang = gang
        self.steps = 0
        self.notices: list[PluginNotice] = []
        self._link = link
        self._last_seconds = -_SECONDS_BETWEEN_REPORTS
        self._last_rows = 0

    def report(self, progress: Reported) -> None:
        """Pass a report on, unless one was passed on just now; the last step always is."""
        self.steps = max(self.steps, progress.step)
        now = time.monotonic()
        passed = now - self._last_seconds
        if passed < _SECONDS_BETWEEN_REPORTS and progress.step < progress.steps:
            return
        told = FitProgress(
            step=progress.step,
            steps=progress.steps,
            rows=progress.rows,
            loss=None if progress.loss is None else float(progress.loss),
            metrics={name: float(value) for name, value in progress.metrics.items()},
        )
        if self._last_rows and passed > 0:
            told = replace(told, rows_per_second=max(0, progress.rows - self._last_rows) / passed)
        self._last_seconds, self._last_rows = now, progress.rows
        self._link.report(PROGRESS, **asdict(told))

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Keep a notice; it becomes part of the job's record with the result."""
        self.notices.append(PluginNotice(text=text, warning=warning))
        self._link.report(NOTICE, text=text, warning=warning)
