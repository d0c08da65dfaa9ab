"""How fast the scorer answers: its peak rate, and its latency at half of it.

    python benchmarks/scoring/load.py --store redis --processes 1 --candidates 100

Each round: a closed loop finds the peak rate (requests/s per core = good answers ÷ CPU seconds of the scorer), then
an open loop offers half the median peak so far. Latencies are the generator's (h2load), those of a checking Python
client beside it, and the server's own histogram (without HTTP/2). Everything runs on this machine, the generator
included; "others' cores" is what processes took that are none of the benchmark's: a disturbed figure shows it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence

from checking import CheckingClient, summary
from servers import RunningScorer
from workload import Workload, parser, published, scorer_of, show_json, table, wait_until_quiet, watch

Row = dict[str, object]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rate", type=float, help="of the open loop (default: half the peak)")
    options.add_argument(
        "--cache-mb", type=int, default=256, help="of each serving process (default: %(default)s)"
    )
    given = options.parse_args()
    peaks: list[Row] = []
    halves: list[Row] = []
    with published(given) as workload, scorer_of(workload, given, "--cache-mb", given.cache_mb) as scorer:
        with workload.checker(scorer, channels=2 * given.processes) as checker:
            for _ in range(given.rounds):
                peaks.append(peak(workload, scorer, checker, given))
                rate = given.rate or 0.5 * statistics.median(float(str(row["ok/s"])) for row in peaks)
                halves.append(half(workload, scorer, checker, given, rate))
                print(table([peaks[-1]]), table([halves[-1]]), sep="\n", flush=True)
        memory = scorer.rss_bytes() / given.processes / 2**20
    what = f"{given.store}, {given.processes} processes, 1 x {given.candidates} candidates x 20 features"
    print(f"\n{what}: medians of {given.rounds} rounds, {memory:.0f} MiB a process\n")
    print(table([medians(peaks)]), table([medians(halves)]), sep="\n\n")
    show_json(given, {"peak": peaks, "half": halves, "rss_mib": memory})


def peak(
    workload: Workload, scorer: RunningScorer, checker: CheckingClient, given: argparse.Namespace
) -> Row:
    """Find the peak rate."""
    wait_until_quiet(given.quiet)
    with workload.load(scorer).start_closed(given.seconds, given.connections) as running:
        window = watch(scorer, given.seconds)
        samples = running.join().within(window.begin, window.end)
    checks = summary(checker.between(window.begin, window.end))
    return {
        "ok/s": window.ok_rate,
        "ok/s per core": window.per_core,
        "cores": window.cores,
        "p50 ms": samples.quantile_ms(0.5),
        "p99 ms": samples.quantile_ms(0.99),
        "hits": window.hit_share,
        "outcomes": window.outcomes,
        "check outcomes": checks["outcomes"],
        "wrong": checks["wrong"],
        "streams failed": samples.failed,
        "refused": window.refused(len(samples) + int(str(checks["checked"]))),
        "others' cores": window.others,
    }


def half(
    workload: Workload,
    scorer: RunningScorer,
    checker: CheckingClient,
    given: argparse.Namespace,
    rate: float,
) -> Row:
    """Measure the latency at a rate."""
    wait_until_quiet(given.quiet)
    with workload.load(scorer).start_open(rate, given.seconds) as running:
        window = watch(scorer, given.seconds)
        samples = running.join().within(window.begin, window.end)
    checks = summary(checker.between(window.begin, window.end))
    return {
        "offered/s": rate,
        "ok/s": window.ok_rate,
        "p50 ms": samples.quantile_ms(0.5),
        "p99 ms": samples.quantile_ms(0.99),
        "server p50": window.counters.quantile_ms("total", 0.5),
        "server p99": window.counters.quantile_ms("total", 0.99),
        "checker p50": checks["p50_ms"],
        "checker p99": checks["p99_ms"],
        "ok/s per core": window.per_core,
        "hits": window.hit_share,
        "outcomes": window.outcomes,
        "check outcomes": checks["outcomes"],
        "wrong": checks["wrong"],
        "streams failed": samples.failed,
        "refused": window.refused(len(samples) + int(str(checks["checked"]))),
        "others' cores": window.others,
    }


def medians(rows: Sequence[Mapping[str, object]]) -> Row:
    """Return the median of each column of numbers, and the sum of what was counted."""
    made: Row = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if name in {"wrong", "streams failed"}:
            made[name] = sum(int(str(value)) for value in values)
        elif isinstance(first, float):
            made[name] = statistics.median(float(str(value)) for value in values)
        elif isinstance(first, Mapping):
            counted: dict[str, float] = {}
            for value in values:
                assert isinstance(value, Mapping)
                for key, number in value.items():
                    counted[key] = counted.get(key, 0.0) + number
            made[name] = counted
    return made


if __name__ == "__main__":
    main()
