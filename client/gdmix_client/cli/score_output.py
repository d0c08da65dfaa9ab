"""Where scores go: a Parquet, CSV or JSON Lines file that appears whole or not at all, or stdout."""

from __future__ import annotations

import csv
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import typer

from gdmix_client.cli.score_rows import RowBatch, RowSource
from gdmix_core.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from gdmix_client.scoring.results import Scores

ENDINGS = (".parquet", ".csv", ".jsonl")


class ScoreSink(Protocol):
    """Takes scored batches, in the order of the rows."""

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""

    def finish(self) -> None:
        """Complete what was written."""


def check_output(path: Path) -> None:
    """Return when scores can be written to a file of this name.

    Raises:
        UsageError: they cannot.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise UsageError(f"--output {path}: allowed endings are {', '.join(ENDINGS)}")
    if path.is_dir():
        raise UsageError(f"--output {path}: is a directory")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--output {path}: its directory does not exist")


@contextmanager
def open_sink(path: Path | None, source: RowSource) -> Iterator[ScoreSink]:
    """Open a file for scores, stdout for None; the file gets its name when the block ends well.

    Raises:
        UsageError: it cannot be written.
    """
    if path is None:
        yield StdoutSink(source)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    ending = path.suffix.lower()
    kind = {".parquet": ParquetSink, ".csv": CsvSink, ".jsonl": JsonLinesSink}[ending]
    try:
        with kind(temporary, source) as sink:
            yield sink
            sink.finish()
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(slots=True)
class _FileSink:
    """What the kinds of files have in common."""

    path: Path
    source: RowSource

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""
        raise NotImplementedError

    def finish(self) -> None:
        """Complete what was written."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        raise NotImplementedError

    def header(self, batch: RowBatch | None, scores: Scores | None) -> list[str]:
        """Return the names of the output's columns."""
        return [
            *([self.source.uid_column] if batch is not None and batch.uids is not None else []),
            "score",
            "prediction",
            *(f"contribution.{name}" for name in (scores.contributions if scores is not None else ())),
        ]


def score_columns(scores: Scores) -> list[Any]:
    """Return the columns behind the uid, float64[n] each."""
    return [scores.scores, scores.predictions, *scores.contributions.values()]


class ParquetSink(_FileSink):
    """Parquet: `uid` of the input's type, the others float64; the schema's metadata name the version."""

    def __init__(self, path: Path, source: RowSource) -> None:
        super().__init__(path, source)
        self._writer: Any = None
        self._uid_type: pa.DataType | None = None

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""
        import pyarrow as pa

        if self._writer is None:
            self._uid_type = None if batch.uids is None else _uid_type(batch.uids)
            self._open(self.header(batch, scores), {"model": scores.model, "version": scores.version})
        columns = [pa.array(column) for column in score_columns(scores)]
        if self._uid_type is not None:
            columns.insert(0, self._uid_array(batch))
        self._writer.write_batch(pa.record_batch(columns, schema=self._writer.schema))

    def finish(self) -> None:
        """Complete the file; without any batch it holds no rows."""
        if self._writer is None:
            self._open(self.header(None, None), {})

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, names: Sequence[str], metadata: dict[str, object]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {self.source.uid_column: self._uid_type} if self._uid_type is not None else {}
        schema = pa.schema(
            [(name, kinds.get(name, pa.float64())) for name in names],
            metadata={"gdmix": json.dumps(metadata)},
        )
        self._writer = pq.ParquetWriter(self.path, schema, compression="zstd")

    def _uid_array(self, batch: RowBatch) -> pa.Array:
        import pyarrow as pa

        uids, integers = batch.uids or (), pa.types.is_integer(self._uid_type)
        try:
            return pa.array([_integer(uid) for uid in uids] if integers else uids, self._uid_type)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{self.source.name}: column {self.source.uid_column!r}: rows {batch.first_row} to "
                f"{batch.first_row + batch.rows - 1} do not all hold {'integers' if integers else 'text'}, "
                "as the first rows do"
            ) from error


class CsvSink(_FileSink):
    """CSV with a header line."""

    def __init__(self, path: Path, source: RowSource) -> None:
        super().__init__(path, source)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._begun = False

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""
        if not self._begun:
            self._writer.writerow(self.header(batch, scores))
            self._begun = True
        columns = [column.tolist() for column in score_columns(scores)]
        if batch.uids is not None:
            columns.insert(0, list(batch.uids))
        self._writer.writerows(zip(*columns, strict=True))

    def finish(self) -> None:
        """Complete the file."""
        if not self._begun:
            self._writer.writerow(self.header(None, None))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonLinesSink(_FileSink):
    """One object a line."""

    def __init__(self, path: Path, source: RowSource) -> None:
        super().__init__(path, source)
        self._file = path.open("w", encoding="utf-8")

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""
        for line in json_lines(batch, scores, self.source.uid_column):
            self._file.write(line + "\n")

    def finish(self) -> None:
        """Do nothing: every line is complete."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StdoutSink:
    """JSON Lines on stdout, as the scores come."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    def write(self, batch: RowBatch, scores: Scores) -> None:
        """Take one batch."""
        typer.echo("\n".join(json_lines(batch, scores, self._source.uid_column)))

    def finish(self) -> None:
        """Do nothing: every line is complete."""


def json_lines(batch: RowBatch, scores: Scores, uid_column: str) -> Iterator[str]:
    """Yield one JSON object for each row of a batch."""
    contributions = {name: values.tolist() for name, values in scores.contributions.items()}
    pairs = zip(scores.scores.tolist(), scores.predictions.tolist(), strict=True)
    for i, (score, prediction) in enumerate(pairs):
        line: dict[str, object] = {}
        if batch.uids is not None:
            line[uid_column] = batch.uids[i]
        line |= {"score": score, "prediction": prediction}
        if contributions:
            line["contributions"] = {name: values[i] for name, values in contributions.items()}
        yield json.dumps(line, ensure_ascii=False)


def _uid_type(uids: Sequence[Any]) -> pa.DataType:
    """Return the type of integers where the first uids are some, as text or not, else that of text."""
    import pyarrow as pa

    try:
        return pa.array([_integer(uid) for uid in uids], pa.int64()).type
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        return pa.string()


def _integer(uid: object) -> int | None:
    if uid is None:
        return None
    if isinstance(uid, str) and uid.removeprefix("-").isdecimal():
        return int(uid)
    if isinstance(uid, int) and not isinstance(uid, bool):
        return uid
    raise ValueError
