"""A client beside the load that checks every answer: its status, its version and every score."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio
import numpy as np
import numpy.typing as npt
from generator import SCORE_PATH

from gdmix_proto.v1 import scoring_pb2 as wire
from gdmix_proto.v1 import scoring_pb2_grpc

_TOLERANCE: Final = 1e-9
_MAX_UNDER_WAY: Final = 16
_PER_CHANNEL: Final = (("grpc.use_local_subchannel_pool", 1),)
Expected = Mapping[int, Sequence[npt.NDArray[np.float64]]]
"""Scores by version and number of the request."""


@dataclass(frozen=True, slots=True)
class Check:
    """One answer.

    Attributes:
        start: seconds since 1970 when it was asked for.
        seconds: until the answer.
        outcome: name of the gRPC status.
        version: that it names.
        instance: that answered.
        wrong: why it is not what that version must answer; "" if it is.
        detail: message of a gRPC status that is not OK.
    """

    start: float
    seconds: float
    outcome: str
    version: int = 0
    instance: str = ""
    wrong: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says.

    Attributes:
        version: of the model.
        instance: that answered.
        scores: float64[candidates].
        predictions: float64[candidates].
        fault: why it is no full answer; "" if it is.
    """

    version: int
    instance: str
    scores: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.float64]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A unary method that scores, and how its answers are read."""

    path: str
    read: Callable[[bytes], Reading]


def read_score(data: bytes) -> Reading:
    """Read a `gdmix.v1.ScoreResponse` in columnar form."""
    answer = wire.ScoreResponse.FromString(data)
    return Reading(
        answer.version,
        answer.instance,
        np.frombuffer(answer.packed_scores, "<f8"),
        np.frombuffer(answer.packed_predictions, "<f8"),
        answer.degraded_reason,
    )


class CheckingClient:
    """Asks at a rate, in a thread with an event loop of its own, until the end of the block."""

    def __init__(
        self,
        address: str,
        bodies: Sequence[bytes],
        expected: Expected,
        *,
        rate: float = 60.0,
        timeout: float = 5.0,
        channels: int = 2,
        processes: int = 0,
        protocol: Protocol | None = None,
    ) -> None:
        """Take what to ask.

        Args:
            address: host and port of the scorer.
            bodies: messages.
            expected: what their scores are.
            rate: requests in a second.
            timeout: seconds until a request is given up.
            channels: number of connections.
            processes: how many serving processes there are, if each is to be asked in turn; more channels are
                made until every one of them is reached.
            protocol: of the server; `gdmix.v1.ScoringService` unless given.
        """
        self._address, self._bodies, self._expected = address, bodies, expected
        self._rate, self._timeout, self._channels = rate, timeout, channels
        self._processes = processes
        self._protocol = protocol or Protocol(SCORE_PATH, read_score)
        self._ending = threading.Event()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.checks: list[Check] = []
        self.skipped = 0
        """Requests that were not sent because too many were under way."""

    def __enter__(self) -> CheckingClient:
        self._thread.start()
        if not self._connected.wait(30.0):
            raise SystemExit("the checking client could not connect")
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> list[Check]:
        """Return what was asked for in a span of time."""
        return [check for check in list(self.checks) if begin <= check.start < end]

    # ---- in its own thread

    async def _run(self) -> None:
        channels = await self._connect()
        self._connected.set()
        tasks: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / self._rate - time.perf_counter()))
            if self._ending.is_set():
                break
            if len(tasks) >= _MAX_UNDER_WAY:
                self.skipped += 1
                continue
            channel = channels[number % len(channels)]
            task = asyncio.create_task(self._ask(channel, number % len(self._bodies)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for channel in channels:
            await channel.close()

    async def _connect(self) -> list[grpc.aio.Channel]:
        if not self._processes:
            return [self._channel() for _ in range(self._channels)]
        found: dict[str, grpc.aio.Channel] = {}
        for _ in range(100 * self._processes):
            channel = self._channel()
            status = await scoring_pb2_grpc.ScoringServiceStub(channel).GetModelStatus(
                wire.GetModelStatusRequest(), timeout=10.0, wait_for_ready=True
            )
            if status.instance in found:
                await channel.close()
            found.setdefault(status.instance, channel)
            if len(found) == self._processes:
                return list(found.values())
        raise SystemExit("not every serving process could be reached")

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._address, options=_PER_CHANNEL)

    async def _ask(self, channel: grpc.aio.Channel, number: int) -> None:
        call = channel.unary_unary(self._protocol.path)
        budget = (("gdmix-timeout-ms", str(round(self._timeout * 1000))),)
        start, began = time.time(), time.perf_counter()
        try:
            data = await call(self._bodies[number], timeout=self._timeout, metadata=budget)
        except grpc.aio.AioRpcError as error:
            taken = time.perf_counter() - began
            detail = error.debug_error_string() or error.details() or ""
            self.checks.append(Check(start, taken, error.code().name, detail=detail))
            return
        seconds = time.perf_counter() - began
        answer = self._protocol.read(data)
        wrong = answer.fault or self._fault(answer, number)
        self.checks.append(Check(start, seconds, "OK", answer.version, answer.instance, wrong))

    def _fault(self, answer: Reading, number: int) -> str:
        if answer.version not in self._expected:
            return f"version {answer.version} was never published"
        expected = self._expected[answer.version][number]
        if answer.scores.shape != expected.shape:
            return f"{answer.scores.size} scores for {expected.size} candidates"
        off = float(np.abs(answer.scores - expected).max())
        if not off <= _TOLERANCE:
            return f"scores are {off:g} off those of version {answer.version}"
        predictions = 1.0 / (1.0 + np.exp(-expected))
        if not np.allclose(answer.predictions, predictions, rtol=0.0, atol=_TOLERANCE):
            return "predictions do not follow from the scores"
        return ""


def summary(checks: Sequence[Check]) -> dict[str, object]:
    """Return how a client's checks ended, and how long they took."""
    outcomes: dict[str, int] = {}
    for check in checks:
        outcomes[check.outcome] = outcomes.get(check.outcome, 0) + 1
    wrong = [check.wrong for check in checks if check.wrong]
    seconds = np.array([check.seconds for check in checks if check.outcome == "OK"])
    return {
        "checked": len(checks),
        "outcomes": outcomes,
        "wrong": len(wrong),
        "first_wrong": wrong[0] if wrong else "",
        "details": sorted({check.detail for check in checks if check.detail})[:5],
        "p50_ms": quantile_ms(seconds, 0.5),
        "p99_ms": quantile_ms(seconds, 0.99),
    }


def quantile_ms(seconds: npt.NDArray[np.float64], q: float) -> float:
    """Return a quantile in milliseconds."""
    return float(np.quantile(seconds, q) * 1e3) if len(seconds) else float("nan")
