"""Home shards: the rows whose uid hashes to one number, sorted by uid, laid out for all that read them.

`build_home_shard` reads one segment of every encoded split, aligns the sources (`shard_rows`) and writes

- the shard file: uid, label, weight, offset of every row;
- for each external fixed effect the score block of its rows;
- for each fixed effect that is plugged in the columns that it reads;
- for each fixed effect a design file: the CSR rows of its bags in the coordinate's feature space;
- for each grouping (a random effect, or a per-entity metric) a partition spill: the rows that have an entity,
  cut into the partitions that the entities hash to, with the coordinate's CSR rows.

Memory depends on the shard's size only. A row's id is (shard, position); layouts: `docs/specs/data-plane.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import write_arrays
from gdmix_core.data.csr import bag_shifts
from gdmix_core.data.hashing import entity_partitions
from gdmix_core.data.input_columns import write_shard_inputs
from gdmix_core.data.layout import DesignSpec, GroupingSpec, InputSpec
from gdmix_core.data.score_blocks import write_score_block
from gdmix_core.data.shard_rows import Mismatch, ShardRows

Int64Array = npt.NDArray[np.int64]

SHARD_FORMAT: Final = 1
DESIGN_FORMAT: Final = 1
PARTITION_SPILL_FORMAT: Final = 2
NO_INPUTS: Final[Mapping[str, Sequence[InputSpec]]] = {}
NO_SPILLS: Final[Mapping[str, Sequence[str | Path]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeShardPaths:
    """Where a home shard's files go; designs and groupings by name, score blocks by source, inputs by coordinate."""

    rows: Path
    designs: Mapping[str, Path]
    groupings: Mapping[str, Path]
    scores: Mapping[str, Path] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HomeShardSummary:
    """What a home shard holds.

    Attributes:
        rows: Number of rows.
        weight: Sum of the rows' weights, added in row order.
        nonzeros: Stored entries by design.
        without_entity: Rows that have no entity, by grouping.
        mismatches: Further sources whose uids are not those of the main one.
    """

    rows: int
    weight: float
    nonzeros: dict[str, int]
    without_entity: dict[str, int]
    mismatches: Mapping[str, Mismatch]


def build_home_shard(
    shard: int,
    spills: Mapping[str, Sequence[str | Path]],
    paths: HomeShardPaths,
    *,
    designs: Sequence[DesignSpec],
    groupings: Sequence[GroupingSpec],
    bag_sizes: Mapping[str, int],
    inputs: Mapping[str, Sequence[InputSpec]] = NO_INPUTS,
    input_spills: Mapping[str, Sequence[str | Path]] = NO_SPILLS,
) -> HomeShardSummary:
    """Gather one home shard from the encoded splits and write its files.

    Args:
        shard: The home shard's number.
        spills: The encoded splits of each source in split order; every one is read at this segment only.
        paths: Where the files go; each appears by atomic rename.
        designs: The fixed effects' views to write.
        groupings: The groupings to write.
        bag_sizes: Number of features by bag.
        inputs: Columns that plug-ins read, by coordinate.
        input_spills: Files of these columns by source, as `spills`.

    Raises:
        DataError: Two rows have the same uid, or a file cannot be read or written.
        InternalError: A spill does not hold what the specs ask for.
    """
    gathered = ShardRows.gather(shard, spills, bag_sizes)
    rows = {name: gathered.main.column(name) for name in ("label", "weight", "offset")}
    count = len(gathered)
    metadata = {"format": SHARD_FORMAT, "shard": shard, "rows": count}
    write_arrays(paths.rows, [{"uid": gathered.uid, **rows}], metadata)
    for source, path in paths.scores.items():
        write_score_block(path, shard, gathered.score(source))
    for coordinate, columns in inputs.items():
        write_shard_inputs(paths.inputs[coordinate], shard, gathered, coordinate, columns, input_spills)
    nonzeros = {}
    for design in designs:
        shifts, dimension = bag_shifts(design.bags, bag_sizes, design.intercept)
        matrix = gathered.place(design.bags, np.arange(count), shifts, count)
        facts = {
            "format": DESIGN_FORMAT,
            "shard": shard,
            "rows": count,
            "dimension": dimension,
            "intercept": design.intercept,
        }
        write_arrays(paths.designs[design.name], [matrix.arrays()], facts)
        nonzeros[design.name] = len(matrix.indices)
    without_entity = {
        grouping.name: _write_grouping(
            shard, gathered, rows, grouping, paths.groupings[grouping.name], bag_sizes
        )
        for grouping in groupings
    }
    weight = float(np.cumsum(rows["weight"])[-1]) if count else 0.0
    return HomeShardSummary(count, weight, nonzeros, without_entity, gathered.mismatches)


def _write_grouping(
    shard: int,
    gathered: ShardRows,
    rows: Mapping[str, npt.NDArray[Any]],
    spec: GroupingSpec,
    path: Path,
    bag_sizes: Mapping[str, int],
) -> int:
    """Write the partition spill of one grouping; return the number of rows without entity."""
    column = gathered.entity(spec.entity_column)
    present = np.flatnonzero(column.missing == 0)
    ids = column.ids.take(present)
    partition = entity_partitions(ids.data, ids.ptr, spec.partitions)
    by_partition = np.argsort(
        partition.astype(np.uint16) if spec.partitions <= 2**16 else partition, kind="stable"
    )
    bounds = np.searchsorted(partition[by_partition], np.arange(spec.partitions + 1))
    ids = ids.take(by_partition)
    position = present[by_partition]
    matrix, dimension = None, 0
    if spec.bags is not None:
        shifts, dimension = bag_shifts(spec.bags, bag_sizes, spec.intercept)
        place_of = np.full(len(gathered.uid), -1, np.int64)
        place_of[position] = np.arange(len(position))
        matrix = gathered.place(spec.bags, place_of, shifts, len(position))
    sampled = _sampling(gathered, spec, position)
    without_entity = len(gathered.uid) - len(position)
    metadata = {
        "format": PARTITION_SPILL_FORMAT,
        "grouping": spec.name,
        "shard": shard,
        "partitions": spec.partitions,
        "rows": len(position),
        "without_entity": without_entity,
        "dimension": dimension,
        "intercept": spec.intercept,
        "min_rows": spec.min_rows,
        "max_rows": spec.max_rows,
    }
    label, weight = rows["label"][position], rows["weight"][position]

    def segments() -> Iterator[dict[str, npt.NDArray[Any]]]:
        for start, stop in pairwise(bounds):
            yield {
                "position": position[start:stop],
                **ids.slice(start, stop).arrays("entity"),
                "label": label[start:stop],
                "weight": weight[start:stop],
                **{name: array[start:stop] for name, array in sampled.items()},
                **({} if matrix is None else matrix.slice(start, stop).arrays()),
            }

    write_arrays(path, segments(), metadata)
    return without_entity


def _sampling(gathered: ShardRows, spec: GroupingSpec, position: Int64Array) -> dict[str, npt.NDArray[Any]]:
    """Return what decides which rows are trained on, at the positions; nothing when all are."""
    if spec.bags is None:
        return {}
    active = gathered.active(spec.bags, spec.entity_column)
    if active is None:
        if spec.min_rows is None and spec.max_rows is None:
            return {}
        active = np.ones(len(gathered), np.bool_)
    return {"uid": gathered.uid[position], "active": active[position].astype(np.uint8)}
