"""One part of the joint model as its tasks see it: a partition of a random effect, or a whole fixed effect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import read_segment, write_arrays
from gdmix_core.data.partitions import TrainingPartition, read_partition
from gdmix_core.data.row_exchange import rows_of_shards, write_rows_of_partition
from gdmix_core.data.scores import read_home_shard
from gdmix_core.errors import InternalError
from gdmix_core.tasks import (
    COLUMNS_FILE,
    PARTITION_FILE,
    ROWS_FILE,
    JointPart,
    Regularization,
    shares_file,
)
from gdmix_trainer.tasks.indexes import feature_index_of
from gdmix_trainer.tasks.joint_rows import design_of_shard

if TYPE_CHECKING:
    from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
    from gdmix_core.solvers.joint.products import Design

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class Groups(NamedTuple):
    """Of every coefficient of a part: group number (−1: none), scale, l2."""

    number: Int32Array
    scale: Float64Array
    l2: Float64Array


@dataclass(frozen=True, slots=True)
class Part(ABC):
    """One part.

    Attributes:
        name: of the coordinate.
        bags: its feature bags.
        intercept: whether it has one.
        index: directory of the feature index.
        design: its features; a fixed effect's has no rows, they stay in the home shards.
        features: int32[C], each coefficient's feature in the coordinate's feature space.
        present: bool[entities], those that have a part in the model.
    """

    name: str
    bags: tuple[str, ...]
    intercept: bool
    index: str
    design: Design
    features: Int32Array
    present: BoolArray

    def groups(self, regularization: Regularization) -> Groups:
        """Return the coefficients' groups; coefficients without one are unregularised or not in the model."""
        index = feature_index_of(self.index)
        groups = index.feature_groups(self.bags, self.intercept, regularization)
        l2 = index.ridge(self.bags, self.intercept, regularization)
        absent = np.repeat(~self.present, np.diff(self.design.coefficient_ptr))
        number = np.where(absent, np.int32(-1), groups.number[self.features])
        return Groups(number, groups.scale[self.features], l2[self.features])

    @abstractmethod
    def energies(self, shards: Sequence[str]) -> Float64Array:
        """Return Σ w·x² of every coefficient, float64[C]."""

    @abstractmethod
    def linearised(
        self, directories: Sequence[str], l2: Float64Array
    ) -> tuple[Float64Array, BlockPreconditioner]:
        """Return the loss's gradient, float64[C], and M, from what all home shards handed over."""

    @abstractmethod
    def gather(self, directories: Sequence[str], columns: int) -> Float64Array:
        """Return Xᵀ times what all home shards handed over, float64[C, columns]."""

    @abstractmethod
    def write_columns(self, output: Path, vectors: npt.NDArray[np.floating]) -> None:
        """Hand the home shards the products with these vectors; a fixed effect hands the vectors."""

    def share_files(self, directories: Sequence[str]) -> list[Path]:
        """Return what the home shards handed over."""
        return [Path(directory) / shares_file(self.name) for directory in directories]


@dataclass(frozen=True, slots=True)
class PartitionPart(Part):
    """A partition of a random effect."""

    number: int
    partition: TrainingPartition

    def energies(self, shards: Sequence[str]) -> Float64Array:  # noqa: ARG002 - its rows are its own
        """See `Part`."""
        from gdmix_core.solvers.joint.products import weighted_squares

        return weighted_squares(self.design, self.partition.weight)

    def linearised(
        self, directories: Sequence[str], l2: Float64Array
    ) -> tuple[Float64Array, BlockPreconditioner]:
        """See `Part`."""
        from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
        from gdmix_core.solvers.joint.products import multiply_transposed

        rows = rows_of_shards(self.number, self.share_files(directories), self.partition, 2)
        order = self.partition.order
        gradient = multiply_transposed(self.design, np.ascontiguousarray(rows[:, :1]), order)[:, 0]
        curvature = rows[:, 1].astype(np.float64)[order]
        blocks = BlockPreconditioner.of_entities(self.design, curvature, l2, self.present)
        return gradient, blocks

    def gather(self, directories: Sequence[str], columns: int) -> Float64Array:
        """See `Part`."""
        from gdmix_core.solvers.joint.products import multiply_transposed

        rows = rows_of_shards(self.number, self.share_files(directories), self.partition, columns)
        return multiply_transposed(self.design, rows, self.partition.order)

    def write_columns(self, output: Path, vectors: npt.NDArray[np.floating]) -> None:
        """See `Part`."""
        from gdmix_core.solvers.joint.products import add_products

        rows = np.zeros((self.partition.rows, vectors.shape[1]), np.float32)
        add_products(self.design, vectors, rows, self.partition.order)
        write_rows_of_partition(output / COLUMNS_FILE, self.partition, rows)


