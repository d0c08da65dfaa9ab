"""Weights that come from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gdmix_core.fixed_effects.deep_text.bert_directory import (
    BertWeights,
    read_bert_config,
    read_bert_weights,
)
from gdmix_core.fixed_effects.deep_text.options import Bert
from gdmix_core.fixed_effects.deep_text.word_tokens import WordTokens
from gdmix_core.fixed_effects.deep_text.word_vectors import WordVectors, read_word_vectors

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.deep_text.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a network does not begin with at random.

    Attributes:
        word_vectors: those of a file.
        bert: those of a directory.
    """

    word_vectors: WordVectors | None = None
    bert: BertWeights | None = None


def read_pretrained(inputs: Inputs) -> Pretrained:
    """Read what the options name.

    Raises:
        DataError: a file cannot be read.
    """
    options = inputs.options
    if isinstance(options.encoder, Bert):
        directory = options.encoder.directory
        config = read_bert_config(directory)
        return Pretrained(bert=read_bert_weights(directory, config, options.encoder.layers or config.layers))
    if options.word_embedding.file is not None and isinstance(inputs.tokenizer, WordTokens):
        return Pretrained(read_word_vectors(options.word_embedding.file, inputs.tokenizer.vocabulary))
    return Pretrained()
