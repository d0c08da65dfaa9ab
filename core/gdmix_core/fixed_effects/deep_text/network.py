"""The network: texts, numbers and categories to one score a row.

    texts ── token vectors ── encoder ──┐ interactions
    numbers, normalised ────────────────┤
    categories, sparse: vectors, summed ┴─▶ layers with dropout ──▶ deep score ┐
    numbers, categories, sparse ──────────▶ linear terms ─────────▶ wide score ┴─▶ score

Sources: Guo et al., DeText: A Deep Text Ranking Framework with BERT, CIKM 2020, arXiv:2008.02460; Cheng et al., Wide &
Deep Learning for Recommender Systems, DLRS 2016, arXiv:1606.07792.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import keras
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.draws import Draws, Given
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.lookup import FIRST
from gdmix_core.fixed_effects.deep_text.options import Bert
from gdmix_core.fixed_effects.deep_text.pretrained import Pretrained
from gdmix_core.fixed_effects.deep_text.texts import TextFeatures

Tensors: TypeAlias = Mapping[str, tf.Tensor]

_CATEGORY_SPREAD: Final = 0.05
_REGULARIZED: Final = {"kernel", "recurrent_kernel", "embeddings"}


class Network(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A network; its weights exist once it is made.

    Scores are `bias + scale · (deep + wide)`: bias and scale bring a fresh network near the labels, and only the bias
    is trained.
    """

    def __init__(self, inputs: Inputs, seed: int, pretrained: Pretrained | None = None) -> None:
        super().__init__(name="deep_text")
        options = inputs.options
        self._options = options
        draws = Draws(seed)
        self.texts: Any = None
        if options.texts():
            self.texts = TextFeatures(inputs, draws, pretrained or Pretrained())
        self._make_bags(inputs, draws)
        size = len(inputs.mean) + sum(inputs.bag_embeddings())
        size += self.texts.output_size if self.texts else 0
        self.hidden: list[Any] = []
        self.deep: Any = None
        if size:
            self._make_layers(size, draws)
        self.bias = self.add_weight(shape=(), name="bias", initializer=Given(inputs.start))
        self.scale = self.add_weight(
            shape=(), name="scale", initializer=Given(inputs.spread), trainable=False
        )
        self.built = True

    def call(self, inputs: Tensors, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Return the scores of rows, float32[rows].

        Args:
            inputs: as `EncodedRows.batch` gives them.
            seed: of the dropout, int32[2]; None to score.
        """
        dropout = DropoutStream(seed)
        numbers = inputs["numbers"]
        rows = tf.shape(numbers)[0]
        features = [] if self.texts is None else [self.texts(inputs, dropout=dropout)]
        features.append(numbers)
        score = tf.zeros([rows, 1])
        for i in range(len(self.tables)):
            deep, linear = self._bag(inputs, i, rows)
            features += [] if deep is None else [deep]
            score += 0.0 if linear is None else linear
        if self.wide_numbers is not None:
            score += self.wide_numbers(numbers)
        if self.deep is not None:
            hidden = tf.concat(features, axis=1)
            for layer in self.hidden:
                hidden = layer(dropout(hidden, self._options.dropout))
            score += self.deep(hidden)
        return self.bias + self.scale * score[:, 0]

    def learning_rates(self) -> list[float]:
        """Return the factor of the learning rate of each trainable weight: BERT's own is smaller."""
        encoder = self._options.encoder
        slow = {id(weight) for weight in self.texts.trainable_variables} if self.texts else set()
        factor = encoder.learning_rate_factor if isinstance(encoder, Bert) else 1.0
        return [factor if id(weight) in slow else 1.0 for weight in self.trainable_variables]

    def regularized(self) -> list[bool]:
        """Return of each trainable weight whether it decays: matrices and tables do, biases and scales do not."""
        return [weight.name in _REGULARIZED for weight in self.trainable_variables]

    def _make_layers(self, size: int, draws: Draws) -> None:
        for i, units in enumerate(self._options.hidden):
            layer = keras.layers.Dense(
                units, self._options.activation, kernel_initializer=draws.kernel(), name=f"hidden_{i}"
            )
            layer.build((None, size))
            self.hidden.append(layer)
            size = units
        self.deep = keras.layers.Dense(1, use_bias=False, kernel_initializer=draws.kernel(), name="deep")
        self.deep.build((None, size))

    def _make_bags(self, inputs: Inputs, draws: Draws) -> None:
        options = inputs.options
        categories, sparse = len(options.categories), len(options.sparse)
        linear = [options.wide] * categories + [True] * sparse
        reserved = [FIRST] * categories + [0] * sparse
        self.tables: list[Any] = []
        self.wide_bags: list[Any] = []
        for i, (size, length) in enumerate(zip(inputs.bag_sizes(), inputs.bag_embeddings(), strict=True)):
            deep = draws.table(size, length, _CATEGORY_SPREAD, reserved[i]) if length else None
            self.tables.append(None if deep is None else _table(size, length, deep, f"bag_{i}"))
            self.wide_bags.append(_table(size, 1, "zeros", f"wide_bag_{i}") if linear[i] else None)
        self.wide_numbers: Any = None
        if options.wide and len(inputs.mean):
            self.wide_numbers = keras.layers.Dense(
                1, use_bias=False, kernel_initializer="zeros", name="wide_numbers"
            )
            self.wide_numbers.build((None, len(inputs.mean)))

    def _bag(self, inputs: Tensors, i: int, rows: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Return the weighted sum of the vectors of each row's codes, and that of their linear terms."""
        codes, value, row = inputs[f"bag_{i}"], inputs[f"bag_{i}_value"][:, None], inputs[f"bag_{i}_row"]
        deep, wide = (
            None if table is None else tf.math.unsorted_segment_sum(table(codes) * value, row, rows)
            for table in (self.tables[i], self.wide_bags[i])
        )
        return deep, wide


def signature(inputs: Inputs) -> dict[str, tf.TensorSpec]:
    """Return the tensors that a network takes, by name; their number of rows is open."""
    specs = {"numbers": tf.TensorSpec([None, len(inputs.mean)], tf.float32, "numbers")}
    for i in range(len(inputs.options.texts())):
        specs[f"text_{i}"] = tf.TensorSpec([None, None], tf.int32, f"text_{i}")
        specs[f"text_{i}_row"] = tf.TensorSpec([None], tf.int32, f"text_{i}_row")
    for i in range(len(inputs.bag_sizes())):
        specs[f"bag_{i}"] = tf.TensorSpec([None], tf.int32, f"bag_{i}")
        specs[f"bag_{i}_value"] = tf.TensorSpec([None], tf.float32, f"bag_{i}_value")
        specs[f"bag_{i}_row"] = tf.TensorSpec([None], tf.int32, f"bag_{i}_row")
    return specs


def _table(size: int, length: int, initializer: Any, name: str) -> keras.layers.Embedding:
    table = keras.layers.Embedding(size, length, embeddings_initializer=initializer, name=name)
    table.build(())
    return table
