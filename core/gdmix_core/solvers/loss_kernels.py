"""The losses inside kernels: branch-free, vectorising, and independent of the C library.

`math.exp` changes its last bits with the processor that libm dispatches to, and does not vectorise: these
polynomials vectorise and are the same everywhere. Within the whole range `exp` is right to 1 unit in the last
place and `log1p_unit` to 3. Comparisons are written out because `min` and `max` would swallow a NaN.

Constants: Cody–Waite reduction of ln 2 in two parts, Taylor series of e^r on |r| ≤ ½ ln 2 to degree 13;
log(1+u) = 2·artanh(u/(2+u)) after reduction to [√½, √2], series to degree 21.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

from gdmix_core.compiled import compiled
from gdmix_core.solvers.losses import POISSON_LINEAR_BEYOND

Float64Array = npt.NDArray[np.float64]

_LOGISTIC = 0
_SQUARED = 1
_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
_LN2_HIGH = 6.93145751953125e-1
_LN2_LOW = 1.42860682030941723212e-6
_SQRT2_LESS_1 = 0.41421356237309503
_ROUNDER = 6755399441055744.0  # 1.5·2^52: adding it leaves the nearest integer in the low bits of the sum
_CONTRACT = frozenset({"contract"})  # reassociation would cancel the rounding below


def _bitcast(result: Any, argument: Any) -> Any:
    """Make a numba intrinsic that reads the 64 bits of an argument as another type."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    def typed(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
        return result(argument), code

    return intrinsic(typed)


_bits_of_float = _bitcast(types.int64, types.float64)
_float_of_bits = _bitcast(types.float64, types.int64)


@compiled(fastmath=_CONTRACT)
def exp(x: float) -> float:
    """Return e^x, with x taken into [-708, 709]; NaN stays NaN."""
    x = -708.0 if x < -708.0 else x  # noqa: FURB136
    x = 709.0 if x > 709.0 else x  # noqa: FURB136
    shifted = x * _LOG2_E + _ROUNDER
    k = shifted - _ROUNDER
    r = x - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    q = 1.0 / 6227020800.0
    q = q * r + 1.0 / 479001600.0
    q = q * r + 1.0 / 39916800.0
    q = q * r + 1.0 / 3628800.0
    q = q * r + 1.0 / 362880.0
    q = q * r + 1.0 / 40320.0
    q = q * r + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    q = q * r + 0.5
    q = q * r + 1.0
    q = q * r + 1.0
    scale: float = _float_of_bits((_bits_of_float(shifted) + 1023) << 52)
    return q * scale


@compiled(fastmath=_CONTRACT)
def log1p_unit(u: float) -> float:
    """Return log(1 + u) for 0 ≤ u ≤ 1; NaN stays NaN."""
    large = u > _SQRT2_LESS_1
    f = 0.5 * (u - 1.0) if large else u
    s = f / (2.0 + f)
    t = s * s
    q = 2.0 / 21.0
    q = q * t + 2.0 / 19.0
    q = q * t + 2.0 / 17.0
    q = q * t + 2.0 / 15.0
    q = q * t + 2.0 / 13.0
    q = q * t + 2.0 / 11.0
    q = q * t + 2.0 / 9.0
    q = q * t + 2.0 / 7.0
    q = q * t + 2.0 / 5.0
    q = q * t + 2.0 / 3.0
    q = q * t
    return (2.0 * s + s * q) + (_LN2 if large else 0.0)


@compiled(fastmath=_CONTRACT)
def loss_value(loss: int, y: float, z: float) -> float:
    """Return ℓ(y, z) of the loss with this number."""
    if loss == _LOGISTIC:
        return (z if z > 0.0 else 0.0) - y * z + log1p_unit(exp(-abs(z)))  # noqa: FURB136
    if loss == _SQUARED:
        return 0.5 * (y - z) * (y - z)
    excess = z - POISSON_LINEAR_BEYOND if z > POISSON_LINEAR_BEYOND else 0.0
    return exp(z - excess) * (1.0 + excess) - y * z


@compiled(fastmath=_CONTRACT)
def loss_mean_and_curvature(loss: int, z: float) -> tuple[float, float]:
    """Return the mean μ(z) and d²ℓ/dz² = dμ/dz; the first derivative of ℓ is μ − y."""
    if loss == _LOGISTIC:
        small = exp(-abs(z))
        upper = 1.0 / (1.0 + small)
        lower = small * upper
        return (upper if z >= 0.0 else lower), lower * upper
    if loss == _SQUARED:
        return z, 1.0
    rate = exp(POISSON_LINEAR_BEYOND if z > POISSON_LINEAR_BEYOND else z)  # noqa: FURB136
    return rate, rate


@compiled(fastmath=_CONTRACT)
def loss_terms_block(
    loss: int,
    count: int,
    y: Float64Array,
    z: Float64Array,
    value: Float64Array,
    mean: Float64Array,
    second: Float64Array,
) -> None:
    """Fill value, mean and second derivative of the first `count` rows; each loop vectorises."""
    if loss == _LOGISTIC:
        for i in range(count):
            small = exp(-abs(z[i]))
            upper = 1.0 / (1.0 + small)
            lower = small * upper
            mean[i] = upper if z[i] >= 0.0 else lower
            second[i] = lower * upper
            value[i] = (z[i] if z[i] > 0.0 else 0.0) - y[i] * z[i] + log1p_unit(small)  # noqa: FURB136
    elif loss == _SQUARED:
        for i in range(count):
            residual = z[i] - y[i]
            mean[i] = z[i]
            second[i] = 1.0
            value[i] = 0.5 * residual * residual
    else:
        for i in range(count):
            excess = z[i] - POISSON_LINEAR_BEYOND if z[i] > POISSON_LINEAR_BEYOND else 0.0
            rate = exp(z[i] - excess)
            mean[i] = rate
            second[i] = rate
            value[i] = rate * (1.0 + excess) - y[i] * z[i]
