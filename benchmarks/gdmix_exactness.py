"""How far a job in LinkedIn GDMix's format is from its exact optimum, and where its time goes.

    python benchmarks/gdmix_exactness.py --rounds 3

Fetches MovieLens-100K in upstream's layout into a temporary directory, trains upstream's config
(`examples/movielens/lr-movieLens.yaml`) with `gdmix-cli train`, reads the records again with TensorFlow alone and
solves all three coordinates with Newton's method in NumPy: the fixed effect, then each person with its scores as
offset, then each movie. An entity whose labels are all alike has its optimum at infinity, since the config leaves
intercepts without a ridge: it is left out, and what it adds to the next coordinate's offset is taken from the job.
Printed are the largest differences, the AUCs, and the wall time of the command in three parts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from sklearn.metrics import roc_auc_score

from gdmix_client.movielens_gdmix import FEATURES, fetch_movielens_gdmix

CONFIG = Path(__file__).resolve().parent.parent / "examples" / "movielens" / "lr-movieLens.yaml"
PROGRAM = Path(sys.executable).with_name("gdmix-cli")
COORDINATES = (
    ("global", "global", None),
    ("per-user", "per_user", "user_id"),
    ("per-movie", "per_movie", "movie_id"),
)
L2 = 1.0
READING = "encoding rows"
"""The last stage that reads input files."""


@dataclass(frozen=True)
class Rows:
    """One effect's rows by ascending uid."""

    columns: dict[str, np.ndarray]
    X: np.ndarray
    """Features behind a column of ones."""


def read(directory: Path, bag: str, folder: str) -> Rows:
    import tensorflow as tf

    names = ("uid", "response", "user_id", "movie_id")
    rows: list[tuple[list[int], list[int], list[float]]] = []
    files = sorted(str(path) for path in (directory / bag / folder).iterdir())
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        found = tf.train.Example.FromString(record).features.feature
        rows.append(
            (
                [found[name].int64_list.value[0] for name in names],
                list(found[f"{bag}_indices"].int64_list.value),
                list(found[f"{bag}_values"].float_list.value),
            )
        )
    rows.sort()
    X = np.zeros((len(rows), 1 + len(FEATURES[bag])))
    X[:, 0] = 1.0
    for number, (_, indices, values) in enumerate(rows):
        X[number, np.array(indices, int) + 1] = values
    table = np.array([numbers for numbers, _, _ in rows])
    return Rows({name: table[:, place] for place, name in enumerate(names)}, X)


def exact(X: np.ndarray, y: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Minimise Σ log-loss + L2 / 2 · |b|², the intercept's L2 being 0."""
    ridge = np.full(X.shape[1], L2)
    ridge[0] = 0.0

    def objective(b: np.ndarray) -> float:
        z = X @ b + offset
        return float(np.sum(np.logaddexp(0, z) - y * z) + ridge @ b**2 / 2)

    b = np.zeros(X.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-(X @ b + offset)))
        gradient = X.T @ (p - y) + ridge * b
        step = np.linalg.solve(X.T @ ((p * (1 - p))[:, None] * X) + np.diag(ridge), gradient)
        # Near the optimum the objective is all rounding: whole steps are right there.
        share = 1.0
        while np.abs(step).max() > 1e-6 and objective(b - share * step) > objective(b):
            share /= 2
        b = b - share * step
        if np.abs(step).max() < 1e-11 * max(1.0, np.abs(b).max()):
            return b
    raise SystemExit("Newton's method did not end")


