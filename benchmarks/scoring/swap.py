"""What becomes of requests while versions are swapped under load.

    python benchmarks/scoring/swap.py --store redis --processes 2

At half the peak rate, a version with other coefficients is activated every few seconds, each a version that the
scorer has not loaded yet. A checking client asks every serving process in turn, and compares every score with those
of the version that the answer names. A swap's window is from its activation to `--window` seconds later.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from checking import Check, quantile_ms, summary
from generator import Samples
from load import peak
from model import NAME
from workload import (
    CUT_SECONDS,
    Start,
    Window,
    parser,
    published,
    scorer_of,
    show_json,
    table,
    wait_until_quiet,
)

from gdmix_core.store import open_store


def main() -> None:
    options = parser(__doc__)
    add = options.add_argument
    add("--swaps", type=int, default=10, help="activations (default: %(default)s)")
    add("--every", type=float, default=4.0, help="seconds between them (default: %(default)s)")
    add("--window", type=float, default=1.5, help="seconds that count as a swap (default: %(default)s)")
    add("--rate", type=float, help="of the load (default: half the peak)")
    add("--check-rate", type=float, default=100.0, help="of the checking client (default: %(default)s)")
    options.set_defaults(processes=2, entities=30_000, requests=100)
    given = options.parse_args()
    seeds = [1 + number % 2 for number in range(given.swaps + 1)]
    with published(given, seeds) as workload, scorer_of(workload, given) as scorer:
        with workload.checker(scorer, channels=2) as checker:
            rate = given.rate or 0.5 * float(str(peak(workload, scorer, checker, given)["ok/s"]))
        wait_until_quiet(given.quiet)
        seconds = given.every * (given.swaps + 1) + 2.0 * CUT_SECONDS
        with (
            workload.checker(scorer, rate=given.check_rate, processes=given.processes) as checker,
            workload.load(scorer).start_open(rate, seconds) as running,
        ):
            time.sleep(CUT_SECONDS)
            start = Start(scorer)
            activations: list[tuple[float, int]] = []
            with open_store(workload.store) as store:
                for version in list(workload.models)[1:]:
                    time.sleep(given.every)
                    store.activate(NAME, version, expected_active=store.get_active(NAME))
                    activations.append((time.time(), version))
            time.sleep(given.every)
            window = start.window()
            samples = running.join().within(window.begin, window.end)
        checks = checker.between(window.begin, window.end)
    document = _document(rate, given.window, window, samples, checks, activations)
    print(f"{given.store}, {given.processes} processes, {given.swaps} swaps at {rate:,.0f} requests/s\n")
    print(table([{name: value for name, value in document.items() if name != "swaps"}]))
    show_json(given, document)


def _document(
    rate: float,
    width: float,
    window: Window,
    samples: Samples,
    checks: list[Check],
    activations: list[tuple[float, int]],
) -> dict[str, object]:
    """Put together what was measured."""
    swapping = np.zeros(len(samples), np.bool_)
    for at, _ in activations:
        swapping |= (samples.start >= at) & (samples.start < at + width)
    checked_swapping = np.array(
        [c.seconds for c in checks if any(at <= c.start < at + width for at, _ in activations)]
    )
    checked_steady = np.array(
        [c.seconds for c in checks if not any(at <= c.start < at + width for at, _ in activations)]
    )
    during, steady = samples.only(swapping), samples.only(~swapping)
    delays = [_delay(checks, at, version) for at, version in activations]
    found = summary(checks)
    return {
        "offered/s": rate,
        "ok/s": window.ok_rate,
        "errors": window.errors + samples.failed,
        "outcomes": window.outcomes,
        "checked": found["checked"],
        "check outcomes": found["outcomes"],
        "wrong": found["wrong"],
        "first wrong": found["first_wrong"],
        "steady p50 ms": steady.quantile_ms(0.5),
        "steady p99 ms": steady.quantile_ms(0.99),
        "swap p50 ms": during.quantile_ms(0.5),
        "swap p99 ms": during.quantile_ms(0.99),
        "p99 ratio": during.quantile_ms(0.99) / steady.quantile_ms(0.99),
        "checker p99 ms": f"{quantile_ms(checked_steady, 0.99):.2f} → {quantile_ms(checked_swapping, 0.99):.2f}",
        "all processes new, median s": statistics.median(delays),
        "slowest s": max(delays),
        "others' cores": window.others,
        "swaps": delays,
    }


def _delay(checks: list[Check], at: float, version: int) -> float:
    """Return the seconds from an activation to the first new answer of the slowest process; infinite: it never came."""
    after = [check for check in checks if check.start >= at and check.outcome == "OK"]
    new = {check.instance for check in after if check.version == version}
    if new != {check.instance for check in checks if check.instance}:
        return float("inf")
    first = {
        instance: min(c.start for c in after if c.instance == instance and c.version == version)
        for instance in new
    }
    return max(first.values()) - at


if __name__ == "__main__":
    main()
