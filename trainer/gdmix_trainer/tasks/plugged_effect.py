"""Fixed effects that are plugged in: a process fits or scores, this one waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from gdmix_core.tasks import (
    FitPlugin,
    PluginFitted,
    PluginScored,
    ScorePlugin,
    TaskResult,
    result_from_json,
    to_json,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.fitting.child import run_in_process
from gdmix_trainer.fitting.request import WorkRequest
from gdmix_trainer.gang import Gang

_CHECKPOINTS = "checkpoints"
_LOGS = "logs"


def fit(task: FitPlugin, context: TaskContext) -> PluginFitted:
    """Have the plug-in fit its model, together with the other members of its gang; raises as `run_in_process`."""
    gang = context.gang() if task.members > 1 else None
    return cast("PluginFitted", _in_process(task, context, gang))


def score(task: ScorePlugin, context: TaskContext) -> PluginScored:
    """Have the plug-in score home shards; raises as `run_in_process`."""
    return cast("PluginScored", _in_process(task, context))


def _in_process(task: FitPlugin | ScorePlugin, context: TaskContext, gang: Gang | None = None) -> TaskResult:
    # An attempt's directory lies in that of its stage, which lies in that of its job: <.gdmix>/<job>/<stage>/<attempt>.
    stage = Path(task.output).parent
    request = WorkRequest(
        kind=task.kind,
        task_json=to_json(task),
        threads=context.threads,
        checkpoints=str(stage / _CHECKPOINTS),
        rank=gang.rank if gang else 0,
        addresses=gang.addresses if gang else (),
        logs=str(stage.parents[1] / _LOGS / stage.parent.name / stage.name),
    )
    return result_from_json(task.kind, run_in_process(request, task.use.plugin, context))
