"""What a finished job amounts to: the JSON document of `train --json`, and the table a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from math import exp
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from gdmix_client.cli.printing import duration, table
from gdmix_client.types import CoordinateReport, Job, Metric

MOST_ERROR: Final = 2.0
"""Standard errors of log variance beyond which a range says nothing."""


class ModelDocument(BaseModel):
    """Name and version of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int | None = Field(description="Number in the store; null when nothing was published.")


class GroupDocument(BaseModel):
    """A group of coefficients whose shrinkage was learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="As in the config's l2.")
    coefficients: int = Field(ge=0)
    l2: float = Field(ge=0)
    variance: float | None = Field(description="Prior variance; null where nothing is penalised.")
    effective: float = Field(ge=0, description="Coefficients that the data decide.")
    shrinkage: float = Field(description="1 - effective / coefficients.")
    error: float | None = Field(description="Standard error of the variance's logarithm; null when unknown.")
    learned: bool


class CoordinateDocument(BaseModel):
    """One coordinate, as trained in the pass that was kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["fixed_effect", "random_effect"]
    entities: int = Field(ge=0)
    rows: int = Field(ge=0)
    unconverged: int = Field(ge=0)
    seconds: float = Field(ge=0)
    validation: dict[str, float | None] = Field(
        description="Metrics of the model as it stood after this coordinate; null where undefined."
    )
    shrinkage: list[GroupDocument] = Field(
        default_factory=list, description="By group of coefficients; left out when none was learned."
    )


class TrialDocument(BaseModel):
    """One point of a search's grid, as measured after its last pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trial: int = Field(ge=1)
    values: dict[str, Any] = Field(description="Values by their place in the config.")
    validation: dict[str, float | None] = Field(description="The whole model's metrics.")
    kept: bool = Field(description="Whether the published model is this one.")


class TrainDocument(BaseModel):
    """A training job that has come to an end; `validation` of the last coordinate is the whole model's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    model: ModelDocument
    coordinates: list[CoordinateDocument]
    trials: list[TrialDocument] = Field(
        default_factory=list,
        description="Every trial of a search, in order; left out when nothing is searched.",
    )
    output: str | None = Field(description="Directory of the model version; null when there is none.")
    seconds: float | None = Field(description="From start to end; null while the job has not ended.")


def train_document(job: Job) -> TrainDocument:
    """Return the document of a job; dump it with `exclude_unset`."""
    published = job.published
    return TrainDocument(
        job_id=job.job_id,
        state=job.state.value,
        model=ModelDocument(name=job.model, version=published.version if published else None),
        coordinates=[_coordinate_document(report) for report in job.kept_coordinates],
        **({"trials": trials} if (trials := _trials(job)) else {}),
        output=published.directory if published else None,
        seconds=job.seconds,
    )


def _trials(job: Job) -> list[TrialDocument]:
    last = {report.trial: report for report in job.coordinates if report.trial}
    kept = {report.trial for report in job.coordinates if report.kept}
    return [
        TrialDocument(
            trial=number,
            values={place: json.loads(value) for place, value in report.trial_values.items()},
            validation={metric.name: metric.value for metric in report.validation},
            kept=number in kept,
        )
        for number, report in sorted(last.items())
    ]


def trials_table(job: Job) -> str:
    """Return the table of a search's trials: what each tried, and how the whole model measured."""
    trials = _trials(job)
    places = list(trials[0].values)
    metrics = list(trials[0].validation)
    rows = [
        [
            f"{one.trial}{' *' if one.kept else ''}",
            *(str(one.values[place]) for place in places),
            *("undefined" if (value := one.validation[name]) is None else f"{value:.4f}" for name in metrics),
        ]
        for one in trials
    ]
    return table(
        ["trial", *places, *metrics], rows, numbers=range(1 + len(places), 1 + len(places) + len(metrics))
    )


def _coordinate_document(report: CoordinateReport) -> CoordinateDocument:
    return CoordinateDocument(
        name=report.name,
        kind="fixed_effect" if report.kind == "fixed_effect" else "random_effect",
        entities=report.entities,
        rows=report.rows,
        unconverged=report.unconverged,
        seconds=report.seconds,
        validation={metric.name: metric.value for metric in report.validation},
        **({"shrinkage": [GroupDocument(**asdict(g)) for g in report.shrinkage]} if report.shrinkage else {}),
    )


class Shrunk(Protocol):
    """A group of coefficients, as a job or a manifest has it."""

    @property
    def name(self) -> str:
        """Name in the config's `l2`."""
        ...

    @property
    def coefficients(self) -> int:
        """How many."""
        ...

    @property
    def l2(self) -> float:
        """Ridge strength."""
        ...

    @property
    def variance(self) -> float | None:
        """Prior variance."""
        ...

    @property
    def effective(self) -> float:
        """Coefficients that the data decide."""
        ...

    @property
    def shrinkage(self) -> float:
        """1 − effective / coefficients."""
        ...

    @property
    def error(self) -> float | None:
        """Standard error of log variance."""
        ...

    @property
    def learned(self) -> bool:
        """Whether it was learned."""
        ...


