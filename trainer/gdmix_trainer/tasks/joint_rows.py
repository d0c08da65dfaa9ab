"""Learned shrinkage, the home shards' side: derivatives at the rows, and products that cross all coordinates."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, read_segment, write_arrays
from gdmix_core.data.row_exchange import add_rows_of_partitions, write_rows_of_shard
from gdmix_core.data.score_blocks import write_score_block
from gdmix_core.data.scores import read_home_shard
from gdmix_core.errors import InternalError
from gdmix_core.solvers.losses import Loss, loss_terms, ordered_sum
from gdmix_core.tasks import (
    COLUMNS_FILE,
    LINEARISED_FILE,
    ROWS_FILE,
    SCORES_FILE,
    JointScoresWritten,
    LineariseShard,
    MultiplyRows,
    PartColumns,
    RowsMultiplied,
    ShardInput,
    ShardLinearised,
    WriteJointScores,
    design_file,
    grouping_file,
    shares_file,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.tasks.fixed_effect import offsets_of

if TYPE_CHECKING:
    from gdmix_core.solvers.joint.products import Design

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def linearise_shard(task: LineariseShard, context: TaskContext) -> ShardLinearised:
    """Move some shards' predictors, take the loss's derivatives, and hand them to the parts."""
    value, weighted = 0.0, 0
    for number, shard in enumerate(task.inputs):
        of_shard = _linearise(task, number, shard, context)
        value += of_shard[0]
        weighted += of_shard[1]
    remove(task.obsolete)
    return ShardLinearised(value=value, weighted_rows=weighted, seconds=0.0)


def multiply_rows(task: MultiplyRows, context: TaskContext) -> RowsMultiplied:
    """Add up some shards' products over the parts, weight them, and hand each part its share back."""
    curvatures = np.zeros(len(task.kept))
    for number, shard in enumerate(task.inputs):
        curvatures += _multiply(task, number, shard, context)
    remove(task.obsolete)
    return RowsMultiplied(curvatures=tuple(curvatures.tolist()), seconds=0.0)


def _linearise(
    task: LineariseShard, number: int, shard: ShardInput, context: TaskContext
) -> tuple[float, int]:
    """Linearise one shard; return its loss, and its rows with a weight."""
    directory, output = Path(shard.directory), folder(task.output, number)
    rows = read_home_shard(directory / ROWS_FILE)
    if task.before:
        predictor = read_segment(Path(task.before[number]) / LINEARISED_FILE)["predictor"].copy()
        move = np.zeros((len(predictor), 2), np.float32)
        for part in task.parts:
            _add_products(move, shard.shard, directory, part)
        predictor += task.step * move[:, 0]
    else:
        predictor = offsets_of(shard)
    context.check()
    terms = loss_terms(Loss(task.loss), rows["label"], predictor)
    weighted = rows["weight"] > 0.0
    value, residual, curvature = (
        np.where(weighted, rows["weight"] * derivative, 0.0)
        for derivative in (terms.value, terms.first, terms.second)
    )
    write_arrays(
        output / LINEARISED_FILE, [{"predictor": predictor, "residual": residual, "curvature": curvature}]
    )
    derivatives = np.stack([residual, curvature], axis=1).astype(np.float32)
    for part in task.parts:
        context.check()
        if part.grouping is not None:
            spill = directory / grouping_file(part.grouping.name)
            write_rows_of_shard(output / shares_file(part.grouping.name), derivatives, None, spill)
        elif part.design is not None:
            dense = part.design.name in task.dense_fixed_effects
            _write_fixed_effect_sums(output, directory, part, task.loss, predictor, dense)
    context.advance(rows=len(predictor))
    return ordered_sum(value), int(np.count_nonzero(weighted))


