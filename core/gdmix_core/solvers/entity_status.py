"""How the solve of one entity ended, in words for those who can change something; light enough for a coordinator."""

from __future__ import annotations

from enum import IntEnum


class EntityStatus(IntEnum):
    """How the solve of one entity ended; whatever it says, the coefficients are finite."""

    CONVERGED = 0
    SINGULAR = 1
    UNBOUNDED = 2
    MAX_ITERATIONS = 3
    NUMERICAL_FAILURE = 4

    @property
    def advice(self) -> str:
        """Return what the status means and what the user can change."""
        return _ADVICE[self]


_ADVICE = {
    EntityStatus.CONVERGED: "The gradient meets the certificate: these are the optimal coefficients.",
    EntityStatus.SINGULAR: (
        "Without l2 the data do not determine every coefficient: of all optimal solutions this is the one nearest "
        "to the prior mean. Set l2 above 0 (also for the intercept, with regularize_bias) or drop redundant features."
    ),
    EntityStatus.UNBOUNDED: (
        "The optimum lies at infinity, as with an unregularised intercept when all labels are alike or with "
        "separable data: the coefficients stop where the gradient vanishes. Set l2 above 0 for every coefficient."
    ),
    EntityStatus.MAX_ITERATIONS: (
        "The gradient did not meet the certificate within the allowed iterations. Allow more iterations, raise l2, "
        "or scale features of very different size."
    ),
    EntityStatus.NUMERICAL_FAILURE: (
        "The entity's data hold NaN or infinite numbers, a negative weight or a negative l2, or are too large for "
        "float64: its coefficients are the prior mean. Correct or rescale the data."
    ),
}
