"""Ratings, and somebody else's model of them: what personalization begins with; see README.md.

    python examples/external-scores/make_data.py [--ratings DIRECTORY]

Without ratings they are drawn at random, as people with tastes of their own would give them; a directory that
`gdmix-cli data fetch movielens-100k` wrote is taken instead where one is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier

HERE = Path(__file__).parent
GENRES = ("Action", "Comedy", "Drama", "Horror", "Musical", "Romance", "Thriller", "War")
PEOPLE, MOVIES, RATINGS = 400, 300, 30_000


def drawn_ratings(seed: int = 1) -> pa.Table:
    """Ratings of people with tastes, in the columns that MovieLens has."""
    rng = np.random.default_rng(seed)
    has_genre = rng.random((MOVIES, len(GENRES))) < 0.25
    year, quality = rng.integers(1930, 1999, MOVIES), rng.normal(0.0, 0.7, MOVIES)
    age, mood = rng.uniform(0.1, 0.7, PEOPLE), rng.normal(0.0, 0.7, PEOPLE)
    taste = rng.normal(0.0, 0.9, (PEOPLE, len(GENRES)))
    common_taste = rng.normal(0.0, 0.5, len(GENRES))
    person = np.minimum(rng.gamma(1.2, PEOPLE / 4, RATINGS).astype(int), PEOPLE - 1)  # some rate a lot
    movie = rng.integers(0, MOVIES, RATINGS)
    likes = quality[movie] + mood[person] + (age[person] - 0.4) * (1965 - year[movie]) / 15
    likes += (has_genre[movie] * (taste[person] + common_taste)).sum(axis=1)
    return pa.table(
        {
            "uid": np.arange(RATINGS),
            "user_id": person,
            "movie_id": movie,
            "response": (rng.random(RATINGS) < 1 / (1 + np.exp(-likes))).astype(np.int64),
            "age": age[person],
            "genres": [
                [genre for genre, has in zip(GENRES, has_genre[m], strict=True) if has] for m in movie
            ],
            "release_year": year[movie] / 2000.0,
        }
    )


def fetched_ratings(directory: Path) -> pa.Table:
    """MovieLens ratings, those of training and validation together, oldest first."""
    names = ["uid", "user_id", "movie_id", "response", "age", "genres", "release_year", "timestamp"]
    files = [pq.read_table(directory / f"{part}.parquet", columns=names) for part in ("train", "validation")]
    return pa.concat_tables(files).sort_by("timestamp")


def inputs(ratings: pa.Table) -> np.ndarray:
    """What the outside model looks at: what the movie is and how old the person is, not who it is."""
    genres = ratings["genres"].to_pylist()
    known = sorted({genre for of_movie in genres for genre in of_movie})
    columns = [ratings["age"].to_numpy(), ratings["release_year"].to_numpy()]
    return np.column_stack([*columns, *([genre in of_movie for of_movie in genres] for genre in known)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=Path, help="directory of gdmix-cli data fetch movielens-100k")
    parser.add_argument("--directory", type=Path, default=HERE / "data", help="where to write")
    arguments = parser.parse_args()
    ratings = fetched_ratings(arguments.ratings) if arguments.ratings else drawn_ratings()

    # The outside model learns from the oldest half. Were it to score the rows that it learned from, its scores
    # there would be too good, and nothing would be left for personalization to explain.
    old, new = len(ratings) // 2, len(ratings) * 7 // 8
    X, y = inputs(ratings), ratings["response"].to_numpy()
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(X[:old], y[:old])
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", slice(old, new)), ("validation", slice(new, None))):
        pq.write_table(ratings.take(np.arange(len(ratings))[rows]), arguments.directory / f"{name}.parquet")
        # Log-odds, not probabilities: scores are in units of the linear predictor.
        scores = pa.table({"uid": ratings["uid"].to_numpy()[rows], "score": model.decision_function(X[rows])})
        pq.write_table(scores, arguments.directory / f"{name}-scores.parquet")
    print(f"{new - old:,} training and {len(ratings) - new:,} validation rows in {arguments.directory}")


if __name__ == "__main__":
    main()
