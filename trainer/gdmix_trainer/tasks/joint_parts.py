"""Learned shrinkage, the parts' side: systems of the joint Hessian, as far as one part has its own share of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import read_segment, write_arrays
from gdmix_core.tasks import (
    ITERATE_FILE,
    STEP_FILE,
    SYSTEM_FILE,
    THETA_FILE,
    AdvanceSolve,
    BeginSolve,
    EndSolve,
    JointColumn,
    PartSurveyed,
    SolveAdvanced,
    SolveBegun,
    SolvedGroup,
    SolveEnded,
    SurveyPart,
    WarmStart,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.joint_part import Part, read_part
from gdmix_trainer.tasks.joint_rows import folder, remove

if TYPE_CHECKING:
    from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
    from gdmix_core.solvers.joint.right_hand_sides import Coefficients, Column

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_ITERATE = ("x", "r", "u", "p", "s")
_BEGUN = ("x", "r", "u")
"""What there is of the first iterate: it has come from nowhere."""


def survey_part(task: SurveyPart, context: TaskContext) -> PartSurveyed:
    """Count the part's coefficients by group, and sum what they can move the rows."""
    part = read_part(task.part)
    groups = part.groups(task.regularization)
    context.check()
    energies = part.energies(task.shards) / groups.scale
    count = len(task.regularization.groups)
    inside = groups.number >= 0
    sizes = np.bincount(groups.number[inside], minlength=count)
    sums = np.bincount(groups.number[inside], energies[inside], minlength=count)
    present = np.repeat(part.present, np.diff(part.design.coefficient_ptr))
    return PartSurveyed(
        sizes=tuple(sizes.tolist()),
        free=int(np.count_nonzero(~inside & present)),
        energies=tuple(sums.tolist()),
        seconds=0.0,
    )


def begin_solve(task: BeginSolve, context: TaskContext) -> SolveBegun:
    """Set some parts' systems up at the new linearisation."""
    targets = np.zeros(len(task.columns))
    for number in range(len(task.parts)):
        targets += _begin(task, number, context)
    remove(task.obsolete)
    return SolveBegun(target=_numbers(targets), seconds=0.0)


def advance_solve(task: AdvanceSolve, context: TaskContext) -> SolveAdvanced:
    """Make one iteration of some parts' conjugate gradients, or begin them."""
    gamma, ridge = np.zeros(len(task.kept)), np.zeros(len(task.kept))
    for number in range(len(task.parts)):
        of_part = _advance(task, number, context)
        gamma += of_part[0]
        ridge += of_part[1]
    remove(task.obsolete)
    return SolveAdvanced(gamma=_numbers(gamma), ridge=_numbers(ridge), seconds=0.0)


def end_solve(task: EndSolve, context: TaskContext) -> SolveEnded:
    """Take some parts' solutions: the Newton step, warm starts for the next systems, sums over their groups."""
    ended = [_end(task, number, context) for number in range(len(task.parts))]
    remove(task.obsolete)
    return SolveEnded(
        groups=tuple(group for part in ended for group in part.groups),
        decrement=sum(part.decrement for part in ended),
        unsolved=tuple(
            tuple(map(sum, zip(*rows, strict=True)))
            for rows in zip(*(p.unsolved for p in ended), strict=True)
        ),
        seconds=0.0,
    )


