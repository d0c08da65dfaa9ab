"""Parts of a joint model made at random, with the dense matrices that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gdmix_core.solvers.joint.preconditioner import BlockPreconditioner
from gdmix_core.solvers.joint.products import Design, design_of


class Part(NamedTuple):
    """A part's features, where its rows are among all rows, and the same as float64[all rows, C]."""

    design: Design
    order: np.ndarray
    dense: np.ndarray


def part_of(
    rows: Sequence[int], coefficients: Sequence[int], *, intercept: bool, seed: int = 0, filled: float = 0.6
) -> tuple[Design, np.ndarray]:
    """Return entities with these numbers of rows and coefficients, and their block-diagonal matrix."""
    random = np.random.default_rng(seed)
    X = np.zeros((sum(rows), sum(coefficients)))
    local: list[np.ndarray] = []
    row, column = 0, 0
    for n, d in zip(rows, coefficients, strict=True):
        block = random.normal(size=(n, d)) * (random.random((n, d)) < filled)
        if intercept and d:
            block[:, 0] = 1.0
        X[row : row + n, column : column + d] = block
        local.extend(block)
        row, column = row + n, column + d
    first = 1 if intercept else 0
    indices = [first + np.flatnonzero(of_row[first:]) for of_row in local]
    return (
        design_of(
            np.cumsum([0, *rows]),
            np.cumsum([0, *map(len, indices)]),
            np.concatenate([*indices, np.empty(0, np.int64)]).astype(np.int32),
            np.concatenate([*(of_row[at] for of_row, at in zip(local, indices, strict=True)), np.empty(0)]),
            np.cumsum([0, *coefficients]),
            intercept,
        ),
        X,
    )


def grouped(entity: np.ndarray, features: int, *, seed: int) -> Part:
    """Return a random effect with an intercept: row i of all rows belongs to entity[i]."""
    order = np.argsort(entity, kind="stable")
    counts = np.bincount(entity)
    design, X = part_of(counts, [features + 1] * len(counts), intercept=True, seed=seed)
    dense = np.empty_like(X)
    dense[order] = X
    return Part(design, order, dense)


def crossed(rows: int, users: int, items: int, *, seed: int = 0) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """Return users, items and a fixed effect over the same rows; Hessian weights and l2 of all coefficients."""
    random = np.random.default_rng(seed)
    fixed, X = part_of([rows], [4], intercept=True, seed=seed)
    parts = [
        grouped(np.append(random.integers(users, size=rows - 1), users - 1), 2, seed=seed + 1),
        grouped(np.append(random.integers(items, size=rows - 1), items - 1), 1, seed=seed + 2),
        Part(fixed, np.arange(rows), X),
    ]
    weights = random.uniform(0.05, 0.5, size=rows)
    l2 = np.concatenate(
        [random.uniform(0.3, 3.0, size=part.design.coefficients) for part in parts[:2]] + [np.zeros(4)]
    )
    return parts, weights, l2


def cut(parts: Sequence[Part], array: np.ndarray) -> list[np.ndarray]:
    """Cut what all coefficients have by part."""
    return np.split(array, np.cumsum([part.design.coefficients for part in parts])[:-1])


def preconditioners(parts: Sequence[Part], weights: np.ndarray, l2: np.ndarray) -> list[BlockPreconditioner]:
    """Return the blocks of random effects, and of a fixed effect, which comes last."""
    of_parts = cut(parts, l2)
    found = [
        BlockPreconditioner.of_entities(
            part.design, weights[part.order], own, np.ones(part.design.row_ptr.size - 1, np.bool_)
        )
        for part, own in zip(parts[:-1], of_parts, strict=False)
    ]
    X = parts[-1].dense
    return [
        *found,
        BlockPreconditioner.of_hessian(parts[-1].design, (X.T * weights) @ X, of_parts[-1]),
    ]


def joint_hessian(parts: Sequence[Part], weights: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """Return XᵀWX + L over the coefficients of all parts."""
    X = np.concatenate([part.dense for part in parts], axis=1)
    return (X.T * weights) @ X + np.diag(l2)
