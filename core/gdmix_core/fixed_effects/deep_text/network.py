"""The network: texts, numbers and categories to one score a row.

    texts ── token vectors ── encoder ──┐ interactions
    numbers, normalised ────────────────┤
    categories, sparse: vectors, summed ┴─▶ layers with dropout ──▶ deep score ┐
    numbers, categories, sparse ──────────▶ linear terms ─────────▶ wide score ┴─▶ score

Source: Guo et al., DeText: A Deep Text Ranking Framework with BERT, CIKM 2020, arXiv:2008.02460; Cheng et al., Wide &
Deep Learning for Recommender Systems, DLRS 2016, arXiv:1606.07792.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import keras
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.draws import Draws, Given
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.encoders import CnnEncoder
from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.options import Cnn

Tensors: TypeAlias = Mapping[str, tf.Tensor]

_TOKEN_SPREAD: Final = 0.1
_CATEGORY_SPREAD: Final = 0.05


class Network(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A network; its weights exist once it is made.

    Scores are `bias + scale · (deep + wide)`: bias and scale bring a fresh network near the labels, and only the bias
    is trained.
    """

    def __init__(self, inputs: Inputs, seed: int) -> None:
        super().__init__(name="deep_text")
        options = inputs.options
        self._options = options
        self._draws = Draws(seed)
        self._make_texts(inputs)
        self._make_bags(inputs)
        size = self._text_size() + len(inputs.mean) + sum(inputs.bag_embeddings())
        self.hidden = []
        for i, units in enumerate(options.hidden if size else ()):
            layer = keras.layers.Dense(
                units, options.activation, kernel_initializer=self._draws.kernel(), name=f"hidden_{i}"
            )
            layer.build((None, size))
            self.hidden.append(layer)
            size = units
        self.deep = keras.layers.Dense(
            1, use_bias=False, kernel_initializer=self._draws.kernel(), name="deep"
        )
        self.deep.build((None, size))
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
        bags = [self._bag(inputs, i, rows) for i in range(len(self.tables))]
        deep = tf.concat(
            [*self._texts(inputs, dropout), numbers, *(vector for vector, _ in bags if vector is not None)],
            axis=1,
        )
        for layer in self.hidden:
            deep = layer(dropout(deep, self._options.dropout))
        score = self.deep(deep)
        for _, linear in bags:
            if linear is not None:
                score += linear
        if self.wide_numbers is not None:
            score += self.wide_numbers(numbers)
        return self.bias + self.scale * score[:, 0]

    # ---- texts -------------------------------------------------------------------------------------------

    def _make_texts(self, inputs: Inputs) -> None:
        options = inputs.options
        self.words: Any = None
        self.encoders: list[CnnEncoder] = []
        if not options.texts():
            return
        self.words = self._table(inputs.tokenizer.size, options.word_embedding.size, _TOKEN_SPREAD, "words")
        names = ["texts"] if options.shares_encoder() else [column.column for column in options.texts()]
        self.encoders = [self._encoder(f"encoder_{i}") for i in range(len(names))]

    def _encoder(self, name: str) -> CnnEncoder:
        options = self._options.encoder
        assert isinstance(options, Cnn)
        return CnnEncoder(options, self._options.word_embedding.size, self._draws, name)

    def _text_size(self) -> int:
        if not self.encoders:
            return 0
        size = self.encoders[0].output_size
        texts, asking = len(self._options.text), len(self._options.asking())
        sizes = {
            "concatenation": size * (texts + asking),
            "cosine": texts * asking,
            "hadamard": size * texts * asking,
            "difference": size * texts * asking,
        }
        return sum(sizes[kind] for kind in self._options.interactions)

    def _texts(self, inputs: Tensors, dropout: DropoutStream) -> list[tf.Tensor]:
        vectors = [self._text(inputs, i, dropout) for i in range(len(self._options.texts()))]
        texts, asking = vectors[: len(self._options.text)], vectors[len(self._options.text) :]
        features = list(vectors) if "concatenation" in self._options.interactions else []
        for text in texts:
            for other in asking:
                if "cosine" in self._options.interactions:
                    features.append(_cosine(text, other))
                if "hadamard" in self._options.interactions:
                    features.append(text * other)
                if "difference" in self._options.interactions:
                    features.append(other - text)
        return features

    def _text(self, inputs: Tensors, i: int, dropout: DropoutStream) -> tf.Tensor:
        codes = inputs[f"text_{i}"]
        there = tf.cast(codes > 0, tf.float32)
        vectors = dropout(self.words(codes), self._options.word_embedding.dropout) * there[:, :, None]
        encoder = self.encoders[i if len(self.encoders) > 1 else 0]
        return tf.gather(encoder(vectors, there, dropout=dropout), inputs[f"text_{i}_row"])

    # ---- numbers, categories, sparse vectors -------------------------------------------------------------

    def _make_bags(self, inputs: Inputs) -> None:
        options = inputs.options
        linear = [options.wide] * len(options.categories) + [True] * len(options.sparse)
        sizes = inputs.bag_sizes()
        self.tables = [
            self._table(size, length, _CATEGORY_SPREAD, f"bag_{i}") if length else None
            for i, (size, length) in enumerate(zip(sizes, inputs.bag_embeddings(), strict=True))
        ]
        self.wide_bags = [
            self._table(size, 1, 0.0, f"wide_bag_{i}") if wanted else None
            for i, (size, wanted) in enumerate(zip(sizes, linear, strict=True))
        ]
        self.wide_numbers = None
        if options.wide and len(inputs.mean):
            self.wide_numbers = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="wide_numbers")
            self.wide_numbers.build((None, len(inputs.mean)))

    def _bag(self, inputs: Tensors, i: int, rows: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Return the weighted sum of the vectors of each row's codes, and that of their linear terms."""
        codes, value, row = inputs[f"bag_{i}"], inputs[f"bag_{i}_value"][:, None], inputs[f"bag_{i}_row"]
        deep, wide = (
            None if table is None else tf.math.unsorted_segment_sum(table(codes) * value, row, rows)
            for table in (self.tables[i], self.wide_bags[i])
        )
        return deep, wide

    # ---- weights -----------------------------------------------------------------------------------------

    def _table(self, size: int, length: int, spread: float, name: str) -> keras.layers.Embedding:
        table = keras.layers.Embedding(
            size, length, embeddings_initializer=self._draws.table(size, length, spread), name=name
        )
        table.build(())
        return table


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


def _cosine(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    product = tf.math.l2_normalize(a, axis=1) * tf.math.l2_normalize(b, axis=1)
    return tf.reduce_sum(product, axis=1, keepdims=True)
