"""From a scorer's access log to rows as in the training data: one for each candidate of a sampled request.

Fields of a line: docs/observability.md. A row has the request's data columns (the context's repeated), `request_id`,
`candidate` (its place in the request) and `logged_at`, by which what people did is joined to it as the label.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from gdmix_core.data.array_file import atomic_path
from gdmix_core.errors import DataError, UsageError

OWN_COLUMNS: Final = ("uid", "request_id", "candidate", "logged_at")
OUTSIDE_SCORE: Final = "fixed_effect_score"


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """What became of a log.

    Attributes:
        requests: sampled ones that were answered and brought data columns.
        rows: candidates of those.
        left_out: other lines, by the reason why they have no rows.
    """

    requests: int
    rows: int
    left_out: Mapping[str, int]


def convert_access_logs(logs: Iterable[str | Path], output: str | Path, *, first_uid: int = 1) -> LoggedRows:
    """Write the rows of access logs as JSON Lines; the file appears complete or not at all.

    Args:
        logs: files, `.gz` too.
        output: the file.
        first_uid: uid of the first row; they count on from there.

    Raises:
        UsageError: a log cannot be read.
        DataError: a line is not one of an access log (the message names it), or the output cannot be written.
    """
    requests = rows = 0
    left_out: dict[str, int] = {}
    with atomic_path(Path(output)) as temporary, temporary.open("w", encoding="utf-8") as out:
        for name, number, line in _lines(logs):
            document = _document(name, number, line)
            reason = _without_rows(document)
            if reason:
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            requests += 1
            for row in _rows(document, f"{name}, line {number}"):
                out.write(json.dumps({"uid": first_uid + rows, **row}, ensure_ascii=False) + "\n")
                rows += 1
    return LoggedRows(requests, rows, left_out)


def _lines(logs: Iterable[str | Path]) -> Iterator[tuple[str, int, str]]:
    for log in logs:
        try:
            with _opened(Path(log)) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield str(log), number, line
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{log}: cannot be read: {getattr(error, 'strerror', '') or error}") from error


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _document(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
        _ = document["time"], document["outcome"], document["sampled"], document["candidates"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}, line {number}: is no line of an access log: {error!r}") from error
    return dict(document)


def _without_rows(document: Mapping[str, Any]) -> str:
    """Return why a line has no rows; "" where it has."""
    if not document["sampled"]:
        return "not sampled"
    if document["outcome"] != "OK":
        return "not answered"
    return "" if "features" in document else "without data columns"


def _rows(document: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    features, count = document["features"], document["candidates"]
    own = {"request_id": document["request_id"], "logged_at": document["time"]}
    shared = dict(features["context"])
    columns: dict[str, list[Any]] = dict(features["candidates"])
    if "fixed_effect_scores" in features:
        scores = features["fixed_effect_scores"]
        columns[OUTSIDE_SCORE] = scores if len(scores) == count else scores * count
    clash = sorted((shared.keys() | columns.keys()) & set(OWN_COLUMNS) - {"uid"})
    if clash:
        raise DataError(f"{where}: the data have a column {clash[0]!r}, which these rows have of their own")
    shared.pop("uid", None)
    columns.pop("uid", None)
    for candidate in range(count):
        values = {name: column[candidate] for name, column in columns.items()}
        yield {**own, "candidate": candidate, **shared, **values}
