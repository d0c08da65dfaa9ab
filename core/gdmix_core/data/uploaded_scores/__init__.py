"""Scores that somebody computed elsewhere and sent as a file: checked, and written as Parquet of a known form.

What is written has the columns `uid` (int64, every one different) and `score` (float64, finite), in the file's
order. Memory is bounded whatever the file's size and whatever it claims: files are read in batches, what they
say of themselves is compared with `limits` before anything is decompressed, and duplicates are found in sorted
runs on disk.

A damaged file can end the process that reads it: some of Arrow's own checks are made where no exception may pass.
`python -m gdmix_core.data.uploaded_scores` is that process for those who must go on, see `process`.
"""

from __future__ import annotations

from gdmix_core.data.uploaded_scores.normalise import normalise_scores
from gdmix_core.data.uploaded_scores.process import CheckAnswer, CheckRequest
from gdmix_core.data.uploaded_scores.types import FORMATS, ScoresFormat, ScoresSummary, UploadedFile

__all__ = [
    "FORMATS",
    "CheckAnswer",
    "CheckRequest",
    "ScoresFormat",
    "ScoresSummary",
    "UploadedFile",
    "normalise_scores",
]