def _begin(task: BeginSolve, number: int, context: TaskContext) -> Float64Array:
    """Set one part's systems up; return its share of ⟨b, M⁻¹·b⟩ by column."""
    from gdmix_core.solvers.joint.conjugate_gradients import column_sums
    from gdmix_core.solvers.joint.right_hand_sides import Coefficients, right_hand_sides

    output = folder(task.output, number)
    part = read_part(task.parts[number])
    groups = part.groups(task.regularization)
    theta, warm = _before(task, number, part.design.coefficients)
    context.check()
    gradient, preconditioner = part.linearised(task.linearised, groups.l2)
    context.check()
    coefficients = Coefficients(
        theta=theta,
        gradient=gradient + groups.l2 * theta,
        l2=groups.l2,
        scale=groups.scale,
        group=np.where(groups.number >= 0, groups.number + task.first_group, -1).astype(np.int32),
        part=task.parts[number].number,
    )
    wanted = right_hand_sides(coefficients, _columns(task.columns), task.seed)
    blockwise = preconditioner.solve(wanted)
    start = _start(task.warm, warm, blockwise, preconditioner)
    targets = column_sums(wanted, blockwise)
    _write_system(output, coefficients, preconditioner, wanted, targets)
    write_arrays(output / ITERATE_FILE, [{"x": start.reshape(-1).astype(np.float32)}])
    part.write_columns(output, start)
    context.advance(rows=part.design.rows)
    return targets


def _advance(task: AdvanceSolve, number: int, context: TaskContext) -> tuple[Float64Array, Float64Array]:
    """Advance one part; return its shares of ⟨r, M⁻¹·r⟩ and of ⟨M⁻¹·r, L·M⁻¹·r⟩ by column."""
    from gdmix_core.solvers.joint.conjugate_gradients import SolveState, advance, start

    part = read_part(task.parts[number])
    system = _read_system(task.systems[number], part, task.columns)
    product = part.gather(task.products, len(task.kept))
    context.check()
    matrices = _read_iterate(task.before[number], part, task.held, task.kept)
    if task.begins:
        state, sums = start(system.wanted, matrices["x"], product, system.preconditioner)
    else:
        nothing = np.zeros(product.shape, np.float32)
        before = SolveState(**{name: matrices.get(name, nothing) for name in _ITERATE})
        alpha, beta = np.array(task.alpha), np.array(task.beta)
        state, sums = advance(before, product, alpha, beta, system.preconditioner)
    context.check()
    output = folder(task.output, number)
    names = _BEGUN if task.begins else _ITERATE
    write_arrays(output / ITERATE_FILE, [{name: getattr(state, name).reshape(-1) for name in names}])
    part.write_columns(output, _columns_of(state.u, task.kept, task.written))
    context.advance(rows=part.design.rows)
    return sums.gamma, sums.ridge


def _end(task: EndSolve, number: int, context: TaskContext) -> SolveEnded:
    """Take one part's solutions."""
    from gdmix_core.solvers.joint.conjugate_gradients import column_sums
    from gdmix_core.solvers.joint.right_hand_sides import group_sums, unsolved_products

    part = read_part(task.parts[number])
    columns = _columns(task.columns)
    system = _read_system(task.systems[number], part, len(columns))
    coefficients = system.coefficients
    x, r, u = (np.empty(system.wanted.shape, np.float32) for _ in _BEGUN)
    for of in task.solved:
        held = _read_iterate(of.directories[number], part, of.held, of.taken)
        taken = list(of.taken)
        x[:, taken], r[:, taken], u[:, taken] = held["x"], held["r"], held["u"]
    preconditioner = system.preconditioner
    sums = group_sums(
        coefficients, columns, system.wanted, x, system.targets, preconditioner.inverse_diagonal
    )
    context.check()
    step = x[:, 0].astype(np.float64)
    warm = preconditioner.multiply(x.astype(np.float64)).astype(np.float32)
    output = folder(task.output, number)
    write_arrays(
        output / STEP_FILE,
        [{"theta": coefficients.theta, "step": step, "warm": warm.reshape(-1)}],
    )
    part.write_columns(output, np.stack([step, coefficients.theta + step], axis=1))
    decrement = column_sums(-coefficients.gradient[:, None], step[:, None])
    return SolveEnded(
        groups=tuple(SolvedGroup(**asdict(of_group)) for of_group in sums),
        decrement=float(decrement[0]),
        unsolved=unsolved_products(columns, x, r, u),
        seconds=0.0,
    )


