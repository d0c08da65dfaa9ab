"""A shard of rows of a fixed effect, and what its evaluation gives: sums that add up over shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.errors import InternalError

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FixedEffectShard:
    """The rows of one home shard: features in CSR form, labels, weights, offsets; all may be memory-mapped.

    Shapes: `indptr` int64[n+1], `indices` int32[nnz], `values` float64[nnz], the rest float64[n]. The
        intercept is
    implicit: where there is one, stored indices start at 1. Indices MUST be within the dimension and increase
    inside a row; weights MUST be ≥ 0 and everything finite (checked at ingestion, not here).
    """

    indptr: Int64Array
    indices: Int32Array
    values: Float64Array
    labels: Float64Array
    weights: Float64Array
    offsets: Float64Array

    def __post_init__(self) -> None:
        kinds = {"indptr": np.int64, "indices": np.int32}
        for name in ("indptr", "indices", "values", "labels", "weights", "offsets"):
            object.__setattr__(self, name, kernel_input(getattr(self, name), kinds.get(name, np.float64)))
        rows = self.labels.size
        if not (self.indptr.size == rows + 1 and self.weights.size == rows == self.offsets.size):
            raise InternalError(
                f"a shard's arrays disagree: {self.indptr.size} row pointers, {rows} labels, "
                f"{self.weights.size} weights, {self.offsets.size} offsets"
            )
        if not (self.indices.size == self.values.size == int(self.indptr[-1])):
            raise InternalError(
                f"a shard's arrays disagree: {self.indices.size} indices, {self.values.size} values, "
                f"row pointers up to {int(self.indptr[-1])}"
            )

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.labels.size)


@dataclass(frozen=True, slots=True)
class FixedEffectSums:
    """Sums over rows at one θ, of the loss alone (no regularisation); D = dimension, d = D(D+1)/2.

    Attributes:
        value: Σ w ℓ(y, z).
        weight_sum: Σ w.
        rows: the number of rows.
        gradient: float64[D], Σ w (μ − y) x.
        gradient_scale: float64[D], Σ w |x| (|y| + |μ|): the size of the terms that cancel in the gradient.
        curvature: float64[D], Σ w ℓ'' x²: the Hessian's diagonal.
        hessian: float64[d] or None, Σ w ℓ'' x xᵀ as upper triangle, row by row ((0,0), (0,1), …, (1,1), …).
    """

    value: float
    weight_sum: float
    rows: int
    gradient: Float64Array
    gradient_scale: Float64Array
    curvature: Float64Array
    hessian: Float64Array | None

    @property
    def dimension(self) -> int:
        """Return D."""
        return int(self.gradient.size)

    def add(self, other: FixedEffectSums) -> FixedEffectSums:
        """Return the elementwise a + b, one rounding each; `other` MUST be of the same dimension and kind."""
        if self.dimension != other.dimension or (self.hessian is None) != (other.hessian is None):
            raise InternalError(
                f"sums of dimension {self.dimension} and {other.dimension}, with and without a Hessian, "
                "cannot be added"
            )
        hessian = None
        if self.hessian is not None and other.hessian is not None:
            hessian = self.hessian + other.hessian
        return FixedEffectSums(
            value=self.value + other.value,
            weight_sum=self.weight_sum + other.weight_sum,
            rows=self.rows + other.rows,
            gradient=self.gradient + other.gradient,
            gradient_scale=self.gradient_scale + other.gradient_scale,
            curvature=self.curvature + other.curvature,
            hessian=hessian,
        )

    def to_array(self) -> Float64Array:
        """Return one float64 vector for the wire: value, weight_sum, rows, then the arrays in order."""
        head = np.array([self.value, self.weight_sum, float(self.rows)])
        parts = [head, self.gradient, self.gradient_scale, self.curvature]
        return np.concatenate(parts if self.hessian is None else [*parts, self.hessian])

    @classmethod
    def from_array(cls, array: npt.ArrayLike, dimension: int) -> FixedEffectSums:
        """Read `to_array`'s vector; whether it holds a Hessian shows in its length."""
        flat = np.asarray(array, dtype=np.float64)
        plain = 3 + 3 * dimension
        if flat.size not in {plain, plain + packed_size(dimension)}:
            raise InternalError(
                f"sums of dimension {dimension} have {plain} numbers, or "
                f"{plain + packed_size(dimension)} with a Hessian; found {flat.size}"
            )
        gradient, scale, curvature = flat[3:plain].reshape(3, dimension)
        return cls(
            value=float(flat[0]),
            weight_sum=float(flat[1]),
            rows=int(flat[2]),
            gradient=gradient,
            gradient_scale=scale,
            curvature=curvature,
            hessian=flat[plain:] if flat.size > plain else None,
        )


def packed_size(dimension: int) -> int:
    """Return the length of a packed upper triangle: D(D+1)/2."""
    return dimension * (dimension + 1) // 2


def unpack_upper(packed: Float64Array, dimension: int) -> Float64Array:
    """Return the full symmetric float64[D, D] of a packed upper triangle."""
    full = np.empty((dimension, dimension))
    start = 0
    for row in range(dimension):
        end = start + dimension - row
        full[row, row:] = packed[start:end]
        full[row:, row] = packed[start:end]
        start = end
    return full
