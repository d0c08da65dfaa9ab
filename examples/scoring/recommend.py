"""The ten best movies for one user, asked for as a recommender does it on every page view; see README.md."""

import asyncio
import sys

import pyarrow.parquet as pq

from gdmix_client import AsyncScorer

USER = {"user_id": 450, "age": 0.35, "gender": "F", "occupation": "educator"}


async def recommend(address: str | None, movies_file: str) -> None:
    movies = pq.read_table(movies_file).to_pylist()
    candidates = [{name: movie[name] for name in ("movie_id", "genres", "release_year")} for movie in movies]
    async with AsyncScorer(address) as scorer:  # one for the life of the process: it keeps its connections
        scores = await scorer.score(
            USER, candidates, model="movielens", contributions=True, timeout_seconds=2.0
        )
    if scores.degraded:  # still an answer, by the scorer's policy; worth a metric
        print(f"degraded: {scores.degraded_reason}", file=sys.stderr)
    print(f"{scores.model}, version {scores.version}")
    for i in scores.scores.argsort()[::-1][:10]:
        parts = ", ".join(f"{name} {values[i]:+.2f}" for name, values in scores.contributions.items())
        print(f"{scores.predictions[i]:.3f}  {movies[i]['title']}  ({parts})")


asyncio.run(recommend(sys.argv[2] if len(sys.argv) > 2 else None, sys.argv[1]))
