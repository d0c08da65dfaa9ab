"""The process's side: do the work of one task, tell the worker how it goes and how it went."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from gdmix_core.errors import DataError, GdmixError, InternalError, JobFailed
from gdmix_core.fixed_effects.plugin import FitData, FixedEffectModel, FixedEffectPlugin, Gang, Task
from gdmix_core.fixed_effects.registry import InstalledPlugin, find_plugin, load_plugin, missing_dependency
from gdmix_core.logs import configure_logging
from gdmix_core.parent_link import ParentLink
from gdmix_core.tasks import (
    PLUGIN_MODEL_FOLDER,
    SCORES_FILE,
    FitPlugin,
    PluginFileFacts,
    PluginFitted,
    PluginScored,
    PluginUse,
    ScorePlugin,
    TaskResult,
    inputs_file,
    plugin_scores,
    task_from_json,
    to_json,
)
from gdmix_trainer.failures import passing_fault
from gdmix_trainer.fitting.context import ProcessContext
from gdmix_trainer.fitting.request import DONE, FAILED, PROGRESS, WorkRequest
from gdmix_trainer.fitting.shards import PreparedShard

_PARENT_ENDED: Final = 1


def main() -> None:
    """Do the work that stdin asks for; always ends the process, whatever threads a library has left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    configure_logging("fitting", options.log_level)
    link = ParentLink(options.parent_fd)
    link.when_parent_ends(lambda: os._exit(_PARENT_ENDED))
    request = WorkRequest(**json.loads(sys.stdin.read()))
    _run(request, link)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(request: WorkRequest, link: ParentLink) -> None:
    task = cast("FitPlugin | ScorePlugin", task_from_json(request.kind, request.task_json))
    try:
        result = WORK[type(task)](task, request, link)
    except BaseException as error:  # noqa: BLE001 - whatever a plug-in raises is told to the worker
        told = _public(task.use, error)
        text = "".join(traceback.format_exception(error))
        link.report(FAILED, code=told.code, message=str(told), traceback=text)
    else:
        link.report(DONE, result=to_json(result))


def fit(task: FitPlugin, request: WorkRequest, link: ParentLink) -> PluginFitted:
    """Fit and save a model.

    Raises:
        GdmixError: The plug-in cannot be had, refuses the data, or saved what no model can be.
    """
    from gdmix_core.model.plugin_files import list_plugin_files

    use = task.use
    plugin, options = loaded(use)
    context = context_of(use, request, link)
    data = FitData(
        train=[PreparedShard(shard, use.coordinate) for shard in task.train],
        validation=[PreparedShard(shard, use.coordinate) for shard in task.validation],
    )
    model = plugin.fit(options, data, context)
    installed = find_plugin(use.plugin)
    if request.rank > 0:  # the first member's is kept
        return PluginFitted(
            distribution=installed.distribution, version=installed.version, files={}, seconds=0.0
        )
    directory = saved(model, Path(task.output), installed)
    files = list_plugin_files(directory, use.coordinate)
    return PluginFitted(
        distribution=installed.distribution,
        version=installed.version,
        files={name: PluginFileFacts(sha256=of.sha256, size=of.size) for name, of in files.items()},
        facts=facts_of(model),
        steps=context.steps,
        notices=tuple(context.notices),
        seconds=0.0,
    )


def score(task: ScorePlugin, request: WorkRequest, link: ParentLink) -> PluginScored:
    """Score home shards, one after another.

    Raises:
        DataError: The model or the rows cannot be read, or scores are not finite.
    """
    del request
    from gdmix_core.data.input_batches import read_inputs
    from gdmix_core.data.score_blocks import write_score_block

    plugin, _ = loaded(task.use)
    model = plugin.load(Path(task.directory))
    rows = 0
    for shard in task.shards:
        columns = read_inputs(Path(shard.directory) / inputs_file(task.use.coordinate))
        scores = np.ascontiguousarray(model.score(columns), np.float64)
        _check_scores(task.use, scores, columns.num_rows)
        target = Path(plugin_scores(task.output, shard.role, shard.shard))
        target.mkdir(parents=True, exist_ok=True)
        write_score_block(target / SCORES_FILE, shard.shard, scores)
        rows += columns.num_rows
        link.report(PROGRESS, step=0, steps=0, rows=rows)
    return PluginScored(rows=rows, seconds=0.0)


WORK: Final[dict[type, Callable[[Any, WorkRequest, ParentLink], TaskResult]]] = {
    FitPlugin: fit,
    ScorePlugin: score,
}


def loaded(use: PluginUse) -> tuple[FixedEffectPlugin[Any], Any]:
    """Return the plug-in and its options; raises as `load_plugin`."""
    plugin = load_plugin(use.plugin)
    return plugin, plugin.options.model_validate_json(use.options_json)


def context_of(use: PluginUse, request: WorkRequest, link: ParentLink) -> ProcessContext:
    """Return what the fit may use; its directories exist."""
    checkpoints, logs = Path(request.checkpoints), Path(request.logs)
    checkpoints.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    return ProcessContext(
        link,
        task=cast("Task", use.task),
        seed=use.seed,
        threads=request.threads,
        checkpoints=checkpoints,
        logs=logs,
        gang=Gang(request.rank, request.addresses) if request.addresses else None,
    )


def saved(model: object, output: Path, plugin: InstalledPlugin) -> Path:
    """Save a model into an empty directory and return that.

    Raises:
        JobFailed: It is no model.
    """
    if not isinstance(model, FixedEffectModel):
        raise JobFailed(
            f"{plugin} breaks the protocol of fixed effects: fit() gives a {type(model).__name__}"
        )
    directory = output / PLUGIN_MODEL_FOLDER
    directory.mkdir(parents=True)
    model.save(directory)
    return directory


def facts_of(model: FixedEffectModel) -> dict[str, float | str]:
    """Return what a model says of itself, in types that cross the wire."""
    return {
        str(name): value if isinstance(value, str) else float(value)
        for name, value in model.describe().items()
    }


def _check_scores(use: PluginUse, scores: Any, rows: int) -> None:
    if scores.shape != (rows,):
        raise JobFailed(
            f"{find_plugin(use.plugin)} breaks the protocol of fixed effects: score() gives shape "
            f"{list(scores.shape)} for {rows} rows"
        )
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(
            f"{find_plugin(use.plugin)}: the model scores {bad:,} of {rows:,} rows NaN or infinite"
        )


def _public(use: PluginUse, error: BaseException) -> GdmixError:
    """Return the error that people see: one line that names the plug-in, never a stack trace."""
    if isinstance(error, GdmixError):
        return error
    installed = find_plugin(use.plugin)
    if isinstance(error, ImportError):
        return missing_dependency(installed, error, load_plugin(use.plugin).extra)
    text = " ".join(str(error).split())
    reason = type(error).__name__ + (f": {text}" if text else "")
    message = f"{installed} failed: {reason}"
    return InternalError(message) if passing_fault(error) else JobFailed(message)
