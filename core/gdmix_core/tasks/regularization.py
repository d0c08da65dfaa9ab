"""Ridge strengths, as both kinds of effects have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Regularization:
    """Ridge strengths of a coordinate; which coefficients a group covers is read off the feature index."""

    groups: dict[str, float]
    """`default`, `intercept`, `<bag>`, `<bag>.<column>`; the most specific one wins."""
    regularize_intercept: bool
