"""What is learned of the columns before the network: vocabulary, categories, means. Rows are encoded with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import ArrayFile, write_arrays
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.hashing import hash_byte_strings
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.columns import (
    numbers,
    sparse_vectors,
    string_lists,
    strings,
    vectors,
)
from gdmix_core.fixed_effects.deep_text.lookup import ABSENT, Lookup
from gdmix_core.fixed_effects.deep_text.options import Bert, CategoryColumn, DeepTextOptions, NumberColumn
from gdmix_core.fixed_effects.deep_text.rows import Bags, EncodedRows, Texts
from gdmix_core.fixed_effects.deep_text.word_pieces import WordPieces
from gdmix_core.fixed_effects.deep_text.word_tokens import WordTokens

if TYPE_CHECKING:
    import pyarrow as pa

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

_FORMAT: Final = 1


class Tokenizer(Protocol):
    """From texts to codes."""

    @property
    def size(self) -> int:
        """Number of codes."""
        ...

    def encode(self, texts: ByteStrings, max_len: int) -> tuple[Int64Array, Int32Array]:
        """Return where each text's codes begin, int64[texts + 1], and the codes, at most `max_len` a text."""
        ...

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return what an array file keeps of it."""
        ...


@dataclass(frozen=True, slots=True)
class Inputs:
    """How rows become the network's inputs; the same in training and in scoring.

    Attributes:
        options: of the effect.
        tokenizer: of the texts.
        categories: known values of each categorical column.
        dimensions: how many numbers each of the columns of numbers has.
        mean: float64[numbers], what nulls are and what is subtracted.
        scale: float64[numbers], what the rest is divided by.
        word_size: length of the tokens' vectors.
        start: score of a fresh network, what a constant would be.
        spread: of the labels, 1 unless their scale is free (linear regression).
    """

    options: DeepTextOptions
    tokenizer: Tokenizer
    categories: tuple[Lookup, ...]
    dimensions: tuple[int, ...]
    mean: Float64Array
    scale: Float64Array
    word_size: int
    start: float
    spread: float

    def encode(self, columns: pa.RecordBatch) -> EncodedRows:
        """Return rows as codes and numbers.

        Raises:
            DataError: a value cannot be taken; the message names the column.
        """
        return EncodedRows(
            tuple(self._texts(columns, text.column) for text in self.options.texts()),
            self._numbers(columns),
            (
                *(
                    _categories(columns, column, known)
                    for column, known in zip(self.options.categories, self.categories, strict=True)
                ),
                *(
                    _sparse(*sparse_vectors(columns, column.column, column.dimension))
                    for column in self.options.sparse
                ),
            ),
            self.options.min_len,
        )

    def bag_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each bag."""
        return (
            *(known.size for known in self.categories),
            *(column.dimension for column in self.options.sparse),
        )

    def bag_embeddings(self) -> tuple[int, ...]:
        """Return the length of the vectors of each bag's codes; 0 where there are none."""
        return (
            *(column.embedding for column in self.options.categories),
            *(column.embedding for column in self.options.sparse),
        )

    def save(self, path: Path) -> None:
        """Write it as an array file."""
        arrays: dict[str, npt.NDArray[Any]] = {"mean": self.mean, "scale": self.scale}
        arrays |= self.tokenizer.arrays()
        for i, known in enumerate(self.categories):
            arrays |= known.strings.arrays(f"category_{i}")
        metadata = {
            "format": _FORMAT,
            "options": self.options.model_dump(mode="json"),
            "dimensions": self.dimensions,
            "word_size": self.word_size,
            "start": self.start,
            "spread": self.spread,
        }
        write_arrays(path, [arrays], metadata)

    @classmethod
    def load(cls, path: Path) -> Inputs:
        """Read what `save` wrote.

        Raises:
            DataError: it is absent, or of another format.
        """
        with ArrayFile(path) as file:
            found = file.metadata
            if found.get("format") != _FORMAT:
                raise DataError(f"{path}: found format {found.get('format')}; this version reads {_FORMAT}")
            arrays = file.segment(0)
        options = DeepTextOptions.model_validate(found["options"])
        known = (ByteStrings.from_arrays(arrays, f"category_{i}") for i in range(len(options.categories)))
        return cls(
            options,
            (WordPieces if isinstance(options.encoder, Bert) else WordTokens).from_arrays(arrays),
            tuple(Lookup.of(strings) for strings in known),
            tuple(found["dimensions"]),
            arrays["mean"],
            arrays["scale"],
            found["word_size"],
            found["start"],
            found["spread"],
        )

    def _texts(self, columns: pa.RecordBatch, name: str) -> Texts:
        texts = strings(columns, name)
        hashes = hash_byte_strings(texts.data, texts.ptr)
        _, first, row_text = np.unique(hashes, return_index=True, return_inverse=True)
        ptr, codes = self.tokenizer.encode(texts.take(first), self.options.max_len)
        return Texts(ptr, codes, row_text)

    def _numbers(self, columns: pa.RecordBatch) -> npt.NDArray[np.float32]:
        parts = [
            number_column(columns, column, dimension)
            for column, dimension in zip(self.options.numbers, self.dimensions, strict=True)
        ]
        values = np.concatenate([np.empty((columns.num_rows, 0)), *parts], axis=1)
        scaled = (np.where(np.isnan(values), self.mean, values) - self.mean) / self.scale
        return scaled.astype(np.float32)


def number_column(columns: pa.RecordBatch, column: NumberColumn, dimension: int | None) -> Float64Array:
    """Return a column's numbers, float64[rows, dimension], NaN where null."""
    if column.vector:
        return vectors(columns, column.column, dimension)
    return numbers(columns, column.column)


def category_strings(columns: pa.RecordBatch, column: CategoryColumn) -> tuple[Int64Array, ByteStrings]:
    """Return where each row's values begin, int64[rows + 1], and the values."""
    if column.list:
        return string_lists(columns, column.column)
    return np.arange(columns.num_rows + 1), strings(columns, column.column)


def _categories(columns: pa.RecordBatch, column: CategoryColumn, known: Lookup) -> Bags:
    ptr, values = category_strings(columns, column)
    codes = known.find(values)
    there = codes != ABSENT
    starts = np.append(0, np.cumsum(there))[ptr]
    return Bags(starts, codes[there], np.ones(int(there.sum()), np.float32))


def _sparse(ptr: Int64Array, index: Int64Array, value: npt.NDArray[np.float32]) -> Bags:
    return Bags(ptr, index.astype(np.int32), value)
