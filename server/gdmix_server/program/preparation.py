"""From input files to home shards and partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from gdmix_core.config import ExternalEffect, FixedEffect, JobConfig, PluggedEffect, RandomEffect, input_specs
from gdmix_core.data.layout import DesignSpec, GroupingSpec, InputSpec
from gdmix_core.errors import DataError
from gdmix_core.tasks import (
    MAIN_SOURCE,
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
    Role,
    ShardBuilt,
    Split,
    SplitEncoded,
    TakeIndex,
)
from gdmix_server.program.alignment import report_unmatched
from gdmix_server.program.initial import open_initial_model
from gdmix_server.program.prepared import ROLES, InitialModel, Partitions, Prepared, Shards
from gdmix_server.program.sizes import partition_count, shard_count
from gdmix_server.program.steps import Steps, run
from gdmix_server.state.model import Report


def prepare_data(config: JobConfig) -> Steps[Prepared]:
    """Inspect, index, encode, sort into home shards, group into partitions."""
    metric_columns = sorted({name.partition(":")[2] for name in config.effective_metrics if ":" in name})
    entity_columns = tuple(
        dict.fromkeys(
            [c.random_effect for c in config.coordinates.values() if isinstance(c, RandomEffect)]
            + metric_columns
        )
    )
    external = {name: c.scores for name, c in config.coordinates.items() if isinstance(c, ExternalEffect)}
    inspect = InspectData(
        output="",
        data=config.data,
        features=dict(config.features),
        entity_columns=entity_columns,
        task=config.task,
        external=external,
        inputs=input_specs(config),
    )
    initial = yield from open_initial_model(config, inspect)
    scoring = config.action == "inference"
    outcome = yield from run("inspect", "inspecting the data", [inspect])
    inspected = cast("DataInspected", outcome.results[0])
    splits = inspected.splits
    directory = initial.directory if initial is not None else None
    index = yield from _build_index(inspected, directory, scoring=scoring)
    rows = {
        role: sum(
            n for s, n in zip(splits, index.rows, strict=True) if (s.role, s.source) == (role, MAIN_SOURCE)
        )
        for role in ROLES
    }
    if rows["train"] == 0 and config.data.train:
        raise DataError(f"data.train: no rows in {', '.join(config.data.train)}")
    if config.data.validation and rows["validation"] == 0:
        raise DataError(f"data.validation: no rows in {', '.join(config.data.validation)}")
    yield Report(train_rows=rows["train"], validation_rows=rows["validation"])

    designs, groupings = _coordinate_specs(config, rows["train"], initial)
    metric_groupings = {
        column: GroupingSpec(
            name=f"metric.{column}",
            entity_column=column,
            partitions=partition_count(rows["validation"]),
            bags=None,
            intercept=False,
        )
        for column in metric_columns
    }
    counts = {
        "train": shard_count(rows["train"], config.data.shards) if rows["train"] else 0,
        "validation": shard_count(rows["validation"]) if rows["validation"] else 0,
    }
    spills = yield from _encode(inspected, index, counts)
    shards = yield from _build_shards(
        index,
        spills,
        counts,
        tuple(designs.values()),
        groupings,
        tuple(metric_groupings.values()),
        tuple(external),
        inspected.encoding.inputs,
    )
    yield from report_unmatched(config, shards)
    yield from _report_missing_entities(shards, groupings)
    partitions = yield from _build_partitions(shards, groupings, metric_groupings, scoring=scoring)
    return Prepared(
        index=index.directory,
        schema_fingerprint=index.merged.schema_fingerprint,
        bag_sizes=index.merged.bag_sizes,
        designs=designs,
        groupings=groupings,
        metric_groupings=metric_groupings,
        shards=shards,
        partitions=partitions,
        data=inspected.encoding.data,
        initial=initial,
        inputs=inspected.encoding.inputs,
    )


@dataclass(frozen=True, slots=True)
class _Index:
    directory: str
    merged: IndexMerged
    rows: tuple[int, ...]


def _build_index(inspected: DataInspected, initial: str | None, *, scoring: bool) -> Steps[_Index]:
    splits, encoding = inspected.splits, inspected.encoding
    outcome = yield from run(
        "index",
        "collecting features",
        [IndexFeatures(output="", split=split, encoding=encoding, count_only=scoring) for split in splits],
    )
    rows = tuple(cast("FeaturesIndexed", result).rows for result in outcome.results)
    if scoring:
        assert initial is not None
        taken = yield from run(
            "merge-index", "taking the model's feature index", [TakeIndex(output="", initial=initial)]
        )
        return _Index(taken.directories[0], cast("IndexMerged", taken.results[0]), rows)
    partials = tuple(d for d, split in zip(outcome.directories, splits, strict=True) if split.role == "train")
    merge = MergeIndex(output="", encoding=encoding, partials=partials, initial=initial)
    merged = yield from run("merge-index", "merging the feature index", [merge])
    return _Index(merged.directories[0], cast("IndexMerged", merged.results[0]), rows)


def _coordinate_specs(
    config: JobConfig, train_rows: int, initial: InitialModel | None
) -> tuple[dict[str, DesignSpec], dict[str, GroupingSpec]]:
    designs: dict[str, DesignSpec] = {}
    groupings: dict[str, GroupingSpec] = {}
    for name, coordinate in config.coordinates.items():
        if isinstance(coordinate, (ExternalEffect, PluggedEffect)):
            continue
        if isinstance(coordinate, FixedEffect):
            designs[name] = DesignSpec(name=name, bags=coordinate.features, intercept=coordinate.intercept)
        else:
            groupings[name] = GroupingSpec(
                name=name,
                entity_column=coordinate.random_effect,
                partitions=partition_count(
                    train_rows, coordinate.partitions or (initial.partitions.get(name) if initial else None)
                ),
                bags=coordinate.features,
                intercept=coordinate.intercept,
                min_rows=coordinate.min_rows,
                max_rows=coordinate.max_rows,
            )
    return designs, groupings


def _encode(
    inspected: DataInspected, index: _Index, counts: Mapping[str, int]
) -> Steps[dict[Role, dict[str, tuple[str, ...]]]]:
    # Splits without rows would leave spills with nothing in them; a role without rows has no shards at all.
    kept = [(s, n) for s, n in zip(inspected.splits, index.rows, strict=True) if n and counts[s.role]]
    outcome = yield from run(
        "encode",
        "encoding rows",
        [
            EncodeSplit(
                output="",
                split=split,
                encoding=inspected.encoding,
                index=index.directory,
                shards=counts[split.role],
            )
            for split, _ in kept
        ],
        rows=tuple(n for _, n in kept),
    )
    results = [cast("SplitEncoded", result) for result in outcome.results]
    yield from _report_values(results, [split for split, _ in kept], inspected.encoding.inputs)
    spills: dict[Role, dict[str, tuple[str, ...]]] = {role: {} for role in ROLES}
    for directory, (split, _) in zip(outcome.directories, kept, strict=True):
        of_role = spills[split.role]
        of_role[split.source] = (*of_role.get(split.source, ()), directory)
    return spills


def _report_values(
    results: list[SplitEncoded], splits: list[Split], inputs: Mapping[str, tuple[InputSpec, ...]]
) -> Steps[None]:
    """Say what was null, and what validation rows hold that training never saw."""
    stay = {
        f"coordinates.{name}.{column.name}"
        for name, columns in inputs.items()
        for column in columns
        if column.kind != "vector"
    }
    nulls: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for result, split in zip(results, splits, strict=True):
        for column, count in result.nulls.items():
            nulls[column] = nulls.get(column, 0) + count
        if split.role == "validation":
            for column, count in result.unknown.items():
                unknown[column] = unknown.get(column, 0) + count
    for column, count in sorted(nulls.items()):
        if count:
            meaning = "are the plug-in's to interpret" if column in stay else "count as absent (0)"
            yield Report(notice=f"column {column}: {count:,} null values {meaning}")
    for column, count in sorted(unknown.items()):
        if count:
            yield Report(
                notice=f"column {column}: {count:,} values in the validation rows are unknown to the model"
            )


def _build_shards(
    index: _Index,
    spills: Mapping[Role, Mapping[str, tuple[str, ...]]],
    counts: Mapping[str, int],
    designs: tuple[DesignSpec, ...],
    groupings: Mapping[str, GroupingSpec],
    metric_groupings: tuple[GroupingSpec, ...],
    external: tuple[str, ...],
    inputs: Mapping[str, tuple[InputSpec, ...]],
) -> Steps[dict[Role, Shards]]:
    of_role = {
        "train": tuple(groupings.values()),
        "validation": (*map(_unsampled, groupings.values()), *metric_groupings),
    }
    units = [
        BuildShard(
            output="",
            role=role,
            shard=shard,
            spills=dict(spills[role]),
            bag_sizes=dict(index.merged.bag_sizes),
            designs=designs,
            groupings=of_role[role],
            external=external,
            inputs=dict(inputs),
        )
        for role in ROLES
        for shard in range(counts[role])
    ]
    outcome = yield from run("shards", "sorting rows into shards", units)
    found: dict[Role, Shards] = {}
    for role in ROLES:
        chosen = [i for i, unit in enumerate(units) if unit.role == role]
        results = tuple(cast("ShardBuilt", outcome.results[i]) for i in chosen)
        found[role] = Shards(
            tuple(outcome.directories[i] for i in chosen), tuple(result.rows for result in results), results
        )
    weights = [result.weight for result in found["train"].results]
    if weights and sum(weights) <= 0:
        raise DataError("data.train: the weights of all rows are 0; at least one row needs a positive weight")
    return found


def _unsampled(grouping: GroupingSpec) -> GroupingSpec:
    """Return the grouping of rows that are scored only: all of them."""
    return replace(grouping, min_rows=None, max_rows=None)


def _report_missing_entities(
    shards: Mapping[Role, Shards], groupings: Mapping[str, GroupingSpec]
) -> Steps[None]:
    for name, grouping in groupings.items():
        for role in ROLES:
            count = sum(result.without_entity.get(name, 0) for result in shards[role].results)
            if count:
                column = grouping.entity_column
                yield Report(notice=f"{name}: {count:,} {role} rows have no {column}; they score 0 there")


def _build_partitions(
    shards: Mapping[Role, Shards],
    groupings: Mapping[str, GroupingSpec],
    metric_groupings: Mapping[str, GroupingSpec],
    *,
    scoring: bool,
) -> Steps[dict[tuple[Role, str], Partitions]]:
    wanted: list[tuple[Role, GroupingSpec]] = []
    if shards["train"].directories:
        wanted += [("train", grouping) for grouping in groupings.values()]
    if shards["validation"].directories:
        wanted += [("validation", _unsampled(grouping)) for grouping in groupings.values()]
        wanted += [("validation", grouping) for grouping in metric_groupings.values()]
    if not wanted:
        return {}
    units = [
        BuildPartition(
            output="",
            role=role,
            grouping=grouping,
            partition=partition,
            shards=shards[role].directories,
            scoring=scoring,
        )
        for role, grouping in wanted
        for partition in range(grouping.partitions)
    ]
    outcome = yield from run("partitions", "grouping rows by entity", units)
    found: dict[tuple[Role, str], Partitions] = {}
    for role, grouping in wanted:
        chosen = [
            i for i, unit in enumerate(units) if unit.role == role and unit.grouping.name == grouping.name
        ]
        results = [cast("PartitionBuilt", outcome.results[i]) for i in chosen]
        found[role, grouping.name] = Partitions(
            tuple(outcome.directories[i] for i in chosen),
            tuple(result.rows for result in results),
            tuple(result.entities for result in results),
        )
    return found
