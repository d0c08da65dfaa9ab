"""A process that checks one file, for those who must go on when a damaged file ends it.

It takes a `CheckRequest` as a line of JSON on stdin, which has to stay open, and answers by a `CheckAnswer` on
stdout.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from gdmix_core.data.uploaded_scores.normalise import normalise_scores
from gdmix_core.data.uploaded_scores.types import ScoresFormat, UploadedFile
from gdmix_core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What the process that checks a file is asked, see `UploadedFile` and `normalise_scores`."""

    path: str
    name: str
    format: ScoresFormat
    uid_column: str
    score_column: str
    target: str
    max_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """What it answers: the summary's values, or why the file is refused."""

    summary: dict[str, float] | None = None
    refusal: str = ""


def main() -> None:
    """Check one file."""
    request = CheckRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = UploadedFile(
        path=Path(request.path),
        name=request.name,
        format=request.format,
        uid_column=request.uid_column,
        score_column=request.score_column,
    )
    try:
        summary = normalise_scores(file, Path(request.target), max_rows=request.max_rows)
    except DataError as error:
        answer = CheckAnswer(refusal=str(error))
    else:
        answer = CheckAnswer(summary=asdict(summary))
    sys.stdout.write(json.dumps(asdict(answer)))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
