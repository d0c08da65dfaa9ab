"""The model that a job begins with: what is in it, its index, its scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gdmix_core.data.array_file import atomic_path, write_arrays
from gdmix_core.errors import NotFound
from gdmix_core.tasks import (
    FEATURE_INDEX_FILE,
    PARTITION_FILE,
    SCORES_FILE,
    THETA_FILE,
    VALIDATION_SCORES_FILE,
    FixedEffectLoaded,
    IndexMerged,
    LoadFixedEffect,
    ModelOpened,
    OpenedCoordinate,
    OpenModel,
    PartitionScored,
    ScorePartition,
    TakeIndex,
)
from gdmix_trainer.context import TaskContext

if TYPE_CHECKING:
    from gdmix_core.model import ModelDirectory


def open_model(task: OpenModel, context: TaskContext) -> ModelOpened:
    """Read the manifest, and check that the files are those it was written with.

    Raises:
        NotFound: The directory holds neither a model version nor models of the job's coordinates.
        DataError: Files are damaged, or models do not fit the job's features.
    """
    from gdmix_core.model import open_model as open_directory
    from gdmix_core.model.manifest import MANIFEST_FILE

    context.check()
    notices: tuple[str, ...] = ()
    if (Path(task.initial) / MANIFEST_FILE).exists():
        model = open_directory(task.initial)
        model.verify()
    else:
        model, notices = _converted(task, context)
    coordinates = tuple(
        OpenedCoordinate(
            name=c.name,
            effect=c.model or "random_effect",
            features=c.features,
            intercept=c.intercept,
            entity_column=c.entity_column or "",
            parts=c.parts,
            columns=tuple(column.name for column in c.plugin.columns) if c.plugin is not None else (),
        )
        for c in model.manifest.coordinates
    )
    return ModelOpened(
        task=model.manifest.task,
        coordinates=coordinates,
        directory=str(model.path),
        notices=notices,
        seconds=0.0,
    )


def _converted(task: OpenModel, context: TaskContext) -> tuple[ModelDirectory, tuple[str, ...]]:
    """Make a model directory of a results tree of LinkedIn GDMix, in the attempt's directory."""
    from gdmix_core.config import config_from_json
    from gdmix_core.data.inspection import inspect_data
    from gdmix_core.model import open_model as open_directory
    from gdmix_core.model.linear_model_avro_tree import convert_tree, model_folders

    config = config_from_json(task.config_json)
    if not model_folders(task.initial, config):
        try:
            return open_directory(task.initial), ()
        except NotFound as error:
            raise NotFound(
                f"{error}; nor are there model files of LinkedIn GDMix in COORDINATE/models for a coordinate of the "
                f"job ({', '.join(config.coordinates)})"
            ) from error
    wanted = task.inspect
    _, encoding = inspect_data(
        wanted.data, wanted.features, wanted.entity_columns, wanted.task, wanted.external, wanted.inputs
    )
    context.check()
    return convert_tree(task.initial, config, encoding.columns, task.output)


def take_index(task: TakeIndex, context: TaskContext) -> IndexMerged:
    """Copy the model's feature index into the attempt's directory."""
    from gdmix_core.data.feature_index import FeatureIndex
    from gdmix_core.model import open_model as open_directory

    context.check()
    source = open_directory(task.initial).feature_index
    index = FeatureIndex.load(source)
    with atomic_path(Path(task.output) / FEATURE_INDEX_FILE) as temporary:
        shutil.copyfile(source, temporary)
    return IndexMerged(bag_sizes=index.bag_sizes, schema_fingerprint=index.schema_fingerprint, seconds=0.0)


def load_fixed_effect(task: LoadFixedEffect, context: TaskContext) -> FixedEffectLoaded:
    """Write a model's fixed effect as scoring reads it."""
    from gdmix_core.model import open_model as open_directory
    from gdmix_core.model.coefficients import read_fixed_effect

    context.check()
    theta = read_fixed_effect(open_directory(task.initial).fixed_effect(task.coordinate)).coefficients
    write_arrays(Path(task.output) / THETA_FILE, [{"theta": theta}])
    return FixedEffectLoaded(coefficients=len(theta), seconds=0.0)


def score_partition(task: ScorePartition, context: TaskContext) -> PartitionScored:
    """Score one partition's rows with the same partition of a model."""
    from gdmix_core.data.partitions import read_scoring_partition
    from gdmix_core.data.scores import write_partition_scores
    from gdmix_core.model import open_model as open_directory
    from gdmix_core.model.coefficients import read_random_effect
    from gdmix_core.model.partition_model import score_block

    part = open_directory(task.initial).parts(task.coordinate)[task.partition]
    rows = read_scoring_partition(Path(task.partition_directory) / PARTITION_FILE)
    context.check()
    scored = score_block(rows, read_random_effect(part).block)
    name = SCORES_FILE if task.role == "train" else VALIDATION_SCORES_FILE
    write_partition_scores(Path(task.output) / name, rows, scored.scores)
    context.advance(rows=rows.rows, entities=rows.entities)
    return PartitionScored(rows=rows.rows, rows_unseen=scored.unseen_rows, seconds=0.0)
