"""Fixed effect: rows a second against the memory's speed, and time to the optimum against scikit-learn.

    python benchmarks/fixed_effect_solver.py                       # 1,000,000 rows × 20 nonzeros, 1,000
    features python benchmarks/fixed_effect_solver.py --rows 100000 --rounds 1

Passes: the best of several evaluations of all shards on 1 and on --threads threads. The bound is reading the
shards' bytes once at the speed of a stream sum (same threads, measured beside each pass); "share" is how near
a pass comes. Solves: ours (Newton, L-BFGS, to the gradient's certificate) and scikit-learn's (at several
`tol`) take turns within each round; each keeps its median. The gap is the objective's excess over the lowest
found, relative to it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gdmix_core.compiled import compiled, pin_blas_threads
from gdmix_core.solvers.fixed_effect import (
    Driver,
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectShard,
    FixedEffectSolution,
    FixedEffectSums,
    LbfgsDriver,
    NewtonDriver,
    evaluate,
)
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.summation_tree import owned_nodes, reduce_nodes, subtree_sum


@compiled(fastmath=True, cache=False)
def stream_sum(values: np.ndarray) -> float:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@dataclass(frozen=True)
class Data:
    """Rows in shards, and how many bytes one pass reads."""

    shards: list[FixedEffectShard]
    features: int
    rows: int
    bytes: int


def make_data(rows: int, nonzeros: int, features: int, shards: int) -> Data:
    """Logistic rows: one feature out of each of `nonzeros` equal groups, a normal value each."""
    random = np.random.default_rng(0)
    group = features // nonzeros
    theta = 0.3 * random.standard_normal(features)
    made = []
    for part in np.array_split(np.arange(rows), shards):
        shape = (part.size, nonzeros)
        indices = np.arange(0, nonzeros * group, group) + random.integers(0, group, shape)
        values = random.standard_normal(shape)
        z = (values * theta[indices]).sum(axis=1) - 0.5
        made.append(
            FixedEffectShard(
                indptr=np.arange(0, part.size * nonzeros + 1, nonzeros),
                indices=(indices + 1).astype(np.int32).ravel(),
                values=values.ravel(),
                labels=(random.random(part.size) < 1 / (1 + np.exp(-z))).astype(float),
                weights=np.ones(part.size),
                offsets=np.zeros(part.size),
            )
        )
    names = ("indptr", "indices", "values", "labels", "weights", "offsets")
    size = sum(getattr(shard, name).nbytes for shard in made for name in names)
    return Data(made, features, rows, size)


def evaluate_all(
    data: Data, theta: np.ndarray, hessian: bool, threads: int, pool: ThreadPoolExecutor
) -> FixedEffectSums:
    """Evaluate as workers do: each thread sums its whole subtrees, the root completes the tree."""
    count = len(data.shards)

    def work(owned: range) -> dict[tuple[int, int], FixedEffectSums]:
        def leaf(number: int) -> FixedEffectSums:
            return evaluate(data.shards[number], theta, Loss.LOGISTIC, theta.size, True, hessian)

        return {node: subtree_sum(node, count, leaf) for node in owned_nodes(owned, count)}

    cuts = [count * k // threads for k in range(threads + 1)]
    parts = pool.map(work, [range(a, b) for a, b in pairwise(cuts)])
    nodes = {node: sums for part in parts for node, sums in part.items()}
    return reduce_nodes(nodes, count)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report_passes(data: Data, threads: int, pool: ThreadPoolExecutor) -> None:
    theta = 0.1 * np.random.default_rng(1).standard_normal(data.features + 1)
    halves = np.array_split(np.ones(data.bytes // 8), threads)
    stream_sum(halves[0])
    evaluate_all(data, theta, True, threads, pool)
    print(f"{'pass':<22}{'threads':>8}{'rows/s':>14}{'GB/s':>8}{'stream':>8}{'share':>8}")
    for hessian in (False, True):
        for count in sorted({1, threads}):
            passes, streams = [], []
            for _ in range(5):
                passes.append(seconds(lambda h=hessian, c=count: evaluate_all(data, theta, h, c, pool)))
                if count == 1:
                    streams.append(seconds(lambda: [stream_sum(half) for half in halves]))
                else:
                    streams.append(seconds(lambda: list(pool.map(stream_sum, halves))))
            best, stream = min(passes), min(streams)
            name = "gradient + Hessian" if hessian else "gradient"
            print(
                f"{name:<22}{count:>8}{data.rows / best:>14,.0f}{data.bytes / best / 1e9:>8.1f}"
                f"{data.bytes / stream / 1e9:>8.1f}{stream / best:>8.0%}"
            )


def solve(driver: Driver, data: Data, threads: int, pool: ThreadPoolExecutor) -> FixedEffectSolution:
    step = driver.ask()
    while isinstance(step, EvaluationRequest):
        step = driver.tell(evaluate_all(data, step.theta, step.hessian, threads, pool))
    return step


def report_solves(data: Data, threads: int, rounds: int, pool: ThreadPoolExecutor) -> None:
    import scipy.sparse
    from sklearn.linear_model import LogisticRegression

    dimension = data.features + 1
    l2 = np.ones(dimension)
    l2[0] = 0.0
    problem = FixedEffectProblem(dimension, True, l2, np.zeros(dimension), Loss.LOGISTIC)
    matrix = scipy.sparse.vstack(
        [
            scipy.sparse.csr_matrix((s.values, s.indices - 1, s.indptr), shape=(s.rows, data.features))
            for s in data.shards
        ],
        format="csr",
    )
    labels = np.concatenate([shard.labels for shard in data.shards])

    def ours(kind: type[NewtonDriver] | type[LbfgsDriver]) -> tuple[np.ndarray, int]:
        solution = solve(kind(problem), data, threads, pool)
        assert solution.tolerance_ratio <= 1.0, solution.status
        return solution.theta, solution.evaluations

    def theirs(tolerance: float) -> tuple[np.ndarray, int]:
        model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=2000).fit(matrix, labels)
        return np.concatenate([model.intercept_, model.coef_[0]]), int(model.n_iter_[0])

    solvers: dict[str, Callable[[], tuple[np.ndarray, int]]] = {
        "gdmix newton": lambda: ours(NewtonDriver),
        "gdmix lbfgs": lambda: ours(LbfgsDriver),
        "scikit-learn lbfgs tol=1e-4": lambda: theirs(1e-4),
        "scikit-learn lbfgs tol=1e-8": lambda: theirs(1e-8),
    }
    times: dict[str, list[float]] = {name: [] for name in solvers}
    results: dict[str, tuple[np.ndarray, int]] = {}
    for _ in range(rounds):
        for name, solver in solvers.items():
            start = time.perf_counter()
            results[name] = solver()
            times[name].append(time.perf_counter() - start)

    def objective(theta: np.ndarray) -> tuple[float, float]:
        sums = evaluate_all(data, theta, False, threads, pool)
        return sums.value + 0.5 * float(l2 @ theta**2), float(np.max(np.abs(sums.gradient + l2 * theta)))

    values = {name: objective(theta) for name, (theta, _) in results.items()}
    lowest = min(value for value, _ in values.values())
    newton = statistics.median(times["gdmix newton"])
    print(f"\n{'solver':<30}{'seconds':>9}{'rounds':>8}{'gap':>10}{'max |g|':>10}{'vs newton':>11}")
    for name, (value, slope) in values.items():
        median = statistics.median(times[name])
        print(
            f"{name:<30}{median:>9.2f}{results[name][1]:>8}{(value - lowest) / lowest:>10.0e}{slope:>10.0e}"
            f"{median / newton:>10.1f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--nonzeros", type=int, default=20)
    parser.add_argument("--features", type=int, default=1_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pin-blas", action="store_true", help="one BLAS thread, for scikit-learn too")
    arguments = parser.parse_args()
    if arguments.pin_blas:
        pin_blas_threads()
    start = time.perf_counter()
    small = make_data(100, arguments.nonzeros, arguments.features, 1)
    evaluate(
        small.shards[0], np.zeros(arguments.features + 1), Loss.LOGISTIC, arguments.features + 1, True, True
    )
    print(f"first evaluation (compiling, or loading the cache): {time.perf_counter() - start:.1f} s")
    data = make_data(arguments.rows, arguments.nonzeros, arguments.features, arguments.shards)
    with ThreadPoolExecutor(arguments.threads) as pool:
        report_passes(data, arguments.threads, pool)
        report_solves(data, arguments.threads, arguments.rounds, pool)


if __name__ == "__main__":
    main()