def _multiply(task: MultiplyRows, number: int, shard: ShardInput, context: TaskContext) -> Float64Array:
    """Multiply one shard's rows; return Σ w ℓ'' t² by column."""
    from gdmix_core.solvers.joint.products import multiply_transposed, weighted_square_sums

    directory, output = Path(shard.directory), folder(task.output, number)
    curvature = read_segment(Path(task.linearised[number]) / LINEARISED_FILE)["curvature"]
    total = np.zeros((len(curvature), task.columns), np.float32)
    for part in task.parts:
        context.check()
        _add_products(total, shard.shard, directory, part)
    if len(task.kept) < task.columns:
        total = np.ascontiguousarray(total[:, list(task.kept)])
    curvatures = weighted_square_sums(total, curvature)
    for part in task.parts:
        context.check()
        if part.grouping is not None:
            spill = directory / grouping_file(part.grouping.name)
            write_rows_of_shard(output / shares_file(part.grouping.name), total, curvature, spill)
    total *= curvature[:, None].astype(np.float32)
    for part in task.parts:
        if part.design is not None:
            product = multiply_transposed(design_of_shard(directory, part.design.name), total)
            write_arrays(output / shares_file(part.design.name), [{"numbers": product.reshape(-1)}])
    context.advance(rows=len(curvature))
    return curvatures


def write_joint_scores(task: WriteJointScores, context: TaskContext) -> JointScoresWritten:
    """Write one shard's score block of every coordinate at the point that the last step led to."""
    directory = Path(task.directory)
    rows = len(read_home_shard(directory / ROWS_FILE)["uid"])
    for part in task.parts:
        context.check()
        scores = np.zeros((rows, 2), np.float32)
        _add_products(scores, task.shard, directory, part)
        target = Path(task.output) / name_of(part)
        target.mkdir(parents=True, exist_ok=True)
        write_score_block(target / SCORES_FILE, task.shard, scores[:, 1].astype(np.float64))
    context.advance(rows=rows)
    return JointScoresWritten(rows=rows, seconds=0.0)


def design_of_shard(directory: Path, coordinate: str) -> Design:
    """Return a home shard's features of a fixed effect, as one entity."""
    from gdmix_core.solvers.joint.products import design_of

    with ArrayFile(directory / design_file(coordinate)) as file:
        dimension, intercept = int(file.metadata["dimension"]), bool(file.metadata["intercept"])
        arrays = file.segment(0)
    return design_of(
        np.array([0, len(arrays["indptr"]) - 1]),
        arrays["indptr"],
        arrays["indices"],
        arrays["values"],
        np.array([0, dimension]),
        intercept,
    )


def name_of(part: PartColumns) -> str:
    """Return the coordinate's name."""
    spec = part.grouping or part.design
    if spec is None:
        raise InternalError("a part is of a random effect or of a fixed effect")
    return spec.name


def folder(output: str, number: int) -> Path:
    """Make and return the folder of a unit's k-th part or shard."""
    path = Path(output) / str(number)
    path.mkdir(exist_ok=True)
    return path


def remove(directories: Iterable[str]) -> None:
    """Remove what earlier stages left and nobody reads any more."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _add_products(total: Float32Array, shard: int, directory: Path, part: PartColumns) -> None:
    """Add the rows' products with what a coordinate's parts wrote to `total`, float32[rows, K]."""
    from gdmix_core.solvers.joint.products import add_products

    paths = [Path(written) / COLUMNS_FILE for written in part.directories]
    if part.grouping is not None:
        add_rows_of_partitions(total, shard, directory / grouping_file(part.grouping.name), paths)
    elif part.design is not None:
        vectors = read_segment(paths[0])["numbers"].reshape(-1, total.shape[1])
        add_products(design_of_shard(directory, part.design.name), vectors, total)


def _write_fixed_effect_sums(
    output: Path, directory: Path, part: PartColumns, loss: int, predictor: Float64Array, dense: bool
) -> None:
    """Write the shard's gradient, curvature and, when dense, Hessian of a fixed effect, without penalties."""
    from gdmix_core.solvers.fixed_effect.derivatives import evaluate
    from gdmix_core.solvers.fixed_effect.shard import FixedEffectShard

    assert part.design is not None
    design = design_of_shard(directory, part.design.name)
    rows = read_home_shard(directory / ROWS_FILE)
    sums = evaluate(
        FixedEffectShard(
            indptr=design.indptr,
            indices=design.indices,
            values=design.values,
            labels=rows["label"],
            weights=rows["weight"],
            offsets=predictor,
        ),
        np.zeros(design.coefficients),
        Loss(loss),
        design.coefficients,
        design.intercept,
        hessian=dense,
    )
    write_arrays(
        output / shares_file(part.design.name),
        [
            {
                "gradient": sums.gradient,
                "curvature": sums.curvature,
                "hessian": np.empty(0) if sums.hessian is None else sums.hessian,
            }
        ],
    )
