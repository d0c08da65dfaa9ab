"""Results in the layout of LinkedIn GDMix: scores and models as Avro, metrics as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gdmix_core.data.array_file import atomic_path
from gdmix_core.data.score_blocks import read_score_block
from gdmix_core.data.scores import read_home_shard
from gdmix_core.tasks import (
    COEFFICIENTS_FILE,
    ROWS_FILE,
    SCORES_FILE,
    ClearResults,
    ModelFileWritten,
    ResultsCleared,
    ScoresWritten,
    SummaryWritten,
    WriteModelFile,
    WriteScores,
    WriteSummary,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.fixed_effect import offsets_of
from gdmix_trainer.tasks.indexes import feature_index_of


def clear_results(task: ClearResults, context: TaskContext) -> ResultsCleared:
    """Empty the directories that results go to."""
    for directory in task.directories:
        context.check()
        shutil.rmtree(directory, ignore_errors=True)
        Path(directory).mkdir(parents=True, exist_ok=True)
    return ResultsCleared(seconds=0.0)


def write_scores(task: WriteScores, context: TaskContext) -> ScoresWritten:
    """Write one home shard's scores of a coordinate."""
    from gdmix_core.model.score_files import ScoreRows
    from gdmix_core.model.score_files import write_scores as write

    rows = read_home_shard(Path(task.input.directory) / ROWS_FILE)
    own = read_score_block(Path(task.own_scores) / SCORES_FILE, task.input.shard)
    context.check()
    scores = ScoreRows(
        uid=rows["uid"],
        score=offsets_of(task.input) + own,
        own_score=own,
        label=rows["label"],
        weight=rows["weight"],
    )
    write(
        task.path,
        scores,
        uid=task.uid,
        label=task.label,
        weight=task.weight,
        integer_label=task.integer_label,
    )
    context.advance(rows=len(own))
    return ScoresWritten(rows=len(own), seconds=0.0)


def write_model_file(task: WriteModelFile, context: TaskContext) -> ModelFileWritten:
    """Write one coefficient file of a coordinate as an Avro model file."""
    from gdmix_core.model.linear_model_avro import (
        MODEL_CLASSES,
        FeatureNames,
        write_fixed_effect_model,
        write_random_effect_models,
    )

    index = feature_index_of(task.index)
    names = FeatureNames.of_coordinate(index.coordinate_names(task.bags, task.intercept))
    source = Path(task.directory) / COEFFICIENTS_FILE
    context.check()
    write = write_fixed_effect_model if task.effect == "fixed_effect" else write_random_effect_models
    written = write(task.path, source, names, model_class=MODEL_CLASSES[task.task])
    context.advance(entities=written.models)
    return ModelFileWritten(models=written.models, seconds=0.0)


def write_summary(task: WriteSummary, context: TaskContext) -> SummaryWritten:
    """Write a coordinate's metrics."""
    context.check()
    with atomic_path(task.path) as temporary:
        temporary.write_text(json.dumps(task.values, indent=2) + "\n", encoding="utf-8")
    return SummaryWritten(seconds=0.0)
