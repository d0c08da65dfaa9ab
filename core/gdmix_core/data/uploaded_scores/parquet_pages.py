"""The pages of a Parquet file by their headers, which are structs of Thrift in compact form."""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.types import UploadedFile
from gdmix_core.errors import DataError

_HEADER_BYTES: Final = 1 << 12


def check_pages(file: UploadedFile, metadata: Any) -> None:
    """Compare what every page says it will be when decompressed with the limits; nothing is decompressed."""
    compressed = decompressed = 0
    size = file.path.stat().st_size
    with file.path.open("rb", buffering=0) as stream:
        for group, place in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
            chunk = metadata.row_group(group).column(place)
            if metadata.row_group(group).num_rows and chunk.path_in_schema in file.columns:
                at = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
                end = at + chunk.total_compressed_size
                while at < end:
                    data = os.pread(stream.fileno(), _HEADER_BYTES, at)
                    header, stored, page = _page_header(file, data)
                    if page > limits.MAX_PAGE_BYTES:
                        raise DataError(
                            f"{file.name}: column {chunk.path_in_schema!r}: a page of {page} bytes; "
                            f"allowed are {limits.MAX_PAGE_BYTES >> 20} MiB"
                        )
                    at += header + stored
                    compressed, decompressed = compressed + stored, decompressed + page
                if not 4 <= at <= size:
                    raise DataError(f"{file.name}: a column goes beyond the file's end: it is damaged")
                limits.check_growth(file, compressed, decompressed)


def _page_header(file: UploadedFile, data: bytes) -> tuple[int, int, int]:
    """Return the sizes of a Parquet page's header, of the page as stored, and of the page decompressed."""
    thrift = _CompactStruct(data)
    try:
        fields = thrift.read()
        stored, page = fields[3], fields[2]
    except (IndexError, KeyError):
        raise DataError(
            f"{file.name}: a page without a readable header: it is damaged or cut short"
        ) from None
    if stored < 0 or page < 0:
        raise DataError(f"{file.name}: a page of a negative size: it is damaged")
    return thrift.at, stored, page


class _CompactStruct:
    """The integers of a Thrift struct in compact form, by field number; all else is passed over."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def read(self, depth: int = 0) -> dict[int, int]:
        """Raise IndexError when the data do not hold the struct."""
        fields: dict[int, int] = {}
        number = 0
        if depth > 8:
            raise IndexError
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else _zigzag(self._varint())
            value = self._value(head & 15, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in {4, 5, 6}:
            return _zigzag(self._varint())
        if kind == 12:
            self.read(depth + 1)
        elif kind not in {1, 2}:  # true and false have no bytes
            passed = {3: 1, 7: 8}.get(kind) or self._length(kind)
            self.at += passed
        return None

    def _length(self, kind: int) -> int:
        if kind != 8:  # page headers hold no lists, sets or maps
            raise IndexError
        return self._varint()

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise IndexError
        return value | byte << shift


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
