"""Products with the problems' matrices: linear predictors and Hessian-vector products."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled
from gdmix_core.solvers.loss_kernels import loss_mean_and_curvature
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect.problem_arrays import ProblemArrays, kernel_array, problem_arrays
from gdmix_core.solvers.random_effect.problems import EntityProblems

Float64Array = npt.NDArray[np.float64]


@compiled
def predict_rows(p: ProblemArrays, coefficients: Float64Array, out: Float64Array) -> None:
    """Fill x·θ of every row, without its offset."""
    for e in range(p.row_ptr.size - 1):
        c0 = p.coefficient_ptr[e]
        constant = 0.0
        if p.intercept and p.coefficient_ptr[e + 1] > c0:
            constant = coefficients[c0]
        for i in range(p.row_ptr[e], p.row_ptr[e + 1]):
            total = constant
            for q in range(p.indptr[i], p.indptr[i + 1]):
                total += p.values[q] * coefficients[c0 + p.indices[q]]
            out[i] = total


@compiled
def multiply_hessians(
    loss: int, p: ProblemArrays, predictors: Float64Array, vector: Float64Array, out: Float64Array
) -> None:
    """Fill (Xᵀ·W·X + diag l2)·vector of every entity, with W at the predictors (offsets included)."""
    for e in range(p.row_ptr.size - 1):
        c0 = p.coefficient_ptr[e]
        for j in range(c0, p.coefficient_ptr[e + 1]):
            out[j] = p.l2[j] * vector[j]
        constant = p.intercept and p.coefficient_ptr[e + 1] > c0
        for i in range(p.row_ptr[e], p.row_ptr[e + 1]):
            total = vector[c0] if constant else 0.0
            for q in range(p.indptr[i], p.indptr[i + 1]):
                total += p.values[q] * vector[c0 + p.indices[q]]
            total *= p.weights[i] * loss_mean_and_curvature(loss, predictors[i])[1]
            if constant:
                out[c0] += total
            for q in range(p.indptr[i], p.indptr[i + 1]):
                out[c0 + p.indices[q]] += total * p.values[q]


def linear_predictor(problems: EntityProblems, coefficients: npt.NDArray[Any]) -> Float64Array:
    """Return x·θ of every row, float64[N], without the offsets.

    Args:
        problems: rows and coefficient ranges of the entities.
        coefficients: float64[C].
    """
    p = problem_arrays(problems)
    out = np.zeros(p.labels.size)
    predict_rows(p, kernel_array(coefficients, np.float64), out)
    return out


def hessian_vector_product(
    problems: EntityProblems, loss: Loss, coefficients: npt.NDArray[Any], vectors: npt.NDArray[Any]
) -> Float64Array:
    """Return (Xᵀ·W·X + diag l2)·v of every entity at these coefficients.

    Args:
        problems: the entities.
        loss: the loss.
        coefficients: float64[C], where the Hessian is taken.
        vectors: float64[C] or float64[C, k], one vector a column.
    """
    p = problem_arrays(problems)
    predictors = linear_predictor(problems, coefficients) + p.offsets
    columns = np.atleast_2d(np.asarray(vectors, dtype=np.float64).T)
    out = np.empty(columns.shape)
    for source, target in zip(columns, out, strict=True):
        multiply_hessians(int(loss), p, predictors, kernel_array(source, np.float64), target)
    return out[0] if np.ndim(vectors) == 1 else np.ascontiguousarray(out.T)
