"""What the scoring benchmarks share: options, a published model, requests with known scores, windows, tables."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from checking import CheckingClient, Expected
from generator import SCORE_PATH, Load
from model import BenchmarkModel, Request, RequestSource, Shape, framed, to_columnar
from servers import Counters, RunningScorer, Served, run_scorer, store_server

CUT_SECONDS: Final = 1.0
_GENERATOR_BODIES: Final = 8
_CALM_SECONDS: Final = 2
_CALM_CORES: Final = 0.2


@dataclass(frozen=True, slots=True)
class Workload:
    """Published versions of the model, and requests.

    Attributes:
        store: URL.
        models: the versions' models by number; the first is active.
        requests: that the checking client sends; the generator sends the first few.
        messages: the requests, serialized.
        expected: their scores.
    """

    store: str
    models: Mapping[int, BenchmarkModel]
    requests: Sequence[Request]
    messages: Sequence[bytes]
    expected: Expected

    def load(self, server: Served, headers: Mapping[str, str] | None = None) -> Load:
        """Return the load of some of the requests on a scorer."""
        bodies = [framed(message) for message in self.messages[:_GENERATOR_BODIES]]
        return Load(server.address, SCORE_PATH, bodies, headers or {})

    def checker(self, server: Served, **options: Any) -> CheckingClient:
        """Return a client that checks the answers to all the requests."""
        return CheckingClient(server.address, self.messages, self.expected, **options)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all the benchmarks."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--store", choices=("redis", "lmdb"), default="redis", help="kind of store (default: %(default)s)")
    add("--processes", type=int, default=1, help="serving processes (default: %(default)s)")
    add("--candidates", type=int, default=100, help="of a request (default: %(default)s)")
    add("--entities", type=int, default=100_000, help="users, and items (default: %(default)s)")
    add("--requests", type=int, default=200, help="different ones that are checked (default: %(default)s)")
    add("--seconds", type=float, default=10.0, help="of a measurement (default: %(default)s)")
    add("--rounds", type=int, default=3, help="repetitions; medians are shown (default: %(default)s)")
    add(
        "--connections",
        type=int,
        default=12,
        help="of the closed loop, two requests each (default: %(default)s)",
    )
    add(
        "--quiet",
        type=float,
        default=0.0,
        metavar="S",
        help="before a measurement wait for up to S seconds until other processes leave the machine alone",
    )
    add("--json", action="store_true", help="print a JSON document too")
    return made


@contextmanager
def published(given: argparse.Namespace, seeds: Sequence[int] = (1,)) -> Iterator[Workload]:
    """Publish a version for each seed into an empty store, and make requests; the first version is active."""
    with tempfile.TemporaryDirectory() as directory, store_server(given.store, Path(directory)) as url:
        shape = Shape(users=given.entities, items=given.entities)
        by_seed = {seed: BenchmarkModel(shape, seed) for seed in dict.fromkeys(seeds)}
        source = RequestSource(shape, given.candidates)
        requests = [source.draw() for _ in range(given.requests)]
        models: dict[int, BenchmarkModel] = {}
        for number, seed in enumerate(seeds):
            work = Path(directory) / f"version-{number}"
            models[by_seed[seed].publish(url, work, activate=number == 0)] = by_seed[seed]
        scores = {seed: [model.scores(request) for request in requests] for seed, model in by_seed.items()}
        yield Workload(
            store=url,
            models=models,
            requests=requests,
            messages=[to_columnar(one, shape, f"r{number}") for number, one in enumerate(requests)],
            expected={version: scores[model.seed] for version, model in models.items()},
        )


@contextmanager
def scorer_of(workload: Workload, given: argparse.Namespace, *more: object) -> Iterator[RunningScorer]:
    """Run a scorer on the published model, its cache warm for all the requests."""
    with run_scorer(workload.store, given.processes, *more) as scorer:
        seconds = max(3.0, 2.0 * given.processes * given.requests / 200.0)
        with workload.checker(scorer, rate=200.0, processes=given.processes):
            workload.load(scorer).start_closed(seconds, given.connections).join()
        yield scorer


# ---- windows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What a scorer did in a span of time."""

    begin: float
    end: float
    counters: Counters
    cpu_seconds: float
    others: float
    """Cores that processes took which are none of this benchmark's."""

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin

    @property
    def outcomes(self) -> dict[str, float]:
        """Requests by the name of the gRPC status."""
        return self.counters.by("requests_total", "outcome")

    @property
    def ok_rate(self) -> float:
        """Good answers in a second."""
        return self.outcomes.get("OK", 0.0) / self.seconds

    @property
    def per_core(self) -> float:
        """Good answers in a second of the scorer's CPU time."""
        return self.outcomes.get("OK", 0.0) / max(self.cpu_seconds, 1e-9)

    @property
    def cores(self) -> float:
        """Cores that the scorer took."""
        return self.cpu_seconds / self.seconds

    def refused(self, answers: int) -> float:
        """Return how many of the callers' answers the scorer never counted: gRPC refused them by itself."""
        return max(0.0, answers - sum(self.outcomes.values()))

    @property
    def hit_share(self) -> float:
        """Share of the ids that were in the cache."""
        hits, misses = self.counters.total("cache_hits_total"), self.counters.total("cache_misses_total")
        return hits / max(hits + misses, 1.0)

    @property
    def errors(self) -> float:
        """Requests that were not answered well; those whose caller left at the end of a run are no errors."""
        return sum(n for name, n in self.outcomes.items() if name not in {"OK", "CANCELLED"})


class Start:
    """The beginning of a window."""

    def __init__(self, scorer: RunningScorer) -> None:
        self._scorer = scorer
        self._begin, self._before = time.time(), scorer.counters()
        self._cpu, self._busy = scorer.cpu_seconds(), _busy_seconds()

    def window(self) -> Window:
        """End the window, and return it."""
        end, cpu, busy = time.time(), self._scorer.cpu_seconds(), _busy_seconds()
        others = max(0.0, busy - self._busy) / (end - self._begin)
        counters = self._scorer.counters().since(self._before)
        return Window(self._begin, end, counters, cpu - self._cpu, others)


def watch(scorer: RunningScorer, seconds: float) -> Window:
    """Wait for a run of so many seconds to be over, all but a second at both ends of it, and return that window."""
    time.sleep(CUT_SECONDS)
    start = Start(scorer)
    time.sleep(max(0.1, seconds - 2.0 * CUT_SECONDS))
    return start.window()


def wait_until_quiet(longest: float) -> None:
    """Wait until no other process takes much of the machine, for so many seconds at most."""
    deadline, calm = time.monotonic() + longest, 0
    while time.monotonic() < deadline and calm < _CALM_SECONDS:
        before = _busy_seconds()
        time.sleep(1.0)
        calm = calm + 1 if _busy_seconds() - before < _CALM_CORES else 0


def _busy_seconds() -> float:
    """Return the CPU time of the machine without this process and its children, until now."""
    times = psutil.cpu_times()
    own = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            own += used.user + used.system
    return float(times.user + times.nice + times.system + times.irq + times.softirq) - own


# ---- tables ----------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(names)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "none"
    return str(value)


def show_json(given: argparse.Namespace, document: Mapping[str, object]) -> None:
    """Print a benchmark's document, if it was asked for."""
    if given.json:
        print(json.dumps({"options": vars(given), **document}, indent=2, default=float))
