"""What is sent, and what is said of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pyarrow as pa

Batches: TypeAlias = Generator[tuple[pa.Array, pa.Array], None, None]
"""Uids and scores as a file has them, batch by batch; no batch is empty."""
ScoresFormat: TypeAlias = Literal["parquet", "avro", "csv"]

FORMATS: Final[tuple[ScoresFormat, ...]] = ("parquet", "avro", "csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """A file of scores as it was sent.

    Attributes:
        path: Where it is; messages do not show it.
        name: What messages call it.
        format: What its bytes are.
        uid_column: Column of the row ids.
        score_column: Column of the scores.
    """

    path: Path
    name: str
    format: ScoresFormat
    uid_column: str = "uid"
    score_column: str = "score"

    @property
    def columns(self) -> list[str]:
        """Both columns."""
        return [self.uid_column, self.score_column]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresSummary:
    """What the scores of a file are like."""

    rows: int
    min_score: float
    max_score: float
    mean_score: float
