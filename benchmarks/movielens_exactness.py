"""How far the trained MovieLens global model is from its exact optimum.

    gdmix-cli data fetch movielens-100k --directory examples/movielens/data
    gdmix-cli train examples/movielens/movielens-one-pass.yaml
    python benchmarks/movielens_exactness.py examples/movielens/runs/one-pass/models/1

Builds the features again with pandas-free NumPy from the raw columns, solves the same problem with scikit-learn's
newton-cholesky (tol 1e-12) and with its lbfgs at the predecessor's tolerance, and prints objective, largest gradient
and distance of the coefficients. The release year nearly equals the intercept: a loose solver stops far away.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

DATA = Path(__file__).resolve().parent.parent / "examples" / "movielens" / "data" / "train.parquet"


def design(names: list[tuple[str, str]], table: dict[str, list[object]]) -> np.ndarray:
    """Return the dense columns of the named features, in their order."""
    columns = []
    for name, term in names:
        values = table[name]
        if name == "genres":
            columns.append([float(list(row or ()).count(term)) for row in values])
        elif term:
            columns.append([float(value == term) for value in values])
        else:
            columns.append([float(value or 0.0) for value in values])
    return np.array(columns).T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of a model version")
    trained = pq.read_table(parser.parse_args().model / "global" / "coefficients.parquet").to_pydict()
    names = list(zip(trained["name"], trained["term"], strict=True))
    assert names[0][0] == "(INTERCEPT)"
    table = pq.read_table(DATA).to_pydict()
    y = np.array(table["response"], float)
    X = np.column_stack([np.ones(len(y)), design(names[1:], table)])

    def look(label: str, theta: np.ndarray, exact: np.ndarray) -> None:
        z = X @ theta
        objective = np.sum(np.logaddexp(0, z) - y * z) + 0.5 * np.sum(theta[1:] ** 2)
        gradient = X.T @ (1 / (1 + np.exp(-z)) - y) + np.r_[0, theta[1:]]
        apart = np.max(np.abs(theta - exact) / np.maximum(1, np.abs(exact)))
        print(
            f"{label:34} objective {objective:.9f}  |gradient| {np.abs(gradient).max():8.1e}  apart {apart:.1e}"
        )

    def scikit_learn(solver: str, tol: float) -> np.ndarray:
        model = LogisticRegression(C=1.0, solver=solver, tol=tol, max_iter=10_000).fit(X[:, 1:], y)
        return np.r_[model.intercept_, model.coef_[0]]

    exact = scikit_learn("newton-cholesky", 1e-12)
    look("scikit-learn newton-cholesky 1e-12", exact, exact)
    look("this model", np.array(trained["coefficient"]), exact)
    look("scikit-learn lbfgs, default tol 1e-4", scikit_learn("lbfgs", 1e-4), exact)


if __name__ == "__main__":
    main()
