"""Prepared MovieLens data seen from one user: what was rated, what was held back, what could be recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gdmix_client.movielens import MOVIES_FILE, POSITIVE_ABOVE, TRAIN_FILE, VALIDATION_FILE
from gdmix_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

USER_FEATURES: Final = ("age", "gender", "occupation")
MOVIE_FEATURES: Final = ("genres", "release_year")
_MOVIE_COLUMNS: Final = ("movie_id", "title", *MOVIE_FEATURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieLensUser:
    """A user of the validation set.

    Attributes:
        user_id: as in the data.
        features: age (in centuries), gender and occupation.
        rated_in_training: ids of the movies whose ratings the model has seen.
        held_out: rating by movie id, 1 to 5, of those that it has not.
    """

    user_id: int
    features: Mapping[str, Any]
    rated_in_training: frozenset[int]
    held_out: Mapping[int, int]


def pick_user(directory: Path) -> MovieLensUser:
    """Return the user who likes the most movies of the validation set; of several, the lowest id.

    Raises:
        DataError: the files cannot be read, or hold other columns than `fetch_movielens` writes.
    """
    import pyarrow.compute as pc

    held_out = _read(directory / VALIDATION_FILE, ("user_id", "movie_id", "rating", *USER_FEATURES))
    liked = pc.value_counts(held_out["user_id"].filter(pc.greater(held_out["rating"], POSITIVE_ABOVE)))
    if not len(liked):
        raise DataError(f"{directory / VALIDATION_FILE}: holds no rating above {POSITIVE_ABOVE}")
    user_id = min(
        zip(liked.field("counts").to_pylist(), liked.field("values").to_pylist(), strict=True),
        key=lambda pair: (-pair[0], pair[1]),
    )[1]
    own = held_out.filter(pc.equal(held_out["user_id"], user_id)).to_pylist()
    train = _read(directory / TRAIN_FILE, ("user_id", "movie_id"))
    seen = train.filter(pc.equal(train["user_id"], user_id))["movie_id"]
    return MovieLensUser(
        user_id=user_id,
        features={name: own[0][name] for name in USER_FEATURES},
        rated_in_training=frozenset(seen.to_pylist()),
        held_out={row["movie_id"]: row["rating"] for row in own},
    )


def all_movies(directory: Path) -> pa.Table:
    """Return movie_id, title, genres and release_year of all movies, by id.

    Data that were prepared without a table of movies have these columns in their rows: then it is made of
    them.

    Raises:
        DataError: as `pick_user`.
    """
    path = directory / MOVIES_FILE
    if path.is_file():
        return _read(path, _MOVIE_COLUMNS).sort_by("movie_id")
    return _movies_of_rows(directory)


def _movies_of_rows(directory: Path) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    rows = pa.concat_tables(
        [_read(directory / name, _MOVIE_COLUMNS) for name in (TRAIN_FILE, VALIDATION_FILE)]
    )
    _, first = np.unique(rows["movie_id"].to_numpy(), return_index=True)
    return rows.take(pa.array(first))


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    from gdmix_core.data.input_files import opened_parquet

    with opened_parquet(str(path)) as file:
        absent = [name for name in columns if name not in file.schema_arrow.names]
        if absent:
            raise DataError(
                f"{path}: column {absent[0]!r} is missing: it was prepared by another version of GDMix; "
                f"remove {path.parent} to have it made again"
            )
        return file.read(list(columns), use_threads=False)
