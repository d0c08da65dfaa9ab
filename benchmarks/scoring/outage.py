"""What callers see while Redis stands still: answers by the declared policy, within the deadline, and recovery.

    python benchmarks/scoring/outage.py [--policy fixed-effect-only|unavailable]

A few callers ask with 200 ms deadlines and without a cache, so that every request needs the store. Redis is stopped
(SIGSTOP: it accepts connections and answers nothing, the worst case) and goes on some seconds later.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from itertools import count

import grpc.aio
import psutil
from workload import Workload, parser, published, run_scorer, table

from gdmix_proto.v1 import scoring_pb2 as wire

CALLERS = 8
DEADLINE_SECONDS = 0.2
Sample = tuple[float, float, str]


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--policy", choices=("fixed-effect-only", "unavailable"), default="fixed-effect-only"
    )
    options.add_argument(
        "--stopped", type=float, default=5.0, help="seconds without Redis (default: %(default)s)"
    )
    given = options.parse_args()
    given.store = "redis"
    with published(given) as workload:
        arguments = ("--on-store-failure", given.policy, "--cache-mb", 0)
        with run_scorer(workload.store, given.processes, *arguments) as scorer:
            asyncio.run(measure(workload, scorer.address, redis_of(workload.store), given.stopped))


def redis_of(url: str) -> int:
    """Return the process id of the Redis that this program started."""
    port = url.rpartition(":")[2].partition("/")[0]
    for child in psutil.Process().children():
        if "redis-server" in " ".join(child.cmdline()) and any(port in word for word in child.cmdline()):
            return child.pid
    raise SystemExit("the Redis of the benchmark is not among its children")


async def measure(workload: Workload, address: str, redis: int, stopped: float) -> None:
    """Ask before, while and after Redis stands still, and print what came back."""
    samples: list[Sample] = []
    over = asyncio.Event()
    numbers = count()

    async def ask() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            score = channel.unary_unary(
                "/gdmix.v1.ScoringService/Score", response_deserializer=wire.ScoreResponse.FromString
            )
            while not over.is_set():
                data = workload.messages[next(numbers) % len(workload.messages)]
                began = time.perf_counter()
                try:
                    answer = await score(data, timeout=DEADLINE_SECONDS)
                    outcome = "degraded" if answer.degraded else "OK"
                except grpc.aio.AioRpcError as error:
                    outcome = error.code().name
                samples.append((began, time.perf_counter() - began, outcome))

    callers = [asyncio.create_task(ask()) for _ in range(CALLERS)]
    await asyncio.sleep(3.0)
    marks = [time.perf_counter()]
    os.kill(redis, signal.SIGSTOP)
    try:
        await asyncio.sleep(stopped)
    finally:
        os.kill(redis, signal.SIGCONT)
    marks.append(time.perf_counter())
    await asyncio.sleep(3.0)
    over.set()
    await asyncio.gather(*callers)
    show(samples, marks)


def show(samples: list[Sample], marks: list[float]) -> None:
    """Print a line for each span of time, and how long the scorer took to be well again."""
    spans = {"before": (0.0, marks[0]), "stopped": (marks[0], marks[1]), "after": (marks[1], float("inf"))}
    rows: list[dict[str, object]] = []
    for name, (begin, end) in spans.items():
        own = [sample for sample in samples if begin <= sample[0] < end]
        times = sorted(seconds for _, seconds, _ in own)
        outcomes = Counter(outcome for _, _, outcome in own)
        rows.append(
            {
                "Redis": name,
                "outcomes": ", ".join(f"{key} {number}" for key, number in outcomes.most_common()),
                "p50 ms": 1e3 * times[len(times) // 2],
                "p99 ms": 1e3 * times[int(0.99 * len(times))],
                "longest ms": 1e3 * times[-1],
            }
        )
    print(table(rows))
    well = min(
        (began + seconds for began, seconds, out in samples if began > marks[1] and out == "OK"), default=0.0
    )
    print(
        f"\nfirst whole answer {well - marks[1]:.2f} s after Redis went on" if well else "\nnever well again"
    )


if __name__ == "__main__":
    main()
