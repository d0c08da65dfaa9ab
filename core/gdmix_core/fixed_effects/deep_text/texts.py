"""The part of the network that reads texts: token vectors, encoders, interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import keras
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.attention import BertEncoder, TransformerEncoder
from gdmix_core.fixed_effects.deep_text.bert_directory import read_bert_config
from gdmix_core.fixed_effects.deep_text.draws import Draws, Given
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.encoders import CnnEncoder, RecurrentEncoder
from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.options import Bert, Cnn, DeepTextOptions, Recurrent
from gdmix_core.fixed_effects.deep_text.pretrained import Pretrained

Tensors: TypeAlias = Mapping[str, tf.Tensor]

_TOKEN_SPREAD: Final = 0.1


class TextFeatures(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """All text columns to one vector a row.

    Every text of what is scored meets every one of query and user texts: cosine, product or difference of their
    vectors; `concatenation` is the vectors themselves.
    """

    def __init__(self, inputs: Inputs, draws: Draws, pretrained: Pretrained) -> None:
        super().__init__(name="texts")
        options = inputs.options
        self._options = options
        self._texts, self._asking = len(options.text), len(options.asking())
        values = draws.table(inputs.tokenizer.size, inputs.word_size, _TOKEN_SPREAD).values
        if pretrained.word_vectors is not None:
            values[pretrained.word_vectors.codes] = pretrained.word_vectors.vectors
        if pretrained.bert is not None:
            values = pretrained.bert.words
        self.words = keras.layers.Embedding(*values.shape, embeddings_initializer=Given(values), name="words")
        self.words.build(())
        count = 1 if options.shares_encoder() else len(options.texts())
        self.encoders = [_encoder(options, inputs.word_size, draws, f"encoder_{i}") for i in range(count)]
        if pretrained.bert is not None:
            for encoder in self.encoders:
                encoder.take_over(pretrained.bert.encoder)
        self._freeze(options)
        self.output_size = self._size(self.encoders[0].output_size)
        self.built = True

    def call(self, inputs: Tensors, *, dropout: DropoutStream) -> tf.Tensor:
        """Return the features of each row, float32[rows, output_size]."""
        vectors = [self._text(inputs, i, dropout) for i in range(self._texts + self._asking)]
        kinds = self._options.interactions
        features = list(vectors) if "concatenation" in kinds else []
        for text in vectors[: self._texts]:
            for other in vectors[self._texts :]:
                if "cosine" in kinds:
                    features.append(_cosine(text, other))
                if "hadamard" in kinds:
                    features.append(text * other)
                if "difference" in kinds:
                    features.append(other - text)
        return tf.concat(features, axis=1)

    def _text(self, inputs: Tensors, i: int, dropout: DropoutStream) -> tf.Tensor:
        """Encode the distinct texts of a column and give each row its one's vector."""
        codes = inputs[f"text_{i}"]
        there = tf.cast(codes > 0, tf.float32)
        vectors = dropout(self.words(codes), self._options.word_embedding.dropout) * there[:, :, None]
        encoder = self.encoders[i if len(self.encoders) > 1 else 0]
        return tf.gather(encoder(vectors, there, dropout=dropout), inputs[f"text_{i}_row"])

    def _freeze(self, options: DeepTextOptions) -> None:
        if isinstance(options.encoder, Bert):
            for layer in (self.words, *self.encoders):
                layer.trainable = options.encoder.trainable
        else:
            self.words.trainable = options.word_embedding.trainable

    def _size(self, size: int) -> int:
        pairs = self._texts * self._asking
        sizes = {
            "concatenation": size * (self._texts + self._asking),
            "cosine": pairs,
            "hadamard": size * pairs,
            "difference": size * pairs,
        }
        return sum(sizes[kind] for kind in self._options.interactions)


def _encoder(options: DeepTextOptions, size: int, draws: Draws, name: str) -> Any:
    chosen = options.encoder
    if isinstance(chosen, Cnn):
        return CnnEncoder(chosen, size, draws, name)
    if isinstance(chosen, Recurrent):
        return RecurrentEncoder(chosen, size, draws, name)
    if isinstance(chosen, Bert):
        return BertEncoder(chosen, read_bert_config(chosen.directory), draws, name)
    return TransformerEncoder(chosen, size, options.max_len, draws, name)


def _cosine(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    product = tf.math.l2_normalize(a, axis=1) * tf.math.l2_normalize(b, axis=1)
    return tf.reduce_sum(product, axis=1, keepdims=True)
