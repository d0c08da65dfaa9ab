"""Learned variances on MovieLens-100K against a long run of an implementation of its own, all in one scipy matrix.

    gdmix-cli data fetch movielens-100k --directory examples/movielens/data
    gdmix-cli train examples/movielens/movielens.yaml
    python benchmarks/shrinkage_reference.py examples/movielens/runs/movielens/models/1

The reference stacks every coordinate's columns into one sparse design, solves each joint system to a residual of
0.03, takes 8 probes for each group, and makes 60 rounds of average information with small steps. It shares no code
with the library. Where a variance's standard error is unknown, the likelihood is flat in it, and the two may
differ as they like: their log likelihoods do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse
from scipy.special import expit

from gdmix_core.model import open_model

DATA = Path(__file__).resolve().parent.parent / "examples" / "movielens" / "data" / "train.parquet"
ROUNDS, PROBES, TOLERANCE = 60, 8, 0.03


def one_hot(column: pl.Series) -> Any:
    codes = column.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(int) - 1
    return sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))


def genres_of(column: pl.Series) -> Any:
    rows = np.repeat(np.arange(len(column)), column.list.len().to_numpy())
    names, codes = np.unique(column.explode().to_numpy().astype(str), return_inverse=True)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, codes)), shape=(len(column), len(names)))


def by_entity(features: Any, entity: pl.Series) -> Any:
    """One block of columns for each entity, without the columns that are zero."""
    codes = entity.rank("dense").to_numpy().astype(int) - 1
    coo = features.tocoo()
    keys, local = np.unique(
        codes[coo.row].astype(np.int64) * features.shape[1] + coo.col, return_inverse=True
    )
    block = sparse.csr_matrix((coo.data, (coo.row, local)), shape=(features.shape[0], len(keys)))
    return block, keys // features.shape[1]


def design(rows: pl.DataFrame) -> tuple[Any, Any, Any, list[str]]:
    """The design, each column's group and block, and the groups' names; groups 0 and 1 are the fixed effect's."""
    number = {
        name: sparse.csr_matrix(rows[name].cast(pl.Float64).fill_null(0.0).to_numpy()[:, None])
        for name in ("age", "release_year")
    }
    ones = sparse.csr_matrix(np.ones((len(rows), 1)))
    user = [
        ("user.age", number["age"]),
        ("user.gender", one_hot(rows["gender"])),
        ("user.occupation", one_hot(rows["occupation"])),
    ]
    movie = [("movie.genres", genres_of(rows["genres"])), ("movie.release_year", number["release_year"])]
    fixed = sparse.hstack([ones, *(block for _, block in user + movie)]).tocsr()
    blocks, groups, owners, names = (
        [fixed],
        [np.r_[0, np.ones(fixed.shape[1] - 1, int)]],
        [np.zeros(fixed.shape[1], int)],
        ["", ""],
    )
    for coordinate, entity, features in (("per_user", "user_id", movie), ("per_movie", "movie_id", user)):
        offset = 1 + owners[-1].max()
        for name, block in [("intercept", ones), *features]:
            own, owner = by_entity(block, rows[entity])
            blocks.append(own)
            groups.append(np.full(own.shape[1], len(names)))
            owners.append(offset + owner)
            names.append(f"{coordinate}.{name}")
    return sparse.hstack(blocks).tocsr(), np.concatenate(groups), np.concatenate(owners), names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    manifest = open_model(parser.parse_args().model).manifest
    found = {f"{c.name}.{g.name}": g for c in manifest.coordinates for g in c.shrinkage}
    rows = pl.read_parquet(DATA)
    reference = long_run(*design(rows), rows["response"].cast(pl.Float64).to_numpy())
    print(f"{'group':<32} {'learned':>10} {'reference':>10} {'ratio':>7}  standard error of log variance")
    for name, variance in reference.items():
        group = found[name]
        print(
            f"{name:<32} {group.variance:>10.4g} {variance:>10.4g} {group.variance / variance:>7.3f}  {group.error}"
        )