def _before(task: BeginSolve, number: int, size: int) -> tuple[Float64Array, Float64Array]:
    """Return where the part stands, float64[C], and its last solution's warm starts, float64[C, K before]."""
    if task.before:
        held = read_segment(Path(task.before[number]) / STEP_FILE)
        return held["theta"] + task.step * held["step"], held["warm"].reshape(size, task.columns_before)
    if task.initial is not None:
        return read_segment(Path(task.initial) / THETA_FILE)["theta"].copy(), np.empty((size, 0))
    return np.zeros(size), np.empty((size, 0))


def _start(
    starts: Sequence[WarmStart | None],
    warm: Float64Array,
    blockwise: Float64Array,
    preconditioner: BlockPreconditioner,
) -> Float64Array:
    """Return where the columns begin: the Newton step at 0, others at their blocks' solution or the last one.

    The last solution x is kept as M·x: solved with the new blocks, it follows the variances that have changed.
    """
    start = blockwise.copy()
    start[:, 0] = 0.0
    places = [k for k, of_column in enumerate(starts) if of_column is not None]
    if places:
        before = [of_column for of_column in starts if of_column is not None]
        vectors = warm[:, [of_column.column for of_column in before]]
        factors = np.array([of_column.factor for of_column in before])
        start[:, places] = preconditioner.solve(np.ascontiguousarray(vectors * factors))
    return start


def _write_system(
    output: Path,
    of: Coefficients,
    preconditioner: BlockPreconditioner,
    wanted: Float64Array,
    targets: Float64Array,
) -> None:
    blocks = preconditioner.blocks
    write_arrays(
        output / SYSTEM_FILE,
        [
            {
                "theta": of.theta,
                "gradient": of.gradient,
                "l2": of.l2,
                "scale": of.scale,
                "group": of.group,
                "part": np.array([of.part]),
                "kind": blocks.kind,
                "factor_ptr": blocks.factor_ptr,
                "factor": blocks.factor,
                "root": blocks.root,
                "inverse_diagonal": preconditioner.inverse_diagonal,
                "wanted": wanted.reshape(-1).astype(np.float32),
                "targets": targets,
            }
        ],
    )


class _System(NamedTuple):
    """A part's systems: coefficients, M, right-hand sides b, and bᵀM⁻¹b by column."""

    coefficients: Coefficients
    preconditioner: BlockPreconditioner
    wanted: Float32Array
    targets: Float64Array


def _read_system(directory: str, part: Part, columns: int) -> _System:
    """Map what `_write_system` wrote."""
    from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner, Blocks
    from gdmix_core.solvers.joint.right_hand_sides import Coefficients

    held: dict[str, Any] = read_segment(Path(directory) / SYSTEM_FILE)
    coefficients = Coefficients(
        **{name: held[name] for name in ("theta", "gradient", "l2", "scale", "group")},
        part=int(held["part"][0]),
    )
    blocks = Blocks(**{name: held[name] for name in Blocks._fields})
    preconditioner = BlockPreconditioner(part.design, blocks, held["inverse_diagonal"])
    wanted = held["wanted"].reshape(part.design.coefficients, columns)
    return _System(coefficients, preconditioner, wanted, held["targets"])


def _read_iterate(
    directory: str, part: Part, held: Sequence[int], wanted: Sequence[int]
) -> dict[str, Float32Array]:
    """Return some columns of an iterate, float32[C, columns] by name."""
    arrays = read_segment(Path(directory) / ITERATE_FILE)
    size = part.design.coefficients
    return {name: _columns_of(array.reshape(size, len(held)), held, wanted) for name, array in arrays.items()}


def _columns_of(matrix: Float32Array, held: Sequence[int], wanted: Sequence[int]) -> Float32Array:
    """Return some of a matrix's columns, which are called `held`."""
    if held == wanted:
        return matrix
    return np.ascontiguousarray(matrix[:, [held.index(column) for column in wanted]])


def _columns(columns: Sequence[JointColumn]) -> list[Column]:
    from gdmix_core.solvers.joint.right_hand_sides import Column

    return [Column(kind=column.kind, group=column.group, number=column.number) for column in columns]


def _numbers(values: Float64Array) -> tuple[float, ...]:
    return tuple(values.tolist())
