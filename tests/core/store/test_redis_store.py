"""What only a Redis server can do to us."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from gdmix_core.errors import Conflict, StoreError, StoreUnavailable, UsageError, VersionGone
from gdmix_core.store import CoefficientBlock, open_store


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "allkeys-lfu"])
def test_a_store_that_evicts_is_refused(redis_case: Any, policy: str, schema: int) -> None:
    with redis.Redis.from_url(redis_case.url) as client, redis_case.open() as store:
        ticket = store.begin_version("movies")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", policy)
        for act in (
            lambda: store.check_ready("movies"),
            lambda: store.begin_version("movies"),
            lambda: store.finish(ticket, [], b"{}", {}, schema=schema),
        ):
            with pytest.raises(Conflict, match=f"maxmemory-policy {policy}.*noeviction"):
                act()
        client.config_set(
            "maxmemory-policy", "volatile-lru"
        )  # evicts keys with a time to live, ours have none
        store.check_ready("movies")
        store.begin_version("movies")


def test_a_store_that_cannot_be_reached_is_not_ready(redis_case: Any) -> None:
    with redis_case.open() as store:
        store.check_ready("never published")
        assert store.list_models() == []
    with open_store("redis://127.0.0.1:1/0") as store, pytest.raises(StoreUnavailable):
        store.check_ready("movies")


def test_out_of_memory_is_said_and_leaves_the_connection_usable(
    redis_case: Any, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    with redis.Redis.from_url(redis_case.url) as client, redis_case.open() as store:
        block = make_block([b"%d" % i for i in range(5000)])
        ticket = store.begin_version("movies")
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        with pytest.raises(StoreError, match="out of memory"):
            store.write_part(ticket, "c", 0, [block], schema=schema)
        client.config_set("maxmemory", 0)  # and the part is tried again, over what the first attempt left
        part = store.write_part(ticket, "c", 0, [block], schema=schema)
        store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"c": 5000})


def test_a_block_that_fails_in_the_middle_leaves_no_unread_replies(
    redis_case: Any, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    def blocks() -> Iterator[CoefficientBlock]:
        yield make_block([b"%d" % i for i in range(3000)])
        raise OSError("the disk is gone")

    with redis_case.open() as store:
        ticket = store.begin_version("movies")
        with pytest.raises(OSError, match="disk is gone"):
            store.write_part(ticket, "c", 0, blocks(), schema=schema)
        assert store.get_active("movies") is None
        part = store.write_part(ticket, "c", 0, [make_block([b"%d" % i for i in range(3000)])], schema=schema)
        store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"c": 3000})


def test_a_straggler_stops_writing_once_its_version_is_gone(
    redis_case: Any, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    with redis_case.open() as store, redis.Redis.from_url(redis_case.url) as client:
        ticket = store.begin_version("movies")

        def blocks() -> Iterator[CoefficientBlock]:
            yield make_block([b"a"])
            store.abandon(ticket)
            for number in range(1000):
                yield make_block([b"late%d" % number])

        with pytest.raises(VersionGone):
            store.write_part(ticket, "c", 0, blocks(), schema=schema)
        assert client.dbsize() < 10


def test_a_lost_seal_alone_makes_the_version_unreadable(redis_case: Any, publish: Callable[..., Any]) -> None:
    with redis_case.open() as store:
        publish(store)
        redis_case.tamper("movies", 1, b"seal", lambda value: None)
        with pytest.raises(VersionGone, match="no seal"):
            store.get_many("movies", 1, {"per_user": [b"user1"]})
        with pytest.raises(VersionGone, match="lost its seal"):
            store.activate("movies", 1, expected_active=None)
        assert [str(info.state) for info in store.list_versions("movies")] == ["deleting"]


def test_deleting_leaves_nothing_behind(redis_case: Any, publish: Callable[..., Any]) -> None:
    with redis_case.open() as store, redis.Redis.from_url(redis_case.url) as client:
        publish(store, entities=5000)
        store.delete_version("movies", 1)
        assert sorted(client.keys()) == [b"gdmix:models", b"gdmix:movies:control"]
        client.set("somebody:else", "1")


def test_pollers_read_the_active_version_from_one_small_key(
    redis_case: Any, publish: Callable[..., Any]
) -> None:
    with redis_case.open() as store, redis.Redis.from_url(redis_case.url) as client:
        publish(store)
        assert client.get("gdmix:movies:active") is None
        store.activate("movies", 1, expected_active=None)
        assert client.get("gdmix:movies:active") == b"1"


def test_an_unreachable_server(free_port: int) -> None:
    with open_store(f"redis://:secret@127.0.0.1:{free_port}/0") as store:
        assert "secret" not in repr(store)
        with pytest.raises(StoreUnavailable, match=r"redis://127.0.0.1:\d+/0 cannot be reached") as caught:
            store.get_active("movies")
        assert "secret" not in str(caught.value)


def test_a_server_that_never_answers(make_block: Callable[..., CoefficientBlock], schema: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"redis://127.0.0.1:{port}/0?socket_timeout=0.1"
        with open_store(url) as store, pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.list_models()


def test_wrong_credentials(redis_case: Any) -> None:
    with redis.Redis.from_url(redis_case.url) as client:
        client.config_set("requirepass", "right")
    try:
        wrong = redis_case.url.replace("redis://", "redis://:wrong@")
        with (
            open_store(wrong) as store,
            pytest.raises(StoreUnavailable, match="refuses the credentials") as caught,
        ):
            store.list_models()
        assert "wrong" not in str(caught.value)
        with open_store(redis_case.url.replace("redis://", "redis://:right@")) as store:
            assert store.list_models() == []
    finally:
        with redis.Redis.from_url(redis_case.url.replace("redis://", "redis://:right@")) as client:
            client.config_set("requirepass", "")


def test_control_survives_many_writers(redis_case: Any) -> None:
    """WATCH/MULTI under contention: no number is given out twice."""
    found: list[int] = []

    def work() -> None:
        with redis_case.open() as store:
            found.extend(store.begin_version("movies").version for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 41))


@pytest.mark.parametrize("url", ["http://x", "redis:", "", "lmdb:", "redis://h:port/0"])
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
