"""AdamW against a plain account of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="deep_text trains with TensorFlow: pip install 'gdmix[tensorflow]'")

import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.optimizer import AdamW
from gdmix_core.fixed_effects.deep_text.options import OptimizerOptions

STEPS = 20
GRADIENTS = np.random.default_rng(0).normal(0, 1, (STEPS, 2, 3)).astype(np.float32)


def plain(options: OptimizerOptions, factor: float, decays: bool) -> np.ndarray:
    weight, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    warm_up = round(options.warmup * STEPS)
    for step, both in enumerate(GRADIENTS.astype(np.float64)):
        norm = np.sqrt(np.square(both).sum())
        clip = options.clip_norm
        gradient = both[0] * (min(1.0, clip / norm) if clip else 1.0)
        rate = options.learning_rate * min(1.0, (step + 1) / warm_up if warm_up else 1.0)
        if options.decay == "linear":
            rate *= min(1.0, (STEPS - step) / (STEPS - warm_up))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        if options.kind == "adamw":
            move = m / (1 - 0.9 ** (step + 1)) / np.sqrt(v / (1 - 0.999 ** (step + 1)))
        else:
            move = m / np.sqrt(v)
        weight = weight - factor * rate * (move + (options.weight_decay if decays else 0) * weight)
    return weight


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "bert_adam"},
        {"decay": "none", "warmup": 0.0},
        {"clip_norm": None, "weight_decay": 0.5, "warmup": 0.5},
    ],
)
def test_weights_move_as_the_papers_say(changes: dict[str, Any]) -> None:
    options = OptimizerOptions.model_validate({"learning_rate": 0.01, "weight_decay": 0.1, **changes})
    weights = [tf.Variable(np.ones(3, np.float32)) for _ in range(2)]
    optimizer = AdamW(options, STEPS, weights, rates=[1.0, 0.3], decays=[True, False])

    @tf.function(autograph=False)
    def step(gradients: tf.Tensor, number: tf.Tensor) -> None:
        optimizer.apply(tf.unstack(gradients), number)

    for number, gradients in enumerate(GRADIENTS):
        step(tf.constant(gradients), tf.constant(number))
    assert weights[0].numpy() == pytest.approx(plain(options, 1.0, decays=True), rel=2e-4)
    GRADIENTS[:, [0, 1]] = GRADIENTS[:, [1, 0]]
    expected = plain(options, 0.3, decays=False)
    GRADIENTS[:, [0, 1]] = GRADIENTS[:, [1, 0]]
    assert weights[1].numpy() == pytest.approx(expected, rel=2e-4)
    assert len(optimizer.state) == 4
