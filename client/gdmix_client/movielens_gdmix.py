"""MovieLens-100K in the layout of LinkedIn GDMix's own example: TFRecord files, one set of them an effect.

Below a directory are `movieLens/global`, `movieLens/per_user` and `movieLens/per_movie`, each with
`trainingData/train_data.tfrecord`, `validationData/validation_data.tfrecord`, `metadata/tensor_metadata.json`
and `featureList/<bag>`. The global effect has both sides' features, the one per user those of the movie, the
one per movie those of the person. Source of the layout: linkedin/gdmix,
scripts/download_process_movieLens_data.py.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gdmix_client.movielens import (
    GENRES,
    README_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    PreparedMovieLens,
    fetch_movielens,
)
from gdmix_core.errors import DataError, MissingDependency

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

ROOT: Final = "movieLens"
TRAIN_SHARE: Final = 0.8
SMALLEST_VALUE: Final = 1e-6
"""Features that are not larger than this are left out of a record."""

PERSON_FEATURES: Final = (
    "age",
    "M",
    "F",
    "administrator",
    "artist",
    "doctor",
    "educator",
    "engineer",
    "entertainment",
    "executive",
    "healthcare",
    "homemaker",
    "lawyer",
    "librarian",
    "marketing",
    "none",
    "other",
    "programmer",
    "retired",
    "salesman",
    "scientist",
    "student",
    "technician",
    "writer",
)
"""Age in centuries, genders, occupations: the position is the feature's index."""
MOVIE_FEATURES: Final = (
    *(genre.replace("'", "").replace("-", "_") for genre in GENRES),
    "release_date",
)
"""Genres, and the year of release divided by 2000: the position is the feature's index."""
FEATURES: Final[Mapping[str, tuple[str, ...]]] = {
    "global": (*PERSON_FEATURES, *MOVIE_FEATURES),
    "per_user": MOVIE_FEATURES,
    "per_movie": PERSON_FEATURES,
}
"""Features of each bag, in the order of their indices."""

_README: Final = """MovieLens-100K, in the layout of LinkedIn GDMix's example.

{training:,} training and {validation:,} validation records, the same ones in global, per_user and per_movie,
told apart by a hash of uid. Records hold uid, user_id, movie_id, response (1 if the rating is above 3) and
<bag>_indices, <bag>_values; featureList/<bag> names the indices.

"""


@dataclass(frozen=True, slots=True)
class _Bag:
    """Sparse features of all rows: those of row i are at starts[i]:starts[i + 1]."""

    starts: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


def fetch_movielens_gdmix(directory: str | Path, source: str | Path | None = None) -> PreparedMovieLens:
    """Write MovieLens-100K as LinkedIn GDMix's example has it, below `movieLens` in a directory.

    Args:
        directory: where to; made when absent.
        source: as for `gdmix_client.movielens.fetch_movielens`.

    Raises:
        MissingDependency: TensorFlow is not installed.
        Unavailable: the data cannot be downloaded.
        DataError: the source is not MovieLens-100K, or the directory cannot be written to.
    """
    import numpy as np

    _tensorflow()
    rows, terms = _rows(source)
    person, movie = _person_features(rows), _movie_features(rows)
    matrices = {"global": np.hstack([person, movie]), "per_user": movie, "per_movie": person}
    training = _in_training(rows["uid"].to_numpy())
    target = Path(directory) / ROOT
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            written = Path(scratch)
            for name, matrix in matrices.items():
                _write_effect(written / name, name, rows, _sparse(matrix), training)
            counts = {"training": int(training.sum()), "validation": int((~training).sum())}
            (written / README_FILE).write_text(_README.format(**counts) + terms, encoding="utf-8")
            for path in sorted(path for path in written.rglob("*") if path.is_file()):
                (target / path.relative_to(written).parent).mkdir(parents=True, exist_ok=True)
                path.replace(target / path.relative_to(written))
    except OSError as error:
        raise DataError(f"{target}: cannot be written to: {error.strerror or error}") from error
    return PreparedMovieLens(target, counts["training"], counts["validation"])


def _tensorflow() -> Any:
    # It would tell what the processor can do before anything else.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise MissingDependency('TFRecord files need TensorFlow: pip install "gdmix[tensorflow]"') from error


