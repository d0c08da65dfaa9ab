"""Short forms of the load benchmarks: a swap under load, and more requests than can be answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import grpc
import grpc.aio
import numpy as np
import psutil

from gdmix_core.store import open_store
from gdmix_proto.v1 import scoring_pb2 as wire

SCORE = "/gdmix.v1.ScoringService/Score"
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
ALLOWED_UNDER_OVERLOAD = {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}
"""CANCELLED: what gRPC says of a call that it let go of because too many wait, and that no handler ever saw."""


def request(candidates: int) -> bytes:
    ids = [["ann", "bob", "eve"][i % 3] for i in range(candidates)]
    return wire.ScoreRequest(
        columnar=wire.ColumnarInput(
            candidates=candidates,
            entities=[
                wire.EntityIds(
                    column="user_id",
                    ids="".join(ids).encode(),
                    offsets=np.cumsum([0, *map(len, ids)]).astype("<i4").tobytes(),
                )
            ],
        )
    ).SerializeToString()


def expected(level: float) -> bytes:
    return np.array([level + {0: 0.5, 1: -1.25, 2: 0.0}[i % 3] for i in range(30)]).tobytes()


def test_a_swap_under_load_loses_nothing_and_mixes_nothing(publish, scorer, tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    levels = {publish(url, level=level, activate=level == 1.0): level for level in (1.0, 2.0, 3.0)}
    truth = {version: expected(level) for version, level in levels.items()}

    async def run(port: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        over = asyncio.Event()
        answered = asyncio.Condition()
        data = request(30)

        async def ask() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                score = channel.unary_unary(SCORE, response_deserializer=wire.ScoreResponse.FromString)
                while not over.is_set():
                    answer = await score(data, timeout=5)
                    assert answer.packed_scores == truth[answer.version], answer.version
                    async with answered:
                        seen[answer.version] += 1
                        answered.notify_all()

        def activate(version: int) -> None:
            with open_store(url) as store:
                store.activate("movies", version, expected_active=store.get_active("movies"))

        async def swap() -> None:
            for version in (2, 3, 1, 3):
                await asyncio.to_thread(activate, version)
                enough = seen[version] + 50
                async with answered:
                    await answered.wait_for(lambda: seen[version] >= enough)  # noqa: B023 - waited for here
            over.set()

        await asyncio.gather(swap(), *(ask() for _ in range(6)))
        return seen

    with scorer(url, processes=2) as running:
        seen = asyncio.run(run(running.port))
        assert set(seen) == {1, 2, 3}
        assert running.count("requests_total", outcome="OK") == seen.total()
        assert running.count("requests_total") == seen.total()


def answer_within(seconds, running):
    """Ask until there is an answer: calls that the load has left in gRPC's queue may crowd a new one out."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return running.score("ann", timeout=ends - time.monotonic())
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise


def test_overload_is_refused_and_leaves_nothing_behind(store, scorer):
    """Far more requests than one process can answer, each with 50 ms: it goes on answering, and recovers at once."""

    async def run(port: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        data = request(3000)
        ends = time.monotonic() + 2.0

        async def ask(channel: grpc.aio.Channel) -> None:
            score = channel.unary_unary(SCORE)
            while time.monotonic() < ends:
                try:
                    await score(data, timeout=0.05, metadata=(("gdmix-timeout-ms", "50"),))
                    outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[error.code().name] += 1

        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) for _ in range(8)]
        await asyncio.gather(*(ask(channel) for channel in channels for _ in range(25)))
        for channel in channels:
            await channel.close()
        return outcomes

    with scorer(store) as running:
        process = psutil.Process(running.children()[0]["pid"])
        asyncio.run(run(running.port))  # buffers grow to the size of the load once
        before = process.memory_info().rss
        outcomes = asyncio.run(run(running.port))
        assert set(outcomes) <= ALLOWED_UNDER_OVERLOAD
        assert outcomes["OK"] > 20
        assert outcomes.total() > 2 * outcomes["OK"]
        answer = answer_within(1.0, running)
        assert np.frombuffer(answer.packed_scores)[0] == 0.625
        assert running.count("in_flight") == 0
        assert process.memory_info().rss < before + (64 << 20)


def test_callers_that_ask_for_more_than_a_connection_takes_are_held_back_not_refused(store, scorer):
    async def run(port: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        data = request(300)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            score = channel.unary_unary(SCORE)

            async def ask() -> None:
                for _ in range(60):
                    try:
                        await score(data, timeout=20)
                        outcomes["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        outcomes[f"{error.code().name}: {error.details()}"] += 1

            await asyncio.gather(*(ask() for _ in range(25)))
        return outcomes

    with scorer(store) as running:
        assert asyncio.run(run(running.port)) == {"OK": 1500}
