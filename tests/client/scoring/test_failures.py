"""What callers see when a scorer is away, frozen, restarted, behind TLS, or no scorer at all."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gdmix_client import (
    AsyncScorer,
    Connection,
    LocalCluster,
    LocalScorer,
    ReadableRequest,
    Scorer,
    Scores,
    scorer_connection_to,
)
from gdmix_client.cli.score_rows import RowBatch
from gdmix_client.cli.score_run import ScoreOptions, ScoreRun
from gdmix_client.role_process import RoleProcess, role_command
from gdmix_core.errors import DeadlineExceeded, GdmixError, Overloaded, Unavailable, UsageError

from .conftest import CANDIDATES, publish_shop

ANN = {"user_id": "ann", "age": 0.5}
ROWS = [candidate.row for candidate in CANDIDATES]
CERTIFICATES = Path(__file__).parents[2] / "server" / "certificates"
PATIENCE_SECONDS = 60.0


def blocking(connection: Connection | str, **keywords: Any) -> Any:
    with Scorer(connection) as scorer:
        return scorer.score(ANN, keywords.pop("rows", ROWS), model="shop", **keywords)


def asynchronous(connection: Connection | str, **keywords: Any) -> Any:
    async def ask() -> Any:
        async with AsyncScorer(connection) as scorer:
            return await scorer.score(ANN, keywords.pop("rows", ROWS), model="shop", **keywords)

    return asyncio.run(ask())


def streaming(connection: Connection | str, **keywords: Any) -> Any:
    request = ReadableRequest(context=ANN, candidates=keywords.pop("rows", ROWS), model="shop")
    with Scorer(connection) as scorer:
        return list(scorer.stream([request], **keywords))


every_way = pytest.mark.parametrize("ask", [blocking, asynchronous, streaming])
both_ways = pytest.mark.parametrize("ask", [blocking, asynchronous])


@pytest.fixture
def own(store: str) -> Iterator[LocalScorer]:
    """A scorer of two processes that a test may harm."""
    with LocalScorer(store, processes=2) as running:
        running.wait_until_ready()
        yield running


def serving_processes(running: LocalScorer) -> list[int]:
    with urllib.request.urlopen(f"http://{running.admin_address}/status", timeout=10) as page:
        return [child["pid"] for child in json.load(page)["children"]]


@contextmanager
def frozen(running: LocalScorer) -> Iterator[None]:
    """Stop the serving processes for a while; connections to them stay."""
    pids = serving_processes(running)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# ---- nobody there ----------------------------------------------------------------------------------------


@every_way
def test_nobody_listens(ask: Callable[..., Any]) -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        ask("127.0.0.1:1", timeout_seconds=30)
    assert "cannot reach the scorer at 127.0.0.1:1: connection refused" in str(caught.value)
    assert time.monotonic() - begun < 10


@every_way
def test_a_coordinator_is_no_scorer(ask: Callable[..., Any], cluster: LocalCluster) -> None:
    with pytest.raises(UsageError) as caught:
        ask(cluster.connection)
    assert f"what answers at {cluster.address} is no scorer of this version" in str(caught.value)


def test_a_killed_process_costs_nobody_an_answer(own: LocalScorer) -> None:
    """What one process leaves unanswered is asked again over another connection; another process starts."""
    failures: list[GdmixError] = []
    instances: set[str] = set()
    over = threading.Event()

    def ask_on() -> None:
        with own.client() as scorer:
            while not over.is_set():
                try:
                    instances.add(scorer.score(ANN, ROWS, model="shop", timeout_seconds=10).instance)
                except GdmixError as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = serving_processes(own)
    psutil.Process(before[0]).kill()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while before[0] in (now := serving_processes(own)) or None in now:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with own.client() as scorer:
        for _ in range(20):
            scorer.score(ANN, ROWS, model="shop", timeout_seconds=10)
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert instances


def test_a_scorer_that_comes_back_is_used_at_once(store: str) -> None:
    """The same client goes on once there is a scorer again; meanwhile it says that nobody is there."""
    with LocalScorer(store) as first:
        first.wait_until_ready()
        port = int(first.address.rpartition(":")[2])
        token = first.token_file.read_text(encoding="ascii")
        scorer = first.client()
        scorer.score(ANN, ROWS, model="shop")
    with scorer:
        with pytest.raises(Unavailable, match="cannot reach the scorer"):
            scorer.score(ANN, ROWS, model="shop")
        with _scorer(store, port, token) as process:
            process.wait_for("ready", PATIENCE_SECONDS)
            deadline = time.monotonic() + 2
            while True:
                try:
                    assert scorer.score(ANN, ROWS, model="shop").version == 2
                    break
                except Unavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)


@contextmanager
def _scorer(store: str, port: int, token: str, *more: str) -> Iterator[RoleProcess]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "token")
        file.touch(mode=0o600)
        file.write_text(token, encoding="ascii")
        command = role_command(
            *("scorer", "--store", store, "--port", str(port), "--processes", "1"),
            *("--token-file", str(file), *more),
        )
        process = RoleProcess("scorer", command, Path(directory, "log"))
        try:
            yield process
        finally:
            process.stop()


# ---- too late, too much ----------------------------------------------------------------------------------


@every_way
def test_a_scorer_that_does_not_answer_in_time(ask: Callable[..., Any], own: LocalScorer) -> None:
    with frozen(own):
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            ask(own.connection, timeout_seconds=0.4)
        took = time.monotonic() - begun
    assert str(caught.value) == f"the scorer at {own.address} did not answer within 0.4 s"
    assert caught.value.exit_code == 3
    assert 0.3 < took < 5  # it was not tried again


def test_a_request_that_waited_too_long_is_refused_and_not_sent_again(own: LocalScorer) -> None:
    """The scorer knows the whole budget, and refuses a request that has waited most of it away."""
    with own.client() as scorer:
        scorer.score(ANN, ROWS, model="shop")
        found: list[BaseException] = []

        def ask() -> None:
            try:
                scorer.score(ANN, ROWS, model="shop", timeout_seconds=2.4)
            except GdmixError as error:
                found.append(error)

        with frozen(own):
            thread = threading.Thread(target=ask)
            thread.start()
            # This is the time that the request has to wait away, not a wait for something to happen.
            thread.join(1.9)
            assert thread.is_alive()
        thread.join()
    assert [type(error) for error in found] == [Overloaded]
    assert "2400 ms" in str(found[0])


@both_ways
def test_a_request_that_is_too_large(ask: Callable[..., Any], served: LocalScorer) -> None:
    with pytest.raises(UsageError, match="too large"):
        ask(served.connection, rows=[{"color": "x" * (9 << 20)}], timeout_seconds=30)


class Collected:
    """Keeps what it is given instead of writing it."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def write(self, _: RowBatch, scores: Scores) -> None:
        self.scores += scores.scores.tolist()

    def finish(self) -> None:
        pass


