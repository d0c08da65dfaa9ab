"""What one columnar request costs the scorer beside gRPC, phase by phase, in this process with a warm cache.

    python benchmarks/scoring/phases.py --candidates 100

"rest" is what surrounds the phases: metadata, deadline, metrics, the version's book-keeping. `--profile` adds the
functions that take longest.
"""

from __future__ import annotations

from gdmix_core.blas import pin_blas_threads

pin_blas_threads()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import cProfile  # noqa: E402
import math  # noqa: E402
import pstats  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any, Final  # noqa: E402

from model import NAME  # noqa: E402
from workload import Workload, parser, published, show_json, table  # noqa: E402

from gdmix_core.security import Authorizer  # noqa: E402
from gdmix_core.store import open_store  # noqa: E402
from gdmix_core.store.async_reading import open_reader  # noqa: E402
from gdmix_proto.v1 import scoring_pb2 as wire  # noqa: E402
from gdmix_scorer import convert  # noqa: E402
from gdmix_scorer.access_log import AccessLog  # noqa: E402
from gdmix_scorer.calls import ModelChoice, ScoreAnswer, ScoreCall  # noqa: E402
from gdmix_scorer.coefficients import Coefficients  # noqa: E402
from gdmix_scorer.deadline import BUDGET_KEY  # noqa: E402
from gdmix_scorer.metrics import ScorerMetrics  # noqa: E402
from gdmix_scorer.rpc import Calls  # noqa: E402
from gdmix_scorer.service import Scoring  # noqa: E402
from gdmix_scorer.servicer import SERVICE  # noqa: E402
from gdmix_scorer.settings import ScorerSettings  # noqa: E402
from gdmix_scorer.tracing import Tracing  # noqa: E402
from gdmix_scorer.versions import Version, Versions  # noqa: E402

PHASES: Final = ("parse", "convert", "check", "locate", "score", "answer")
_ROUND: Final = 1000


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", action="store_true", help="show the functions that take longest")
    options.set_defaults(store="lmdb", rounds=7, entities=20_000)
    given = options.parse_args()
    with published(given) as workload:
        rounds = asyncio.run(_measure(workload, given))
    best = {name: statistics.median(one[name] for one in rounds) * 1e6 for name in (*PHASES, "rest")}
    total = statistics.median(sum(one.values()) for one in rounds) * 1e6
    size = statistics.mean(map(len, workload.messages))
    print(
        f"1 x {given.candidates} candidates x 20 features, {size:,.0f} bytes; microseconds a request, "
        f"medians of {given.rounds} rounds of {_ROUND}\n"
    )
    print(table([{**best, "total": total, "a second": 1e6 / total}]))
    show_json(given, {"phases_us": best, "total_us": total, "bytes": size})


async def _measure(workload: Workload, given: argparse.Namespace) -> list[dict[str, float]]:
    settings = ScorerSettings(store=workload.store)
    metrics = ScorerMetrics()
    with open_store(workload.store) as store:
        coefficients = Coefficients(open_reader(workload.store), settings.cache_bytes)
        versions = Versions(store, coefficients, settings, metrics)
        await versions.start()
        while not versions.serving:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        log = AccessLog.from_settings(None, 0.0)
        calls = Calls(
            Scoring(settings, versions, coefficients, metrics, log), metrics, Authorizer(), Tracing()
        )
        try:
            return await _rounds(
                calls, versions.choose(ModelChoice()), coefficients, workload.messages, given
            )
        finally:
            await versions.stop()
            await coefficients.close()


async def _rounds(
    calls: Calls,
    version: Version | None,
    coefficients: Coefficients,
    messages: Sequence[bytes],
    given: argparse.Namespace,
) -> list[dict[str, float]]:
    assert version is not None
    scoring = version.scoring
    assert scoring is not None
    spent = dict.fromkeys(PHASES, 0.0)
    context: Any = _Context()

    def read(data: bytes) -> ScoreCall:
        return convert.call_from_proto(convert.parse(wire.ScoreRequest, data))

    def write(call: ScoreCall, answer: ScoreAnswer) -> bytes:
        return convert.answer_to_proto(answer, call, "i").SerializeToString()

    async def whole(data: bytes) -> None:
        await calls.respond(f"{SERVICE}/Score", "columnar", data, context, read, write)

    def timed(phase: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = work()
        spent[phase] += time.perf_counter() - began
        return made

    async def apart(data: bytes) -> None:
        message = timed("parse", lambda: convert.parse(wire.ScoreRequest, data))
        call = timed("convert", lambda: convert.call_from_proto(message))
        timed("check", lambda: scoring.check(call.candidates))
        began = time.perf_counter()
        located, _ = await coefficients.locate(scoring, version.token, call.candidates, math.inf)
        spent["locate"] += time.perf_counter() - began
        scores = timed("score", lambda: scoring.score(call.candidates, located))
        found = ScoreAnswer(NAME, version.number, scoring.coordinate_names, scores, {}, "")
        timed("answer", lambda: write(call, found))

    for message in messages:  # compile, and fill the cache
        await whole(message)
    rounds = []
    for _ in range(given.rounds):
        spent.update(dict.fromkeys(spent, 0.0))
        for number in range(_ROUND):
            await apart(messages[number % len(messages)])
        began = time.perf_counter()
        for number in range(_ROUND):
            await whole(messages[number % len(messages)])
        total = time.perf_counter() - began
        rest = max(0.0, total - sum(spent.values()))
        rounds.append({name: seconds / _ROUND for name, seconds in {**spent, "rest": rest}.items()})
    if given.profile:
        with cProfile.Profile() as profile:
            for number in range(_ROUND):
                await whole(messages[number % len(messages)])
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    return rounds


class _Context:
    """What of gRPC's context a call looks at."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("te", "trailers"), (BUDGET_KEY, "50"))

    def time_remaining(self) -> float:
        return 0.05


if __name__ == "__main__":
    main()
