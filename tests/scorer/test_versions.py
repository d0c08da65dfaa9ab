"""Versions come, take over, are pinned, roll back and vanish, while a scorer runs."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from gdmix_core.store import open_store
from gdmix_proto.v1 import scoring_pb2 as wire


def value(response) -> float:
    return np.frombuffer(response.packed_scores, "<f8")[0]


def refusal(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


def activate(url: str, version: int) -> None:
    with open_store(url) as store:
        store.activate("movies", version, expected_active=store.get_active("movies"))


def states(stub) -> dict[int, int]:
    found = stub.GetModelStatus(wire.GetModelStatusRequest(name="movies"), timeout=10)
    return {version.version: version.state for version in found.versions}


def test_activation_rollback_alias_and_pins(publish, scorer, until, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    publish(url, level=1.0)
    with scorer(url, processes=2) as running, running.stub() as stub:

        def everywhere(version: int) -> bool:
            active = [
                [v["version"] for v in child["versions"] if v["active"]] for child in running.children()
            ]
            return active == [[version], [version]]

        assert everywhere(1)
        assert value(running.score("nobody", stub)) == 1.0
        assert publish(url, level=2.0) == 2  # and activates it
        until(lambda: everywhere(2))
        answer = running.score("nobody", stub)
        assert (answer.version, value(answer)) == (2, 2.0)

        assert publish(url, level=3.0, activate=False) == 3
        pinned = running.score("nobody", stub, version=3)
        assert (pinned.version, value(pinned)) == (3, 3.0)
        assert running.score("nobody", stub).version == 2

        assert (
            "has no alias 'canary'; it has none"
            in refusal(lambda: running.score("ann", stub, alias="canary")).details()
        )
        with open_store(url) as store:
            store.set_alias("movies", "canary", 3)
        until(lambda: any("canary" in v.aliases for v in status(stub).versions))
        assert value(running.score("nobody", stub, alias="canary")) == 3.0

        activate(url, 1)
        until(lambda: everywhere(1))
        assert value(running.score("nobody", stub)) == 1.0

        missing = refusal(lambda: running.score("ann", stub, version=9))
        assert missing.code() is grpc.StatusCode.NOT_FOUND
        assert missing.details() == "version 9 of model 'movies' is not in the store; there: 1, 2, 3"
        unknown = refusal(lambda: running.score("ann", stub, name="songs"))
        assert (unknown.code(), unknown.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "model.name: 'songs' is not served here; served: 'movies'",
        )
        known = {version.version: version for version in status(stub).versions}
        assert known[1].active
        assert known[1].entities == {"per_user": 2}
        assert known[1].state == known[2].state == known[3].state == wire.VERSION_STATE_AVAILABLE


def status(stub):
    return stub.GetModelStatus(wire.GetModelStatusRequest(), timeout=10)


def test_a_scorer_waits_for_its_first_version(publish, scorer, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    with scorer(url, ready=False) as running, running.stub() as stub:
        early = refusal(lambda: running.score("ann", stub))
        assert (early.code(), early.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the store holds no model yet",
        )
        publish(url)
        running.wait_until_ready()
        assert value(running.score("ann", stub)) == 0.625


def test_a_deleted_version_is_gone_for_those_who_pin_it(publish, scorer, until, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    publish(url)
    publish(url)
    with scorer(url) as running, running.stub() as stub:
        assert running.score("ann", stub, version=1).version == 1
        with open_store(url) as store:
            store.delete_version("movies", 1)
        gone = until(lambda: failed(lambda: running.score("bob", stub, version=1)))
        assert gone.code() is grpc.StatusCode.NOT_FOUND
        until(lambda: states(stub).get(1) == wire.VERSION_STATE_END)
        (ended,) = [v for v in status(stub).versions if v.version == 1]
        assert (ended.error_code, ended.error) == ("version_gone", "the store no longer has it")
        assert running.score("ann", stub).version == 2


def failed(call) -> grpc.RpcError | None:
    try:
        call()
    except grpc.RpcError as error:
        return error
    return None


def test_several_models(publish, scorer, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    publish(url, level=1.0)
    publish(url, name="songs", level=5.0)
    with scorer(url) as running, running.stub() as stub:
        unnamed = refusal(lambda: running.score("nobody", stub))
        assert unnamed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert unnamed.details() == "model.name: several models are served, name one of 'movies', 'songs'"
        assert value(running.score("nobody", stub, name="songs")) == 5.0
    with scorer(url, "--model", "songs") as running:
        assert value(running.score("nobody")) == 5.0
        assert {v["model"] for v in running.children()[0]["versions"]} == {"songs"}


def test_a_damaged_version_is_told_and_the_old_one_goes_on(publish, scorer, until, redis_server):
    publish(redis_server.url, level=1.0)
    with scorer(redis_server.url) as running, running.stub() as stub:
        publish(redis_server.url, level=2.0, activate=False)
        with open_store(redis_server.url) as store:
            store._client.set("gdmix:movies:v2:b:feature_index.parquet:0", b"rubbish")
        activate(redis_server.url, 2)
        until(lambda: states(stub).get(2) == wire.VERSION_STATE_END)
        (broken,) = [v for v in status(stub).versions if v.version == 2]
        assert broken.error_code == "store_corrupt"
        assert "feature_index.parquet" in broken.error
        assert running.score("ann", stub).version == 1
        refused = refusal(lambda: running.score("ann", stub, version=2))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert running.count("version_loads_total", model="movies", outcome="failed") >= 1


def test_a_new_version_begins_with_the_entities_that_are_asked_for(publish, scorer, until, redis_server):
    publish(redis_server.url, level=1.0)
    with scorer(redis_server.url) as running, running.stub() as stub:
        for _ in range(2):
            running.score("ann", stub)
        assert running.count("cache_misses_total") == 1
        publish(redis_server.url, level=2.0)
        answer = until(lambda: found if (found := running.score("ann", stub)).version == 2 else None)
        assert value(answer) == 2.5
        assert running.count("cache_misses_total") == 1
