"""Has the kernels of the joint systems compiled before the first unit needs them."""

from __future__ import annotations

import numpy as np

from gdmix_core.compiled import register_warm_up
from gdmix_core.solvers.joint.conjugate_gradients import start
from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
from gdmix_core.solvers.joint.products import (
    add_products,
    design_of,
    multiply_transposed,
    weighted_square_sums,
    weighted_squares,
)


def _solve() -> None:
    """Go through every kernel with two rows of one entity."""
    design = design_of(
        np.array([0, 2]),
        np.array([0, 1, 2]),
        np.array([1, 1], np.int32),
        np.array([1.0, -1.0]),
        np.array([0, 2]),
        True,
    )
    weights = np.ones(2)
    rows = np.zeros((2, 1), np.float32)
    add_products(design, np.ones((2, 1), np.float32), rows)
    weighted_square_sums(rows, weights)
    weighted_squares(design, weights)
    blocks = BlockPreconditioner.of_entities(design, weights, weights, np.ones(1, np.bool_))
    blocks.multiply(np.ones((2, 1)))
    wanted = np.ones((2, 1), np.float32)
    start(wanted, wanted, multiply_transposed(design, rows), blocks)


register_warm_up("joint systems", _solve)
