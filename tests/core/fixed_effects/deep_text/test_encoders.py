"""Encoders of texts: shapes, and that padding changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="deep_text trains with TensorFlow: pip install 'gdmix[tensorflow]'")

import tensorflow as tf
from pydantic import TypeAdapter

from gdmix_core.fixed_effects.deep_text.attention import TransformerEncoder
from gdmix_core.fixed_effects.deep_text.draws import Draws
from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream
from gdmix_core.fixed_effects.deep_text.encoders import CnnEncoder, RecurrentEncoder
from gdmix_core.fixed_effects.deep_text.options import Cnn, Encoder, Transformer

SIZE = 5
ENCODERS: list[tuple[dict[str, Any], int]] = [
    ({"kind": "cnn", "windows": [1, 2, 3], "filters": 4}, 12),
    ({"kind": "lstm", "units": 3, "layers": 2, "bidirectional": True, "dropout": 0.5}, 6),
    ({"kind": "gru", "units": 3, "layers": 2, "dropout": 0.5}, 3),
    ({"kind": "transformer", "layers": 2, "heads": 2, "hidden": 8}, 8),
]
KINDS = [encoder["kind"] for encoder, _ in ENCODERS]


def make(encoder: dict[str, Any], seed: int = 0) -> Any:
    options: Any = TypeAdapter(Encoder).validate_python(encoder)
    draws = Draws(seed)
    if isinstance(options, Cnn):
        return CnnEncoder(options, SIZE, draws, "e")
    if isinstance(options, Transformer):
        return TransformerEncoder(options, SIZE, 8, draws, "e")
    return RecurrentEncoder(options, SIZE, draws, "e")


def texts(lengths: list[int], width: int) -> tuple[tf.Tensor, tf.Tensor]:
    vectors = np.random.default_rng(1).normal(size=(len(lengths), 8, SIZE)).astype(np.float32)
    there = (np.arange(8) < np.array(lengths)[:, None]).astype(np.float32)
    vectors *= there[:, :, None]
    return tf.constant(vectors[:, :width]), tf.constant(there[:, :width])


@pytest.mark.parametrize(
    ("encoder", "size"), ENCODERS, ids=lambda value: value["kind"] if isinstance(value, dict) else ""
)
def test_padding_changes_nothing_and_dropout_is_that_of_the_seed(encoder: dict[str, Any], size: int) -> None:
    encode = make(encoder)
    assert encode.output_size == size
    still = DropoutStream(None)
    padded = encode(*texts([3, 1, 0, 2], 8), dropout=still).numpy()
    tight = encode(*texts([3, 1, 0, 2], 3), dropout=still).numpy()
    assert padded.shape == (4, size)
    assert np.isfinite(padded).all()
    assert padded == pytest.approx(tight, abs=1e-6)
    assert np.abs(padded[0] - padded[3]).max() > 1e-3
    # The order of the tokens matters, whatever the encoder.
    vectors, there = texts([3], 3)
    if encoder["kind"] != "cnn":
        turned = encode(vectors[:, ::-1], there, dropout=still).numpy()
        assert np.abs(turned - encode(vectors, there, dropout=still).numpy()).max() > 1e-3
    drawn = [
        encode(*texts([3, 1, 0, 2], 4), dropout=DropoutStream(tf.constant([step, 7]))).numpy()
        for step in (1, 1, 2)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    if encoder["kind"] != "cnn":
        assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("encoder", "size"), ENCODERS, ids=lambda value: value["kind"] if isinstance(value, dict) else ""
)
def test_the_seed_decides_the_weights(encoder: dict[str, Any], size: int) -> None:
    def weights(seed: int) -> list[np.ndarray]:
        return [variable.numpy() for variable in make(encoder, seed).trainable_variables]

    first, same, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    matrices = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1 and a.any()]
    assert all(not np.array_equal(a, b) for a, b in matrices)
    shapes = {matrix.tobytes() for matrix, _ in matrices}
    assert len(shapes) == len(matrices), "no two layers begin alike"
