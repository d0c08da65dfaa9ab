"""Progress of a job on stderr: a live line on a terminal, one plain line for each stage elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from gdmix_client.cli.printing import duration, note
from gdmix_client.types import (
    CoordinateReport,
    FitProgress,
    JobEvent,
    Notice,
    Progress,
    Published,
    StateChanged,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

SHORT_STAGE_SECONDS = 0.5
"""On a terminal, stages shorter than this leave no line behind."""


class ProgressView(Protocol):
    """Shows events as they come."""

    def show(self, event: JobEvent) -> None:
        """Show one event."""

    def close(self) -> None:
        """Finish what is still open on the screen."""


def progress_view(*, quiet: bool) -> ProgressView:
    """Return the view that suits stderr."""
    if quiet:
        return SilentView()
    return LiveView() if sys.stderr.isatty() else PlainView()


class SilentView:
    """Shows warnings only."""

    def show(self, event: JobEvent) -> None:
        """Show one event."""
        if isinstance(event.detail, Notice) and event.detail.warning:
            note(f"warning: {event.detail.text}")

    def close(self) -> None:
        """Do nothing."""


class PlainView:
    """One line for each stage, once it is over."""

    def __init__(self) -> None:
        self._latest: Progress | None = None

    def show(self, event: JobEvent) -> None:
        """Show one event."""
        detail = event.detail
        if isinstance(detail, Progress):
            if self._latest is not None and _stage_of(self._latest) != _stage_of(detail):
                self.close()
            self._latest = detail
            return
        if not isinstance(detail, StateChanged) or event.state.ended:
            self.close()  # a job that begins to run may be in its first stage already
        if text := story_line(event):
            note(text)

    def close(self) -> None:
        """Print the line of the stage that is open."""
        if self._latest is not None:
            note(stage_line(self._latest))
            self._latest = None


class LiveView:
    """The running stage on a line that changes, what is finished above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._latest: Progress | None = None

    def show(self, event: JobEvent) -> None:
        """Show one event."""
        detail = event.detail
        if isinstance(detail, Progress):
            if self._latest is not None and _stage_of(self._latest) != _stage_of(detail):
                self._leave_line()
            self._latest = detail
            self._refresh(detail)
            return
        if text := story_line(event):
            self._console.print(text, markup=False)

    def close(self) -> None:
        """Take the live line away."""
        self._leave_line()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _leave_line(self) -> None:
        if self._latest is not None and self._latest.stage_seconds >= SHORT_STAGE_SECONDS:
            self._console.print(stage_line(self._latest), markup=False, style="dim")
        self._latest = None

    def _refresh(self, progress: Progress) -> None:
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, progress.units_total), completed=progress.units_done, width=24)
        line.add_row(_title(progress), bar, ", ".join(_figures(progress)))
        if self._live is None:
            self._live = Live(line, console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        else:
            self._live.update(line)


def story_line(event: JobEvent) -> str:
    """Return what a person reads of an event that is no progress; "" when there is nothing to say."""
    detail = event.detail
    if isinstance(detail, Notice):
        return f"warning: {detail.text}" if detail.warning else detail.text
    if isinstance(detail, CoordinateReport):
        return coordinate_line(detail)
    if isinstance(detail, Published):
        return f"published version {detail.version}" + ("" if detail.activated else " (not activated)")
    if isinstance(detail, StateChanged):
        return f"job {event.job_id} is {event.state}"
    return ""


def coordinate_line(report: CoordinateReport) -> str:
    """Return one line on a trained coordinate."""
    metrics = ", ".join(
        f"{metric.name} {'undefined' if metric.value is None else f'{metric.value:.4f}'}"
        for metric in report.validation
    )
    entities = f"{report.entities:,} entities, " if report.kind == "random_effect" else ""
    unconverged = f", {report.unconverged:,} unconverged" if report.unconverged else ""
    return (
        f"{report.name} (pass {report.pass_number}): {entities}{report.rows:,} rows, "
        f"{duration(report.seconds)}{unconverged}{f', validation {metrics}' if metrics else ''}"
    )


def stage_line(progress: Progress) -> str:
    """Return one line on a stage."""
    return f"{_title(progress)}: {', '.join(_figures(progress))}"


def member_lines(progress: Progress) -> list[str]:
    """Return a line on each member of a gang, by rank."""
    width = max((len(member.worker_id) for member in progress.members), default=0)
    return [
        f"{rank}  {member.worker_id:<{width}}  {member.state:<8}  {member.address}".rstrip()
        for rank, member in enumerate(progress.members)
    ]


def _stage_of(progress: Progress) -> tuple[str, str, int]:
    return progress.stage, progress.coordinate, progress.pass_number


def _title(progress: Progress) -> str:
    if not progress.coordinate:
        return progress.stage
    return f"{progress.coordinate} (pass {progress.pass_number}): {progress.stage}"


def _figures(progress: Progress) -> list[str]:
    """Return units, rounds, rates and the time that is left."""
    seconds, figures = progress.stage_seconds, []
    if progress.round_number:
        figures.append(f"round {progress.round_number}")
        if progress.objective or progress.gradient_ratio:
            figures.append(f"objective {progress.objective:.6g}")
            figures.append(f"gradient {progress.gradient_ratio:.3g} × tolerance")
    elif progress.members:
        figures.append(f"{progress.units_done}/{progress.units_total} members finished")
    elif progress.fit is not None:
        figures += _fit_figures(progress.fit)
    elif progress.units_total > 1:
        figures.append(f"{progress.units_done:,}/{progress.units_total:,} units")
    if seconds >= SHORT_STAGE_SECONDS:
        for count, what in ((progress.rows_done, "rows"), (progress.entities_done, "entities")):
            if count:
                figures.append(f"{count / seconds:,.0f} {what}/s")
    figures.append(duration(seconds))
    if 0 < progress.units_done < progress.units_total and not (progress.round_number or progress.members):
        left = seconds * (progress.units_total - progress.units_done) / progress.units_done
        figures.append(f"{duration(left)} left")
    return figures


def _fit_figures(fit: FitProgress) -> list[str]:
    """Return steps, loss, metrics and speed of a plug-in's fit."""
    figures = [f"step {fit.step:,}/{fit.steps:,}"]
    if fit.loss is not None:
        figures.append(f"loss {fit.loss:.5g}")
    figures += [f"{name} {value:.5g}" for name, value in fit.metrics.items()]
    if fit.rows_per_second:
        figures.append(f"{fit.rows_per_second:,.0f} rows/s")
    return figures
