"""Speed of the random-effect solver: against one SciPy L-BFGS call per entity, and over entity shapes.

    python benchmarks/random_effect_solver.py                 # everything
    python benchmarks/random_effect_solver.py --skip-scipy --entities 5000

The comparison alternates in one run, so that whatever else the machine does hits both alike: `--rounds` times
SciPy (one thread, analytic gradient, tight tolerance, the first `--scipy-entities` entities), ours on 1 and 2 threads.
Both reach the same optimum; the largest difference of the objectives and coefficients is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy.optimize import fmin_l_bfgs_b

from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect import EntityProblems, EntitySolutions, solve


def make_problems(rows: np.ndarray, features: int, present: int, seed: int = 0) -> EntityProblems:
    """Draw logistic entities with these numbers of rows and `present` of `features` features on every row."""
    random = np.random.default_rng(seed)
    entities, total = rows.size, int(rows.sum())
    chosen = np.argsort(random.random((total, features), dtype=np.float32), axis=1)[:, :present]
    chosen = np.sort(chosen, axis=1).astype(np.int32)
    values = random.standard_normal((total, present))
    truth = random.standard_normal((entities, features)) * 0.7
    owner = np.repeat(np.arange(entities), rows)
    z = np.einsum("ij,ij->i", values, truth[owner[:, None], chosen])
    coefficients = entities * (features + 1)
    return EntityProblems(
        row_ptr=np.concatenate([[0], np.cumsum(rows)]),
        indptr=np.arange(total + 1) * present,
        indices=(chosen + 1).ravel().astype(np.int32),
        values=values.ravel(),
        labels=(random.random(total) < 1 / (1 + np.exp(-z))).astype(np.float64),
        weights=np.ones(total),
        offsets=np.zeros(total),
        coefficient_ptr=np.arange(entities + 1) * (features + 1),
        intercept=True,
        l2=np.ones(coefficients),
        prior_mean=np.zeros(coefficients),
    )


def make_zipf_problems(entities: int, seed: int = 1) -> EntityProblems:
    """Draw entities whose rows follow Zipf's law, each with those of 40 features that its rows show."""
    random = np.random.default_rng(seed)
    rows = np.minimum(random.zipf(1.7, size=entities), 3000)
    total = int(rows.sum())
    owner = np.repeat(np.arange(entities), rows)
    chosen = np.argsort(random.random((total, 40), dtype=np.float32), axis=1)[:, :5]
    keys = np.unique(owner[:, None] * 40 + chosen)
    sizes = np.bincount(keys // 40, minlength=entities)
    first = np.concatenate([[0], np.cumsum(sizes)])
    local = np.sort(np.searchsorted(keys, owner[:, None] * 40 + chosen) - first[owner][:, None] + 1, axis=1)
    coefficient_ptr = np.concatenate([[0], np.cumsum(sizes + 1)])
    return EntityProblems(
        row_ptr=np.concatenate([[0], np.cumsum(rows)]),
        indptr=np.arange(total + 1) * 5,
        indices=local.ravel().astype(np.int32),
        values=random.standard_normal(total * 5),
        labels=(random.random(total) < 0.5).astype(np.float64),
        weights=np.ones(total),
        offsets=np.zeros(total),
        coefficient_ptr=coefficient_ptr,
        intercept=True,
        l2=np.ones(int(coefficient_ptr[-1])),
        prior_mean=np.zeros(int(coefficient_ptr[-1])),
    )


def dense_entity(p: EntityProblems, e: int) -> tuple[np.ndarray, np.ndarray]:
    rows = slice(p.row_ptr[e], p.row_ptr[e + 1])
    X = np.zeros((rows.stop - rows.start, p.coefficient_ptr[e + 1] - p.coefficient_ptr[e]))
    X[:, 0] = 1.0
    for i in range(X.shape[0]):
        stored = slice(p.indptr[rows.start + i], p.indptr[rows.start + i + 1])
        X[i, p.indices[stored]] = p.values[stored]
    return X, p.labels[rows]


def objective(theta: np.ndarray, X: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    z = X @ theta
    small = np.exp(-np.abs(z))
    value = np.sum(np.maximum(z, 0.0) - z * y + np.log1p(small)) + 0.5 * theta @ theta
    mean = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return value, X.T @ (mean - y) + theta


def scipy_solutions(entities: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [
        fmin_l_bfgs_b(objective, np.zeros(X.shape[1]), args=(X, y), factr=10.0, pgtol=1e-7, m=10)[0]
        for X, y in entities
    ]


def timed(p: EntityProblems, threads: int) -> tuple[float, EntitySolutions]:
    start = time.perf_counter()
    solutions = solve(p, Loss.LOGISTIC, threads=threads)
    return time.perf_counter() - start, solutions


def compare_with_scipy(entities: int, scipy_entities: int, rounds: int) -> None:
    p = make_problems(np.full(entities, 30), 20, 10)
    some = [dense_entity(p, e) for e in range(min(scipy_entities, entities))]
    solve(make_problems(np.full(8, 30), 20, 10), Loss.LOGISTIC)
    rates: dict[str, list[float]] = {"scipy": [], "one": [], "two": []}
    for _ in range(rounds):
        start = time.perf_counter()
        theirs = scipy_solutions(some)
        rates["scipy"].append(len(some) / (time.perf_counter() - start))
        rates["one"].append(entities / timed(p, 1)[0])
        seconds, solutions = timed(p, 2)
        rates["two"].append(entities / seconds)
    ours = solutions.coefficients.reshape(entities, 21)
    behind = max(
        objective(mine, X, y)[0] - objective(their, X, y)[0]
        for (X, y), mine, their in zip(some, ours, theirs, strict=False)
    )
    apart = max(float(np.abs(mine - their).max()) for mine, their in zip(ours, theirs, strict=False))
    scipy, one, two = (float(np.median(rates[name])) for name in ("scipy", "one", "two"))
    ratio = float(np.median(np.array(rates["two"]) / np.array(rates["scipy"])))
    print(f"{entities:,} entities × 30 rows × 10 of 20 features, median of {rounds} alternating rounds")
    print(f"  SciPy fmin_l_bfgs_b per entity   {scipy:12,.0f} entities/s")
    print(f"  this solver, one thread          {one:12,.0f} entities/s   {one / scipy:7.0f} ×")
    print(f"  this solver, two threads         {two:12,.0f} entities/s   {ratio:7.0f} ×")
    print(
        f"  largest excess of our objective over SciPy's {behind:.1e}; coefficients differ by at most {apart:.1e}"
    )
    print(f"  largest certificate ratio {solutions.tolerance_ratio.max():.2f} (at most 1 is converged)")


def sweep(entities: int, rounds: int) -> None:
    shapes = [
        ("20 rows, 10 features", make_problems(np.full(entities, 20), 10, 5)),
        ("50 rows, 20 features", make_problems(np.full(max(1, entities // 2), 50), 20, 10)),
        ("200 rows, 50 features", make_problems(np.full(max(1, entities // 16), 200), 50, 20)),
        ("20 rows, 200 features", make_problems(np.full(max(1, entities // 4), 20), 200, 20)),
        ("Zipf rows, 5 of 40 features", make_zipf_problems(entities)),
    ]
    print(f"{'entities/s':30}{'one thread':>14}{'two threads':>14}{'largest ratio':>15}{'unconverged':>13}")
    for name, p in shapes:
        best = {threads: min(timed(p, threads)[0] for _ in range(rounds)) for threads in (1, 2)}
        solutions = solve(p, Loss.LOGISTIC)
        missed = np.count_nonzero(solutions.status)
        one, two = (p.entities / best[threads] for threads in (1, 2))
        print(f"{name:30}{one:14,.0f}{two:14,.0f}{solutions.tolerance_ratio.max():15.2f}{missed:13d}")


COLD = """
import time
import numpy as np
start = time.perf_counter()
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect import EntityProblems, solve
imported = time.perf_counter()
def entity(l2):
    return EntityProblems(np.array([0, 2]), np.array([0, 1, 2]), np.array([1, 1], np.int32), np.array([1.0, -1.0]),
        np.array([0.0, 1.0]), np.ones(2), np.zeros(2), np.array([0, 2]), True, np.full(2, l2), np.zeros(2))
solve(entity(1.0), Loss.LOGISTIC)
ordinary = time.perf_counter()
solve(entity(0.0), Loss.LOGISTIC)
careful = time.perf_counter()
print(f"import {imported - start:.1f} s, kernels of an ordinary job {ordinary - imported:.1f} s, "
      f"of the careful path {careful - ordinary:.1f} s")
"""


def compile_times() -> None:
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "GDMIX_CACHE_DIR": cache}
        for label in ("cold", "cached"):
            run = subprocess.run(
                [sys.executable, "-c", COLD], env=environment, capture_output=True, text=True, check=True
            )
            print(f"{label:7} {run.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument(
        "--scipy-entities", type=int, default=600, help="how many of them SciPy solves in a round"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-scipy", action="store_true")
    parser.add_argument("--skip-compile", action="store_true")
    arguments = parser.parse_args()
    if not arguments.skip_scipy:
        compare_with_scipy(arguments.entities, arguments.scipy_entities, arguments.rounds)
        print()
    sweep(arguments.entities, arguments.rounds)
    if not arguments.skip_compile:
        print()
        compile_times()


if __name__ == "__main__":
    main()
