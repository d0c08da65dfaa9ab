"""Anderson acceleration of a fixed-point iteration x ← G(x): the mixing weights of the last few iterates.

With residuals f_j = G(x_j) − x_j, the next iterate is Σ α_j G(x_j), where Σ α_j = 1 and α minimises ‖Σ α_j f_j‖.
D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 12 (1965); in this form H. F. Walker
and P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011), with β = 1.

Plain Python, since the weights steer a job: the same products give the same weights on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Final

_RIDGE: Final = 1e-13
"""Added to the diagonal, relative to its largest entry: residuals that nearly depend on each other stay usable."""


def mixing_weights(products: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return α, one weight for each iterate, oldest first; their sum is 1.

    The last iterate alone is taken when the products allow nothing better: they are no Gram matrix of finite
    vectors, or only up to rounding.

    Args:
        products: ⟨f_i, f_j⟩, symmetric, oldest first; only the lower triangle is read.
    """
    size = len(products)
    newest = (0.0,) * (size - 1) + (1.0,)
    ridge = _RIDGE * max(products[i][i] for i in range(size))
    factor = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = products[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))
            if i != j:
                factor[i][j] = rest / factor[j][j]
            elif rest + ridge > 0.0 and isfinite(rest):
                factor[i][i] = sqrt(rest + ridge)
            else:
                return newest
    forward: list[float] = []
    for i in range(size):
        forward.append((1.0 - sum(factor[i][k] * forward[k] for k in range(i))) / factor[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(factor[k][i] * solution[k] for k in range(i + 1, size))
        solution[i] = (forward[i] - known) / factor[i][i]
    total = sum(solution)
    if not (isfinite(total) and total > 0.0):
        return newest
    return tuple(value / total for value in solution)
