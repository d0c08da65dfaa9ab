"""Weights to begin with: every layer draws from a stream of its own, which depends on the seed alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from gdmix_core.fixed_effects.deep_text.lookup import FIRST


class Given(keras.initializers.Initializer):  # type: ignore[misc]  # Keras has no types
    """Weights that are given."""

    def __init__(self, values: npt.ArrayLike) -> None:
        self.values = np.asarray(values, np.float32)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> npt.NDArray[np.float32]:
        """Return the weights, whose shape must be `shape`."""
        del dtype
        return self.values.reshape(shape)


class Draws:
    """Initialisers, each with a seed of its own."""

    def __init__(self, seed: int) -> None:
        self._seeds = np.random.SeedSequence(seed)

    def kernel(self) -> keras.initializers.Initializer:
        """Return the initialiser of a matrix (Glorot and Bengio 2010)."""
        return keras.initializers.GlorotUniform(self.seed())

    def recurrent(self) -> keras.initializers.Initializer:
        """Return the initialiser of a recurrent matrix (Saxe, McClelland and Ganguli 2014)."""
        return keras.initializers.Orthogonal(seed=self.seed())

    def table(self, size: int, length: int, spread: float, reserved: int = FIRST) -> Given:
        """Return vectors of codes, normal with this standard deviation, 0 for the codes below `reserved`.

        The unknown has no vector to begin with: where all is known in training it keeps none, and adds nothing.
        """
        values = np.random.default_rng(self.seed()).normal(0.0, spread, (size, length))
        values[:reserved] = 0
        return Given(values)

    def seed(self) -> int:
        """Return the next seed."""
        return int(self._seeds.spawn(1)[0].generate_state(1)[0] >> 1)
