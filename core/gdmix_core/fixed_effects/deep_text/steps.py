"""One step of training on all replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.losses import row_losses
from gdmix_core.fixed_effects.deep_text.network import Network, signature
from gdmix_core.fixed_effects.deep_text.optimizer import AdamW
from gdmix_core.fixed_effects.deep_text.pretrained import Pretrained
from gdmix_core.fixed_effects.deep_text.stream import with_targets
from gdmix_core.fixed_effects.plugin import Task

Tensors: TypeAlias = Mapping[str, tf.Tensor]
Weights: TypeAlias = list[npt.NDArray[np.float32]]

_REPLICA_STEP: Final = 10_007


class Trainee:
    """A network and its optimiser, in a strategy's scope."""

    def __init__(
        self,
        inputs: Inputs,
        task: Task,
        seed: int,
        steps: int,
        mean_weight: float,
        strategy: tf.distribute.Strategy,
        pretrained: Pretrained,
    ) -> None:
        """Begin with fresh weights.

        Args:
            inputs: encode rows.
            task: of the job.
            seed: of weights and dropout.
            steps: of the whole schedule.
            mean_weight: of the training rows; the mean loss is over rows of this weight.
            strategy: what trains.
            pretrained: weights that come from files.
        """
        self._options = inputs.options
        self._task = task
        self._seed = seed % 2**31
        self._spread = inputs.spread
        self._mean_weight = mean_weight
        self._strategy = strategy
        with strategy.scope():
            self._network = Network(inputs, seed, pretrained)
            self._trained = [variable.value for variable in self._network.trainable_variables]
            self._regularized = self._network.regularized()
            rates = self._network.learning_rates()
            self._optimizer = AdamW(self._options.optimizer, steps, self._trained, rates, self._regularized)
        tensors = with_targets(signature(inputs))
        number = tf.TensorSpec([], tf.int32)
        self._step = tf.function(self._run, input_signature=[tensors, number], autograph=False)
        self._score = tf.function(self._scores, input_signature=[tensors], autograph=False)

    def step(self, batch: Tensors, number: int) -> tf.Tensor:
        """Move the weights by one batch, this member's; return the mean loss over all members' rows."""
        return self._step(batch, tf.constant(number, tf.int32))

    def scored(self, batches: Any) -> npt.NDArray[np.float64]:
        """Return score with offset, label and weight of some rows, those of all members, float64[rows, 3]."""
        columns = [
            tf.stack([self._score(batch), batch["label"], batch["weight"]], axis=1) for batch in batches
        ]
        rows = tf.concat([tf.zeros([0, 3]), *columns], axis=0)
        if self._strategy.num_replicas_in_sync > 1:
            rows = self._strategy.gather(rows, axis=0)
        found: npt.NDArray[np.float64] = rows.numpy().astype(np.float64)
        return found

    def weights(self) -> Weights:
        """Return a copy of the network's weights."""
        return [variable.numpy() for variable in self._network.variables]

    def set_weights(self, weights: Sequence[npt.NDArray[np.float32]]) -> None:
        """Take over weights."""
        for variable, weight in zip(self._network.variables, weights, strict=True):
            variable.value.assign(weight)

    def optimizer_state(self) -> Weights:
        """Return a copy of the optimiser's state."""
        return [variable.numpy() for variable in self._optimizer.state]

    def set_optimizer_state(self, state: Sequence[npt.NDArray[np.float32]]) -> None:
        """Take over the optimiser's state."""
        for variable, value in zip(self._optimizer.state, state, strict=True):
            variable.assign(value)

    def _run(self, batch: Tensors, number: tf.Tensor) -> tf.Tensor:
        return self._strategy.run(self._replica_step, args=(batch, number))

    def _replica_step(self, batch: Tensors, number: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        place = self._seed + _REPLICA_STEP * tf.cast(replica.replica_id_in_sync_group, tf.int32)
        with tf.GradientTape() as tape:
            score = self._network(batch, seed=tf.stack([number, place]))
            losses = row_losses(self._task, batch["label"], score + batch["offset"], self._spread)
            loss = tf.reduce_sum(batch["weight"] * losses)
        gradients = tape.gradient(loss, self._trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        dense = [_dense(*pair) for pair in zip(gradients, self._trained, strict=True)]
        rows = tf.cast(tf.shape(score)[0], tf.float32)
        loss, rows, *sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [loss, rows, *dense])
        total = rows * self._mean_weight
        means = [
            self._penalised(gradient / total, variable) if regularized else gradient / total
            for gradient, variable, regularized in zip(sums, self._trained, self._regularized, strict=True)
        ]
        self._optimizer.apply(means, number)
        return loss / total

    def _penalised(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        if self._options.l2:
            gradient += self._options.l2 * variable
        if self._options.l1:
            gradient += self._options.l1 * tf.sign(variable)
        return gradient

    def _scores(self, batch: Tensors) -> tf.Tensor:
        return self._network(batch) + batch["offset"]


def _dense(gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
