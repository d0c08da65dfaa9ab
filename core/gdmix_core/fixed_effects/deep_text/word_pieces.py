"""Texts as word pieces: BERT's tokenizer.

A text is split at spaces and around punctuation and Chinese characters, in lower case and without accents where the
vocabulary is; a word becomes the longest piece of the vocabulary that it begins with, then the longest that goes on
(`##...`), and so forth; a word that does not come out is `[UNK]`. Around all stand `[CLS]` and `[SEP]`.

Source: Devlin et al., BERT, NAACL 2019, arXiv:1810.04805, file tokenization.py of its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import DataError
from gdmix_core.fixed_effects.deep_text.rows import ranges
from gdmix_core.fixed_effects.deep_text.word_tokens import truncated

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LONGEST_WORD: Final = 100
_CACHED_WORDS: Final = 1_000_000

_CONTROLS: Final = r"[\x{0}\x{FFFD}]|[^\P{C}\t\r\n]"
_SPACES: Final = r"[\s\p{Z}]+"
_ALONE: Final = (
    r"([\p{P}$+<=>^`|~\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}])"
)


class WordPieces:
    """The word pieces of a vocabulary; a piece's code is its line, from 0.

    A word is cut once, and its pieces remembered.
    """

    def __init__(self, pieces: list[str], *, lower_case: bool) -> None:
        """Take over a vocabulary.

        Raises:
            DataError: it lacks one of `[PAD]` (first), `[UNK]`, `[CLS]`, `[SEP]`.
        """
        self._code = {piece: code for code, piece in enumerate(pieces)}
        missing = [special for special in _SPECIAL if special not in self._code]
        if missing or self._code["[PAD]"]:
            raise DataError(
                f"vocabulary of word pieces: {', '.join(missing) or '[PAD] as the first line'} is missing"
            )
        self._pieces = pieces
        self._lower_case = lower_case
        self._words: dict[str, tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self._pieces)

    def encode(self, texts: ByteStrings, max_len: int) -> tuple[Int64Array, Int32Array]:
        """Return where each text's codes begin, int64[texts + 1], and the codes of at most `max_len` pieces a text."""
        word_ptr, words = self._split(texts)
        distinct = words.dictionary.to_pylist()
        codes = [self._cut(word) for word in distinct]
        lengths = np.array([len(code) for code in codes], np.int64)
        flat = np.array([piece for code in codes for piece in code], np.int32)
        start = np.cumsum(lengths) - lengths
        chosen = words.indices.to_numpy()
        pieces = flat[ranges(start[chosen], lengths[chosen])]
        ptr = np.append(0, np.cumsum(lengths[chosen]))[word_ptr]
        return self._framed(*truncated(ptr, pieces, max(max_len - 2, 0)))

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return what an array file keeps of it."""
        return {
            **ByteStrings.of(self._pieces).arrays("piece"),
            "lower_case": np.array([self._lower_case], np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> WordPieces:
        """Take it from an array file."""
        pieces = [piece.decode() for piece in ByteStrings.from_arrays(arrays, "piece").to_list()]
        return cls(pieces, lower_case=bool(arrays["lower_case"][0]))

    def _split(self, texts: ByteStrings) -> tuple[Int64Array, pa.DictionaryArray]:
        offsets, data = pa.py_buffer(texts.ptr), pa.py_buffer(texts.data)
        array = pa.LargeStringArray.from_buffers(len(texts), offsets, data)
        array = pc.replace_substring_regex(array, _CONTROLS, "")
        if self._lower_case:
            array = pc.utf8_normalize(pc.utf8_lower(array), form="NFD")
            array = pc.replace_substring_regex(array, r"\p{Mn}", "")
        spaced = pc.replace_substring_regex(array, _ALONE, r" \1 ")
        split = pc.split_pattern_regex(spaced, pattern=_SPACES)
        words, row = pc.list_flatten(split), pc.list_parent_indices(split).to_numpy()
        kept = pc.not_equal(pc.binary_length(words), 0)
        counts = np.bincount(row[kept.to_numpy(zero_copy_only=False)], minlength=len(texts))
        return np.append(0, np.cumsum(counts)), words.filter(kept).dictionary_encode()

    def _cut(self, word: str) -> tuple[int, ...]:
        found = self._words.get(word)
        if found is None:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            found = self._words[word] = self._pieces_of(word)
        return found

    def _pieces_of(self, word: str) -> tuple[int, ...]:
        unknown = (self._code["[UNK]"],)
        if len(word) > _LONGEST_WORD:
            return unknown
        codes: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                code = self._code.get(prefix + word[start:end])
                if code is not None:
                    codes.append(code)
                    start = end
                    break
            else:
                return unknown
        return tuple(codes)

    def _framed(self, ptr: Int64Array, codes: Int32Array) -> tuple[Int64Array, Int32Array]:
        """Put `[CLS]` before each text and `[SEP]` behind it."""
        texts = len(ptr) - 1
        framed_ptr = ptr + 2 * np.arange(texts + 1)
        framed = np.empty(len(codes) + 2 * texts, np.int32)
        framed[framed_ptr[:-1]] = self._code["[CLS]"]
        framed[framed_ptr[1:] - 1] = self._code["[SEP]"]
        framed[ranges(framed_ptr[:-1] + 1, np.diff(ptr))] = codes
        return framed_ptr, framed


def read_word_pieces(directory: str, *, lower_case: bool) -> WordPieces:
    """Read `vocab.txt` of a BERT's directory.

    Raises:
        DataError: it cannot be read, or lacks a special token.
    """
    path = Path(directory) / "vocab.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8: {error}") from error
    pieces = [line.rstrip("\r") for line in lines]
    try:
        return WordPieces(pieces[:-1] if pieces[-1] == "" else pieces, lower_case=lower_case)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
