"""From input files to home shards and partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from gdmix_core.config import FixedEffect, JobConfig, RandomEffect
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.errors import DataError
from gdmix_core.tasks import (
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
)
from gdmix_server.program.sizes import partition_count, shard_count
from gdmix_server.program.steps import Steps, run
from gdmix_server.state.model import Report

ROLES: tuple[Role, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Shards:
    """The home shards of a role: their directories and sizes."""

    directories: tuple[str, ...]
    rows: tuple[int, ...]
    results: tuple[ShardBuilt, ...]


@dataclass(frozen=True, slots=True)
class Partitions:
    """The partitions of a grouping."""

    directories: tuple[str, ...]
    rows: tuple[int, ...]
    entities: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything training reads; `partitions` by (role, grouping)."""

    index: str
    schema_fingerprint: str
    bag_sizes: Mapping[str, int]
    designs: Mapping[str, DesignSpec]
    groupings: Mapping[str, GroupingSpec]
    metric_groupings: Mapping[str, GroupingSpec]
    """By entity column."""
    shards: Mapping[Role, Shards]
    partitions: Mapping[tuple[Role, str], Partitions]

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to measure on."""
        return bool(self.shards["validation"].directories)

    def dimension(self, bags: tuple[str, ...], intercept: bool) -> int:
        """Number of coefficients of a coordinate."""
        return sum(self.bag_sizes[bag] for bag in bags) + int(intercept)


def prepare_data(config: JobConfig) -> Steps[Prepared]:
    """Inspect, index, encode, sort into home shards, group into partitions."""
    metric_columns = sorted({name.partition(":")[2] for name in config.effective_metrics if ":" in name})
    entity_columns = tuple(
        dict.fromkeys(
            [c.random_effect for c in config.coordinates.values() if isinstance(c, RandomEffect)]
            + metric_columns
        )
    )
    inspect = InspectData(
        output="",
        data=config.data,
        features=dict(config.features),
        entity_columns=entity_columns,
        task=config.task,
    )
    outcome = yield from run("inspect", "inspecting the data", [inspect])
    inspected = cast("DataInspected", outcome.results[0])
    splits = inspected.splits
    index = yield from _build_index(inspected)
    rows = {role: sum(n for s, n in zip(splits, index.rows, strict=True) if s.role == role) for role in ROLES}
    if rows["train"] == 0:
        raise DataError(f"data.train: no rows in {', '.join(config.data.train)}")
    if config.data.validation and rows["validation"] == 0:
        raise DataError(f"data.validation: no rows in {', '.join(config.data.validation)}")
    yield Report(train_rows=rows["train"], validation_rows=rows["validation"])

    designs, groupings = _coordinate_specs(config, rows["train"])
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
        "train": shard_count(rows["train"], config.data.shards),
        "validation": shard_count(rows["validation"]) if rows["validation"] else 0,
    }
    spills = yield from _encode(inspected, index, counts)
    shards = yield from _build_shards(
        index, spills, counts, tuple(designs.values()), groupings, tuple(metric_groupings.values())
    )
    yield from _report_missing_entities(shards, groupings)
    partitions = yield from _build_partitions(shards, groupings, metric_groupings)
    return Prepared(
        index=index.directory,
        schema_fingerprint=index.merged.schema_fingerprint,
        bag_sizes=index.merged.bag_sizes,
        designs=designs,
        groupings=groupings,
        metric_groupings=metric_groupings,
        shards=shards,
        partitions=partitions,
    )


@dataclass(frozen=True, slots=True)
class _Index:
    directory: str
    merged: IndexMerged
    rows: tuple[int, ...]


def _build_index(inspected: DataInspected) -> Steps[_Index]:
    splits, encoding = inspected.splits, inspected.encoding
    outcome = yield from run(
        "index",
        "collecting features",
        [IndexFeatures(output="", split=split, encoding=encoding) for split in splits],
    )
    rows = tuple(cast("FeaturesIndexed", result).rows for result in outcome.results)
    partials = tuple(d for d, split in zip(outcome.directories, splits, strict=True) if split.role == "train")
    merge = MergeIndex(output="", encoding=encoding, partials=partials)
    merged = yield from run("merge-index", "merging the feature index", [merge])
    return _Index(merged.directories[0], cast("IndexMerged", merged.results[0]), rows)


def _coordinate_specs(
    config: JobConfig, train_rows: int
) -> tuple[dict[str, DesignSpec], dict[str, GroupingSpec]]:
    designs: dict[str, DesignSpec] = {}
    groupings: dict[str, GroupingSpec] = {}
    for name, coordinate in config.coordinates.items():
        if isinstance(coordinate, FixedEffect):
            designs[name] = DesignSpec(name=name, bags=coordinate.features, intercept=coordinate.intercept)
        else:
            groupings[name] = GroupingSpec(
                name=name,
                entity_column=coordinate.random_effect,
                partitions=partition_count(train_rows, coordinate.partitions),
                bags=coordinate.features,
                intercept=coordinate.intercept,
            )
    return designs, groupings


def _encode(
    inspected: DataInspected, index: _Index, counts: Mapping[str, int]
) -> Steps[dict[Role, tuple[str, ...]]]:
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
    yield from _report_values(results, [split for split, _ in kept])
    return {
        role: tuple(d for d, (split, _) in zip(outcome.directories, kept, strict=True) if split.role == role)
        for role in ROLES
    }


def _report_values(results: list[SplitEncoded], splits: list[Split]) -> Steps[None]:
    """Say what was null, and what validation rows hold that training never saw."""
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
            yield Report(notice=f"column {column}: {count:,} null values count as absent (0)")
    for column, count in sorted(unknown.items()):
        if count:
            yield Report(
                notice=f"column {column}: {count:,} values in the validation rows are unknown to the model"
            )


def _build_shards(
    index: _Index,
    spills: Mapping[Role, tuple[str, ...]],
    counts: Mapping[str, int],
    designs: tuple[DesignSpec, ...],
    groupings: Mapping[str, GroupingSpec],
    metric_groupings: tuple[GroupingSpec, ...],
) -> Steps[dict[Role, Shards]]:
    of_role = {
        "train": tuple(groupings.values()),
        "validation": (*groupings.values(), *metric_groupings),
    }
    units = [
        BuildShard(
            output="",
            role=role,
            shard=shard,
            spills=spills[role],
            bag_sizes=dict(index.merged.bag_sizes),
            designs=designs,
            groupings=of_role[role],
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
    if sum(result.weight for result in found["train"].results) <= 0:
        raise DataError("data.train: the weights of all rows are 0; at least one row needs a positive weight")
    return found


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
) -> Steps[dict[tuple[Role, str], Partitions]]:
    wanted: list[tuple[Role, GroupingSpec]] = [("train", grouping) for grouping in groupings.values()]
    if shards["validation"].directories:
        wanted += [("validation", g) for g in (*groupings.values(), *metric_groupings.values())]
    if not wanted:
        return {}
    units = [
        BuildPartition(
            output="", role=role, grouping=grouping, partition=partition, shards=shards[role].directories
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
