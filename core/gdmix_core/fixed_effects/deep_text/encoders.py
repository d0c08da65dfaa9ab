"""Encoders: from the vectors of a text's tokens to the vector of the text.

All of them take vectors float32[texts, length, size], 0 where there is no token, whether there is one, float32[texts,
length], and the pass's dropout; they return float32[texts, output_size]. What lies beyond a text's last token changes
nothing, however long the padding is. A text without tokens has a vector too.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.draws import Draws
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.options import Cnn, Recurrent


class CnnEncoder(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Convolutions of several widths, rectified; each filter's maximum over the text.

    Source: Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014, arXiv:1408.5882.
    """

    def __init__(self, options: Cnn, size: int, draws: Draws, name: str) -> None:
        super().__init__(name=name)
        self.output_size = options.filters * len(options.windows)
        self.convolutions = [
            keras.layers.Conv1D(
                options.filters,
                window,
                padding="same",
                activation="relu",
                kernel_initializer=draws.kernel(),
                name=f"window_{window}",
            )
            for window in options.windows
        ]
        for convolution in self.convolutions:
            convolution.build((None, None, size))
        self.built = True

    def call(self, vectors: tf.Tensor, there: tf.Tensor, *, dropout: DropoutStream) -> tf.Tensor:
        """Encode texts."""
        del dropout
        shown = there[:, :, None]
        return tf.concat(
            [tf.reduce_max(layer(vectors) * shown, axis=1) for layer in self.convolutions], axis=1
        )


class RecurrentEncoder(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """LSTM (Hochreiter and Schmidhuber 1997) or GRU (Cho et al. 2014); the last states of both directions."""

    def __init__(self, options: Recurrent, size: int, draws: Draws, name: str) -> None:
        super().__init__(name=name)
        self._dropout = options.dropout
        self.output_size = options.units * (2 if options.bidirectional else 1)
        self.recurrences = []
        for i in range(options.layers):
            sequences = i + 1 < options.layers
            layer = self._recurrence(options, draws, sequences, f"layer_{i}", backwards=False)
            if options.bidirectional:
                backward = self._recurrence(options, draws, sequences, f"backward_{i}", backwards=True)
                layer = keras.layers.Bidirectional(layer, backward_layer=backward, name=f"both_{i}")
            layer.build((None, None, size if i == 0 else self.output_size))
            self.recurrences.append(layer)
        self.built = True

    def call(self, vectors: tf.Tensor, there: tf.Tensor, *, dropout: DropoutStream) -> tf.Tensor:
        """Encode texts."""
        mask = there > 0
        for i, layer in enumerate(self.recurrences):
            vectors = layer(dropout(vectors, self._dropout) if i else vectors, mask=mask)
        return vectors

    @staticmethod
    def _recurrence(options: Recurrent, draws: Draws, sequences: bool, name: str, *, backwards: bool) -> Any:
        kind = keras.layers.LSTM if options.kind == "lstm" else keras.layers.GRU
        return kind(
            options.units,
            return_sequences=sequences,
            go_backwards=backwards,
            kernel_initializer=draws.kernel(),
            recurrent_initializer=draws.recurrent(),
            seed=draws.seed(),
            name=name,
        )
