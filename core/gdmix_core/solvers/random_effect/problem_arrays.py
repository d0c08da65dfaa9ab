"""The problems and solutions as kernels see them: named tuples of arrays, which numba passes without copying."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.solvers.random_effect.problems import EntityProblems

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]


class ProblemArrays(NamedTuple):
    """The arrays of `EntityProblems`, in its order and meaning."""

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


class SolutionArrays(NamedTuple):
    """The arrays of `EntitySolutions` that kernels fill."""

    coefficients: Float64Array
    iterations: Int32Array
    gradient_norm: Float64Array
    tolerance_ratio: Float64Array


class _WritableView:
    """Shows an array's memory to numpy as writable, and keeps the array alive."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = array


def kernel_array(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """Return the array with the one type that kernels are compiled for: C order, aligned, not marked read-only.

    A memory-mapped array is read-only, and numba would compile every kernel a second time for it. The view's memory is
    still read-only: kernels MUST NOT write to their inputs.
    """
    fitting = np.require(array, dtype=dtype, requirements=["C", "A"])
    return fitting if fitting.flags.writeable else np.asarray(_WritableView(fitting))


def problem_arrays(problems: EntityProblems) -> ProblemArrays:
    """Return the problems' arrays for kernels, without copying where types fit."""
    return ProblemArrays(
        row_ptr=kernel_array(problems.row_ptr, np.int64),
        indptr=kernel_array(problems.indptr, np.int64),
        indices=kernel_array(problems.indices, np.int32),
        values=kernel_array(problems.values, np.float64),
        labels=kernel_array(problems.labels, np.float64),
        weights=kernel_array(problems.weights, np.float64),
        offsets=kernel_array(problems.offsets, np.float64),
        coefficient_ptr=kernel_array(problems.coefficient_ptr, np.int64),
        intercept=bool(problems.intercept),
        l2=kernel_array(problems.l2, np.float64),
        prior_mean=kernel_array(problems.prior_mean, np.float64),
    )
