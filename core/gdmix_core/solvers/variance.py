"""Which posterior variances a solver returns with its coefficients."""

from __future__ import annotations

from typing import Literal, TypeAlias

Variance: TypeAlias = Literal["none", "simple", "full"]
"""`full` diag(H⁻¹), `simple` 1 / diag(H), which is never larger; H is the Hessian at the solution."""
