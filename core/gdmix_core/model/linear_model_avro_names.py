"""Names of coefficients in Avro model files: a name and a term each, and the keys that stand for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.compiled import kernel_input
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import INTERCEPT_NAME, CoordinateNames
from gdmix_core.data.feature_names import TERM_SEPARATOR
from gdmix_core.errors import DataError
from gdmix_core.model import linear_model_avro_kernels as kernels

Int64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureNames:
    """Name and term of n features, in UTF-8; no two features have both in common.

    Attributes:
        names: Avro's `name` of each.
        terms: Avro's `term` of each, empty where it has none.
    """

    names: ByteStrings
    terms: ByteStrings

    @classmethod
    def of_coordinate(cls, coordinate: CoordinateNames) -> Self:
        r"""Name a coordinate's coefficients.

        A term `name\x01term` gives both; any other feature has its column's name and its own term. The intercept is
        ("(INTERCEPT)", "").

        Args:
            coordinate: as `FeatureIndex.coordinate_names` gives it.

        Raises:
            DataError: two features would have the same name and term.
        """
        names, terms = coordinate.name, coordinate.term
        paired = pc.match_substring(terms, TERM_SEPARATOR)
        if pc.any(paired).as_py():
            before = pc.replace_substring_regex(terms, r"(?s)\x01.*\z", "")
            names = pc.if_else(paired, before, names)
            terms = pc.replace_substring_regex(terms, r"(?s)\A[^\x01]*\x01", "")
        result = cls(strings_of(names.cast(pa.large_binary())), strings_of(terms.cast(pa.large_binary())))
        keys = arrow_strings(result.keys())
        number = _first_repeated(keys)
        if number is not None:
            name, term = result.text(number)
            same = np.flatnonzero(pc.equal(keys, keys[number]).to_numpy(zero_copy_only=False))
            bags = ", ".join(coordinate.bag[int(i)].as_py() or "the intercept" for i in same)
            raise DataError(
                f"several features of a coordinate have the name {name!r} and the term {term!r} (bags: {bags}): an "
                "Avro model cannot tell them apart; rename a column or leave one bag out"
            )
        return result

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Self:
        """Take (name, term) pairs, all different; for small numbers of features."""
        return cls(
            ByteStrings.of(name for name, _ in pairs),
            ByteStrings.of(term for _, term in pairs),
        )

    @classmethod
    def from_keys(cls, keys: ByteStrings) -> Self:
        """Take them from their keys."""
        names, terms = np.empty(2 * len(keys), np.int64), np.empty(2 * len(keys), np.int64)
        data = kernel_input(keys.data, np.uint8)
        kernels.decode_keys(data, kernel_input(keys.ptr, np.int64), names, terms)
        return cls(gathered(data, names), gathered(data, terms))

    def __len__(self) -> int:
        return len(self.names)

    def text(self, number: int) -> tuple[str, str]:
        """Return one feature's name and term for a message."""
        return self.names[number].decode(errors="replace"), self.terms[number].decode(errors="replace")

    def keys(self) -> ByteStrings:
        """Return the key of every feature: name and term as they lie in a record."""
        longest = len(self.names.data) + len(self.terms.data) + 2 * kernels.LONGEST_NUMBER * len(self)
        out, ptr = np.empty(longest, np.uint8), np.empty(len(self) + 1, np.int64)
        kernels.encode_keys(
            kernel_input(self.names.data, np.uint8),
            kernel_input(self.names.ptr, np.int64),
            kernel_input(self.terms.data, np.uint8),
            kernel_input(self.terms.ptr, np.int64),
            out,
            ptr,
        )
        return ByteStrings(out[: ptr[-1]], ptr)

    def intercept(self) -> int:
        """Return the number of the intercept, -1 where there is none."""
        key = pa.scalar(INTERCEPT.keys()[0], pa.large_binary())
        return int(pc.index(arrow_strings(self.keys()), key).as_py())


INTERCEPT: Final = FeatureNames.of([(INTERCEPT_NAME, "")])


def gathered(data: npt.NDArray[np.uint8], bounds: Int64Array) -> ByteStrings:
    """Return the strings data[bounds[2i]:bounds[2i+1]]."""
    ptr = np.zeros(len(bounds) // 2 + 1, np.int64)
    np.cumsum(bounds[1::2] - bounds[::2], out=ptr[1:])
    out = np.empty(ptr[-1], np.uint8)
    kernels.gather(kernel_input(data, np.uint8), kernel_input(bounds, np.int64), ptr, out)
    return ByteStrings(out, ptr)


def arrow_strings(strings: ByteStrings) -> pa.Array:
    """Return byte strings as an Arrow array of large_binary that shares their memory."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(strings.ptr)), pa.py_buffer(strings.data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(strings), buffers)


def strings_of(array: pa.Array) -> ByteStrings:
    """Return an Arrow array of large_binary as byte strings that share its memory."""
    if len(array) == 0:
        return ByteStrings(np.empty(0, np.uint8), np.zeros(1, np.int64))
    _, offsets, data = array.buffers()
    ptr = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    raw = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return ByteStrings(raw[ptr[0] : ptr[-1]], ptr - ptr[0])


def first_not_utf8(strings: ByteStrings) -> int | None:
    """Return the number of the first string that is not UTF-8, None when all are."""
    if strings.data.size == 0 or not np.any(strings.data & 0x80):
        return None
    try:
        pa.LargeStringArray.from_buffers(
            len(strings), pa.py_buffer(np.ascontiguousarray(strings.ptr)), pa.py_buffer(strings.data)
        ).validate(full=True)
    except pa.ArrowInvalid:
        for number in range(len(strings)):
            try:
                strings[number].decode()
            except UnicodeDecodeError:
                return number
    return None


def repeated_string(strings: ByteStrings) -> bytes | None:
    """Return a string that stands there more than once, None when all differ."""
    number = _first_repeated(arrow_strings(strings))
    return None if number is None else strings[number]


def _first_repeated(strings: pa.Array) -> int | None:
    """Return the number of the first string that stands there a second time, None when all differ."""
    encoded = strings.dictionary_encode()
    if len(encoded.dictionary) == len(strings):
        return None
    places = encoded.indices.to_numpy()
    # The dictionary is in the order of first appearance, so the places of new strings count up.
    known = np.maximum.accumulate(places)
    return int(np.argmax(places[1:] <= known[:-1])) + 1