def avro(directory: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            records += fastavro.reader(file)
    return records


@dataclass(frozen=True)
class Scores:
    """What a job wrote for the rows of one role, by ascending uid."""

    label: np.ndarray
    total: np.ndarray
    own: np.ndarray

    @classmethod
    def read(cls, directory: Path) -> Scores:
        """Read all files of a directory."""
        records = sorted(avro(directory), key=lambda record: record["uid"])
        names = ("response", "predictionScore", "predictionScorePerCoordinate")
        return cls(*(np.array([record[name] for record in records]) for name in names))


def compare(data: Path, output: Path) -> None:
    """Print a line for each coordinate."""
    print("| coordinate | models | of these at infinity | coefficients apart | validation scores apart "
          "| AUC | by scikit-learn |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    total: list[np.ndarray] | None = None
    for coordinate, bag, entity in COORDINATES:
        rows = [read(data, bag, folder) for folder in ("trainingData", "validationData")]
        found = [Scores.read(output / coordinate / f"{role}_scores") for role in ("train", "validation")]
        of = [part.columns[entity] if entity else np.zeros(len(part.X), int) for part in rows]
        place = {name: number for number, name in enumerate(["(INTERCEPT)", *FEATURES[bag]])}
        models = {record["modelId"]: record["means"] for record in avro(output / coordinate / "models")}
        total = total or [np.zeros(len(part.X)) for part in rows]
        # Entities without an optimum, and those without training rows, keep the job's scores.
        own = [scores.own.copy() for scores in found]
        y, apart, infinite = rows[0].columns["response"], 0.0, 0
        order = np.argsort(of[0], kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(of[0][order])) + 1)
        for mine in groups:
            if len(set(y[mine])) == 1:
                infinite += 1
                continue
            one = of[0][mine[0]]
            b = exact(rows[0].X[mine], y[mine], total[0][mine])
            trained = np.zeros(len(place))
            for item in models[str(one) if entity else "global model"]:
                trained[place[item["name"]]] = item["value"]
            apart = max(apart, float(np.max(np.abs(trained - b))))
            for role, chosen in enumerate((mine, np.flatnonzero(of[1] == one))):
                own[role][chosen] = rows[role].X[chosen] @ b
        total = [before + added for before, added in zip(total, own, strict=True)]
        scores_apart = np.max(np.abs(found[1].total - total[1]))
        told = json.loads((output / coordinate / "metric" / "evalSummary.json").read_text())["auc"]
        auc = roc_auc_score(found[1].label, found[1].total)
        assert np.array_equal(found[1].label, rows[1].columns["response"])
        print(
            f"| {coordinate} | {len(groups):,} | {infinite} | {apart:.1e} | {scores_apart:.1e} "
            f"| {told:.4f} | {auc:.4f} |"
        )


# ---- time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seconds:
    """Wall time of one command: until the job runs, until its input is read, and the rest."""

    start_up: float
    reading: float
    rest: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.start_up + self.reading + self.rest


def train(config: Path, output: str, workers: int) -> Seconds:
    """Run the command, and take the times at which its lines on stderr come."""
    marks: dict[str, float] = {}
    begin = time.perf_counter()
    command = [str(PROGRAM), "train", str(config), "--output", output, "--workers", str(workers)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if re.match(r"job \w+ is running", line):
                marks.setdefault("running", time.perf_counter())
            elif line.startswith(READING):
                marks["read"] = time.perf_counter()
    end = time.perf_counter()
    if process.returncode:
        raise SystemExit("".join(lines))
    return Seconds(marks["running"] - begin, marks["read"] - marks["running"], end - marks["read"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory(prefix="gdmix-exactness-") as scratch:
        root = Path(scratch)
        fetched = fetch_movielens_gdmix(root)
        config = Path(shutil.copy(CONFIG, root))
        times = [train(config, str(root / f"round-{n}"), arguments.workers) for n in range(arguments.rounds)]
        print(f"{fetched.train_rows:,} training and {fetched.validation_rows:,} validation rows\n")
        compare(fetched.directory, root / "round-0")
    print(
        f"\ngdmix-cli train, {arguments.workers} workers, {arguments.rounds} rounds: median (fastest–slowest)"
    )
    for label, part in (
        ("start-up, until the job runs", "start_up"),
        ("reading TFRecord files, import of TensorFlow included", "reading"),
        ("the rest: training, results, publishing, end", "rest"),
        ("all", "total"),
    ):
        found = [getattr(one, part) for one in times]
        print(f"  {label:54} {statistics.median(found):5.2f} s ({min(found):.2f}–{max(found):.2f})")


if __name__ == "__main__":
    main()
