"""A pretrained BERT as Hugging Face's models lie in a directory: `config.json`, `vocab.txt`, weights.

Weights are `model.safetensors`, or a TensorFlow checkpoint as Google published them (`bert_model.ckpt.index` and its
data). Files of PyTorch (`pytorch_model.bin`) are pickles, which are never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.safetensors import read_safetensors

Float32Array: TypeAlias = npt.NDArray[np.float32]
Read: TypeAlias = Callable[[str], Float32Array | None]

_SAFETENSORS: Final = "model.safetensors"
_CHECKPOINTS: Final = ("bert_model.ckpt", "model.ckpt")
_PREFIXES: Final = ("", "bert.")
_BLOCK_MATRICES: Final = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_BLOCK_NORMS: Final = ("attention.output.LayerNorm", "output.LayerNorm")


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Sizes of a BERT.

    Attributes:
        vocabulary: word pieces.
        hidden: length of vectors.
        layers: blocks.
        heads: of attention.
        feed_forward: units of the feed-forward networks.
        positions: longest text.
        epsilon: of the normalisations.
        lower_case: whether its texts are in lower case, without accents.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    epsilon: float
    lower_case: bool


@dataclass(frozen=True, slots=True)
class BertWeights:
    """Weights of a BERT, in the order in which `BertEncoder` has them.

    Attributes:
        words: float32[vocabulary, hidden].
        encoder: positions, segment, scale and shift of the first normalisation; then of each block the matrices
            (float32[inputs, outputs]) and biases of query, key, value, output, inner, outer, and its two
            normalisations.
    """

    words: Float32Array
    encoder: tuple[Float32Array, ...]


def read_bert_config(directory: str) -> BertConfig:
    """Read the sizes of a BERT.

    Raises:
        DataError: a file is absent, or it describes another kind of model.
    """
    found = _json(Path(directory) / "config.json")
    kind = found.get("model_type", "bert")
    activation = found.get("hidden_act", "gelu")
    if kind != "bert" or activation != "gelu":
        raise DataError(
            f"{directory}/config.json: found model_type {kind!r} with hidden_act {activation!r}; allowed is bert "
            "with gelu"
        )
    tokenizer = Path(directory) / "tokenizer_config.json"
    lower_case = _json(tokenizer).get("do_lower_case", True) if tokenizer.exists() else True
    try:
        return BertConfig(
            found["vocab_size"],
            found["hidden_size"],
            found["num_hidden_layers"],
            found["num_attention_heads"],
            found["intermediate_size"],
            found["max_position_embeddings"],
            float(found.get("layer_norm_eps", 1e-12)),
            bool(lower_case),
        )
    except KeyError as error:
        raise DataError(f"{directory}/config.json: {error.args[0]} is missing") from error


def read_bert_weights(directory: str, config: BertConfig, layers: int) -> BertWeights:
    """Read the weights of the first `layers` blocks.

    Raises:
        DataError: there are none that can be read, one is missing, or has another shape.
    """
    read = _reader(directory)

    def weight(name: str, *shape: int) -> Float32Array:
        found = read(name)
        if found is None:
            raise DataError(f"{directory}: the weights have no {name}")
        if found.shape != shape:
            raise DataError(f"{directory}: {name} has shape {found.shape}; config.json says {shape}")
        return found

    hidden, inner = config.hidden, config.feed_forward
    sizes = {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    embeddings = "embeddings"
    encoder = [weight(f"{embeddings}.position_embeddings.weight", config.positions, hidden)]
    segments = read(f"{embeddings}.token_type_embeddings.weight")
    encoder.append(np.zeros(hidden, np.float32) if segments is None else segments[0])
    encoder += [weight(f"{embeddings}.LayerNorm.{part}", hidden) for part in ("weight", "bias")]
    for i in range(layers):
        block = f"encoder.layer.{i}"
        for name in _BLOCK_MATRICES:
            shape = sizes.get(name, (hidden, hidden))
            encoder += [weight(f"{block}.{name}.weight", *shape).T, weight(f"{block}.{name}.bias", shape[0])]
        for name in _BLOCK_NORMS:
            encoder += [weight(f"{block}.{name}.{part}", hidden) for part in ("weight", "bias")]
    words = weight(f"{embeddings}.word_embeddings.weight", config.vocabulary, hidden)
    return BertWeights(words, tuple(encoder))


def _reader(directory: str) -> Read:
    """Return what reads a weight by its name in safetensors' files, matrices as float32[outputs, inputs]."""
    path = Path(directory) / _SAFETENSORS
    if path.exists():
        tensors = read_safetensors(path)
        return lambda name: _with_prefix(tensors, name)
    for name in _CHECKPOINTS:
        if (Path(directory) / f"{name}.index").exists():
            return _checkpoint_reader(str(Path(directory) / name))
    there = ", ".join(sorted(file.name for file in Path(directory).iterdir())) or "nothing"
    raise DataError(
        f"{directory}: found no weights; allowed are {_SAFETENSORS} and {_CHECKPOINTS[0]}.index with its data "
        f"(pickles, as pytorch_model.bin, are not read); found {there}"
    )


def _with_prefix(tensors: Mapping[str, Float32Array], name: str) -> Float32Array | None:
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    for prefix in _PREFIXES:
        for variant in (name, old):
            if prefix + variant in tensors:
                return tensors[prefix + variant]
    return None


def _checkpoint_reader(prefix: str) -> Read:
    import tensorflow as tf

    checkpoint = tf.train.load_checkpoint(prefix)

    def read(name: str) -> Float32Array | None:
        own = "bert/" + name.replace("encoder.layer.", "encoder/layer_").replace(".", "/")
        matrix = own.endswith("/weight") and "embeddings" not in own and "LayerNorm" not in own
        for kind in ("word", "position", "token_type"):
            own = own.replace(f"{kind}_embeddings/weight", f"{kind}_embeddings")
        own = own.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
        own = own.removesuffix("/weight") + "/kernel" if matrix else own
        if not checkpoint.has_tensor(own):
            return None
        found = np.asarray(checkpoint.get_tensor(own), np.float32)
        return found.T if matrix else found

    return read


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: found no JSON object")
    return found
