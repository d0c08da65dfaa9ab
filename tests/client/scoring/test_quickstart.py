"""`gdmix-cli quickstart` from data to recommendations, on MovieLens-like data of invented content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gdmix_client import LocalScorer
from gdmix_client.cli.recommendations import QuickstartDocument
from gdmix_client.movielens import GENRES, RATINGS, fetch_movielens
from gdmix_client.movielens_users import all_movies, pick_user
from gdmix_core.errors import DataError

EXAMPLE = Path(__file__).parents[3] / "examples" / "scoring" / "recommend.py"
PEOPLE, MOVIES = 943, 300


def ml100k() -> dict[str, bytes]:
    """Files of the form of GroupLens's ml-100k; some movies are better, some people kinder than others."""
    rng = np.random.default_rng(11)
    user, movie = rng.integers(1, PEOPLE + 1, RATINGS), rng.integers(1, MOVIES + 1, RATINGS)
    taste = 3 + 1.2 * np.sin(movie) + 0.8 * np.cos(user) + rng.normal(size=RATINGS)
    stars = np.clip(np.rint(taste), 1, 5).astype(int)
    data = "\n".join(
        f"{u}\t{m}\t{s}\t{i}" for i, (u, m, s) in enumerate(zip(user, movie, stars, strict=True))
    )
    genres = rng.integers(0, 2, (MOVIES, len(GENRES)))
    items = "\n".join(
        f"{m + 1}|Film {m + 1} (1997)|24-Jan-1997||http://x|" + "|".join(map(str, genres[m]))
        for m in range(MOVIES)
    )
    people = "\n".join(f"{p + 1}|{20 + p % 50}|{'FM'[p % 2]}|writer|0{p:04}" for p in range(PEOPLE))
    return {"u.data": data.encode(), "u.item": items.encode(), "u.user": people.encode()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ml-100k") / "ml-100k.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in ml100k().items():
            file.writestr(f"ml-100k/{name}", content)
    return path


@pytest.fixture(scope="module")
def prepared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    fetch_movielens(directory, archive)
    return directory


def test_a_user_and_all_movies(prepared: Path, tmp_path: Path) -> None:
    movies = all_movies(prepared)
    assert movies["movie_id"].to_pylist() == list(range(1, MOVIES + 1))
    user = pick_user(prepared)
    train, validation = (pq.read_table(prepared / f"{name}.parquet") for name in ("train", "validation"))
    own = validation.filter(pc.equal(validation["user_id"], user.user_id)).to_pylist()
    assert user.held_out.keys() == {row["movie_id"] for row in own}
    assert user.features == {name: own[0][name] for name in ("age", "gender", "occupation")}
    liked = (
        validation.filter(pc.greater(validation["rating"], 3))
        .group_by("user_id")
        .aggregate([([], "count_all")])
    )
    most = max(liked["count_all"].to_pylist())
    best = [row["user_id"] for row in liked.to_pylist() if row["count_all"] == most]
    assert user.user_id == min(best)
    seen = train.filter(pc.equal(train["user_id"], user.user_id))["movie_id"].to_pylist()
    assert user.rated_in_training == set(seen)
    # Data that were prepared before there was a table of movies.
    older = tmp_path / "older"
    shutil.copytree(prepared, older)
    (older / "movies.parquet").unlink()
    assert all_movies(older).equals(movies)
    pq.write_table(train.drop_columns(["title"]), older / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: column 'title' is missing.*remove .*older"):
        all_movies(older)


def test_quickstart(cli: Any, archive: Path, tmp_path: Path) -> None:
    options = ("quickstart", "--directory", "q", "--from", archive, "--workers", "1")
    done = cli(*options, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    QuickstartDocument.model_validate(document)
    assert document["state"] == "succeeded"
    assert document["model"] == {"name": "movielens", "version": 1}
    user = pick_user(tmp_path / "q" / "data")
    assert document["user_id"] == user.user_id
    best = document["recommendations"]
    assert len(best) == 10
    for movie in best:
        assert movie["title"] == f"Film {movie['movie_id']} (1997)"
        assert movie["movie_id"] not in user.rated_in_training
        assert movie["held_out_rating"] == user.held_out.get(movie["movie_id"])
        assert list(movie["contributions"]) == ["global", "per_user", "per_movie"]
        assert sum(movie["contributions"].values()) == pytest.approx(movie["score"])
        assert movie["prediction"] == pytest.approx(1 / (1 + np.exp(-movie["score"])))
    scores = [movie["score"] for movie in best]
    assert scores == sorted(scores, reverse=True)

    # Once more, as a person sees it; the commands that it tells are ones that work.
    again = cli(*options[:3], "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert "starting a scorer" in again.stderr
    assert f"The 10 best movies for user {user.user_id} (" in again.stdout
    assert "scored online by movielens, version 2:" in again.stdout
    assert f"Film {best[0]['movie_id']} (1997)" in again.stdout
    assert "gdmix-cli scorer --store lmdb:q/model/store" in again.stdout
    assert "gdmix-cli score q/data/validation.parquet" in again.stdout

    with LocalScorer(f"lmdb:{tmp_path}/q/model/store") as running:
        running.wait_until_ready()
        shown = subprocess.run(
            [sys.executable, EXAMPLE, tmp_path / "q" / "data" / "movies.parquet", running.address],
            env={**os.environ, "GDMIX_TOKEN": running.token_file.read_text(encoding="ascii").strip()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "movielens, version 2"
    assert len(lines) == 11


def test_a_changed_config(cli: Any, archive: Path, tmp_path: Path) -> None:
    """A model that cannot be asked about movies is still trained; why there are no recommendations is said."""
    config = {
        "model": "offsets",
        "task": "linear_regression",
        "data": {
            "train": "data/train.parquet",
            "validation": "data/validation.parquet",
            "columns": {"uid": "uid", "label": "response", "offset": "rating"},
        },
        "features": {"all": [{"column": "release_year", "kind": "numeric"}]},
        "coordinates": {"global": {"fixed_effect": "linear_regression", "features": ["all"]}},
        "output": "model",
    }
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "movielens.yaml").write_text(json.dumps(config), encoding="utf-8")
    done = cli("quickstart", "--directory", "q", "--from", archive, "--workers", "1", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == {"name": "offsets", "version": 1}
    assert (document["user_id"], document["recommendations"]) == (None, [])
    said = done.stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("no recommendations: the model of the changed q/movielens.yaml")
    assert "fixed_effect_score" in said[0]
