"""Encoders of self-attention: one trained from scratch, and BERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.bert_directory import BertConfig
from gdmix_core.fixed_effects.deep_text.draws import Draws
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.options import Bert, Transformer

Float32Array: TypeAlias = npt.NDArray[np.float32]

_SPREAD: Final = 0.02
_HIDDEN: Final = -1e9
_EPSILON: Final = 1e-6


class Block(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Self-attention and a feed-forward network, each added to what it was given.

    Sources: Vaswani et al., Attention Is All You Need, NIPS 2017, arXiv:1706.03762, with normalisation behind the sums;
    Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020, arXiv:2002.04745, with it before
    the parts, which needs no long warm-up.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        draws: Draws,
        *,
        norm_first: bool,
        epsilon: float = _EPSILON,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self._heads, self._width, self._dropout, self._norm_first = (
            heads,
            hidden // heads,
            dropout,
            norm_first,
        )

        def dense(units: int, size: int, name: str, activation: str | None = None) -> keras.layers.Dense:
            layer = keras.layers.Dense(units, activation, kernel_initializer=draws.kernel(), name=name)
            layer.build((None, None, size))
            return layer

        self.query = dense(hidden, hidden, "query")
        self.key = dense(hidden, hidden, "key")
        self.value = dense(hidden, hidden, "value")
        self.output_projection = dense(hidden, hidden, "output")
        self.inner = dense(feed_forward, hidden, "inner", "gelu")
        self.outer = dense(hidden, feed_forward, "outer")
        self.norms = [normalization(hidden, epsilon, f"norm_{i}") for i in range(2)]
        self.built = True

    def call(self, vectors: tf.Tensor, there: tf.Tensor, *, dropout: DropoutStream) -> tf.Tensor:
        """Return tokens' new vectors, float32[texts, length, hidden]."""
        if self._norm_first:
            attended = self._attention(self.norms[0](vectors), there, dropout)
            vectors += dropout(attended, self._dropout)
            inner = self.outer(self.inner(self.norms[1](vectors)))
            return vectors + dropout(inner, self._dropout)
        attended = self._attention(vectors, there, dropout)
        vectors = self.norms[0](vectors + dropout(attended, self._dropout))
        inner = self.outer(self.inner(vectors))
        return self.norms[1](vectors + dropout(inner, self._dropout))

    def weights_in_order(self) -> list[keras.Variable]:
        """Return matrices and biases of query, key, value, output, inner and outer, then the normalisations."""
        dense = (self.query, self.key, self.value, self.output_projection, self.inner, self.outer)
        weights = [weight for layer in dense for weight in (layer.kernel, layer.bias)]
        return weights + [weight for norm in self.norms for weight in (norm.gamma, norm.beta)]

    def _attention(self, vectors: tf.Tensor, there: tf.Tensor, dropout: DropoutStream) -> tf.Tensor:
        query, key, value = (self._split(layer(vectors)) for layer in (self.query, self.key, self.value))
        likeness = tf.einsum("bqhd,bkhd->bhqk", query, key) / self._width**0.5
        likeness += _HIDDEN * (1 - there)[:, None, None, :]
        shares = dropout(tf.nn.softmax(likeness), self._dropout)
        mixed = tf.einsum("bhqk,bkhd->bqhd", shares, value)
        return self.output_projection(tf.reshape(mixed, tf.shape(vectors)))

    def _split(self, vectors: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(vectors)
        return tf.reshape(vectors, [shape[0], shape[1], self._heads, self._width])


class TransformerEncoder(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Blocks over tokens and their positions, trained from scratch; the mean over the tokens."""

    def __init__(self, options: Transformer, size: int, max_len: int, draws: Draws, name: str) -> None:
        super().__init__(name=name)
        self.output_size = options.hidden
        self._dropout = options.dropout
        self.projection = None
        if size != options.hidden:
            self.projection = keras.layers.Dense(
                options.hidden, kernel_initializer=draws.kernel(), name="projection"
            )
            self.projection.build((None, None, size))
        self.positions = position_table(max_len, options.hidden, draws)
        self.blocks = [
            Block(
                options.hidden,
                options.heads,
                options.feed_forward or 4 * options.hidden,
                options.dropout,
                draws,
                norm_first=True,
                name=f"block_{i}",
            )
            for i in range(options.layers)
        ]
        self.norm = normalization(options.hidden, _EPSILON, "norm")
        self.built = True

    def call(self, vectors: tf.Tensor, there: tf.Tensor, *, dropout: DropoutStream) -> tf.Tensor:
        """Encode texts."""
        if self.projection is not None:
            vectors = self.projection(vectors)
        vectors = dropout(vectors + _positions(self.positions, vectors), self._dropout)
        for block in self.blocks:
            vectors = block(vectors, there, dropout=dropout)
        return mean_of_tokens(self.norm(vectors), there)


class BertEncoder(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """BERT's blocks over word pieces; the vector of `[CLS]` or the mean over all pieces.

    Source: Devlin et al., BERT, NAACL 2019, arXiv:1810.04805.
    """

    def __init__(self, options: Bert, config: BertConfig, draws: Draws, name: str) -> None:
        super().__init__(name=name)
        self.output_size = config.hidden
        self._dropout, self._pooling = options.dropout, options.pooling
        self.positions = position_table(config.positions, config.hidden, draws)
        self.segment = self.add_weight(shape=(config.hidden,), name="segment", initializer="zeros")
        self.norm = normalization(config.hidden, config.epsilon, "norm")
        self.blocks = [
            Block(
                config.hidden,
                config.heads,
                config.feed_forward,
                options.dropout,
                draws,
                norm_first=False,
                epsilon=config.epsilon,
                name=f"block_{i}",
            )
            for i in range(options.layers or config.layers)
        ]
        self.built = True

    def take_over(self, weights: Sequence[Float32Array]) -> None:
        """Begin with the weights of `BertWeights.encoder`."""
        own = [self.positions.embeddings, self.segment, self.norm.gamma, self.norm.beta]
        for block in self.blocks:
            own += block.weights_in_order()
        for variable, weight in zip(own, weights, strict=True):
            variable.assign(weight)

    def call(self, vectors: tf.Tensor, there: tf.Tensor, *, dropout: DropoutStream) -> tf.Tensor:
        """Encode texts."""
        placed = self.norm(vectors + _positions(self.positions, vectors) + self.segment)
        vectors = dropout(placed, self._dropout)
        for block in self.blocks:
            vectors = block(vectors, there, dropout=dropout)
        return vectors[:, 0] if self._pooling == "cls" else mean_of_tokens(vectors, there)


def mean_of_tokens(vectors: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Return the mean over each text's tokens, float32[texts, size]; 0 for a text without any."""
    count = tf.maximum(tf.reduce_sum(there, axis=1, keepdims=True), 1.0)
    return tf.reduce_sum(vectors * there[:, :, None], axis=1) / count


def normalization(size: int, epsilon: float, name: str) -> keras.layers.LayerNormalization:
    """Return a layer normalisation (Ba, Kiros and Hinton 2016) over vectors of this length."""
    layer = keras.layers.LayerNormalization(epsilon=epsilon, name=name)
    layer.build((None, None, size))
    return layer


def position_table(length: int, size: int, draws: Draws) -> keras.layers.Embedding:
    """Return a table of the vectors of positions."""
    table = keras.layers.Embedding(
        length, size, embeddings_initializer=draws.table(length, size, _SPREAD, reserved=0), name="positions"
    )
    table.build(())
    return table


def _positions(table: keras.layers.Embedding, vectors: tf.Tensor) -> tf.Tensor:
    """Return the vectors of the positions of a batch; those of padding beyond the last one are the last one's."""
    places = tf.minimum(tf.range(tf.shape(vectors)[1]), table.input_dim - 1)
    return table(places)[None]
