"""AdamW with warm-up, decay and clipping.

Written here, and not taken from Keras, for three reasons: gradients are clipped after those of a gang have been added
up (Keras clips each member's own), the step that schedules and bias correction go by is the fit's, and all of the state
is a list of variables that checkpoints keep.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101. BERT's variant leaves
out the correction of the moments' bias: Devlin et al., NAACL 2019, arXiv:1810.04805, file optimization.py of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.options import OptimizerOptions

_BETA_1: Final = 0.9
_BETA_2: Final = 0.999
_EPSILON: Final = {"adamw": 1e-7, "bert_adam": 1e-6}


class AdamW:
    """The optimiser of a fit; made and used in its strategy's scope."""

    def __init__(
        self,
        options: OptimizerOptions,
        steps: int,
        variables: Sequence[tf.Variable],
        rates: Sequence[float],
        decays: Sequence[bool],
    ) -> None:
        """Begin.

        Args:
            options: of the optimiser.
            steps: steps of the whole fit, which the schedule ends with.
            variables: weights to move.
            rates: factor of the learning rate, for each of them.
            decays: whether it decays, for each of them.
        """
        self._options = options
        self._steps = steps
        self._warm_up = round(options.warmup * steps)
        self._variables = list(variables)
        self._rates = list(rates)
        self._decay = [options.weight_decay if decay else 0.0 for decay in decays]
        self._first = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]
        self._second = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint keeps."""
        return [*self._first, *self._second]

    def learning_rate(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, counted from 0, float32 scalar."""
        done = tf.cast(step, tf.float32)
        rate = tf.constant(self._options.learning_rate, tf.float32)
        if self._options.decay == "linear":
            left = (self._steps - done) / max(self._steps - self._warm_up, 1)
            rate *= tf.clip_by_value(left, 0.0, 1.0)
        if self._warm_up:
            rate *= tf.minimum(1.0, (done + 1) / self._warm_up)
        return rate

    def apply(self, gradients: Sequence[tf.Tensor], step: tf.Tensor) -> None:
        """Move the weights; called in a replica's context with gradients that are the same in all replicas."""
        gradients = list(gradients)
        if self._options.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._options.clip_norm)
        done = tf.cast(step + 1, tf.float32)
        powers = (tf.constant(0.0), tf.constant(0.0))
        if self._options.kind == "adamw":
            powers = (tf.pow(_BETA_1, done), tf.pow(_BETA_2, done))
        tf.distribute.get_replica_context().merge_call(
            self._update, args=(gradients, self.learning_rate(step), *powers)
        )

    def _update(
        self,
        strategy: tf.distribute.Strategy,
        gradients: Sequence[Any],
        rate: Any,
        power_1: Any,
        power_2: Any,
    ) -> None:
        """Move the weights in all replicas; powers of the betas correct the moments' bias, 0 does not."""
        settings = zip(self._rates, self._decay, strict=True)
        slots = zip(self._variables, self._first, self._second, gradients, strict=True)
        for (variable, first, second, gradient), (factor, decay) in zip(slots, settings, strict=True):
            move = partial(_move, factor=factor, decay=decay, epsilon=_EPSILON[self._options.kind])
            strategy.extended.update(
                variable, move, args=(first, second, gradient, rate, power_1, power_2), group=False
            )


def _move(
    weight: tf.Variable,
    first: tf.Variable,
    second: tf.Variable,
    gradient: tf.Tensor,
    rate: tf.Tensor,
    power_1: tf.Tensor,
    power_2: tf.Tensor,
    *,
    factor: float,
    decay: float,
    epsilon: float,
) -> None:
    """Move one variable: decay, then Adam, by TensorFlow's fused kernel."""
    if decay:
        weight.assign_sub(factor * decay * rate * weight)
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=first.handle,
        v=second.handle,
        beta1_power=power_1,
        beta2_power=power_2,
        lr=factor * rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=epsilon,
        grad=gradient,
    )
