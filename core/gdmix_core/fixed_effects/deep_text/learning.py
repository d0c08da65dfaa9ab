"""One pass over the training rows, before training: vocabulary, categories, means, labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.tokens import tokens
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.bert_directory import BertConfig, read_bert_config
from gdmix_core.fixed_effects.deep_text.columns import sparse_vectors, strings
from gdmix_core.fixed_effects.deep_text.inputs import Inputs, Tokenizer, category_strings, number_column
from gdmix_core.fixed_effects.deep_text.labels import LabelSummary
from gdmix_core.fixed_effects.deep_text.lookup import FrequencyCount
from gdmix_core.fixed_effects.deep_text.options import Bert, DeepTextOptions
from gdmix_core.fixed_effects.deep_text.word_pieces import read_word_pieces
from gdmix_core.fixed_effects.deep_text.word_tokens import WordTokens, read_vocabulary
from gdmix_core.fixed_effects.deep_text.word_vectors import word_vector_size
from gdmix_core.fixed_effects.plugin import Rows, RowShard, Task

Float64Array: TypeAlias = npt.NDArray[np.float64]


def learn_inputs(
    options: DeepTextOptions, shards: Iterable[RowShard], task: Task
) -> tuple[Inputs, LabelSummary]:
    """Go over all training rows once; return how rows are encoded, and the sums over their labels.

    Raises:
        DataError: a value cannot be taken, or a file that the options name; the message says which.
    """
    columns = _Columns(options)
    labels = LabelSummary()
    for shard in shards:
        rows = shard.read()
        labels.add(rows)
        if len(rows):
            columns.add(rows)
    return columns.inputs(labels, task), labels


class _Columns:
    """What is counted of the columns."""

    def __init__(self, options: DeepTextOptions) -> None:
        self._options = options
        self._counts_words = options.vocabulary.file is None and not isinstance(options.encoder, Bert)
        self._words = FrequencyCount()
        self._categories = [FrequencyCount() for _ in options.categories]
        self._moments: list[_Moments | None] = [None] * len(options.numbers)

    def add(self, rows: Rows) -> None:
        if self._counts_words:
            for text in self._options.texts():
                _count_words(self._words, strings(rows.columns, text.column))
        for column, count in zip(self._options.categories, self._categories, strict=True):
            ptr, values = category_strings(rows.columns, column)
            count.add(values, np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)))
        for vector in self._options.sparse:
            sparse_vectors(rows.columns, vector.column, vector.dimension)  # only to find mistakes now
        for i, number in enumerate(self._options.numbers):
            known = self._moments[i]
            dimension = number.dimension if known is None else len(known.count)
            found = _Moments.of(number_column(rows.columns, number, dimension))
            self._moments[i] = found if known is None else known.plus(found)

    def inputs(self, labels: LabelSummary, task: Task) -> Inputs:
        options = self._options
        moments = [moment or _Moments.of(np.empty((0, 1))) for moment in self._moments]
        mean = np.concatenate([np.empty(0), *(moment.mean for moment in moments)])
        scale = np.concatenate([np.empty(0), *(moment.deviation() for moment in moments)])
        if not options.normalize:
            mean, scale = np.zeros_like(mean), np.ones_like(scale)
        tokenizer, word_size = self._tokenizer()
        return Inputs(
            options,
            tokenizer,
            tuple(
                count.known(column.min_df)
                for column, count in zip(options.categories, self._categories, strict=True)
            ),
            tuple(len(moment.count) for moment in moments),
            mean,
            scale,
            word_size,
            labels.start(task),
            labels.spread(task),
        )

    def _tokenizer(self) -> tuple[Tokenizer, int]:
        """Return what cuts texts, and the length of its tokens' vectors."""
        options = self._options
        if isinstance(options.encoder, Bert):
            config = read_bert_config(options.encoder.directory)
            pieces = read_word_pieces(options.encoder.directory, lower_case=config.lower_case)
            _check_bert(options, options.encoder, config, pieces.size)
            return pieces, config.hidden
        given = options.vocabulary
        if given.file is not None:
            vocabulary = read_vocabulary(given.file)
        else:
            vocabulary = self._words.known(given.min_df, given.size)
        vectors = options.word_embedding.file
        return WordTokens(vocabulary), word_vector_size(vectors) if vectors else options.word_embedding.size


@dataclass(frozen=True, slots=True)
class _Moments:
    """Count, mean and sum of squared deviations of columns of numbers (Chan, Golub and LeVeque 1983)."""

    count: Float64Array
    mean: Float64Array
    squares: Float64Array

    @classmethod
    def of(cls, values: Float64Array) -> _Moments:
        there = ~np.isnan(values)
        count = there.sum(axis=0).astype(np.float64)
        mean = np.where(there, values, 0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, np.square(np.where(there, values - mean, 0)).sum(axis=0))

    def plus(self, other: _Moments) -> _Moments:
        count = self.count + other.count
        shift = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        squares = self.squares + other.squares + np.square(shift) * self.count * share
        return _Moments(count, self.mean + shift * share, squares)

    def deviation(self) -> Float64Array:
        """Return the standard deviations; 1 for a constant."""
        variance = self.squares / np.maximum(self.count, 1)
        constant = variance <= np.square(1e-9 * np.abs(self.mean))
        return np.where(constant, 1.0, np.sqrt(variance))


def _count_words(words: FrequencyCount, texts: ByteStrings) -> None:
    ptr, found, which = tokens(texts)
    row = np.repeat(np.arange(len(texts)), np.diff(ptr))
    words.add(found if which is None else found.take(which.astype(np.int64)), row)


def _check_bert(options: DeepTextOptions, encoder: Bert, config: BertConfig, pieces: int) -> None:
    if pieces != config.vocabulary:
        raise DataError(
            f"{encoder.directory}: vocab.txt has {pieces:,} lines; config.json says {config.vocabulary:,}"
        )
    if options.max_len > config.positions:
        raise DataError(
            f"max_len: found {options.max_len}; allowed with {encoder.directory} are 1 to {config.positions}"
        )
    if (encoder.layers or 0) > config.layers:
        raise DataError(
            f"encoder.layers: found {encoder.layers}; allowed with {encoder.directory} are 1 to {config.layers}"
        )