def long_run(matrix: Any, group: Any, owner: Any, names: list[str], label: Any) -> dict[str, float]:
    size, count = np.bincount(group), matrix.shape[1]
    transposed, learned = matrix.T.tocsr(), np.arange(2, len(names))
    random = np.random.default_rng(0)
    probes = np.zeros((count, PROBES * len(learned)), np.float32)
    for place, g in enumerate(learned):
        inside = np.flatnonzero(group == g)
        probes[inside, place * PROBES : (place + 1) * PROBES] = random.choice(
            [-1.0, 1.0], (len(inside), PROBES)
        )
    energy = np.bincount(group, np.asarray(matrix.multiply(matrix).sum(0)).ravel()) / len(label)
    l2 = np.where(np.arange(len(names)) < 2, [0.0, 1.0] + [0.0] * len(learned), energy / 0.25)
    theta, limit, last = np.zeros(count), np.full(len(learned), 1.0), np.zeros(len(learned))
    solved = np.zeros((count, 1 + probes.shape[1] + len(learned)))
    for round_number in range(ROUNDS):
        ridge = l2[group]
        mean = expit(matrix @ theta)
        weight = mean * (1 - mean)
        gradient = transposed @ (mean - label) + ridge * theta
        prior = np.zeros((count, len(learned)))
        for place, g in enumerate(learned):
            prior[group == g, place] = (ridge * theta)[group == g]
        wanted = np.hstack([-gradient[:, None], probes, prior])
        solved[:, 0] = 0.0
        solved = conjugate_gradients(matrix, transposed, weight, ridge, owner, wanted, solved)
        theta_before, theta = theta, theta + solved[:, 0]
        products = np.sum(probes * solved[:, 1 : 1 + probes.shape[1]], axis=0)
        trace = products.reshape(len(learned), PROBES).mean(axis=1)
        square = np.bincount(group, theta**2)[learned]
        slope = 0.5 * (square * l2[learned] - (size[learned] - l2[learned] * trace))
        own = np.bincount(group, ridge * theta_before**2)[learned]
        information = 0.5 * (np.diag(own) - prior.T @ solved[:, -len(learned) :])
        information = (information + information.T) / 2 + 0.01 * np.eye(len(learned))
        limit = np.where(slope * last < 0, np.maximum(0.5 * limit, 1e-3), np.minimum(1.2 * limit, 1.0))
        values, vectors = np.linalg.eigh(information)
        step = vectors @ ((vectors.T @ slope) / np.maximum(values, 0.01))
        step = np.clip(step if round_number else 0.5 * np.sign(slope), -limit, limit)
        l2[learned] *= np.exp(-step)
        last = slope
    return {names[g]: float(1 / l2[g]) for g in learned}


def conjugate_gradients(
    matrix: Any, transposed: Any, weight: Any, ridge: Any, owner: Any, wanted: Any, start: Any
) -> Any:
    """Solve (XᵀWX + L)·x = wanted, preconditioned by the owners' own blocks."""
    order = np.argsort(owner, kind="stable")
    blocks = []
    columns = matrix.tocsc()
    for inside in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        own = columns[:, inside].tocsr()
        rows = np.flatnonzero(np.diff(own.indptr))
        dense = own[rows].toarray()
        blocks.append(np.linalg.inv(dense.T @ (weight[rows, None] * dense) + np.diag(ridge[inside] + 1e-10)))
    inverse = sparse.block_diag(blocks, format="csr")[np.argsort(order)][:, np.argsort(order)]
    x = start.copy()
    residual = wanted - (transposed @ (weight[:, None] * (matrix @ x)) + ridge[:, None] * x)
    z = inverse @ residual
    direction, now = z.copy(), (residual * z).sum(0)
    enough = TOLERANCE**2 * (wanted * (inverse @ wanted)).sum(0)
    for _ in range(200):
        if (now <= enough).all():
            break
        image = transposed @ (weight[:, None] * (matrix @ direction)) + ridge[:, None] * direction
        length = now / np.maximum((direction * image).sum(0), 1e-300)
        x += length * direction
        residual -= length * image
        z = inverse @ residual
        following = (residual * z).sum(0)
        direction = z + following / np.maximum(now, 1e-300) * direction
        now = following
    return x


if __name__ == "__main__":
    main()
