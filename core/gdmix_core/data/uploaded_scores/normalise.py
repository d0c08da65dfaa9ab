"""A file of scores, whatever its format, becomes Parquet of a known form."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from gdmix_core.data.uploaded_scores import limits
from gdmix_core.data.uploaded_scores.duplicates import check_batch, check_unique
from gdmix_core.data.uploaded_scores.types import Batches, ScoresSummary, UploadedFile
from gdmix_core.data.uploaded_scores.values import checked
from gdmix_core.errors import DataError

_MAGIC: Final = {"parquet": b"PAR1", "avro": b"Obj\x01"}
_SCHEMA: Final = pa.schema([pa.field("uid", pa.int64(), False), pa.field("score", pa.float64(), False)])


def normalise_scores(file: UploadedFile, target: Path, *, max_rows: int) -> ScoresSummary:
    """Check a file of scores and write them to `target`, which is left behind only when all is well.

    Args:
        file: What was sent.
        target: The Parquet file to write; temporary files go beside it.
        max_rows: Most rows allowed.

    Raises:
        DataError: The file is damaged, cut short or not of its format; a column is missing or of another type;
            a uid is missing or there twice; a score is missing or not finite; there are no rows, too many, or
            more bytes in it than its size allows. The message names the column and the first rows, from 1.
    """
    try:
        summary, increasing = _rewrite(file, target, max_rows)
        if not increasing:
            check_unique(file, target, summary.rows)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return summary


def _rewrite(file: UploadedFile, target: Path, max_rows: int) -> tuple[ScoresSummary, bool]:
    """Write the rows; return what they are like, and whether the uids increase from row to row."""
    import pyarrow.parquet as pq

    rows, total, last, increasing = 0, 0.0, None, True
    low, high = np.inf, -np.inf
    pending: list[pa.RecordBatch] = []
    with ExitStack() as stack:
        batches = stack.enter_context(closing(_read(file, max_rows)))
        writer = stack.enter_context(
            pq.ParquetWriter(target, _SCHEMA, compression="zstd", compression_level=1, use_dictionary=False)
        )
        for uids, scores in batches:
            if rows + len(uids) > max_rows:
                raise DataError(
                    f"{file.name}: holds more than {max_rows} rows; allowed are at most {max_rows}"
                )
            uid, score = checked(file, uids, scores, rows)
            increasing &= bool((last is None or last < uid[0]) and (uid[1:] > uid[:-1]).all())
            if not increasing:
                check_batch(file, uid, rows)
            last, rows = uid[-1], rows + len(uid)
            low, high = min(low, float(score.min())), max(high, float(score.max()))
            total += float((score * 2.0**-32).sum())  # scaled, so that no sum of finite scores is infinite
            pending.append(pa.record_batch([pa.array(uid), pa.array(score)], schema=_SCHEMA))
            if sum(map(len, pending)) >= limits.ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending), row_group_size=2 * limits.ROW_GROUP_ROWS)
                pending = []
        if not rows:
            raise DataError(f"{file.name}: holds no rows")
        writer.write_table(pa.Table.from_batches(pending, _SCHEMA), row_group_size=2 * limits.ROW_GROUP_ROWS)
    mean = min(max(total / rows * 2.0**32, low), high)
    return ScoresSummary(rows=rows, min_score=low, max_score=high, mean_score=mean), increasing


def _read(file: UploadedFile, max_rows: int) -> Batches:
    """Yield uids and scores, batch by batch, as the file has them; no batch is empty."""
    if len(set(file.columns)) != 2:
        raise DataError(f"{file.name}: column {file.uid_column!r} cannot hold both uids and scores")
    with file.path.open("rb") as stream:
        magic = stream.read(4)
    expected = _MAGIC.get(file.format)
    if expected is not None and magic != expected:
        raise DataError(f"{file.name}: is no {file.format} file: it begins with {magic!r}, not {expected!r}")
    if file.format == "csv" and (magic[:2] == b"\x1f\x8b" or magic in _MAGIC.values()):
        raise DataError(f"{file.name}: begins with {magic!r}; allowed for csv: plain text, not compressed")
    # Each format brings libraries of its own, which the others have no need of.
    if file.format == "parquet":
        from gdmix_core.data.uploaded_scores.parquet import read_parquet

        return read_parquet(file, max_rows)
    if file.format == "avro":
        from gdmix_core.data.uploaded_scores.avro import read_avro

        return read_avro(file)
    from gdmix_core.data.uploaded_scores.csv import read_csv

    return read_csv(file)
