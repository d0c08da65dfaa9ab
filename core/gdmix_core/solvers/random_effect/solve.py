"""Solving all entities of a partition: the plan, the fast path on threads, the careful path for what it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import InternalError
from gdmix_core.solvers.entity_status import EntityStatus
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect.careful_solver import (
    MOST_DENSE,
    MOST_RESCUE,
    plan_careful,
    solve_dense,
    solve_with_gradients,
)
from gdmix_core.solvers.random_effect.lane_solver import lane_workspace, solve_lanes
from gdmix_core.solvers.random_effect.plan import (
    BROKEN,
    CAREFUL,
    NOTHING_TO_FIT,
    LaneChunk,
    lane_chunks,
    survey,
)
from gdmix_core.solvers.random_effect.problem_arrays import (
    ProblemArrays,
    SolutionArrays,
    kernel_array,
    problem_arrays,
)
from gdmix_core.solvers.random_effect.problems import EntityProblems, EntitySolutions
from gdmix_core.solvers.random_effect.threads import on_threads
from gdmix_core.solvers.random_effect.variances import inverse_hessian_diagonals
from gdmix_core.solvers.variance import Variance

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def solve(
    problems: EntityProblems,
    loss: Loss,
    *,
    variance: Variance = "none",
    initial: npt.NDArray[Any] | None = None,
    max_iterations: int = 100,
    threads: int = 1,
) -> EntitySolutions:
    """Fit every entity to its optimum, with a certificate each.

    An entity's coefficients depend, bit for bit, on its own rows in their order and on nothing else: not on the other
    entities, their order, the number of threads or the partition. Nothing raises for an entity's sake: see its status.

    Args:
        problems: the entities.
        loss: the loss.
        variance: which variances to return, if any.
        initial: float64[C], where to start instead of the prior mean, say the previous pass's solution; MUST be finite.
        max_iterations: most Newton steps of an entity.
        threads: threads to use; kernels release the GIL.
    """
    if max_iterations < 1 or threads < 1:
        raise InternalError("max_iterations and threads must be at least 1")
    p = problem_arrays(problems)
    entities = problems.entities
    start = p.prior_mean if initial is None else kernel_array(initial, np.float64)
    if start.shape != p.prior_mean.shape:
        raise InternalError(f"initial has the shape {start.shape}; expected {p.prior_mean.shape}")
    result = EntitySolutions(
        coefficients=p.prior_mean.copy(),
        status=np.zeros(entities, dtype=np.uint8),
        iterations=np.zeros(entities, dtype=np.int32),
        gradient_norm=np.zeros(entities),
        tolerance_ratio=np.zeros(entities),
    )
    outputs = SolutionArrays(
        result.coefficients, result.iterations, result.gradient_norm, result.tolerance_ratio
    )
    method = np.empty(entities, dtype=np.int8)
    unbounded = np.empty(entities, dtype=np.uint8)
    free = np.empty(entities, dtype=np.int32)
    cost = np.empty(entities)
    survey(int(loss), p, method, unbounded, free, cost)
    unsolved = (method == CAREFUL).astype(np.uint8)
    warm = initial is not None

    def fit_chunk(chunk: LaneChunk) -> None:
        workspace = lane_workspace(chunk.rows, chunk.size, chunk.entries, chunk.dual_rows, chunk.hessian_size)
        solve_lanes(
            int(loss),
            chunk.order,
            chunk.methods,
            p,
            start,
            warm,
            max_iterations,
            outputs,
            unsolved,
            *workspace,
        )

    on_threads(fit_chunk, lane_chunks(p, method, unbounded, cost), threads)
    left = np.flatnonzero(unsolved)
    result.status[unbounded == 1] = EntityStatus.UNBOUNDED
    if left.size:
        left = left[np.argsort(-cost[left], kind="stable")]
        _solve_carefully(loss, p, left, free, start, warm, max_iterations, outputs, result, threads)
    _settle(result, p.coefficient_ptr, method)
    if variance != "none":
        simple = variance == "simple"
        result.variances = inverse_hessian_diagonals(
            p, loss, result.coefficients, method, threads, simple=simple
        )
    return result


def _solve_carefully(
    loss: Loss,
    p: ProblemArrays,
    entities: Int64Array,
    free: npt.NDArray[np.int32],
    start: Float64Array,
    warm: bool,
    max_iterations: int,
    outputs: SolutionArrays,
    result: EntitySolutions,
    threads: int,
) -> None:
    """Solve the entities that the lanes cannot; what one way leaves without its certificate goes on to the next."""
    plan = plan_careful(p, entities, free)
    size = np.diff(p.coefficient_ptr)

    def dense(several: Int64Array, in_rows: bool, origin: Float64Array, from_origin: bool) -> Int64Array:
        def fit(part: Int64Array) -> None:
            solve_dense(
                int(loss), part, in_rows, p, origin, from_origin, max_iterations, outputs, result.status
            )

        on_threads(fit, _parts(several, threads), threads)
        return several[result.tolerance_ratio[several] > 1.0]

    def gradients(several: Int64Array, origin: Float64Array, from_origin: bool) -> Int64Array:
        def fit(part: Int64Array) -> None:
            solve_with_gradients(
                int(loss), part, p, origin, from_origin, max_iterations, outputs, result.status
            )

        on_threads(fit, _parts(several, threads), threads)
        return several[result.tolerance_ratio[several] > 1.0]

    dense(plan.dense, False, start, warm)
    again = dense(plan.in_rows, True, start, warm)
    if again.size:
        origin = result.coefficients.copy()
        dense(again[size[again] <= MOST_DENSE], False, origin, True)
        gradients(again[size[again] > MOST_DENSE], origin, True)
    missed = gradients(plan.gradients, start, warm)
    missed = missed[size[missed] <= MOST_RESCUE]
    if missed.size:
        dense(missed, False, result.coefficients.copy(), True)


def _parts(entities: Int64Array, threads: int) -> list[Int64Array]:
    """Cut a list of entities into parts for threads to take in turn."""
    if entities.size == 0:
        return []
    return np.array_split(entities, min(entities.size, 8 * threads))


def _settle(
    result: EntitySolutions, coefficient_ptr: npt.NDArray[np.int64], method: npt.NDArray[np.int8]
) -> None:
    """Give the entities that no kernel touched their certificate and status."""
    broken = method == BROKEN
    result.status[broken] = EntityStatus.NUMERICAL_FAILURE
    result.gradient_norm[broken] = np.inf
    result.tolerance_ratio[broken] = np.inf
    result.status[method == NOTHING_TO_FIT] = EntityStatus.CONVERGED
    if broken.any():
        of_broken = np.repeat(broken, np.diff(coefficient_ptr))
        result.coefficients[of_broken & ~np.isfinite(result.coefficients)] = 0.0
