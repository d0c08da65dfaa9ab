"""The process in which a plug-in works: what it passes on, and every way in which it can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdmix_core import tasks
from gdmix_core.errors import Cancelled, DataError, InternalError, JobFailed, MissingDependency
from gdmix_core.fixed_effects.registry import GROUP, installed_plugins, load_plugin
from gdmix_trainer.context import TaskContext
from gdmix_trainer.failures import failure_of
from gdmix_trainer.messages import FitProgress, Lease
from gdmix_trainer.shard_cache import ShardCache
from gdmix_trainer.tasks import plugged_effect

LEASE = Lease("j", "stage", 0, 1, 1, 1)
MODULE = """
import json, os, signal, threading
import numpy as np
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.plugin import (
    FitProgress, FixedEffectModel, FixedEffectPlugin, InputColumn, PluginOptions
)

class Options(PluginOptions):
    way: str = "sound"

class Constant(FixedEffectModel):
    def __init__(self, value):
        self.value = value
    def score(self, columns):
        return np.full(columns.num_rows, self.value)
    def save(self, directory):
        (directory / "constant.json").write_text(json.dumps(self.value))
    def describe(self):
        return {"value": self.value, "kind": "constant"}

class Nothing(Constant):
    def save(self, directory):
        pass

class Ways(FixedEffectPlugin[Options]):
    options = Options
    extra = "acme[heavy]"
    def columns(self, options):
        return [InputColumn("x", "number")]
    def load(self, directory):
        return Constant(json.loads((directory / "constant.json").read_text()))
    def fit(self, options, data, context):
        context.report(FitProgress(step=1, steps=3, rows=10, loss=0.5, metrics={"auc": 0.75}))
        return getattr(self, options.way)(context)
    def sound(self, context):
        print("printed by a library")
        context.notice("rare", warning=True)
        context.report(FitProgress(step=3, steps=3, rows=30))
        return Constant(float(context.threads))
    def nothing(self, context):
        return Nothing(1.0)
    def no_model(self, context):
        return 7
    def raises(self, context):
        raise RuntimeError("the matrix is\\nsingular")
    def refuses(self, context):
        raise DataError("column 'x': found 7")
    def lacks(self, context):
        import acme_heavy
    def exits(self, context):
        os._exit(3)
    def dies(self, context):
        os.kill(os.getpid(), signal.SIGKILL)
    def hangs(self, context):
        (context.checkpoints / "pid").write_text(str(os.getpid()))
        context.report(FitProgress(step=3, steps=3, rows=30))
        threading.Event().wait()
    def resumes(self, context):
        left = context.checkpoints / "left"
        if not left.exists():
            left.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        return Constant(2.0)
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution acme with the plug-in `ways`, for this process and those that it starts."""
    site = tmp_path / "site"
    information = site / "acme-1.5.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.5\n")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\nways = acme_ways:Ways\n")
    (site / "acme_ways.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    installed_plugins.cache_clear()
    load_plugin.cache_clear()
    yield
    sys.modules.pop("acme_ways", None)
    installed_plugins.cache_clear()
    load_plugin.cache_clear()


class Context(TaskContext):
    """One that keeps all progress, and tells when a fit has made its last step."""

    def __init__(self) -> None:
        def pull(lease: Lease, name: str) -> Any:
            raise AssertionError(f"nobody expects {name} to be pulled")

        super().__init__(LEASE, pull, ShardCache(), threads=2)
        self.shown: list[FitProgress] = []
        self.last_step = threading.Event()

    def show(self, fit: FitProgress) -> None:
        super().show(fit)
        self.shown.append(fit)
        if fit.step == fit.steps:
            self.last_step.set()


def fit_task(tmp_path: Path, way: str, attempt: int = 0) -> tasks.FitPlugin:
    return tasks.FitPlugin(
        output=str(tmp_path / "job" / "global.1.fit" / f"u00000-a{attempt}"),
        use=tasks.PluginUse(
            coordinate="global",
            plugin="ways",
            options_json=json.dumps({"way": way}),
            columns=(),
            task="linear_regression",
        ),
        train=(),
        validation=(),
    )


def fit(tmp_path: Path, way: str, attempt: int = 0) -> tasks.PluginFitted:
    return plugged_effect.fit(fit_task(tmp_path, way, attempt), Context())


def test_a_fit_leaves_a_model_and_says_what_it_consists_of(tmp_path: Path) -> None:
    context, task = Context(), fit_task(tmp_path, "sound")
    fitted = plugged_effect.fit(task, context)
    assert (fitted.distribution, fitted.version, fitted.steps) == ("acme", "1.5", 3)
    assert (fitted.facts, fitted.notices) == (
        {"value": 2.0, "kind": "constant"},
        (tasks.PluginNotice(text="rare", warning=True),),
    )
    assert {name: of.size for name, of in fitted.files.items()} == {"constant.json": 3}
    assert Path(task.output, "model", "constant.json").read_text() == "2.0"
    first, last = context.shown
    assert (first.step, first.steps, first.rows, first.loss, first.metrics) == (1, 3, 10, 0.5, {"auc": 0.75})
    assert (last.step, context.progress().fit) == (3, last)


@pytest.mark.parametrize(
    ("way", "kind", "said"),
    [
        (
            "raises",
            JobFailed,
            "plug-in 'ways' (acme 1.5, acme_ways:Ways) failed: RuntimeError: the matrix is singular",
        ),
        ("refuses", DataError, "column 'x': found 7"),
        ("lacks", MissingDependency, "install it with: pip install 'acme[heavy]'"),
        ("no_model", JobFailed, "breaks the protocol of fixed effects: fit() gives a int"),
        ("nothing", DataError, "the saved model holds no files"),
        ("exits", InternalError, "plug-in 'ways': its process ended with code 3 and no result"),
        (
            "dies",
            InternalError,
            "plug-in 'ways': its process was ended by SIGKILL; there may have been too little",
        ),
    ],
)
def test_every_bad_end_is_one_message(tmp_path: Path, way: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as caught:
        fit(tmp_path, way)
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert failure_of(LEASE, caught.value).retryable is (kind is InternalError)


def test_a_cancelled_fit_is_over_at_once(tmp_path: Path) -> None:
    context, task = Context(), fit_task(tmp_path, "hangs")
    caught: list[BaseException] = []

    def work() -> None:
        try:
            plugged_effect.fit(task, context)
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert context.last_step.wait(60)
    context.cancel()
    thread.join(60)
    assert [type(error) for error in caught] == [Cancelled]
    pid = int((Path(task.output).parent / "checkpoints" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_fit_that_begins_anew_finds_its_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        fit(tmp_path, "resumes")
    assert fit(tmp_path, "resumes", attempt=1).facts["value"] == 2.0


def test_a_fit_ends_with_its_worker(tmp_path: Path) -> None:
    """The standard error of both is one pipe: it ends when the last of them has."""
    (tmp_path / "worker.py").write_text(
        "import sys\n"
        "from gdmix_core import tasks\n"
        "from gdmix_trainer.context import TaskContext\n"
        "from gdmix_trainer.messages import Lease\n"
        "from gdmix_trainer.shard_cache import ShardCache\n"
        "from gdmix_trainer.tasks import plugged_effect\n"
        "class Context(TaskContext):\n"
        "    def show(self, fit):\n"
        "        print(fit.step, flush=True)\n"
        "context = Context(Lease('j', 's', 0, 1, 1, 1), None, ShardCache())\n"
        "plugged_effect.fit(tasks.task_from_json('fit_plugin', sys.argv[1]), context)\n"
    )
    command = [sys.executable, str(tmp_path / "worker.py"), tasks.to_json(fit_task(tmp_path, "hangs"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert [worker.stdout.readline(), worker.stdout.readline()] == ["1\n", "3\n"]
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
