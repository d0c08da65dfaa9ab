"""The losses of the tasks, as `gdmix_core.solvers.losses` has them, for TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from gdmix_core.fixed_effects.plugin import Task


def row_losses(task: Task, label: tf.Tensor, score: tf.Tensor, spread: float) -> tf.Tensor:
    """Return each row's loss, float32[rows].

    Logistic log(1 + e^z) - y·z, squared ½(y - z)² over the labels' variance, Poisson e^z - y·z.

    Args:
        task: which loss.
        label: y, float32[rows].
        score: z, offsets added, float32[rows].
        spread: standard deviation of the labels, 1 but for linear regression.
    """
    if task == "logistic_regression":
        return tf.nn.softplus(score) - label * score
    if task == "linear_regression":
        return 0.5 * tf.square((label - score) / spread)
    return tf.exp(score) - label * score
