"""A plug-in against the rules of the protocol, on rows of its author's; for the tests of plug-ins.

def test_it_keeps_the_rules(tmp_path):
check_plugin("segment_levels", {"column": "city"}, "logistic_regression", [rows], tmp_path)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gdmix_core.errors import UsageError
from gdmix_core.fixed_effects.plugin import FitData, FixedEffectModel, Float64Array, Gang, Rows, Task
from gdmix_core.fixed_effects.registry import columns_of, find_plugin, load_plugin

if TYPE_CHECKING:
    import pyarrow as pa

    from gdmix_core.fixed_effects.plugin import FitProgress

_TOLERANCE: Final = 1e-5
"""Scores of a row may depend on the rows beside it by so much, as sums in another order may."""


@dataclass(frozen=True, slots=True)
class GivenShard:
    """Rows in memory as a shard."""

    given: Rows

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.given)

    def read(self) -> Rows:
        """Return them."""
        return self.given


@dataclass(slots=True, kw_only=True)
class CheckedContext:
    """A `FitContext` that refuses reports which no person could read."""

    task: Task
    checkpoints: Path
    logs: Path
    seed: int = 0
    threads: int = 1
    gang: Gang | None = None
    reports: list[FitProgress] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def report(self, progress: FitProgress) -> None:
        """Keep a report."""
        _require(0 <= progress.step <= progress.steps, f"reports step {progress.step} of {progress.steps}")
        last = self.reports[-1].step if self.reports else 0
        _require(progress.step >= last, f"reports step {progress.step} after step {last}")
        self.reports.append(progress)

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Keep a notice."""
        del warning
        _require("\n" not in text, f"gives a notice of several lines: {text!r}")
        self.notices.append(text)


def check_plugin(
    name: str, options: Mapping[str, Any], task: Task, train: Sequence[Rows], directory: Path
) -> FixedEffectModel:
    """Fit an installed plug-in, save and load its model, and compare what the two score.

    Args:
        name: as configs call it.
        options: as a config gives them.
        task: of the job.
        train: training rows, one item a shard.
        directory: empty; models and checkpoints are left there.

    Returns:
        The loaded model, for further tests.

    Raises:
        UsageError: a rule is broken; the message says which.
    """
    plugin = load_plugin(name)
    given = plugin.options.model_validate(options)
    again = plugin.options.model_validate_json(given.model_dump_json())
    _require(again == given, "options do not survive JSON")
    plugin.check(given, task)
    wanted = [column.name for column in columns_of(name, given)]
    for rows in train:
        _require(
            rows.columns.schema.names == wanted, f"reads {wanted}, the rows have {rows.columns.schema.names}"
        )
    context = CheckedContext(task=task, checkpoints=directory / "checkpoints", logs=directory / "logs")
    for folder in (context.checkpoints, context.logs, directory / "model"):
        folder.mkdir()
    model = plugin.fit(given, FitData([GivenShard(rows) for rows in train], []), context)
    _require(isinstance(model, FixedEffectModel), f"fit() gives a {type(model).__name__}")
    scored = [_scores(model, rows.columns) for rows in train]
    model.save(directory / "model")
    _require(any(path.is_file() for path in (directory / "model").rglob("*")), "save() leaves no file")
    for key, value in model.describe().items():
        _require(isinstance(value, (int, float, str)), f"describe() says {value!r} of {key}")
    loaded = plugin.load(directory / "model")
    loaded.warm_up()
    for rows, before in zip(train, scored, strict=True):
        _check_scores(loaded, rows.columns, before)
    _require(find_plugin(name).rivals == (), "its name is announced twice")
    return loaded


def _check_scores(loaded: FixedEffectModel, columns: pa.RecordBatch, before: Float64Array) -> None:
    after = _scores(loaded, columns)
    _require(_close(after, before), "a loaded model scores otherwise than the fitted one")
    half = columns.num_rows // 2
    parts = [_scores(loaded, columns.slice(0, half)), _scores(loaded, columns.slice(half))]
    _require(_close(np.concatenate(parts), after), "scores of rows depend on the rows beside them")
    _scores(loaded, columns.slice(0, 0))


def _scores(model: FixedEffectModel, columns: pa.RecordBatch) -> Float64Array:
    scores = model.score(columns)
    _require(
        isinstance(scores, np.ndarray) and scores.dtype == np.float64 and scores.shape == (columns.num_rows,),
        f"score() gives {type(scores).__name__} {getattr(scores, 'dtype', '')} {getattr(scores, 'shape', '')} for "
        f"{columns.num_rows} rows; wanted is float64[rows]",
    )
    _require(bool(np.isfinite(scores).all()), "score() gives numbers that are not finite")
    return scores


def _close(one: Float64Array, other: Float64Array) -> bool:
    return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(f"the plug-in breaks the protocol of fixed effects: {otherwise}")
