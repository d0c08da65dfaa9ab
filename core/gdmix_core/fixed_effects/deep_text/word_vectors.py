"""Word vectors from files, in the text format of word2vec and GloVe: a word and its numbers a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.lookup import FIRST, Lookup

Float32Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Vectors of some words of a vocabulary.

    Attributes:
        codes: int64[found], the words' codes.
        vectors: float32[found, size].
        wanted: number of words that were looked for.
    """

    codes: npt.NDArray[np.int64]
    vectors: Float32Array
    wanted: int


def read_word_vectors(path: str, words: Lookup) -> WordVectors:
    """Return the vectors of the words that a file has; of a word that comes twice, in capitals say, the first.

    Raises:
        DataError: the file cannot be read, a line has another number of values, or a value is no number.
    """
    wanted = {word: FIRST + i for i, word in enumerate(words.strings.to_list())}
    found: dict[int, Float32Array] = {}
    size = None
    for number, word, values in _lines(path):
        if size is None:
            size = values.count(b" ") + 1
        code = wanted.get(word.decode("utf-8", "replace").lower().encode())
        if code is None or code in found:
            continue
        try:
            vector = np.array(values.split(b" "), np.float32)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if len(vector) != size or not np.isfinite(vector).all():
            raise DataError(
                f"{path}, line {number}: found {len(vector)} values; every line has {size} finite ones"
            )
        found[code] = vector
    if not found:
        raise DataError(f"{path}: has a vector of none of the {len(wanted):,} words of the vocabulary")
    return WordVectors(np.array(list(found)), np.stack(list(found.values())), len(wanted))


def word_vector_size(path: str) -> int:
    """Return the length of a file's vectors, that of its first line.

    Raises:
        DataError: the file cannot be read, or has no line of a word and numbers.
    """
    first = next(_lines(path), None)
    if first is None:
        raise DataError(f"{path}: found no line of a word and its numbers")
    return first[2].count(b" ") + 1


def _lines(path: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, word and values of each line; word2vec's header, two numbers, is passed over."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                word, _, values = line.rstrip().partition(b" ")
                header = number == 1 and word.isdigit() and values.isdigit()
                if values and not header:
                    yield number, word, values
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
