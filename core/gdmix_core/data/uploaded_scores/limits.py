"""How much of a file is believed and how much is in memory at once."""

from __future__ import annotations

from typing import Final

from gdmix_core.data.uploaded_scores.types import UploadedFile
from gdmix_core.errors import DataError

MAX_PAGE_BYTES: Final = 64 << 20
"""Largest page of a Parquet column, decompressed; writers make pages of 1 MiB."""
MAX_BLOCK_BYTES: Final = 16 << 20
"""Largest block of an Avro file, decompressed; writers make blocks of 16 to 64 KiB."""
MAX_AVRO_HEADER_BYTES: Final = 1 << 20
"""Largest header of an Avro file."""
MAX_FOOTER_BYTES: Final = 16 << 20
"""Largest footer of a Parquet file."""
MAX_RATIO: Final = 100
"""How many times its size a file may grow when decompressed; different uids never come near it."""
RATIO_FREE_BYTES: Final = 64 << 20
"""Files that are no larger when decompressed may grow as they like."""
BATCH_ROWS: Final = 1 << 16
ROW_GROUP_ROWS: Final = 1 << 18
RUN_ROWS: Final = 1 << 20
"""Uids that are sorted at once when duplicates are looked for."""


def check_growth(file: UploadedFile, compressed: int, decompressed: int) -> None:
    """Raise DataError when what was looked at so far grows too much."""
    if decompressed > RATIO_FREE_BYTES and decompressed > MAX_RATIO * compressed:
        raise DataError(
            f"{file.name}: {compressed} bytes become {decompressed} or more when decompressed; "
            f"allowed are {MAX_RATIO} times as many, or {RATIO_FREE_BYTES >> 20} MiB"
        )
