"""BERT directories: tokenizer, weights, the encoder against a plain numpy account of the paper."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.safetensors import read_safetensors
from gdmix_core.fixed_effects.deep_text.word_pieces import WordPieces, read_word_pieces

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("un", "##aff", "##able", "word", "##1", "##2", "runn", "##ing", ",", "!", "日", "e", "##cole"),
]
HIDDEN, HEADS, INNER, LAYERS, POSITIONS = 8, 2, 12, 2, 16


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    data = b""
    for name, values in tensors.items():
        if kind == "BF16":
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def bert_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": draw(len(PIECES), HIDDEN),
        "embeddings.position_embeddings.weight": draw(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": draw(2, HIDDEN),
        "embeddings.LayerNorm.weight": draw(HIDDEN) + 1,
        "embeddings.LayerNorm.bias": draw(HIDDEN),
    }
    for i in range(LAYERS):
        block = f"encoder.layer.{i}"
        for name in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ):
            tensors[f"{block}.{name}.weight"] = draw(HIDDEN, HIDDEN)
            tensors[f"{block}.{name}.bias"] = draw(HIDDEN)
        tensors[f"{block}.intermediate.dense.weight"] = draw(INNER, HIDDEN)
        tensors[f"{block}.intermediate.dense.bias"] = draw(INNER)
        tensors[f"{block}.output.dense.weight"] = draw(HIDDEN, INNER)
        tensors[f"{block}.output.dense.bias"] = draw(HIDDEN)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{block}.{name}.weight"] = draw(HIDDEN) + 1
            tensors[f"{block}.{name}.bias"] = draw(HIDDEN)
    return tensors


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    folder.mkdir()
    config = {
        "model_type": "bert",
        "vocab_size": len(PIECES),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    write_safetensors(folder / "model.safetensors", {f"bert.{k}": v for k, v in bert_tensors().items()})
    return folder


def encode(pieces: WordPieces, texts: list[str], max_len: int = 20) -> list[list[str]]:
    ptr, codes = pieces.encode(ByteStrings.of(texts), max_len)
    return [[PIECES[code] for code in codes[a:b]] for a, b in itertools.pairwise(ptr)]


def test_words_become_the_longest_pieces(directory: Path) -> None:
    pieces = read_word_pieces(str(directory), lower_case=True)
    assert encode(pieces, ["UNaffable word1,word2!", "", "xyz running", "日日 École\t", "word1 word9"]) == [
        ["[CLS]", "un", "##aff", "##able", "word", "##1", ",", "word", "##2", "!", "[SEP]"],
        ["[CLS]", "[SEP]"],
        ["[CLS]", "[UNK]", "runn", "##ing", "[SEP]"],
        ["[CLS]", "日", "日", "e", "##cole", "[SEP]"],
        ["[CLS]", "word", "##1", "[UNK]", "[SEP]"],
    ]
    assert encode(pieces, ["word1 word2 word"], max_len=5) == [["[CLS]", "word", "##1", "word", "[SEP]"]]
    cased = WordPieces(PIECES, lower_case=False)
    assert encode(cased, ["UN un"]) == [["[CLS]", "[UNK]", "un", "[SEP]"]]
    again = WordPieces.from_arrays(pieces.arrays())
    assert encode(again, ["UNaffable"]) == [["[CLS]", "un", "##aff", "##able", "[SEP]"]]


def test_a_vocabulary_without_special_tokens_is_refused(directory: Path) -> None:
    (directory / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab.txt: vocabulary of word pieces: \[SEP\] is missing"):
        read_word_pieces(str(directory), lower_case=True)


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 0), ("F16", 1e-3), ("BF16", 1e-2)])
def test_safetensors(tmp_path: Path, kind: str, tolerance: float) -> None:
    values = np.array([[1.0, -2.5, 3.25], [0.1, 7.7, -0.03]], np.float32)
    write_safetensors(tmp_path / "x", {"a": np.zeros(3, np.float32), "b": values}, kind)
    found = read_safetensors(tmp_path / "x")
    assert sorted(found) == ["a", "b"]
    assert np.allclose(found["b"], values, rtol=tolerance, atol=0)
    assert found["b"].dtype == np.float32


def test_a_damaged_file_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.zeros(30, np.float32)})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="tensor a lies beyond the file's end"):
        read_safetensors(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="is no safetensors file: its header has"):
        read_safetensors(path)


def plain_bert(tensors: dict[str, np.ndarray], codes: list[int]) -> np.ndarray:
    """BERT's vectors of one text's pieces, as the paper has it."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    x = tensors["embeddings.word_embeddings.weight"][codes]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(codes)]
    x = norm(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    width = HIDDEN // HEADS
    for i in range(LAYERS):
        block = f"encoder.layer.{i}"
        query, key, value = (dense(x, f"{block}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            likeness = query[:, part] @ key[:, part].T / np.sqrt(width)
            shares = np.exp(likeness - likeness.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ value[:, part])
        attended = dense(np.concatenate(heads, -1), f"{block}.attention.output.dense")
        x = norm(x + attended, f"{block}.attention.output.LayerNorm")
        inner = dense(x, f"{block}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        x = norm(x + dense(inner, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    return x


def network(directory: Path, **encoder: Any) -> Any:
    from gdmix_core.fixed_effects.deep_text import DeepTextOptions
    from gdmix_core.fixed_effects.deep_text.learning import learn_inputs
    from gdmix_core.fixed_effects.deep_text.network import Network
    from gdmix_core.fixed_effects.deep_text.pretrained import read_pretrained

    options = DeepTextOptions.model_validate(
        {"text": ["t"], "encoder": {"kind": "bert", "directory": str(directory), **encoder}, "max_len": 16}
    )
    inputs, _ = learn_inputs(options, [], "logistic_regression")
    return Network(inputs, 0, read_pretrained(inputs))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("form", ["safetensors", "checkpoint"])
def test_the_encoder_is_bert(directory: Path, pooling: str, form: str) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'gdmix[tensorflow]'")
    from gdmix_core.fixed_effects.deep_text.dropout import DropoutStream

    tensors = bert_tensors()
    if form == "checkpoint":
        (directory / "model.safetensors").unlink()
        write_checkpoint(tf, directory / "bert_model.ckpt", tensors)
    texts = network(directory, pooling=pooling).texts
    codes = [[2, 5, 6, 7, 3], [2, 8, 3]]
    padded = np.zeros((2, 8), np.int32)
    for row, code in zip(padded, codes, strict=True):
        row[: len(code)] = code
    inputs = {"text_0": tf.constant(padded), "text_0_row": tf.constant([1, 0, 1])}
    found = texts(inputs, dropout=DropoutStream(None)).numpy()
    for row, code in zip(found, [codes[1], codes[0], codes[1]], strict=True):
        vectors = plain_bert(tensors, code)
        assert row == pytest.approx(vectors[0] if pooling == "cls" else vectors.mean(0), abs=2e-5)


def write_checkpoint(tf: Any, prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """As Google's code names the weights."""
    variables = {}
    for name, values in tensors.items():
        own = "bert/" + name.replace("encoder.layer.", "encoder/layer_").replace(".", "/")
        if "embeddings/" in own and "LayerNorm" not in own:
            own = own.removesuffix("/weight")
        elif own.endswith("/weight") and "LayerNorm" not in own:
            own = own.removesuffix("/weight") + "/kernel"
        own = own.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
        variables[own] = values.T if own.endswith("/kernel") else values
    names = sorted(variables)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(variables[name]) for name in names],
    )


def test_only_the_first_blocks_when_asked_for(directory: Path) -> None:
    pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'gdmix[tensorflow]'")
    whole, first = network(directory), network(directory, layers=1)
    assert len(whole.texts.encoders[0].blocks) == LAYERS
    assert len(first.texts.encoders[0].blocks) == 1
    frozen = network(directory, trainable=False)
    assert len(frozen.trainable_variables) < 10
    assert set(whole.learning_rates()) == {0.05, 1.0}
    assert set(frozen.learning_rates()) == {1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "found model_type 'roberta'"),
        ({"vocab_size": 3}, r"vocab.txt has 18 lines; config.json says 3"),
        ({"max_position_embeddings": 8}, r"max_len: found 16; allowed with .* are 1 to 8"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"intermediate_size": 4}, r"intermediate.dense.weight has shape \(12, 8\)"),
    ],
)
def test_what_does_not_fit_is_named(directory: Path, change: dict[str, Any], message: str) -> None:
    pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'gdmix[tensorflow]'")
    config = json.loads((directory / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        network(directory)


def test_pickles_are_not_read(directory: Path) -> None:
    pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'gdmix[tensorflow]'")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"found no weights; allowed are model.safetensors .* are not read"):
        network(directory)


def test_a_bert_effect_is_fitted_saved_and_loaded(
    directory: Path, make: Callable[..., Any], new_context: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'gdmix[tensorflow]'")
    from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions
    from gdmix_core.fixed_effects.plugin import FitData

    shards = make(600).shards([400, 200])
    options = DeepTextOptions.model_validate(
        {
            "text": ["title"],
            "encoder": {"kind": "bert", "directory": str(directory), "layers": 1},
            "max_len": 16,
            "steps": 6,
            "early_stopping": None,
        }
    )
    model = DeepText().fit(options, FitData(shards[:1], []), new_context())
    saved = tmp_path / "saved"
    saved.mkdir()
    model.save(saved)
    # The directory is not needed any more.
    directory.rename(tmp_path / "gone")
    columns = shards[1].read().columns
    assert np.abs(DeepText().load(saved).score(columns) - model.score(columns)).max() < 1e-6