def shrinkage_table(coordinates: Iterable[tuple[str, Iterable[Shrunk]]]) -> str:
    """Return the table of what was learned of the coordinates' groups; "" when nothing was.

    The variance's range is one standard error of its logarithm to either side.
    """
    rows = [
        [
            f"{name}.{group.name}",
            f"{group.coefficients:,}",
            "" if group.variance is None else f"{group.variance:.3g}",
            _range(group),
            f"{group.l2:.3g}",
            f"{group.effective:,.1f}",
            f"{100 * group.shrinkage:.1f} %",
            "" if group.learned else "given",
        ]
        for name, groups in coordinates
        for group in groups
    ]
    headers = ["group", "coefficients", "variance", "range", "l2", "effective", "shrinkage", ""]
    return table(headers, rows, numbers=range(1, 7)) if rows else ""


def _range(group: Shrunk) -> str:
    if not group.variance or group.error is None:
        return ""
    if group.error > MOST_ERROR:
        return "unknown"
    return f"{group.variance * exp(-group.error):.2g} – {group.variance * exp(group.error):.2g}"


def coordinates_table(job: Job) -> str:
    """Return the table of a job's coordinates."""
    reports = job.kept_coordinates
    metrics = list(dict.fromkeys(metric.name for report in reports for metric in report.validation))
    headers = ["coordinate", "what it is", "entities", "rows", *metrics, "time", "unconverged"]
    seconds = _seconds_over_all_passes(job)
    rows = []
    for report in reports:
        values = {metric.name: metric_text(metric) for metric in report.validation}
        rows.append(
            [
                report.name,
                _what(report),
                f"{report.entities:,}",
                f"{report.rows:,}",
                *(values.get(name, "") for name in metrics),
                duration(seconds[report.name]),
                f"{report.unconverged:,}",
            ]
        )
    return table(headers, rows, numbers=range(2, len(headers)))


def summary(job: Job) -> str:
    """Return everything that a person wants to see of a job that succeeded."""
    passes = max((report.pass_number for report in job.coordinates), default=0)
    kept = max((report.pass_number for report in job.kept_coordinates), default=0)
    lines = [coordinates_table(job), ""]
    learned = shrinkage_table((report.name, report.shrinkage) for report in job.kept_coordinates)
    lines += [learned, ""] if learned else []
    if any(report.trial for report in job.coordinates):
        lines += [trials_table(job), "* measured best and is the one published.", ""]
    if any(report.validation for report in job.coordinates):
        lines.append(
            f"Metrics are of the model so far, on {job.validation_rows:,} validation rows; "
            "the last line is the whole model's."
        )
        lines += metric_notes(job.kept_coordinates[-1].validation)
        if passes > 1:
            why = "measured best and " if kept < passes else ""
            lines.append(f"Pass {kept} of {passes} {why}is the one published.")
    published = job.published
    if published is not None:
        active = "active" if published.activated else "sealed, not active"
        lines += [
            f"model      {job.model}, version {published.version} ({active})",
            f"directory  {shortened(published.directory)}",
            f"store      {shortened(published.store)}",
        ]
    elif job.output:
        lines.append(f"scores     {shortened(job.output)}/COORDINATE/{{train,validation}}_scores")
    if not job.reproducible:
        lines.append("The workers' numerics differed: another run may differ in the last bits.")
    if job.seconds is not None:
        lines.append(f"time       {duration(job.seconds)}")
    return "\n".join(lines)


def metric_text(metric: Metric) -> str:
    """Return a metric's value as tables show it."""
    return "undefined" if metric.value is None else f"{metric.value:.4f}"


def metric_notes(metrics: Iterable[Metric]) -> list[str]:
    """Return a line on each metric that says more than its value: undefined, or a mean over entities."""
    notes = []
    for metric in metrics:
        if metric.value is None:
            notes.append(f"{metric.name} is undefined: {metric.reason or 'no reason is known'}.")
        elif metric.entities is not None:
            without = (
                f"; it is undefined for {metric.entities_undefined:,} others"
                if metric.entities_undefined
                else ""
            )
            notes.append(f"{metric.name} is the mean over {metric.entities:,} entities{without}.")
    return notes


def next_steps(job: Job) -> str:
    """Return commands worth trying now."""
    published = job.published
    if published is None:
        return ""
    where = f"--store {shortened(published.store)}"
    return "\n".join(
        [
            "Try next:",
            f"  gdmix-cli models list {where}",
            f"  gdmix-cli models show {job.model} {where}",
            f"  gdmix-cli models verify {job.model} {where}",
        ]
    )


def shortened(path: str) -> str:
    """Return a path, or the path in a store's URL, relative to the current directory where it lies below."""
    prefix = "lmdb:" if path.startswith("lmdb:") else ""
    try:
        return prefix + str(Path(path.removeprefix(prefix)).relative_to(Path.cwd()))
    except ValueError:
        return path


def _seconds_over_all_passes(job: Job) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for report in job.coordinates:
        seconds[report.name] = seconds.get(report.name, 0.0) + report.seconds
    return seconds


def _what(report: CoordinateReport) -> str:
    return (
        f"one model for all ({report.what})"
        if report.kind == "fixed_effect"
        else f"a model per {report.what}"
    )