def _rows(source: str | Path | None) -> tuple[pa.Table, str]:
    """Return all ratings in their original order, and the terms of use."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="gdmix-movielens-") as scratch:
        done = fetch_movielens(scratch, source)
        tables = [pq.read_table(done.directory / name) for name in (TRAIN_FILE, VALIDATION_FILE)]
        readme = (done.directory / README_FILE).read_text(encoding="utf-8")
    return pa.concat_tables(tables).sort_by("uid"), readme[readme.index("The data were collected") :]


# ---- features --------------------------------------------------------------------------------------------


def _person_features(rows: pa.Table) -> npt.NDArray[np.float64]:
    """Return the features of each row's person, one column each."""
    import numpy as np

    matrix = np.zeros((rows.num_rows, len(PERSON_FEATURES)))
    matrix[:, 0] = rows["age"].to_numpy()
    for column in ("gender", "occupation"):
        matrix[np.arange(rows.num_rows), _positions(rows[column], PERSON_FEATURES)] = 1.0
    return matrix


def _movie_features(rows: pa.Table) -> npt.NDArray[np.float64]:
    """Return the features of each row's movie, one column each; an unknown year is no feature."""
    import numpy as np
    import pyarrow.compute as pc

    matrix = np.zeros((rows.num_rows, len(MOVIE_FEATURES)))
    matrix[:, -1] = pc.fill_null(rows["release_year"], 0.0).to_numpy()
    genres = rows["genres"].combine_chunks()
    matrix[pc.list_parent_indices(genres).to_numpy(), _positions(genres.flatten(), GENRES)] = 1.0
    return matrix


def _positions(terms: pa.ChunkedArray | pa.Array, known: Sequence[str]) -> npt.NDArray[np.int64]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(terms, pa.array(known))
    if found.null_count:
        strange = terms.filter(pc.is_null(found))[0].as_py()
        raise DataError(f"found {strange!r}; MovieLens-100K has {', '.join(known)} only")
    return np.asarray(found, np.int64)


def _sparse(matrix: npt.NDArray[np.float64]) -> _Bag:
    import numpy as np

    present = np.abs(matrix) > SMALLEST_VALUE
    row, column = np.nonzero(present)
    starts = np.zeros(len(matrix) + 1, np.int64)
    np.cumsum(present.sum(axis=1), out=starts[1:])
    return _Bag(starts, column.astype(np.int64), matrix[row, column].astype(np.float32))


def _in_training(uids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which rows are training rows: it depends on a row's uid alone."""
    from gdmix_core.data.hashing import hash_integers

    return hash_integers(uids) < int(TRAIN_SHARE * 2**64)


# ---- files -----------------------------------------------------------------------------------------------


def _write_effect(
    directory: Path, name: str, rows: pa.Table, bag: _Bag, training: npt.NDArray[np.bool_]
) -> None:
    import numpy as np

    for folder, file_name, chosen in (
        ("trainingData", "train_data.tfrecord", training),
        ("validationData", "validation_data.tfrecord", ~training),
    ):
        (directory / folder).mkdir(parents=True)
        _write_records(directory / folder / file_name, _records(name, rows, bag, np.flatnonzero(chosen)))
    for folder in ("metadata", "featureList"):
        (directory / folder).mkdir()
    metadata = json.dumps(_metadata(name, int(training.sum())))
    (directory / "metadata" / "tensor_metadata.json").write_text(metadata, encoding="utf-8")
    features = "".join(f"{feature},\n" for feature in FEATURES[name])
    (directory / "featureList" / name).write_text(features, encoding="utf-8")


def _metadata(name: str, training_rows: int) -> dict[str, object]:
    """Return what describes a bag's records to TensorFlow."""

    def tensor(of: str, dtype: str, shape: list[int], *, sparse: bool) -> dict[str, object]:
        return {"name": of, "dtype": dtype, "shape": shape, "isSparse": sparse}

    numbers = [tensor(of, "int", [], sparse=False) for of in ("uid", "movie_id", "user_id")]
    return {
        "features": [tensor(name, "float", [len(FEATURES[name])], sparse=True), *numbers],
        "labels": [tensor("response", "int", [], sparse=False)],
        "numberOfTrainingSamples": training_rows,
    }


def _records(name: str, rows: pa.Table, bag: _Bag, chosen: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Yield the serialized examples of the chosen rows."""
    train = _tensorflow().train
    numbers = {column: rows[column].to_numpy() for column in ("response", "user_id", "movie_id", "uid")}
    for row in chosen:
        inside = slice(bag.starts[row], bag.starts[row + 1])
        example = train.Example()
        features = example.features.feature
        features[f"{name}_indices"].int64_list.value.extend(bag.indices[inside].tolist())
        features[f"{name}_values"].float_list.value.extend(bag.values[inside].tolist())
        for column, values in numbers.items():
            features[column].int64_list.value.append(int(values[row]))
        yield example.SerializeToString(deterministic=True)


def _write_records(path: Path, records: Iterator[bytes]) -> None:
    with _tensorflow().io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
