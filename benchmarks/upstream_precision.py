"""How far LinkedIn GDMix's way of stopping leaves a user's model from its optimum.

    python benchmarks/upstream_precision.py [--users 300]

The models of the first users of MovieLens-100K over the movies' features, l2 = 1, intercept free: SciPy's
L-BFGS-B on the objective divided by the number of rows, with the settings of upstream's example (projected
gradient 1e-5, at most 100 iterations), against Newton's method. Users whose labels are all alike are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.optimize import fmin_l_bfgs_b
from scipy.special import expit

from gdmix_client.movielens_gdmix import FEATURES, fetch_movielens_gdmix

L2 = 1.0


def training_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features behind a column of ones, labels and users, of upstream's per-user training file."""
    with tempfile.TemporaryDirectory() as directory:
        fetch_movielens_gdmix(directory)
        [file] = Path(directory, "movieLens", "per_user", "trainingData").iterdir()
        records = [
            tf.train.Example.FromString(record).features.feature
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        ]
    X = np.zeros((len(records), 1 + len(FEATURES["per_user"])))
    X[:, 0] = 1.0
    for row, found in enumerate(records):
        places = np.array(found["per_user_indices"].int64_list.value, int) + 1
        X[row, places] = found["per_user_values"].float_list.value
    labels = [found["response"].int64_list.value[0] for found in records]
    users = [found["user_id"].int64_list.value[0] for found in records]
    return X, np.array(labels, float), np.array(users)


def as_upstream(A: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    def value(t: np.ndarray) -> float:
        z = A @ t
        return float(np.sum(np.logaddexp(0, z) - y * z) + 0.5 * np.sum(penalty * t * t)) / len(y)

    def gradient(t: np.ndarray) -> np.ndarray:
        return (A.T @ (expit(A @ t) - y) + penalty * t) / len(y)

    factor = 1e-12 / np.finfo(float).eps
    return fmin_l_bfgs_b(value, np.zeros(A.shape[1]), gradient, m=10, factr=factor, maxiter=100)[0]


def exactly(A: np.ndarray, y: np.ndarray, penalty: np.ndarray, start: np.ndarray) -> np.ndarray:
    theta = start.copy()
    for _ in range(50):
        p = expit(A @ theta)
        H = (A.T * (p * (1 - p))) @ A + np.diag(penalty)
        theta -= np.linalg.solve(H, A.T @ (p - y) + penalty * theta)
    return theta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=300)
    arguments = parser.parse_args()
    X, labels, users = training_rows()
    penalty = np.full(X.shape[1], L2)
    penalty[0] = 0.0
    apart: dict[str, list[float]] = {"coefficients": [], "of the largest coefficient": [], "scores": []}
    for user in range(1, arguments.users + 1):
        A, y = X[users == user], labels[users == user]
        if y.min() == y.max():
            continue
        stopped = as_upstream(A, y, penalty)
        optimum = exactly(A, y, penalty, stopped)
        error = np.abs(stopped - optimum).max()
        apart["coefficients"].append(error)
        apart["of the largest coefficient"].append(error / np.abs(optimum).max())
        apart["scores"].append(np.abs(A @ (stopped - optimum)).max())
    print(f"{len(apart['scores'])} models")
    for what, found in apart.items():
        median, worst = np.percentile(found, [50, 100])
        print(f"{what:28} median {median:.1e}   largest {worst:.1e}")


if __name__ == "__main__":
    main()
