"""AUC and AUPR over rows that no process holds all of: each shard writes a sorted run, one task merges them.

The merge is exact and takes bounded memory: it repeatedly takes a window of every run, and from the windows
all rows whose score is at least the largest of the windows' last scores (no row outside of a window can come
before those). Rows of equal score may be spread over any number of windows: the tie stays open between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, Arrays, write_arrays
from gdmix_core.errors import InternalError
from gdmix_core.metrics.metric import Metric, MetricKind, MetricValue

Float64Array = npt.NDArray[np.float64]

RUN_FORMAT: Final = 1
WINDOW_ROWS: Final = 2**18
"""Rows of all windows together: 6 MiB of scores, labels and weights."""


def write_run(path: str | Path, z: Float64Array, label: Float64Array, weight: Float64Array) -> None:
    """Write one shard's rows sorted by descending linear predictor, equal ones in row order.

    The file holds `score`, `label` and `weight`, float64[rows] each, and in its metadata `rows` and
    `not_finite`, the number of predictors that are NaN or infinite.
    """
    order = np.argsort(-z, kind="stable")
    metadata = {"format": RUN_FORMAT, "rows": len(z), "not_finite": int(len(z) - np.isfinite(z).sum())}
    write_arrays(path, [{"score": z[order], "label": label[order], "weight": weight[order]}], metadata)


def merge_runs(
    metrics: Iterable[Metric], paths: Sequence[str | Path], window_rows: int = WINDOW_ROWS
) -> dict[str, MetricValue]:
    """Return the exact value of every rank metric of `metrics` over the rows of all runs, by name.

    Args:
        metrics: Any metrics; those that are not rank metrics over all rows are passed over.
        paths: The runs of all shards, in shard order.
        window_rows: Bound of the rows in memory (at least one of each run).

    Raises:
        DataError: A file cannot be read.
        InternalError: It is not a sorted run of this format.
    """
    from gdmix_core.metrics.metric_kernels import RANKING_STATE, close_tie, rank_rows

    wanted = [metric for metric in metrics if metric.ranking and metric.entity_column is None]
    runs, not_finite = _open(paths)
    rows = sum(len(run["score"]) for run in runs)
    if not_finite:
        reason = f"{not_finite} of {rows} predictions are not finite"
        return {metric.name: MetricValue(None, reason) for metric in wanted}
    state = np.zeros(RANKING_STATE)
    for score, label, weight in _merged(runs, max(1, window_rows // max(1, len(runs)))):
        rank_rows(score, label, weight, state)
    close_tie(state)
    return {metric.name: _value(metric, rows, state) for metric in wanted}


def _open(paths: Sequence[str | Path]) -> tuple[list[Arrays], int]:
    runs: list[Arrays] = []
    not_finite = 0
    for path in paths:
        with ArrayFile(path) as file:
            if file.metadata.get("format") != RUN_FORMAT or "not_finite" not in file.metadata:
                raise InternalError(f"{path}: is not a sorted run of format {RUN_FORMAT}")
            runs.append(file.segment(0))
            not_finite += file.metadata["not_finite"]
    return runs, not_finite


def _merged(runs: list[Arrays], window: int) -> Iterator[tuple[Float64Array, Float64Array, Float64Array]]:
    """Yield (score, label, weight) of all rows by descending score, `window` rows of each run at most."""
    cursors = [0] * len(runs)
    while True:
        windows = [run["score"][start : start + window] for run, start in zip(runs, cursors, strict=True)]
        open_ends = [
            scores[-1]
            for scores, start, run in zip(windows, cursors, runs, strict=True)
            if start + len(scores) < len(run["score"])
        ]
        # Nothing outside of the windows exceeds the largest of these; each run's order makes it a prefix.
        bound = max(open_ends, default=-np.inf)
        counts = [int(np.searchsorted(-scores, -bound, side="right")) for scores in windows]
        if not any(counts):
            return
        parts = [
            {name: array[start : start + count] for name, array in run.items()}
            for run, start, count in zip(runs, cursors, counts, strict=True)
        ]
        joined = {
            name: np.concatenate([part[name] for part in parts]) for name in ("score", "label", "weight")
        }
        order = np.argsort(-joined["score"], kind="stable")
        yield joined["score"][order], joined["label"][order], joined["weight"][order]
        cursors = [start + count for start, count in zip(cursors, counts, strict=True)]


def _value(metric: Metric, rows: int, state: Float64Array) -> MetricValue:
    positive, negative = float(state[4]), float(state[5])
    if rows == 0:
        return MetricValue(None, "there are no validation rows")
    if positive <= 0.0:
        return MetricValue(None, "no validation row with a weight has label 1")
    if negative <= 0.0:
        return MetricValue(None, "no validation row with a weight has label 0")
    if metric.kind is MetricKind.AUPR:
        return MetricValue(float(state[7]) / positive)
    return MetricValue(float(state[6]) / positive / negative)
