"""`Client` and `AsyncClient` against a real coordinator: values in, values out, and errors of our own classes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gdmix_client import (
    AsyncClient,
    Client,
    Connection,
    CoordinateReport,
    Job,
    JobState,
    LocalCluster,
    Metric,
    Progress,
    Published,
    StateChanged,
    connection_to,
    rpc,
)
from gdmix_client.transport import Transport
from gdmix_core.config import load_config
from gdmix_core.errors import (
    ConfigError,
    Conflict,
    NotFound,
    NotPermitted,
    Unavailable,
    UsageError,
)

JobFile = Callable[..., Path]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client() as opened:
        yield opened


def check_finished(job: Job, directory: Path) -> None:
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.state.ended
    assert (job.model, job.train_rows, job.validation_rows) == ("shop", 400, 100)
    assert job.seconds is not None
    assert job.seconds > 0
    fixed, random = job.kept_coordinates
    assert isinstance(fixed, CoordinateReport)
    assert (fixed.name, fixed.kind, fixed.what) == ("global", "fixed_effect", "logistic_regression")
    assert (random.name, random.kind, random.what) == ("per_user", "random_effect", "user_id")
    assert (random.entities, random.rows, random.unconverged) == (11, 400, 0)
    assert sum(random.statuses.values()) == 11
    auc, logloss, per_user = random.validation
    assert isinstance(auc, Metric)
    assert (auc.name, logloss.name, per_user.name) == ("auc", "logloss", "auc:user_id")
    assert per_user.entities is not None
    assert per_user.entities_undefined is not None
    assert per_user.entities + per_user.entities_undefined == 11
    assert isinstance(job.published, Published)
    assert job.published.activated
    assert job.published.store == f"lmdb:{directory}/out/store"
    assert len(job.published.content_digest) == 64


# ---- jobs ------------------------------------------------------------------------------------------------


def test_a_job_from_submit_to_published(client: Client, job_file: JobFile, tmp_path: Path) -> None:
    queued = client.submit(job_file())
    assert not queued.state.ended
    events = list(client.watch(queued.job_id))
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert {event.job_id for event in events} == {queued.job_id}
    kinds = {type(event.detail) for event in events}
    assert {StateChanged, Progress, CoordinateReport, Published} <= kinds
    assert events[-1].state is JobState.SUCCEEDED
    job = client.get(queued.job_id)
    check_finished(job, tmp_path)
    assert job.last_sequence == sequences[-1]
    assert client.wait(job.job_id) == job
    assert client.list(1) == (job,)
    assert json.loads(job.config_json)["model"] == "shop"
    # A watcher that comes back later misses nothing and sees nothing twice.
    middle = sequences[len(sequences) // 2]
    later = [event.sequence for event in client.watch(job.job_id, after_sequence=middle)]
    assert later
    assert later[0] > middle
    assert later[-1] == sequences[-1]


def test_what_a_config_may_be(
    client: Client, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job_file()
    checked = load_config(path)
    monkeypatch.chdir(tmp_path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    jobs = [client.submit(config) for config in (path, str(path), checked, plain)]
    assert len({job.config_json for job in jobs}) == 1
    assert len({job.job_id for job in jobs}) == 4
    for job in jobs:
        assert job.output == str(tmp_path / "out")
        client.wait(job.job_id)


def test_the_same_request_is_the_same_job(client: Client, job_file: JobFile) -> None:
    config = job_file()
    first = client.submit(config, request_id="request-of-this-test")
    again = client.submit(config, request_id="request-of-this-test")
    assert again.job_id == first.job_id
    check_finished(client.wait(first.job_id), config.parent)


def test_cancel_resume_delete(client: Client, long_job: Path, tmp_path: Path) -> None:
    job_id = client.submit(long_job).job_id
    with pytest.raises(Conflict, match=job_id):
        client.resume(job_id)
    with pytest.raises(Conflict, match=job_id):
        client.delete(job_id)
    assert client.cancel(job_id).state in {JobState.CANCELLING, JobState.CANCELLED}
    cancelled = client.wait(job_id)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.published is None
    with pytest.raises(Conflict, match=job_id):
        client.cancel(job_id)
    client.resume(job_id)
    check_finished(client.wait(job_id), tmp_path)
    with pytest.raises(Conflict, match=job_id):
        client.resume(job_id)
    client.delete(job_id)
    with pytest.raises(NotFound, match=job_id):
        client.get(job_id)
    assert job_id not in {job.job_id for job in client.list(10_000)}


def test_a_failed_job_says_why(client: Client, job_file: JobFile, train_rows: Any) -> None:
    job = client.wait(client.submit(job_file(train=train_rows.drop_columns(["x"]))).job_id)
    assert job.state is JobState.FAILED
    assert job.error_code == "config"
    assert "column 'x'" in job.error
    assert job.published is None
    assert job.kept_coordinates == ()


def test_models(client: Client, job_file: JobFile) -> None:
    config = job_file()
    first, second = (client.wait(client.submit(config).job_id).published for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.content_digest == second.content_digest
    store = first.store
    assert [v.version for v in client.list_models("shop", store=store)] == [2, 1]
    assert client.list_models("no-such-model", store=store) == ()
    active = client.get_model("shop", store=store)
    assert (active.version, active.state, active.entities) == (2, "active", 11)
    assert json.loads(active.manifest_json)["model"] == "shop"
    assert client.activate_model("shop", 1, store=store).state == "active"
    assert client.get_model("shop", store=store).version == 1
    with pytest.raises(Conflict, match="active"):
        client.delete_model("shop", 1, store=store)
    client.delete_model("shop", 2, store=store)
    with pytest.raises(NotFound, match="version 2"):
        client.get_model("shop", 2, store=store)
    with pytest.raises(NotFound, match="no-such-model"):
        client.get_model("no-such-model", store=store)


def test_a_version_that_is_not_to_be_activated(client: Client, job_file: JobFile) -> None:
    config = job_file(activate=False)
    published = client.wait(client.submit(config).job_id).published
    assert published is not None
    assert (published.activated, published.winner) == (False, None)
    assert client.get_model("shop", 1, store=published.store).state == "sealed"
    with pytest.raises(NotFound, match="shop"):
        client.get_model("shop", store=published.store)
    assert client.activate_model("shop", 1, store=published.store).state == "active"


def test_cluster(client: Client, cluster: LocalCluster) -> None:
    found = client.cluster()
    assert found.epoch == 1
    assert found.store == ""
    (worker,) = found.workers
    assert worker.pid == cluster.pids()["worker-1"]
    assert worker.threads == 1
    assert worker.fingerprint


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["get", "cancel", "resume", "delete", "wait"])
def test_no_such_job(client: Client, name: str) -> None:
    with pytest.raises(NotFound, match="no-such-job"):
        getattr(client, name)("no-such-job")


def test_mistakes_in_a_config_come_all_at_once(client: Client, job_file: JobFile) -> None:
    before = client.list(10_000)
    with pytest.raises(ConfigError) as caught:
        client.submit(job_file(passses=2, task="logistic"))
    assert len(caught.value.problems) == 2
    assert client.list(10_000) == before


def test_a_config_that_only_the_coordinator_refuses(cluster: LocalCluster) -> None:
    """Not every program that speaks to a coordinator checks a config first."""
    with closing(Transport(cluster.connection)) as transport, pytest.raises(ConfigError) as caught:
        transport.call(rpc.submit_job("another-request", '{"no_such_key": 1}'))
    assert "no_such_key" in str(caught.value)


@pytest.mark.parametrize("token", [None, "an-entirely-wrong-token"])
def test_without_the_token(cluster: LocalCluster, token: str | None) -> None:
    with Client(Connection(cluster.address, token)) as client:
        for call in (client.list, client.cluster, lambda: client.wait("j")):
            with pytest.raises(NotPermitted):
                call()


def test_nobody_there() -> None:
    with Client(NOBODY) as client:
        with pytest.raises(Unavailable, match=f"{NOBODY}: connection refused"):
            client.cancel("j")
        with pytest.raises(Unavailable, match=NOBODY):
            next(client.watch("j", reconnect_seconds=0.0))


def test_somebody_who_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        call = dataclasses.replace(rpc.get_cluster(), timeout_seconds=1.0)
        with closing(Transport(Connection(address))) as transport, pytest.raises(Unavailable) as caught:
            transport.call(call)
    assert str(caught.value) == f"the coordinator at {address} did not answer within 1 s"


def test_a_coordinator_far_away(cluster: LocalCluster) -> None:
    """A connection that takes its time to come about is waited for."""
    token = cluster.connection.token
    with (
        slow_way_to(cluster.address, delay_seconds=0.5) as address,
        Client(Connection(address, token)) as client,
        pytest.raises(NotFound),
    ):
        client.cancel("no-such-job")  # one try only: it may not be repeated


@contextmanager
def slow_way_to(address: str, delay_seconds: float) -> Iterator[str]:
    """Pass one connection on to an address, the first bytes from there so much later."""
    host, port = address.split(":")
    with (
        socket.create_server(("127.0.0.1", 0)) as entrance,
        socket.create_connection((host, int(port))) as there,
    ):
        here: list[socket.socket] = []

        def pump(source: socket.socket, sink: socket.socket, delay: float) -> None:
            try:
                threading.Event().wait(delay)
                while data := source.recv(65_536):
                    sink.sendall(data)
            except OSError:
                return

        def accept() -> None:
            accepted, _ = entrance.accept()
            here.append(accepted)
            back = threading.Thread(target=pump, args=(there, accepted, delay_seconds))
            back.start()
            pump(accepted, there, 0.0)
            there.shutdown(socket.SHUT_RDWR)
            back.join()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{entrance.getsockname()[1]}"
        for accepted in here:
            accepted.shutdown(socket.SHUT_RDWR)
        thread.join()
        for accepted in here:
            accepted.close()


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":1", "localhost:65536", "localhost:x"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        Client(address)


def test_the_environment_names_the_coordinator(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDMIX_COORDINATOR", cluster.address)
    monkeypatch.setenv("GDMIX_TOKEN", cluster.token_file.read_text(encoding="ascii"))
    with Client() as client:
        assert client.address == cluster.address
        assert client.cluster().workers


def test_secrets_are_not_shown(cluster: LocalCluster) -> None:
    connection = connection_to(cluster.address, token_file=cluster.token_file)
    assert connection == cluster.connection
    assert connection.token is not None
    assert connection.token not in repr(connection)


# ---- asyncio ---------------------------------------------------------------------------------------------


def test_asyncio(cluster: LocalCluster, job_file: JobFile, tmp_path: Path) -> None:
    async def story() -> Job:
        async with AsyncClient(cluster.connection) as client:
            assert client.address == cluster.address
            job_id = (await client.submit(job_file())).job_id

            async def sequences(after: int = 0) -> list[int]:
                return [event.sequence async for event in client.watch(job_id, after_sequence=after)]

            one, other, job = await asyncio.gather(sequences(), sequences(), client.wait(job_id))
            assert one == sorted(set(one))
            assert one[-1] == other[-1] == job.last_sequence
            assert (await sequences(one[-2]))[-1] == one[-1]
            assert (await client.list(1))[0] == job
            assert len((await client.cluster()).workers) == 1
            store = f"lmdb:{tmp_path}/out/store"
            assert [v.version for v in await client.list_models("shop", store=store)] == [1]
            assert (await client.get_model("shop", store=store)).state == "active"
            assert (await client.activate_model("shop", 1, store=store)).version == 1
            with pytest.raises(Conflict):
                await client.delete_model("shop", 1, store=store)
            return job

    check_finished(asyncio.run(story()), tmp_path)


def test_asyncio_cancel_resume_delete(cluster: LocalCluster, long_job: Path) -> None:
    async def story() -> None:
        async with AsyncClient(cluster.connection) as client:
            job_id = (await client.submit(long_job)).job_id
            async for event in client.watch(job_id):  # left early: the client stays good for more
                if isinstance(event.detail, Progress):
                    break
            await client.cancel(job_id)
            assert (await client.wait(job_id)).state is JobState.CANCELLED
            await client.resume(job_id)
            assert (await client.wait(job_id)).state is JobState.SUCCEEDED
            await client.delete(job_id)
            with pytest.raises(NotFound, match=job_id):
                await client.get(job_id)

    asyncio.run(story())


def test_asyncio_errors(cluster: LocalCluster, job_file: JobFile) -> None:
    async def story() -> None:
        async with AsyncClient(cluster.connection) as client:
            with pytest.raises(ConfigError, match="passses"):
                await client.submit(job_file(passses=2))
            with pytest.raises(NotFound, match="no-such-job"):
                await client.wait("no-such-job")
        async with AsyncClient(Connection(cluster.address)) as client:
            with pytest.raises(NotPermitted):
                await client.list()
        async with AsyncClient(NOBODY) as client:
            with pytest.raises(Unavailable, match=f"{NOBODY}: connection refused"):
                await client.cancel("j")
            with pytest.raises(Unavailable, match=NOBODY):
                async for _ in client.watch("j", reconnect_seconds=0.0):
                    pass

    asyncio.run(story())


def test_both_clients_offer_the_same() -> None:
    def offers(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert offers(Client) == offers(AsyncClient)
