"""Encoders: from the vectors of a text's tokens to the vector of the text.

All of them take vectors float32[texts, length, size], whether there is a token at a place, float32[texts, length],
and the pass's dropout; they return float32[texts, output_size]. What lies beyond a text's last token changes nothing,
however long the padding is. A text without tokens has a vector too.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.draws import Draws
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.options import Cnn


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
