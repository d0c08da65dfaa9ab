"""Where the rows of a job are, and which of their columns play which role."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from gdmix_core.config.strict import OneOrMany, Strict, Strings

DataFormat = Literal["auto", "parquet", "csv", "jsonl", "avro", "tfrecord"]
OptionalRole = Literal["label", "weight", "offset"]
FileFormat = Literal["parquet", "csv", "jsonl", "avro", "tfrecord"]
ENDINGS: Final[dict[str, FileFormat]] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".avro": "avro",
    ".tfrecord": "tfrecord",
    ".tfrecord.gz": "tfrecord",
    ".tfrecord.deflate": "tfrecord",
    ".tfrecords": "tfrecord",
}
"""What a file's name tells of its format."""


class Columns(Strict):
    """Which column of the data plays which role."""

    uid: str = "uid"
    """Unique int64 row id given by the user."""
    label: str = "label"
    """What the model predicts."""
    weight: str | None = None
    """Non-negative row weight; 1 for every row when absent."""
    offset: str | None = None
    """Known part of the linear predictor, added to every score; 0 when absent."""
    optional: Annotated[tuple[OptionalRole, ...], OneOrMany] = ()
    """Roles whose column may be absent from all files: `weight`, `offset`; `label` when nothing is trained."""


class Files(Strict):
    """Files of rows."""

    train: Strings = ()
    """Files, directories or globs of the training rows."""
    validation: Strings = ()
    """Files, directories or globs of the validation rows; none means no metrics."""
    format: DataFormat = "auto"
    """`auto` goes by the file names' endings."""
    metadata: str | None = None
    """TFRecord: the `tensor_metadata.json` that describes the records; read off the first ones when absent.
    Avro: may tell the lengths of sparse vectors."""

    @field_validator("train", "validation")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not path.strip() for path in value):
            raise ValueError("an empty path; give a file, a directory or a glob")
        return value


class Source(Files):
    """Further files about the same rows, aligned with `data` by uid: every uid must be in both."""

    uid: str | None = None
    """Column of the row id; that of `data.columns` when absent."""


class DataConfig(Files):
    """Where the rows are."""

    columns: Columns = Columns()
    """Column roles."""
    sources: dict[str, Source] = Field(default_factory=dict)
    """Further files about the same rows, by name; they hold feature bags or entity ids."""
    shards: Annotated[int, Field(strict=True, ge=1, le=65536)] | None = None
    """Number of home shards of the training rows; chosen from the row count when absent."""
