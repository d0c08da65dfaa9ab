"""A store that is emptied, damaged, slow, stopped or gone: what was declared happens, and it heals by itself."""

from __future__ import annotations

import os
import signal
import time

import grpc
import numpy as np
import pytest

from gdmix_core.store import open_store

POLICY = "--on-store-failure"


def value(response) -> float:
    return np.frombuffer(response.packed_scores, "<f8")[0]


def refusal(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


def attempt(call):
    """Return an answer, or None where the scorer could not give one yet."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def test_an_emptied_store_never_looks_like_unknown_entities(publish, scorer, until, redis_server):
    publish(redis_server.url)
    with scorer(redis_server.url) as running, running.stub() as stub:
        assert value(running.score("ann", stub)) == 0.625
        with open_store(redis_server.url) as store:
            store._client.flushall()
        gone = refusal(lambda: running.score("bob", stub))
        assert gone.code() is grpc.StatusCode.UNAVAILABLE
        late = until(lambda: attempt_fails(running, stub))
        assert late.details() == "model 'movies' has no active version in the store"
        assert running.count("unknown_entities_total") == 0
        until(lambda: running.page_status("/readyz") == 503)
        publish(redis_server.url, bias={"ann": 7.0})  # the same number again, other numbers in it
        answer = until(lambda: attempt(lambda: running.score("ann", stub)))
        assert (answer.version, value(answer)) == (1, 7.125)


def attempt_fails(running, stub) -> grpc.RpcError | None:
    try:
        running.score("ann", stub)
    except grpc.RpcError as error:
        return error if error.code() is grpc.StatusCode.UNAVAILABLE else None
    return None


def test_an_emptied_store_with_the_fixed_effect_only(publish, scorer, until, redis_server):
    publish(redis_server.url)
    with scorer(redis_server.url, POLICY, "fixed-effect-only") as running, running.stub() as stub:
        running.score("ann", stub)
        with open_store(redis_server.url) as store:
            store._client.flushall()
        answer = until(lambda: degraded(running.score("ann", stub)))
        assert value(answer) == 0.125
        assert "no longer in the store" in answer.degraded_reason
        assert running.count("degraded_total") >= 1
        publish(redis_server.url)
        healed = until(lambda: whole(running.score("ann", stub)))
        assert value(healed) == 0.625


def degraded(response):
    return response if response.degraded else None


def whole(response):
    return None if response.degraded else response


@pytest.mark.parametrize("policy", ["unavailable", "fixed-effect-only"])
def test_a_store_that_is_gone_and_comes_back(publish, scorer, until, redis_server, policy):
    publish(redis_server.url)
    with scorer(redis_server.url, POLICY, policy) as running, running.stub() as stub:
        known = running.score("ann", stub)
        redis_server.stop()
        assert running.score("ann", stub).packed_scores == known.packed_scores  # it was read before
        if policy == "unavailable":
            error = refusal(lambda: running.score("bob", stub))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "cannot be reached" in error.details()
        else:
            answer = running.score("bob", stub)
            assert answer.degraded
            assert value(answer) == 0.125
            assert "cannot be reached" in answer.degraded_reason
        assert running.count("unknown_entities_total") == 0
        redis_server.start()
        publish(redis_server.url)
        healed = until(lambda: attempt(lambda: whole(running.score("bob", stub))))
        assert value(healed) == -1.125


def test_a_store_that_hangs_is_answered_by_policy_within_the_deadline(publish, scorer, until, redis_server):
    publish(redis_server.url)
    with scorer(redis_server.url, POLICY, "fixed-effect-only") as running, running.stub() as stub:
        assert not running.score("ann", stub).degraded
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        try:
            answer = running.score("bob", stub, timeout=0.5)
            assert answer.degraded
            assert "did not answer within" in answer.degraded_reason
            began = time.monotonic()  # the next ones do not wait for a store that just failed
            answers = [running.score(f"user-{i}", stub, timeout=0.5) for i in range(10)]
            assert all(one.degraded for one in answers)
            assert time.monotonic() - began < 10 * 0.3
            assert value(running.score("ann", stub)) == 0.625
        finally:
            os.kill(redis_server.process.pid, signal.SIGCONT)
        healed = until(lambda: whole(running.score("bob", stub)))
        assert value(healed) == -1.125


@pytest.mark.parametrize(
    ("policy", "status"), [("unavailable", grpc.StatusCode.DATA_LOSS), ("fixed-effect-only", None)]
)
def test_a_corrupt_record_is_never_a_silent_wrong_score(publish, scorer, redis_server, policy, status):
    publish(redis_server.url)
    key = "gdmix:movies:v1:e:per_user:bob"
    with open_store(redis_server.url) as store:
        record = bytearray(store._client.get(key))
        record[-1] ^= 0x40
        store._client.set(key, bytes(record))
    with scorer(redis_server.url, POLICY, policy) as running, running.stub() as stub:
        if status is None:
            answer = running.score("bob", stub)
            assert answer.degraded
            assert value(answer) == 0.125
            assert answer.degraded_reason == "the record of entity 'bob' fails its checksum"
        else:
            error = refusal(lambda: running.score("bob", stub))
            assert (error.code(), error.details()) == (
                status,
                "the record of entity 'bob' fails its checksum",
            )
        assert running.count("damaged_records_total") == 1
        assert value(running.score("ann", stub)) == 0.625


def test_a_store_without_its_seal_serves_nothing_of_it(publish, scorer, redis_server):
    publish(redis_server.url)
    with scorer(redis_server.url) as running, running.stub() as stub:
        with open_store(redis_server.url) as store:
            store._client.delete("gdmix:movies:v1:seal")
        error = refusal(lambda: running.score("somebody", stub))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "it has no seal" in error.details()
        pinned = refusal(lambda: running.score("somebody", stub, version=1))
        assert pinned.code() is grpc.StatusCode.NOT_FOUND
        assert running.count("unknown_entities_total") == 0


def test_small_caches_give_the_same_answers(publish, scorer, redis_server):
    bias = {f"user-{i}": i / 8 for i in range(3000)}
    publish(redis_server.url, bias=bias)
    for megabytes in (0, 1):
        with scorer(redis_server.url, "--cache-mb", megabytes) as running, running.stub() as stub:
            for i in range(0, 3000, 100):
                ids = [f"user-{j}" for j in range(i, i + 100)]
                request = many(ids)
                for _ in range(2):
                    found = np.frombuffer(stub.Score(request, timeout=10).packed_scores, "<f8")
                    assert found.tolist() == [0.125 + bias[one] for one in ids]


def many(ids):
    from gdmix_proto.v1 import scoring_pb2 as wire

    return wire.ScoreRequest(
        columnar=wire.ColumnarInput(
            candidates=len(ids),
            entities=[
                wire.EntityIds(
                    column="user_id",
                    ids="".join(ids).encode(),
                    offsets=np.cumsum([0, *map(len, ids)]).astype("<i4").tobytes(),
                )
            ],
        )
    )
