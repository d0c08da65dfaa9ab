"""What a random-effect solve takes and gives: problems and solutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError
from gdmix_core.solvers.entity_status import EntityStatus

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EntityProblems:
    """The generalised linear models of all entities of one partition, laid end to end.

    Entity e has the rows row_ptr[e]:row_ptr[e+1] and the coefficients coefficient_ptr[e]:coefficient_ptr[e+1]. Its
    objective is  Σ_i w_i·ℓ(y_i, offset_i + x_i·θ) + ½ Σ_j l2_j·(θ_j − prior_mean_j)².

    With E entities, N rows, C coefficients in all:

    Attributes:
        row_ptr: int64[E+1].
        indptr: int64[N+1], CSR row pointer into `indices` and `values`.
        indices: int32[nnz], local coefficient numbers of the row's entity, strictly increasing inside a row; never 0
            when there is an intercept.
        values: float64[nnz].
        labels: float64[N].
        weights: float64[N], at least 0.
        offsets: float64[N].
        coefficient_ptr: int64[E+1].
        intercept: coefficient 0 of every entity is an intercept: x = 1 on every row, not stored.
        l2: float64[C], at least 0; 0 leaves a coefficient unregularised.
        prior_mean: float64[C].
    """

    row_ptr: Int64Array
    indptr: Int64Array
    indices: Int32Array
    values: Float64Array
    labels: Float64Array
    weights: Float64Array
    offsets: Float64Array
    coefficient_ptr: Int64Array
    intercept: bool
    l2: Float64Array
    prior_mean: Float64Array

    def __post_init__(self) -> None:
        rows, coefficients = int(self.row_ptr[-1]), int(self.coefficient_ptr[-1])
        expected: dict[str, tuple[npt.NDArray[Any], int]] = {
            "coefficient_ptr": (self.coefficient_ptr, self.row_ptr.size),
            "indptr": (self.indptr, rows + 1),
            "labels": (self.labels, rows),
            "weights": (self.weights, rows),
            "offsets": (self.offsets, rows),
            "l2": (self.l2, coefficients),
            "prior_mean": (self.prior_mean, coefficients),
            "indices": (self.indices, int(self.indptr[-1])),
            "values": (self.values, int(self.indptr[-1])),
        }
        for name, (array, size) in expected.items():
            if array.shape != (size,):
                raise InternalError(f"EntityProblems.{name} has the shape {array.shape}; expected ({size},)")

    @property
    def entities(self) -> int:
        """Return the number of entities."""
        return self.row_ptr.size - 1


@dataclass(slots=True)
class EntitySolutions:
    """The solutions of all entities of `EntityProblems`, with their certificates.

    Attributes:
        coefficients: float64[C], finite.
        status: uint8[E], values of `EntityStatus`.
        iterations: int32[E], Newton steps.
        gradient_norm: float64[E], max_j |g_j| of the objective at the coefficients; infinite where it cannot be formed.
        tolerance_ratio: float64[E], max_j |g_j| / allowed_j with
            allowed_j = max(1e-8·max(1, Σw), 64·ε·Σ_i w_i|x_ij|(|y_i|+|μ_i|)); at most 1 if and only if the certificate
            holds, infinite where it cannot be formed.
        variances: float64[C], the diagonal of the inverse Hessian, where asked for.
    """

    coefficients: Float64Array
    status: UInt8Array
    iterations: Int32Array
    gradient_norm: Float64Array
    tolerance_ratio: Float64Array
    variances: Float64Array | None = None

    def count(self, status: EntityStatus) -> int:
        """Return how many entities ended with this status."""
        return int(np.count_nonzero(self.status == status))
