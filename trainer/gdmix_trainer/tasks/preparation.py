"""From input files to home shards and partitions."""

from __future__ import annotations

from pathlib import Path

from gdmix_core.data.home_shards import HomeShardPaths, build_home_shard
from gdmix_core.data.input_columns import write_input_spill
from gdmix_core.data.partitions import build_partition, build_scoring_partition
from gdmix_core.data.shard_rows import Mismatch
from gdmix_core.data.spill import shard_order, write_spill
from gdmix_core.tasks import (
    INPUT_SPILL_FILE,
    PARTITION_FILE,
    ROWS_FILE,
    SCORES_FILE,
    SPILL_FILE,
    BuildPartition,
    BuildShard,
    DataInspected,
    EncodeSplit,
    FeaturesIndexed,
    IndexFeatures,
    IndexMerged,
    InspectData,
    MergeIndex,
    PartitionBuilt,
    ShardBuilt,
    SplitEncoded,
    Unmatched,
    design_file,
    external_directory,
    grouping_file,
    inputs_file,
    score_source,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.indexes import feature_index_of

_NAMED = 5


def inspect_data(task: InspectData, context: TaskContext) -> DataInspected:
    """Find the files, settle every column's kind, cut the input into splits."""
    from gdmix_core.data.inspection import inspect_data as inspect

    splits, encoding = inspect(
        task.data, task.features, task.entity_columns, task.task, task.external, task.inputs
    )
    context.check()
    return DataInspected(splits=splits, encoding=encoding, seconds=0.0)


def index_features(task: IndexFeatures, context: TaskContext) -> FeaturesIndexed:
    """Collect one split's terms and moments and count its rows."""
    from gdmix_core.data.feature_index import index_split
    from gdmix_core.data.readers import count_rows

    if task.count_only:
        rows = count_rows(task.split, task.encoding.uid_column(task.split.source))
    else:
        rows = index_split(task.split, task.encoding, Path(task.output))
    context.advance(rows=rows)
    return FeaturesIndexed(rows=rows, seconds=0.0)


def merge_index(task: MergeIndex, context: TaskContext) -> IndexMerged:
    """Merge the training splits' partial indexes, in split order."""
    from gdmix_core.data.feature_index import merge_index as merge

    context.check()
    initial = None
    if task.initial is not None:
        from gdmix_core.data.feature_index import FeatureIndex
        from gdmix_core.model import open_model

        initial = FeatureIndex.load(open_model(task.initial).feature_index)
    bag_sizes, fingerprint = merge(
        task.encoding, [Path(partial) for partial in task.partials], Path(task.output), initial
    )
    return IndexMerged(bag_sizes=bag_sizes, schema_fingerprint=fingerprint, seconds=0.0)


def encode_split(task: EncodeSplit, context: TaskContext) -> SplitEncoded:
    """Encode one split's rows and spill them by home shard."""
    from gdmix_core.data.encoding import encode_split as encode

    encoded = encode(task.split, task.encoding, feature_index_of(task.index))
    context.check()
    context.advance(rows=len(encoded.rows))
    write_spill(Path(task.output) / SPILL_FILE, encoded.rows, task.shards)
    if encoded.inputs:
        order, bounds = shard_order(encoded.rows.uid, task.shards)
        write_input_spill(Path(task.output) / INPUT_SPILL_FILE, encoded.inputs, order, bounds)
    return SplitEncoded(
        rows=len(encoded.rows), nulls=dict(encoded.nulls), unknown=dict(encoded.unknown), seconds=0.0
    )


def build_shard(task: BuildShard, context: TaskContext) -> ShardBuilt:
    """Gather one home shard from all spills and lay out its files."""
    output = Path(task.output)
    paths = HomeShardPaths(
        rows=output / ROWS_FILE,
        designs={design.name: output / design_file(design.name) for design in task.designs},
        groupings={grouping.name: output / grouping_file(grouping.name) for grouping in task.groupings},
        scores={
            score_source(name): Path(external_directory(task.output, name), SCORES_FILE)
            for name in task.external
        },
        inputs={name: output / inputs_file(name) for name in task.inputs},
    )
    for path in paths.scores.values():
        path.parent.mkdir(exist_ok=True)
    context.check()
    summary = build_home_shard(
        task.shard,
        {source: [Path(spill) / SPILL_FILE for spill in spills] for source, spills in task.spills.items()},
        paths,
        designs=task.designs,
        groupings=task.groupings,
        bag_sizes=task.bag_sizes,
        inputs=task.inputs,
        input_spills={
            source: [Path(spill) / INPUT_SPILL_FILE for spill in spills]
            for source, spills in task.spills.items()
        },
    )
    context.advance(rows=summary.rows)
    return ShardBuilt(
        rows=summary.rows,
        nonzeros=dict(summary.nonzeros),
        without_entity=dict(summary.without_entity),
        weight=summary.weight,
        unmatched=tuple(_unmatched(source, found) for source, found in summary.mismatches.items()),
        seconds=0.0,
    )


def _unmatched(source: str, found: Mismatch) -> Unmatched:
    return Unmatched(
        source=source,
        missing=len(found.missing),
        missing_examples=tuple(found.missing[:_NAMED].tolist()),
        extra=len(found.extra),
        extra_examples=tuple(found.extra[:_NAMED].tolist()),
    )


def build_one_partition(task: BuildPartition, context: TaskContext) -> PartitionBuilt:
    """Gather one partition from all home shards: for training, or for scoring validation rows."""
    trains = task.role == "train" and task.grouping.bags is not None and not task.scoring
    build = build_partition if trains else build_scoring_partition
    context.check()
    summary = build(
        task.partition,
        [Path(shard) / grouping_file(task.grouping.name) for shard in task.shards],
        Path(task.output) / PARTITION_FILE,
    )
    context.advance(rows=summary.rows, entities=summary.entities)
    return PartitionBuilt(
        rows=summary.rows,
        entities=summary.entities,
        largest_entity=summary.largest_entity,
        seconds=0.0,
    )
