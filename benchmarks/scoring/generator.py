"""The load: h2load processes that post framed gRPC bodies, and what they measured.

One h2load posts one body only, so there is one process for each of several bodies; their logs are put together.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

SCORE_PATH: Final = "/gdmix.v1.ScoringService/Score"
INFER_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_MAX_RATE_A_CONNECTION: Final = 90.0
"""h2load looks at its clock every 10 ms at most: beyond 100/s a connection's requests come in bursts."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests that were answered, by their end.

    Attributes:
        start: float64, seconds since 1970.
        seconds: float64, from sending the request to the end of its answer.
        status: int64, of HTTP; -1: the stream failed.
    """

    start: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def within(self, begin: float, end: float) -> Samples:
        """Return those that were sent in a span of time."""
        return self.only((self.start >= begin) & (self.start < end))

    def only(self, chosen: npt.NDArray[np.bool_]) -> Samples:
        """Return some of them."""
        return Samples(self.start[chosen], self.seconds[chosen], self.status[chosen])

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return len(self) / max(float(np.ptp(self.start)), 1e-9) if len(self) > 1 else 0.0

    @property
    def failed(self) -> int:
        """Requests that got no answer of HTTP status 200."""
        return int((self.status != 200).sum())

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latency in milliseconds."""
        return float(np.quantile(self.seconds, q) * 1e3) if len(self) else float("nan")


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, where to.

    Attributes:
        address: host and port.
        path: of the method.
        bodies: framed messages; connections are spread over them.
        headers: further headers.
        streams: requests that a connection may have under way.
    """

    address: str
    path: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]
    streams: int = 2

    def start_closed(self, seconds: float, connections: int) -> Running:
        """Begin to send the next request whenever one is answered."""
        return self._start([["-c", str(n)] for n in _shares(connections, len(self.bodies))], seconds)

    def start_open(self, rate: float, seconds: float) -> Running:
        """Begin to send requests at a rate, whatever becomes of them.

        There are as many connections as the rate needs, each of an h2load process of its own: so they keep no step.
        """
        connections = max(8, math.ceil(rate / _MAX_RATE_A_CONNECTION))
        return self._start([["-c", "1", f"--rps={rate / connections:.3f}"]] * connections, seconds)

    def start_flood(self, rate: float, seconds: float, connections: int) -> Running:
        """Begin to offer more than can be answered, on some connections."""
        each = f"--rps={rate / connections:.3f}"
        shares = _shares(connections, len(self.bodies))
        return self._start([["-c", str(n), each] for n in shares], seconds)

    def _start(self, commands: Sequence[Sequence[str]], seconds: float) -> Running:
        return Running(self, [[*one, "-D", f"{seconds:g}"] for one in commands], seconds)

    def command(self, arguments: Sequence[str], body: Path, log: Path) -> list[str]:
        """Return the command line of one h2load process."""
        headers = {"content-type": "application/grpc", "te": "trailers", **self.headers}
        return [
            "h2load",
            *arguments,
            *("-m", str(self.streams), "-t", "1", "-d", str(body), f"--log-file={log}"),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            f"http://{self.address}{self.path}",
        ]


class Running:
    """h2load processes that run; `join` waits for them and reads what they measured."""

    def __init__(self, load: Load, commands: Sequence[Sequence[str]], seconds: float) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._ends = time.monotonic() + seconds
        work = Path(self._directory.name)
        for number, body in enumerate(load.bodies):
            (work / f"body-{number}").write_bytes(body)
        self._logs = [work / f"log-{number}" for number in range(len(commands))]
        self.began = time.time()
        self._processes = [
            subprocess.Popen(
                load.command(arguments, work / f"body-{number % len(load.bodies)}", log),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number, (arguments, log) in enumerate(zip(commands, self._logs, strict=True))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._directory.cleanup()

    def join(self) -> Samples:
        """Wait for the end of the run."""
        for process in self._processes:
            try:
                process.wait(max(0.0, self._ends - time.monotonic()) + 20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        found = [table for log in self._logs if log.exists() and (table := _read(log)).size]
        rows = np.concatenate(found) if found else np.empty((0, 3), np.int64)
        return Samples(rows[:, 0] / 1e6, rows[:, 2] / 1e6, rows[:, 1])


def _read(log: Path) -> npt.NDArray[np.int64]:
    text = log.read_text()
    text = text[: text.rfind("\n") + 1]
    return np.array(text.split(), np.int64).reshape(-1, 3)


def _shares(connections: int, bodies: int) -> list[int]:
    """Spread connections over bodies; each gets at least one."""
    bodies = min(bodies, connections)
    return [connections // bodies + (number < connections % bodies) for number in range(bodies)]
