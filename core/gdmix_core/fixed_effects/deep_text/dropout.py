"""Dropout whose draws depend on seed and step alone, so that a resumed fit draws the same."""

from __future__ import annotations

import tensorflow as tf


class DropoutStream:
    """The dropout of one pass over the network.

    Every call draws from a place of its own, in the order of the calls while the graph is built.
    """

    def __init__(self, seed: tf.Tensor | None) -> None:
        """Begin a pass.

        Args:
            seed: int32[2], other for every step and replica; None leaves nothing out, as scoring does.
        """
        self._seed = seed
        self._place = 0

    def __call__(self, values: tf.Tensor, rate: float) -> tf.Tensor:
        """Return the values with a share `rate` of them 0 and the others divided by 1 - rate."""
        if self._seed is None or not rate:
            return values
        self._place += 1
        return tf.nn.experimental.stateless_dropout(values, rate, seed=tf.add(self._seed, [0, self._place]))