def test_a_file_is_scored_in_spite_of_an_overloaded_scorer(own: LocalScorer) -> None:
    """Unlike the clients, the command has time: it comes again later."""
    options = ScoreOptions(
        model="shop", version=None, alias=None, contributions=False, timeout_seconds=4, input_name="rows"
    )
    sink, waited = Collected(), threading.Event()
    run = ScoreRun(options, sink, lambda _: None)
    batches = iter([RowBatch(first_row=1, rows=2, columns={"age": [1.0, None]})])
    with frozen(own):
        thread = threading.Thread(target=lambda: asyncio.run(run.run(own.connection, batches)))
        thread.start()
        waited.wait(2.6)  # more than half of the request's time, less than all of it
        assert thread.is_alive()
    thread.join()
    assert sink.scores == [2.25, 0.25]
    assert (run.summary.rows, run.summary.version) == (2, 2)


def test_a_lost_store(tmp_path: Path, cli: Any) -> None:
    """Under the policy `fixed-effect-only` there are scores without random effects, and a warning with them."""
    url = f"lmdb:{tmp_path / 'store'}"
    publish_shop(tmp_path / "model", url, 1)
    more = ("--on-store-failure", "fixed-effect-only")
    with _scorer(url, 0, "a-token-of-the-tests-own\n", *more) as process:
        address = f"127.0.0.1:{process.wait_for('listening', PATIENCE_SECONDS)['port']}"
        process.wait_for("ready", PATIENCE_SECONDS)
        shutil.rmtree(tmp_path / "store")
        connection = Connection(address, "a-token-of-the-tests-own")
        found = blocking(connection, timeout_seconds=10)
        assert found.degraded
        assert found.degraded_reason
        assert found.version == 1
        expected = [candidate.contributions("ann", 0.5)["global"] for candidate in CANDIDATES]
        assert found.scores.tolist() == pytest.approx(expected)
        (tmp_path / "rows.csv").write_text("user_id,age\nann,1\nbob,2\n", encoding="utf-8")
        environment = {"GDMIX_SCORER": address, "GDMIX_TOKEN": "a-token-of-the-tests-own"}
        done = cli("score", "rows.csv", "--output", "scores.csv", "--json", **environment)
        assert json.loads(done.stdout)["degraded_rows"] == 2
        assert done.stderr.startswith("warning: 2 rows")
        done = cli("score", "rows.csv", "--quiet", **environment)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: 2 rows were scored without all that belongs to them: ")
    assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == [2.25, 4.25]


# ---- TLS -------------------------------------------------------------------------------------------------


def test_tls(store: str, served: LocalScorer) -> None:
    token = "a-token-of-the-tests-own"
    more = ("--tls-cert", str(CERTIFICATES / "server.pem"), "--tls-key", str(CERTIFICATES / "server-key.pem"))
    with _scorer(store, 0, token + "\n", *more) as process:
        address = f"127.0.0.1:{process.wait_for('listening', PATIENCE_SECONDS)['port']}"
        process.wait_for("ready", PATIENCE_SECONDS)
        authority = (CERTIFICATES / "authority.pem").read_bytes()
        right = Connection(address, token, authority)
        assert blocking(right).version == 2
        assert asynchronous(right).version == 2
        other = Connection(address, right.token, (CERTIFICATES / "client.pem").read_bytes())
        for wrong, says in ((Connection(address), "needs --tls-ca"), (other, "not signed by the authority")):
            with pytest.raises(Unavailable, match=says):
                blocking(wrong, timeout_seconds=10)
    asked = scorer_connection_to(served.address, tls_ca=CERTIFICATES / "authority.pem")
    with pytest.raises(Unavailable, match="it does not speak TLS"):
        blocking(asked, timeout_seconds=10)
