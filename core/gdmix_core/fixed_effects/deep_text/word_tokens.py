"""Texts as words: the tokenizer of all encoders but BERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.tokens import tokens
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.lookup import Lookup

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WordTokens:
    """The words that are known.

    A word is a run of letters, marks and numbers, in lower case, as `text` features of native effects have it.
    """

    vocabulary: Lookup

    @property
    def size(self) -> int:
        """Number of codes."""
        return self.vocabulary.size

    def encode(self, texts: ByteStrings, max_len: int) -> tuple[Int64Array, Int32Array]:
        """Return where each text's codes begin, int64[texts + 1], and the codes of its first `max_len` tokens."""
        ptr, strings, which = tokens(texts)
        codes = self.vocabulary.find(strings)
        return truncated(ptr, codes if which is None else codes[which], max_len)

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return what an array file keeps of it."""
        return self.vocabulary.strings.arrays("word")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> WordTokens:
        """Take it from an array file."""
        return cls(Lookup.of(ByteStrings.from_arrays(arrays, "word")))


def read_vocabulary(path: str) -> Lookup:
    """Return the tokens of a file, one a line, in lower case; what stands in brackets, `[PAD]`, is left out.

    Raises:
        DataError: the file cannot be read, is no UTF-8, or holds no token.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"vocabulary {path}: cannot be read as UTF-8: {error}") from error
    words = dict.fromkeys(word for line in lines if (word := line.strip().lower()))
    known = [word for word in words if not (word.startswith("[") and word.endswith("]"))]
    if not known:
        raise DataError(f"vocabulary {path}: found no token; it needs one a line")
    return Lookup.of(ByteStrings.of(known))


def truncated(ptr: Int64Array, codes: Int32Array, length: int) -> tuple[Int64Array, Int32Array]:
    """Return rows of codes (row i is `codes[ptr[i]:ptr[i + 1]]`) cut to at most `length`."""
    lengths = ptr[1:] - ptr[:-1]
    if not len(lengths) or lengths.max() <= length:
        return ptr, codes
    kept = np.minimum(lengths, length)
    cut = np.append(0, np.cumsum(kept))
    return cut, codes[np.repeat(ptr[:-1] - cut[:-1], kept) + np.arange(cut[-1])]
