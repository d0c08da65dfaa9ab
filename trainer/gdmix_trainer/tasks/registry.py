"""Which function does which task, and how a unit is run: JSON in, JSON out."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from pydantic import ValidationError

from gdmix_core import tasks
from gdmix_core.errors import UsageError
from gdmix_core.tasks import Task, TaskResult
from gdmix_trainer.context import TaskContext
from gdmix_trainer.data_roots import DataRoots
from gdmix_trainer.tasks import (
    fixed_effect,
    initial_model,
    joint,
    joint_gradient,
    joint_parts,
    joint_rows,
    plugged_effect,
    preparation,
    publishing,
    random_effect,
    results,
    validation,
)

TaskFunction: TypeAlias = Callable[[Any, TaskContext], TaskResult]

TASK_FUNCTIONS: dict[type[Task], TaskFunction] = {
    tasks.InspectData: preparation.inspect_data,
    tasks.IndexFeatures: preparation.index_features,
    tasks.MergeIndex: preparation.merge_index,
    tasks.OpenModel: initial_model.open_model,
    tasks.TakeIndex: initial_model.take_index,
    tasks.EncodeSplit: preparation.encode_split,
    tasks.BuildShard: preparation.build_shard,
    tasks.BuildPartition: preparation.build_one_partition,
    tasks.PrepareFixedEffect: fixed_effect.prepare,
    tasks.EvaluateFixedEffect: fixed_effect.evaluate_shards,
    tasks.FinishFixedEffect: fixed_effect.finish,
    tasks.ScoreFixedEffect: fixed_effect.score_shard,
    tasks.FitPlugin: plugged_effect.fit,
    tasks.ScorePlugin: plugged_effect.score,
    tasks.WriteOffsets: random_effect.offsets,
    tasks.TrainRandomEffect: random_effect.train,
    tasks.AssembleScores: random_effect.assemble,
    tasks.MeasureGradient: joint_gradient.measure_gradient,
    tasks.MeasurePass: joint.measure_pass,
    tasks.WriteSlopeChanges: joint_gradient.write_slope_changes,
    tasks.MixScores: joint.mix_scores,
    tasks.SurveyPart: joint_parts.survey_part,
    tasks.LineariseShard: joint_rows.linearise_shard,
    tasks.BeginSolve: joint_parts.begin_solve,
    tasks.MultiplyRows: joint_rows.multiply_rows,
    tasks.AdvanceSolve: joint_parts.advance_solve,
    tasks.EndSolve: joint_parts.end_solve,
    tasks.WriteJointScores: joint_rows.write_joint_scores,
    tasks.LoadFixedEffect: initial_model.load_fixed_effect,
    tasks.ScorePartition: initial_model.score_partition,
    tasks.MeasureShard: validation.measure_shard,
    tasks.MergeRuns: validation.merge_runs,
    tasks.MeasureEntities: validation.measure_entities,
    tasks.CheckStore: publishing.check_store,
    tasks.BeginPublish: publishing.begin_publish,
    tasks.FinishModel: publishing.finish_model,
    tasks.PublishPart: publishing.publish_part,
    tasks.FinishPublish: publishing.finish_publish,
    tasks.ClearResults: results.clear_results,
    tasks.WriteScores: results.write_scores,
    tasks.WriteModelFile: results.write_model_file,
    tasks.WriteSummary: results.write_summary,
    tasks.RemoveWork: publishing.remove_work,
}
"""Functions measure no time: `run_task` fills the result's `seconds` in."""

_IN_ROUNDS = (tasks.EvaluateFixedEffect, tasks.JointTask)
"""Tasks whose next round takes the same memory again."""


def run_task(task: Task, context: TaskContext, roots: DataRoots) -> TaskResult:
    """Create the attempt's directory, do the work, and give its memory back.

    Raises:
        NotPermitted: The task names a path outside of the worker's data roots.
        GdmixError: Whatever the work finds wrong.
    """
    roots.check(task)
    started = time.monotonic()
    try:
        Path(task.output).mkdir(parents=True, exist_ok=True)
        result = TASK_FUNCTIONS[type(task)](task, context)
        return replace(result, seconds=time.monotonic() - started)
    finally:
        if not isinstance(task, _IN_ROUNDS):
            _give_memory_back()


def _give_memory_back() -> None:
    """Return freed memory to the system: a worker's size follows its largest unit, not its history."""
    pa.default_memory_pool().release_unused()
    trim = getattr(_c_library(), "malloc_trim", None)  # glibc has it; others keep little
    if trim is not None:
        trim(0)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def run_unit(kind: str, task_json: str, context: TaskContext, roots: DataRoots) -> str:
    """Run a task that came as JSON and return its result as JSON; raises as `run_task`."""
    try:
        task = tasks.task_from_json(kind, task_json)
    except (KeyError, ValidationError) as error:
        raise UsageError(f"this worker does not understand a task of kind {kind!r}: {error}") from error
    return tasks.to_json(run_task(task, context, roots))
