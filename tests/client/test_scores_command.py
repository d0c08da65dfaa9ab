"""Scores from the command line and from Python: upload, list, show, delete; what happens when a connection breaks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from gdmix_client import AsyncClient, Client, LocalCluster
from gdmix_client.cli.app import app
from gdmix_client.score_upload import ScoresFile
from gdmix_client.types import ScoresUpload, UploadState
from gdmix_core.errors import Conflict, DataError, NotFound, NotPermitted, Unavailable, UsageError

KEYS = {
    *("name", "state", "role", "format", "byte_size", "sha256", "received", "created", "rows"),
    *("min_score", "max_score", "mean_score"),
}
PROGRAM = str(Path(sys.executable).with_name("gdmix-cli"))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A coordinator without workers, which uploads do not need."""
    with LocalCluster(workers=0, state_dir=tmp_path_factory.mktemp("coordinator")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def there(coordinator: LocalCluster) -> Iterator[list[str]]:
    """The options that lead a command to the coordinator; what is uploaded there is removed afterwards."""
    yield ["--coordinator", coordinator.address, "--token-file", str(coordinator.token_file)]
    with coordinator.client() as client:
        for name in {upload.name for upload in client.list_uploads()}:
            client.delete_upload(name)
    assert list((coordinator.state_dir / "uploads").glob("*")) == []


@pytest.fixture
def client(coordinator: LocalCluster, there: list[str]) -> Iterator[Client]:
    with coordinator.client() as opened:
        yield opened


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """A file of three scores."""
    path = tmp_path / "deep.parquet"
    pq.write_table(pa.table({"uid": [3, 1, 2], "score": [0.5, -1.5, 4.0]}), path)
    return path


def run(*arguments: object) -> Result:
    """Run a command inside this process."""
    return CliRunner().invoke(app, ["scores", *map(str, arguments)])


def answer(*arguments: object) -> str:
    """Return what a command that succeeds prints on stdout."""
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def document(*arguments: object) -> Any:
    """Return the one JSON document that a command prints on stdout."""
    return json.loads(answer(*arguments, "--json"))


# ---- commands --------------------------------------------------------------------------------------------


def test_upload_list_show_delete(scores: Path, there: list[str], coordinator: LocalCluster) -> None:
    assert answer("list", *there) == "no uploads\n"
    said = answer("upload", scores, "--name", "dnn", "--role", "train", *there)
    assert said == "upload dnn: 3 scores from -1.5 to 4, mean 1\n"
    table = answer("list", *there).splitlines()
    assert table[0].split() == ["name", "state", "role", "rows", "format", "bytes"]
    assert table[2].split() == ["dnn", "ready", "train", "3", "parquet", f"{scores.stat().st_size:,}"]
    shown = answer("show", "dnn", *there)
    digest = hashlib.sha256(scores.read_bytes()).hexdigest()
    for part in ("name    dnn", "state   ready", digest, "role    train", "rows    3", "-1.5 to 4, mean 1"):
        assert part in shown
    kept = pq.read_table(coordinator.state_dir / "uploads" / "dnn" / "scores.parquet")
    assert kept.to_pydict() == {"uid": [3, 1, 2], "score": [0.5, -1.5, 4.0]}
    assert answer("delete", "dnn", *there) == "upload dnn is deleted\n"
    assert answer("list", *there) == "no uploads\n"


def test_json(scores: Path, there: list[str]) -> None:
    uploaded = document("upload", scores, "--name", "dnn", *there)
    assert set(uploaded) == KEYS
    assert (uploaded["state"], uploaded["rows"], uploaded["mean_score"]) == ("ready", 3, 1.0)
    assert document("show", "dnn", *there) == uploaded
    assert document("list", *there) == {"uploads": [uploaded]}


def test_format_columns_and_replace(tmp_path: Path, scores: Path, there: list[str]) -> None:
    answer("upload", scores, "--name", "dnn", *there)
    text = tmp_path / "scores.txt"
    text.write_text("id,value\n1,0.25\n")
    columns = ["--uid-column", "id", "--score-column", "value"]
    refused = run("upload", text, "--name", "dnn", *columns, *there)
    assert refused.exit_code == 2
    assert "its ending is none of .parquet, .avro, .csv: name the format" in refused.stderr
    refused = run("upload", text, "--name", "dnn", "--format", "csv", *columns, *there)
    assert refused.exit_code == 1
    assert "upload 'dnn' is there already; replace it, or choose another name" in refused.stderr
    done = document("upload", text, "--name", "dnn", "--format", "csv", "--replace", *columns, *there)
    assert (done["format"], done["rows"]) == ("csv", 1)


def test_mistakes_have_one_message_and_a_code(tmp_path: Path, scores: Path, there: list[str]) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("uid,score\n1,0.5\n1,0.5\n")
    empty = tmp_path / "empty.csv"
    empty.touch()
    for arguments, code, message in (
        (["upload", bad, "--name", "a"], 1, "column 'uid': row 2 has uid 1 of row 1 again"),
        (["upload", scores, "--name", "a.csv"], 2, "upload 'a.csv' is not a name"),
        (["upload", scores, "--name", "a", "--role", "test"], 2, "role: found 'test'"),
        (["upload", scores, "--name", "a", "--format", "xml"], 2, "format: found 'xml'"),
        (["upload", empty, "--name", "a"], 2, "byte_size: found 0"),
        (["upload", tmp_path / "none.csv", "--name", "a"], 2, "cannot be read: No such file"),
        (["upload", tmp_path, "--name", "a", "--format", "csv"], 2, "cannot be read: Is a directory"),
        (["show", "a"], 2, "there is no upload 'a'; uploads that are there: none"),
        (["delete", "a"], 2, "there is no upload 'a'"),
    ):
        done = run(*arguments, *there)
        assert (done.exit_code, done.stdout) == (code, ""), done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert answer("list", *there) == "no uploads\n"


def test_the_role_train_is_needed(scores: Path, coordinator: LocalCluster, tmp_path: Path) -> None:
    token = tmp_path / "wrong"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    there = ["--coordinator", coordinator.address, "--token-file", token]
    done = run("upload", scores, "--name", "a", *there)
    assert "not one that this server knows" in done.stderr
    assert done.exit_code == NotPermitted.exit_code
    assert done.stdout == ""


def test_an_unfinished_upload_is_shown_with_what_has_arrived(
    client: Client, there: list[str], coordinator: LocalCluster
) -> None:
    home = coordinator.state_dir / "uploads" / "half"
    home.mkdir(parents=True)
    upload = {"name": "half", "role": "", "format": "csv", "byte_size": 10, "sha256": "0" * 64}
    described = {**upload, "received": 0, "ready": False, "created": 1.0}
    (home / f"partial-{'0' * 64}.json").write_text(json.dumps(described))
    (home / f"partial-{'0' * 64}").write_bytes(b"uid,s")
    assert "uploading (50 %)" in answer("list", *there)
    assert "state   uploading (50 %)" in answer("show", "half", *there)
    assert document("show", "half", *there)["mean_score"] is None
    assert client.get_upload("half").state is UploadState.UPLOADING


def test_a_terminal_sees_a_bar_on_stderr(scores: Path, there: list[str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [PROGRAM, "scores", "upload", str(scores), "--name", "dnn", "--json", *there]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        assert process.stdout is not None
        shown = b""
        while part := _read(ours):
            shown += part
        os.close(ours)
        assert json.load(process.stdout)["rows"] == 3
    assert process.returncode == 0
    assert b"the coordinator checks the scores" in shown
    assert b"100" in shown or "━".encode() in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # what Linux says when nobody has the other end any more
        return b""


# ---- from Python -----------------------------------------------------------------------------------------


def test_client(client: Client, scores: Path) -> None:
    seen: list[tuple[int, int]] = []
    size = scores.stat().st_size
    done = client.upload_scores(scores, "dnn", progress=lambda *figures: seen.append(figures))
    assert seen == [(size, size)]
    assert (done.state, done.rows, done.received) == (UploadState.READY, 3, size)
    assert client.get_upload("dnn") == done
    assert client.list_uploads() == (done,)
    with pytest.raises(Conflict):
        client.upload_scores(scores, "dnn")
    assert client.upload_scores(scores, "dnn", replace=True, role="validation").role == "validation"
    client.delete_upload("dnn")
    with pytest.raises(NotFound):
        client.get_upload("dnn")


def test_async_client(coordinator: LocalCluster, there: list[str], scores: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("uid,score\n1,\n")

    async def inside() -> None:
        async with AsyncClient(coordinator.connection) as client:
            done = await client.upload_scores(scores, "dnn")
            assert await client.get_upload("dnn") == done
            assert await client.list_uploads() == (done,)
            with pytest.raises(DataError, match=r"row 1 \(uid 1\) holds null"):
                await client.upload_scores(bad, "bad")
            with pytest.raises(UsageError):
                await client.upload_scores(tmp_path / "none.csv", "bad")
            await client.delete_upload("dnn")
            assert await client.list_uploads() == ()

    asyncio.run(inside())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of some twenty chunks."""
    path = tmp_path / "large.csv"
    random = np.random.default_rng(1)
    table = pa.table({"uid": random.permutation(1_000_000), "score": random.normal(size=1_000_000)})
    pa_csv.write_csv(table, path)
    assert path.stat().st_size > 20 << 20
    return path


def test_async_client_hears_why_it_was_refused(
    coordinator: LocalCluster, there: list[str], scores: Path, large: Path
) -> None:
    """Every time, though the coordinator refuses while the file is still being sent."""

    async def inside() -> None:
        async with AsyncClient(coordinator.connection) as client:
            await client.upload_scores(scores, "dnn")
            for _ in range(10):
                with pytest.raises(Conflict, match="dnn"):
                    await client.upload_scores(large, "dnn")
            await client.delete_upload("dnn")

    asyncio.run(inside())


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_coordinator_that_dies_meanwhile_costs_what_was_on_the_way(
    tmp_path: Path, large: Path, kind: str
) -> None:
    sent: list[int] = []

    with LocalCluster(workers=0, state_dir=tmp_path / "own") as cluster:
        cluster.wait_until_ready()

        def kill_once(done: int, _: int) -> None:
            sent.append(done)
            if len(sent) == 15:
                os.kill(cluster.pids()["coordinator"], signal.SIGKILL)

        async def asynchronously() -> ScoresUpload:
            async with AsyncClient(cluster.connection) as client:
                return await client.upload_scores(large, "large", progress=kill_once)

        if kind == "AsyncClient":
            done = asyncio.run(asynchronously())
        else:
            with cluster.client() as client:
                done = client.upload_scores(large, "large", progress=kill_once)
    assert done.rows == 1_000_000
    assert sent[-1] == large.stat().st_size
    again = next(at for at in range(1, len(sent)) if sent[at] <= sent[at - 1])
    assert again >= 15
    assert sent[again] > 4 << 20  # it went on, not from the beginning


def test_interrupting_and_running_again_goes_on(
    there: list[str], large: Path, client: Client, tmp_path: Path
) -> None:
    sent: list[int] = []
    far, held = threading.Event(), threading.Event()

    def stop(done: int, _: int) -> None:
        sent.append(done)
        if len(sent) == 12:
            far.set()
            held.wait(30)

    with client_of(there) as first:
        worker = threading.Thread(target=_ignoring_unavailable, args=(first, large, stop))
        worker.start()
        digest = hashlib.sha256(large.read_bytes()).hexdigest()
        assert far.wait(30)
        until = time.monotonic() + 30
        while _reached(client, digest) < 4 << 20:
            assert time.monotonic() < until, "what was sent never arrived"
        first.close()
        held.set()
        worker.join()
    reached = _reached(client, digest)
    assert reached >= 4 << 20
    seen: list[int] = []
    done = client.upload_scores(large, "large", progress=lambda at, _: seen.append(at))
    assert done.rows == 1_000_000
    assert seen[0] > reached


def client_of(options: list[str]) -> Client:
    from gdmix_client.connection import connection_to

    return Client(connection_to(options[1], token_file=options[3]))


def _ignoring_unavailable(client: Client, path: Path, progress: Any) -> None:
    try:
        client.upload_scores(path, "large", progress=progress)
    except (Unavailable, ValueError):  # the channel is closed
        return


def _reached(client: Client, digest: str) -> int:
    found = client._upload_of("large", digest)
    return 0 if found is None else found.received


# ---- when to go on ---------------------------------------------------------------------------------------


@pytest.fixture
def file() -> ScoresFile:
    return ScoresFile(
        path=Path("x.csv"),
        name="x",
        form="csv",
        uid_column="uid",
        score_column="score",
        role="",
        replace=False,
        progress=None,
    )


READY = ScoresUpload(
    name="x",
    state=UploadState.READY,
    role="",
    format="csv",
    byte_size=10,
    sha256="0",
    received=10,
    created=1.0,
)
HALF = replace(READY, state=UploadState.UPLOADING, received=5)


def test_where_to_begin(file: ScoresFile) -> None:
    assert file.offset(None) == 0
    assert file.offset(HALF) == 5
    assert file.offset(None) == 0
    assert file.offset(READY) is None


def test_scores_that_were_there_before_are_not_taken_for_these(file: ScoresFile) -> None:
    assert file.offset(READY) == 0
    assert file.offset(READY) == 0
    assert file.offset(replace(READY, created=2.0)) is None


def test_only_broken_connections_are_taken_up_again(file: ScoresFile) -> None:
    for error in (Conflict("x"), DataError("x"), UsageError("x"), NotPermitted("x")):
        assert file.delay_after(error) is None
    assert file.delay_after(Unavailable("x")) is not None
    assert file.delay_after(Conflict("x")) is not None
    assert file.delay_after(DataError("x")) is None


def test_a_few_tries_without_progress_are_enough(file: ScoresFile) -> None:
    file.offset(None)
    tries = 0
    while file.delay_after(Unavailable("x")) is not None:
        tries += 1
        assert file.offset(HALF if tries > 3 else None) is not None
    assert tries == 4 + 5  # there was progress before the fifth


def test_only_what_follows_the_offset_is_sent(tmp_path: Path, file: ScoresFile) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(bytes(3 << 20))
    moved = replace(file, path=path)
    moved.measure()
    assert moved.byte_size == 3 << 20
    assert moved.sha256 == hashlib.sha256(bytes(3 << 20)).hexdigest()
    assert [len(message.data) for message in moved.messages(0)] == [1 << 20] * 3
    assert [len(message.data) for message in moved.messages((2 << 20) + 7)] == [(1 << 20) - 7]
    assert moved.call(5).request.header.offset == 5  # type: ignore[attr-defined]


def test_no_coordinator(scores: Path) -> None:
    done = run("upload", scores, "--name", "a")
    assert done.exit_code == 2
    assert "no coordinator" in done.stderr
