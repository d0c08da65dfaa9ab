"""The end of `gdmix-cli quickstart`: a scorer on the published model, and what it would show to one user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from gdmix_client.cli.printing import table
from gdmix_client.cli.report import TrainDocument

if TYPE_CHECKING:
    import pyarrow as pa

    from gdmix_client.movielens_users import MovieLensUser
    from gdmix_client.scoring.results import Scores
    from gdmix_client.types import Job

BEST = 10
READY_SECONDS = 120.0
TIMEOUT_SECONDS = 10.0
_LONGEST_TITLE = 44


class RecommendationDocument(BaseModel):
    """A movie that the user has not rated in the training data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    movie_id: int
    title: str
    prediction: float = Field(description="Probability that the user likes it.")
    score: float = Field(description="Sum of the contributions.")
    contributions: dict[str, float] = Field(description="What each coordinate adds to the score.")
    held_out_rating: int | None = Field(
        description="What the user gave it in the validation data; null if not in there."
    )


class QuickstartDocument(TrainDocument):
    """A training job, and the best movies for one user as its model scores them online."""

    user_id: int | None = Field(description="Of the validation data; null when nothing was scored.")
    recommendations: list[RecommendationDocument] = Field(description="Best first.")


def recommend(job: Job, directory: Path) -> tuple[MovieLensUser, list[RecommendationDocument]]:
    """Start a scorer on the store that a job published to, and score all movies for one user.

    Args:
        job: that published a model of MovieLens.
        directory: of the data.

    Raises:
        GdmixError: the data cannot be read, or the scorer did not start or answer.
    """
    from gdmix_client.local_scorer import LocalScorer
    from gdmix_client.movielens_users import MOVIE_FEATURES, all_movies, pick_user

    published = job.published
    assert published is not None
    user, movies = pick_user(directory), all_movies(directory)
    with LocalScorer(published.store) as local, local.client() as scorer:
        local.wait_until_ready(READY_SECONDS)
        scores = scorer.score(
            {"user_id": user.user_id, **user.features},
            {name: movies[name] for name in ("movie_id", *MOVIE_FEATURES)},
            model=job.model,
            version=published.version,
            contributions=True,
            timeout_seconds=TIMEOUT_SECONDS,
        )
    return user, _best(user, movies, scores)


def _best(user: MovieLensUser, movies: pa.Table, scores: Scores) -> list[RecommendationDocument]:
    """Return the best movies that the user has not rated in the training data; of equals, the lower id."""
    ids, titles = movies["movie_id"].to_pylist(), movies["title"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (-scores.scores[i], ids[i]))
    unseen = [i for i in order if ids[i] not in user.rated_in_training]
    return [
        RecommendationDocument(
            movie_id=ids[i],
            title=titles[i],
            prediction=float(scores.predictions[i]),
            score=float(scores.scores[i]),
            contributions={name: float(values[i]) for name, values in scores.contributions.items()},
            held_out_rating=user.held_out.get(ids[i]),
        )
        for i in unseen[:BEST]
    ]


def recommendations_text(user: MovieLensUser, job: Job, best: list[RecommendationDocument]) -> str:
    """Return what a person reads of them."""
    assert job.published is not None
    names = list(best[0].contributions) if best else []
    rows = [
        [
            _shortened(movie.title),
            f"{movie.prediction:.3f}",
            *(f"{movie.contributions[name]:+.3f}" for name in names),
            "" if movie.held_out_rating is None else f"{movie.held_out_rating} of 5",
        ]
        for movie in best
    ]
    headers = ["title", "probability", *names, "really rated"]
    who = f"user {user.user_id} ({_described(user.features)})"
    return f"""\
The {len(best)} best movies for {who}, scored online by {job.model}, version {job.published.version}:

{table(headers, rows, numbers=range(1, len(headers)))}

Each coordinate adds its part; with their sum s, the user likes the movie with probability 1 / (1 + exp(-s)).
Movies that the user rated in the training data are left out; the ratings shown were held back."""


def how_to_score(job: Job, data: Path) -> str:
    """Return the commands with which to score something oneself."""
    from gdmix_client.cli.report import shortened

    assert job.published is not None
    rows = shortened(str((data / "validation.parquet").absolute()))
    return "\n".join(
        [
            "Score yourself:",
            f"  gdmix-cli scorer --store {shortened(job.published.store)} --port 50061 --processes 1    # stays",
            f"  gdmix-cli score {rows} --scorer 127.0.0.1:50061 --output scores.parquet",
        ]
    )


def _described(features: Mapping[str, object]) -> str:
    age = features.get("age")
    years = f"{round(100 * age)} years" if isinstance(age, float) else ""
    return ", ".join(
        str(part) for part in (years, features.get("gender"), features.get("occupation")) if part
    )


def _shortened(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
