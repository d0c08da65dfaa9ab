"""Has the kernels of the random-effect solver compiled before the first partition needs them."""

from __future__ import annotations

import numpy as np

from gdmix_core.compiled import register_warm_up
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.random_effect.problems import EntityProblems
from gdmix_core.solvers.random_effect.solve import solve


def _entity(l2: float) -> EntityProblems:
    """Return one entity of two rows, an intercept and a feature."""
    return EntityProblems(
        row_ptr=np.array([0, 2]),
        indptr=np.array([0, 1, 2]),
        indices=np.array([1, 1], np.int32),
        values=np.array([1.0, -1.0]),
        labels=np.array([0.0, 1.0]),
        weights=np.ones(2),
        offsets=np.zeros(2),
        coefficient_ptr=np.array([0, 2]),
        intercept=True,
        l2=np.full(2, l2),
        prior_mean=np.zeros(2),
    )


register_warm_up("random effects: lanes", lambda: solve(_entity(1.0), Loss.LOGISTIC))
register_warm_up("random effects: careful path", lambda: solve(_entity(0.0), Loss.LOGISTIC))
