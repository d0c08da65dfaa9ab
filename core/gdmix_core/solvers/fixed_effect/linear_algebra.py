"""Newton's linear system: scaled Cholesky, and eigenvectors where the Hessian has no full rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.blas import pin_blas_threads

Float64Array = npt.NDArray[np.float64]

_RANK_UNITS: Final = 64 * float(np.finfo(np.float64).eps)
_DAMPING: Final = 1e-3
_LEAST_CURVATURE: Final = 1e-290  # below, a step would overflow


@dataclass(frozen=True, slots=True, eq=False)
class NewtonSystem:
    """A factored Hessian H = diag(1/s) A diag(1/s) with unit diagonal where H's is positive.

    Attributes:
        scale: s, float64[D].
        upper: A's Cholesky factor R (A = RᵀR), or None where A has no full rank.
        eigenvalues: of A, ascending, where it has no full rank.
        eigenvectors: their vectors, as columns.
        rank_tolerance: eigenvalues up to this count as zero.
    """

    scale: Float64Array
    upper: Float64Array | None
    eigenvalues: Float64Array
    eigenvectors: Float64Array
    rank_tolerance: float

    @property
    def singular(self) -> bool:
        """Return whether H has no full rank."""
        return self.upper is None

    def step(
        self, gradient: Float64Array, above_minimum_norm: Float64Array, negligible: float
    ) -> Float64Array:
        """Return the Newton step −H⁻¹g.

        Where H has no full rank: −H⁺g, and along H's null space the way to the solution of minimum norm.
        Where the gradient does not vanish along the null space (curvature lost to underflow), a damped step.

        Args:
            gradient: g, float64[D].
            above_minimum_norm: θ less the point from which the norm is measured, float64[D].
            negligible: gradients along the null space up to this size are zero.
        """
        scaled = self.scale * gradient
        if self.upper is not None:
            solve = _lapack().cho_solve
            return np.asarray(-self.scale * solve((self.upper, False), scaled), dtype=np.float64)
        kept = self.eigenvalues > self.rank_tolerance
        coefficients = self.eigenvectors.T @ scaled
        null_basis = self._null_basis()
        if float(np.max(np.abs(null_basis.T @ gradient), initial=0.0)) > negligible:
            damped = np.maximum(self.eigenvalues, 0.0) + _DAMPING
            return -self.scale * (self.eigenvectors @ (coefficients / damped))
        coefficients[kept] /= self.eigenvalues[kept]
        coefficients[~kept] = 0.0
        newton = -self.scale * (self.eigenvectors @ coefficients)
        target = above_minimum_norm + newton
        return newton - null_basis @ (null_basis.T @ target)

    def inverse_diagonal(self) -> Float64Array:
        """Return diag(H⁻¹); where H has no full rank, of the determined directions alone."""
        if self.upper is not None:
            inverse, _ = _lapack().lapack.dpotri(self.upper, lower=0)
            return np.diagonal(inverse) * self.scale**2
        kept = self.eigenvalues > self.rank_tolerance
        vectors = self.eigenvectors[:, kept]
        return np.asarray((vectors**2 / self.eigenvalues[kept]).sum(axis=1) * self.scale**2, dtype=np.float64)

    def _null_basis(self) -> Float64Array:
        """Return an orthonormal basis of H's null space, as columns."""
        null = self.eigenvectors[:, self.eigenvalues <= self.rank_tolerance]
        basis, _ = np.linalg.qr(self.scale[:, None] * null)
        return np.asarray(basis, dtype=np.float64)


def factor(hessian: Float64Array) -> NewtonSystem:
    """Factor a symmetric positive semidefinite float64[D, D], which is overwritten."""
    diagonal = np.diagonal(hessian).copy()
    curved = diagonal > _LEAST_CURVATURE
    scale = np.where(curved, 1.0 / np.sqrt(np.where(curved, diagonal, 1.0)), 1.0)
    hessian *= scale[:, None]
    hessian *= scale
    size = diagonal.size
    tolerance = _RANK_UNITS * size
    upper, failed = _lapack().lapack.dpotrf(hessian, lower=0, clean=1)
    # With a unit diagonal, R_jj² is the share of feature j that the features before it leave unexplained.
    if failed == 0 and float(np.min(np.diagonal(upper)) ** 2) > tolerance:
        return NewtonSystem(scale, upper, np.empty(0), np.empty((size, 0)), tolerance)
    eigenvalues, eigenvectors = _lapack().eigh(hessian)
    return NewtonSystem(scale, None, eigenvalues, eigenvectors, tolerance * max(1.0, float(eigenvalues[-1])))


def _lapack() -> Any:
    """Import scipy.linalg at first use, on one thread: its last bits depend on the number of threads."""
    import scipy.linalg

    global _pinned  # noqa: PLW0603
    if not _pinned:
        pin_blas_threads()
        _pinned = True
    return scipy.linalg


_pinned = False
