"""The rules of the protocol as a check that authors of plug-ins call: who passes, who does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gdmix_core.errors import UsageError
from gdmix_core.fixed_effects.conformance import check_plugin
from gdmix_core.fixed_effects.plugin import Rows, Task

Install = Callable[..., None]
EXAMPLE = Path(__file__).parents[3] / "examples" / "plugins" / "gdmix_segment_levels" / "__init__.py"
BROKEN = """
import numpy as np
from gdmix_core.fixed_effects.plugin import (
    FitProgress, FixedEffectModel, FixedEffectPlugin, InputColumn, PluginOptions
)

class Options(PluginOptions):
    way: str

class Model(FixedEffectModel):
    def __init__(self, way, level):
        self.way, self.level = way, level
    def score(self, columns):
        if self.way == "float32":
            return np.zeros(columns.num_rows, np.float32)
        if self.way == "neighbours":
            return np.full(columns.num_rows, float(columns.num_rows))
        return np.full(columns.num_rows, self.level)
    def save(self, directory):
        if self.way != "no_files":
            (directory / "model").write_text(self.way)

class Broken(FixedEffectPlugin[Options]):
    options = Options
    def columns(self, options):
        return [InputColumn("city", "string")]
    def fit(self, options, data, context):
        if options.way == "steps":
            context.report(FitProgress(step=4, steps=3, rows=1))
        return Model(options.way, float("nan") if options.way == "nan" else 1.0)
    def load(self, directory):
        way = (directory / "model").read_text()
        return Model(way, 2.0 if way == "forgets" else 1.0)
"""


def make_rows(rows: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    city = rng.choice(["bern", "oslo", "rome", None], rows, p=[0.4, 0.3, 0.2, 0.1])
    label = (rng.random(rows) < np.where(city == "oslo", 0.8, 0.3)).astype(float)
    return Rows(
        pa.record_batch([pa.array(city.tolist(), pa.string())], names=["city"]),
        label,
        np.ones(rows),
        np.zeros(rows),
        np.arange(rows) + 1000 * seed,
    )


ROWS = [make_rows(150, 1), make_rows(90, 2)]


@pytest.mark.parametrize("task", ["logistic_regression", "linear_regression", "poisson_regression"])
def test_the_example_keeps_the_rules(install: Install, tmp_path: Path, task: Task) -> None:
    install(
        "gdmix-segment-levels",
        "1.0.0",
        {"segment_levels": "gdmix_segment_levels:SegmentLevels"},
        gdmix_segment_levels=EXAMPLE.read_text(),
    )
    directory = tmp_path / "checked"
    directory.mkdir()
    model = check_plugin("segment_levels", {"column": "city", "l2": 0.01}, task, ROWS, directory)
    assert model.describe() == {"segments": 3.0}
    oslo, bern, other, none = model.score(
        pa.record_batch([pa.array(["oslo", "bern", "paris", None])], names=["city"])
    )
    assert oslo > bern
    assert other == none


def test_trees_keep_the_rules(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm", reason="needs LightGBM (pip install 'gdmix[lightgbm]')")
    check_plugin("lightgbm", {"categorical": ["city"], "rounds": 5}, "logistic_regression", ROWS, tmp_path)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("float32", "score() gives ndarray float32 (150,) for 150 rows; wanted is float64[rows]"),
        ("nan", "score() gives numbers that are not finite"),
        ("neighbours", "scores of rows depend on the rows beside them"),
        ("no_files", "save() leaves no file"),
        ("forgets", "a loaded model scores otherwise than the fitted one"),
        ("steps", "reports step 4 of 3"),
    ],
)
def test_a_broken_rule_is_named(install: Install, tmp_path: Path, way: str, said: str) -> None:
    install("acme", "1", {"broken": "acme_broken:Broken"}, acme_broken=BROKEN)
    directory = tmp_path / "checked"
    directory.mkdir()
    with pytest.raises(UsageError) as caught:
        check_plugin("broken", {"way": way}, "logistic_regression", ROWS, directory)
    assert str(caught.value) == f"the plug-in breaks the protocol of fixed effects: {said}"
