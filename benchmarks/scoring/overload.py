"""What the scorer still answers when ten times its peak rate is offered, each request with a deadline of 50 ms.

    python benchmarks/scoring/overload.py --store redis --processes 2

Goodput counts answers of status OK within the deadline: those that the server counted, less all answers that came later
than that, refusals among them (h2load cannot tell a gRPC status, so this is a lower bound). "Refused" are what gRPC
refused before the scorer saw it. The checking client has the same deadline, and tells when the scorer is as fast again
as it was before.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from checking import Check, quantile_ms, summary
from load import peak
from servers import MemoryWatch, RunningScorer
from workload import Workload, parser, published, scorer_of, show_json, table, wait_until_quiet, watch

_IN_A_ROW = 10
"""So many checks as fast as before, one after the other, are back to normal."""


def main() -> None:
    options = parser(__doc__)
    add = options.add_argument
    add("--overload-connections", type=int, nargs="+", default=[32, 320], help="(default: %(default)s)")
    add("--times", type=float, default=10.0, help="of the peak rate that is offered (default: %(default)s)")
    add("--deadline-ms", type=int, default=50, help="of every request (default: %(default)s)")
    options.set_defaults(processes=2, requests=100, rounds=1)
    given = options.parse_args()
    rows = []
    with published(given) as workload, scorer_of(workload, given) as scorer:
        for _ in range(given.rounds):
            for connections in given.overload_connections:
                rows.append(_overload(workload, scorer, connections, given))
                print(table([rows[-1]]), flush=True)
    print(
        f"\n{given.store}, {given.processes} processes, {given.times:g} times the peak, "
        f"{given.deadline_ms} ms deadlines\n"
    )
    print(table(rows))
    show_json(given, {"rows": rows})


def _overload(
    workload: Workload, scorer: RunningScorer, connections: int, given: argparse.Namespace
) -> dict[str, object]:
    deadline = given.deadline_ms / 1000.0
    headers = {"grpc-timeout": f"{given.deadline_ms}m", "gdmix-timeout-ms": str(given.deadline_ms)}
    with workload.checker(scorer, channels=2 * given.processes) as checker:
        top = float(str(peak(workload, scorer, checker, given)["ok/s"]))
    with workload.checker(scorer, timeout=deadline, channels=2 * given.processes) as checker:
        wait_until_quiet(given.quiet)
        calm_begin = time.time()
        time.sleep(5.0)
        calm = checker.between(calm_begin + 1.0, time.time())
        before = scorer.rss_bytes()
        with (
            MemoryWatch(scorer) as memory,
            workload.load(scorer, headers).start_flood(
                given.times * top, given.seconds, connections
            ) as running,
        ):
            window = watch(scorer, given.seconds)
            everything = running.join()
        ended = float((everything.start + everything.seconds).max()) if len(everything) else time.time()
        time.sleep(5.0)
        after = checker.between(ended, time.time())
        during = checker.between(window.begin, window.end)
    samples = everything.within(window.begin, window.end)
    answered = samples.only(samples.status == 200)
    late = int((answered.seconds > deadline).sum())
    good = max(0.0, window.outcomes.get("OK", 0.0) - late) / window.seconds
    return {
        "connections": connections,
        "peak ok/s": top,
        "goodput/s": good,
        "share of peak": good / top,
        "outcomes": window.outcomes,
        "refused": window.refused(len(samples) + len(during)),
        "answers late": late,
        "streams failed": samples.failed,
        "p50 ms": answered.quantile_ms(0.5),
        "p99 ms": answered.quantile_ms(0.99),
        "cores": window.cores,
        "RSS MiB before/most/after": "/".join(
            f"{value / 2**20:.0f}" for value in (before, memory.largest, scorer.rss_bytes())
        ),
        "checks": summary(during)["outcomes"],
        "wrong": sum(bool(check.wrong) for check in (*calm, *during, *after)),
        "normal again after s": _recovery(calm, after, ended),
        "others' cores": window.others,
    }


def _recovery(calm: list[Check], after: list[Check], ended: float) -> float:
    """Return the seconds from the end of the overload to the first of several normal checks in a row."""
    usual = 2.0 * quantile_ms(np.array([c.seconds for c in calm if c.outcome == "OK"]), 0.99) / 1e3
    row = 0
    for number, check in enumerate(after):
        row = row + 1 if check.outcome == "OK" and check.seconds <= usual else 0
        if row == _IN_A_ROW:
            return after[number - _IN_A_ROW + 1].start - ended
    return float("inf")


if __name__ == "__main__":
    main()
