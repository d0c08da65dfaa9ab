"""Loss, gradient and Hessian of a fixed effect on one shard; scores; Hessian-vector products.

The unit of parallelism is the shard: the kernels release the GIL, so threads evaluate several shards side by
side, and their sums are added along one fixed tree (`summation_tree`). numba is imported at the first call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.errors import InternalError
from gdmix_core.solvers.fixed_effect.shard import FixedEffectShard, FixedEffectSums, packed_size
from gdmix_core.solvers.losses import Loss

Float64Array = npt.NDArray[np.float64]


def evaluate(
    shard: FixedEffectShard, theta: Float64Array, loss: Loss, dimension: int, intercept: bool, hessian: bool
) -> FixedEffectSums:
    """Return the sums over a shard's rows at θ in one pass over its features.

    Args:
        shard: the rows.
        theta: float64[D], the intercept first where there is one.
        loss: the loss ℓ.
        dimension: D; MUST exceed every stored index.
        intercept: whether coefficient 0 is the implicit intercept.
        hessian: whether to sum the D(D+1)/2 second derivatives too.
    """
    from gdmix_core.solvers.fixed_effect.kernels import accumulate

    theta = _checked(theta, dimension)
    sums = np.zeros(4 * dimension)
    packed = np.zeros(packed_size(dimension) if hessian else 0)
    value, weight_sum = accumulate(
        shard.indptr,
        shard.indices,
        shard.values,
        shard.labels,
        shard.weights,
        shard.offsets,
        theta,
        intercept,
        int(loss),
        sums,
        packed,
    )
    columns = np.ascontiguousarray(sums.reshape(dimension, 4).T)
    return FixedEffectSums(
        value=value,
        weight_sum=weight_sum,
        rows=shard.rows,
        gradient=columns[0],
        gradient_scale=columns[1],
        curvature=columns[2],
        hessian=packed if hessian else None,
    )


def score(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    values: Float64Array,
    theta: Float64Array,
    intercept: bool,
) -> Float64Array:
    """Return x·θ of every row, float64[rows], without offsets."""
    from gdmix_core.solvers.fixed_effect.kernels import linear_predictor

    out = np.empty(indptr.size - 1)
    linear_predictor(
        kernel_input(indptr, np.int64),
        kernel_input(indices, np.int32),
        kernel_input(values, np.float64),
        kernel_input(theta, np.float64),
        intercept,
        out,
    )
    return out


def hessian_vector_product(
    shard: FixedEffectShard, theta: Float64Array, vector: Float64Array, loss: Loss, intercept: bool
) -> Float64Array:
    """Return Σ w ℓ'' x (x·v) over a shard's rows, float64[D]; add l2·v once for the whole problem."""
    from gdmix_core.solvers.fixed_effect.kernels import add_hessian_vector_product

    out = np.zeros(theta.size)
    add_hessian_vector_product(
        shard.indptr,
        shard.indices,
        shard.values,
        shard.weights,
        shard.offsets,
        _checked(theta, theta.size),
        _checked(vector, theta.size),
        intercept,
        int(loss),
        out,
    )
    return out


def hessian_diagonal(
    shard: FixedEffectShard, theta: Float64Array, loss: Loss, intercept: bool
) -> Float64Array:
    """Return Σ w ℓ'' x² over a shard's rows, float64[D]; every evaluation has it as `curvature` too."""
    return evaluate(shard, theta, loss, theta.size, intercept, hessian=False).curvature


def _checked(vector: Float64Array, dimension: int) -> Float64Array:
    if vector.shape != (dimension,):
        raise InternalError(
            f"a coefficient vector of shape {vector.shape} met a problem of dimension {dimension}"
        )
    return kernel_input(vector, np.float64)