@dataclass(frozen=True, slots=True)
class FixedEffectPart(Part):
    """A whole fixed effect."""

    def energies(self, shards: Sequence[str]) -> Float64Array:
        """See `Part`."""
        from gdmix_core.solvers.joint.products import weighted_squares

        total = np.zeros(self.design.coefficients)
        for directory in shards:
            weights = read_home_shard(Path(directory) / ROWS_FILE)["weight"]
            total += weighted_squares(design_of_shard(Path(directory), self.name), weights)
        return total

    def linearised(
        self, directories: Sequence[str], l2: Float64Array
    ) -> tuple[Float64Array, BlockPreconditioner]:
        """See `Part`."""
        from gdmix_core.solvers.fixed_effect.shard import unpack_upper
        from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner

        size = self.design.coefficients
        gradient, curvature, packed = np.zeros(size), np.zeros(size), np.zeros(0)
        for path in self.share_files(directories):
            sums = read_segment(path)
            gradient += sums["gradient"]
            curvature += sums["curvature"]
            packed = packed + sums["hessian"] if len(packed) else sums["hessian"].copy()
        hessian = unpack_upper(packed, size) if len(packed) else curvature
        return gradient, BlockPreconditioner.of_hessian(self.design, hessian, l2)

    def gather(self, directories: Sequence[str], columns: int) -> Float64Array:
        """See `Part`."""
        total = np.zeros(self.design.coefficients * columns)
        for path in self.share_files(directories):
            total += read_segment(path)["numbers"]
        return total.reshape(-1, columns)

    def write_columns(self, output: Path, vectors: npt.NDArray[np.floating]) -> None:
        """See `Part`."""
        write_arrays(output / COLUMNS_FILE, [{"numbers": vectors.reshape(-1).astype(np.float32)}])


def read_part(part: JointPart) -> Part:
    """Read a part's features, memory-mapped."""
    from gdmix_core.solvers.joint.products import design_of

    if part.grouping is not None and part.partition_directory is not None:
        partition = read_partition(Path(part.partition_directory) / PARTITION_FILE)
        matrix = partition.matrix
        return PartitionPart(
            name=part.grouping.name,
            bags=part.grouping.bags or (),
            intercept=part.grouping.intercept,
            index=part.index,
            design=design_of(
                partition.row_ptr,
                matrix.indptr,
                matrix.indices,
                matrix.values,
                partition.coefficient_ptr,
                partition.intercept,
            ),
            features=partition.features,
            present=partition.trained,
            number=part.partition,
            partition=partition,
        )
    if part.design is None:
        raise InternalError("a part is of a random effect or of a fixed effect")
    size = feature_index_of(part.index).dimension(part.design.bags, part.design.intercept)
    return FixedEffectPart(
        name=part.design.name,
        bags=part.design.bags,
        intercept=part.design.intercept,
        index=part.index,
        design=design_of(
            np.zeros(2, np.int64),
            np.zeros(1, np.int64),
            np.empty(0, np.int32),
            np.empty(0),
            np.array([0, size]),
            part.design.intercept,
        ),
        features=np.arange(size, dtype=np.int32),
        present=np.ones(1, np.bool_),
    )
