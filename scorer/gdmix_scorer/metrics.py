"""What the scorer counts and times, for Prometheus.

`ScorerMetrics` is one serving process's own. Its counters are plain numbers that only the event loop's thread
changes (a histogram costs 0.2 µs an observation, a tenth of the library's), and become the library's metric
families when somebody asks: in-process through `registry`, from the parent by `snapshot`, where
`gdmix_scorer.parent_metrics` adds the processes up. Names, labels and meanings: docs/observability.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Literal, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

PREFIX: Final = "gdmix_scorer"
Phase = Literal["queue", "decode", "plugin", "store", "compute", "total"]
PHASES: Final[tuple[Phase, ...]] = ("queue", "decode", "plugin", "store", "compute", "total")
SECONDS_BUCKETS: Final = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.3, 0.5, 1.0),
)
CANDIDATE_BUCKETS: Final = (
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10000.0,
)
MAX_SERIES: Final = 500
"""Label values that come from requests are counted one by one up to here, and as `OTHER` beyond."""
OTHER: Final = "(other)"


class CacheStats(Protocol):
    """What `ScorerMetrics.cache` reads off a record cache."""

    @property
    def hits(self) -> int:
        """Ids found, known to be absent or not."""

    @property
    def misses(self) -> int:
        """Ids not found."""

    @property
    def evictions(self) -> int:
        """Entries thrown out."""

    @property
    def bytes_used(self) -> int:
        """Bytes that the entries take."""

    @property
    def entries(self) -> int:
        """Entries now."""


class LogStats(Protocol):
    """What `ScorerMetrics.access_log` reads off an access log."""

    @property
    def dropped(self) -> int:
        """Lines for which there was no room."""


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount

    def dec(self, amount: float = 1.0) -> None:
        """Take from it."""
        self.value -= amount

    def set(self, value: float) -> None:
        """Replace it."""
        self.value = value


class Histogram:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a bucket holds the values up to its bound."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative counts by upper bound, and the sum of all values."""
        bounds = [*(repr(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True)), self._sum


class Counts:
    """Counters of one name by the values of its labels, no more than `MAX_SERIES` of them."""

    __slots__ = ("labels", "values")

    def __init__(self, *labels: str) -> None:
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Count; beyond the bound under `OTHER`."""
        try:
            self.values[labels] += amount
        except KeyError:
            if len(self.values) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            self.values[labels] = self.values.get(labels, 0.0) + amount


class ScorerMetrics(Collector):
    """The metrics of one serving process; every method is to be called on its event loop's thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.in_flight = Gauge()
        """Requests that were admitted and are not answered yet."""
        self._loop_lag = Gauge()
        self._requests = Counts("model", "outcome", "form")
        self._by_version = Counts("model", "version")
        self._candidates = Histogram(CANDIDATE_BUCKETS)
        self._phases = {name: Histogram(SECONDS_BUCKETS) for name in PHASES}
        self._observe: dict[str, Callable[[float], None]] = {
            name: histogram.observe for name, histogram in self._phases.items()
        }
        self._unknown_entities = Counts("coordinate")
        self._unknown_features = Counts("feature")
        self._degraded = Counts("reason")
        self._damaged = 0
        self._log: LogStats | None = None
        self._cache: CacheStats | None = None
        self._states: dict[tuple[str, str], str] = {}
        self._active: dict[str, int] = {}
        self._loads = Counts("model", "outcome")
        self.registry.register(self)

    # -- what is counted

    def request(self, model: str, version: int, outcome: str, form: str, candidates: int) -> None:
        """Count one answered request.

        Args:
            model: "" where the request named none that is served.
            version: that computed the answer; 0: none did.
            outcome: name of the gRPC status, `OK` for an answer.
            form: `readable`, `columnar` or `inference`.
            candidates: of the request, 0 where it could not be read.
        """
        self._requests.add((model, outcome, form))
        if version:
            self._by_version.add((model, str(version)))
        if candidates:
            self._candidates.observe(candidates)

    def phase(self, name: Phase, seconds: float) -> None:
        """Count the time that one request spent in one of its phases."""
        self._observe[name](seconds)

    def unknown_entities(self, coordinate: str, n: int) -> None:
        """Count the distinct entities of a request that the version has no coefficients for."""
        if n:
            self._unknown_entities.add((coordinate,), n)

    def unknown_features(self, feature: str, n: int) -> None:
        """Count feature values that the model's index does not know; `feature` is `<bag>.<column>`."""
        if n:
            self._unknown_features.add((feature,), n)

    def degraded(self, reason: str) -> None:
        """Count an answer that the store-failure policy gave."""
        self._degraded.add((reason,))

    def damaged_record(self) -> None:
        """Count a record of the store that failed its checks."""
        self._damaged += 1

    def access_log(self, log: LogStats) -> None:
        """Show what this log dropped from now on; it is read when somebody asks."""
        self._log = log

    def cache(self, stats: CacheStats) -> None:
        """Show the numbers of this cache from now on; it is read when somebody asks."""
        self._cache = stats

    def version(self, model: str, version: int, state: str) -> None:
        """Note a version's state, START to END; what was counted by version goes with its end."""
        key = (model, str(version))
        if state == "AVAILABLE" and self._states.get(key) != state:
            self._loads.add((model, "ok"))
        if state == "END":
            self._states.pop(key, None)
            self._by_version.values.pop(key, None)
            if self._active.get(model) == version:
                del self._active[model]
        else:
            self._states[key] = state

    def active(self, model: str, version: int | None) -> None:
        """Note the version that requests without a choice get; None: no version."""
        if version is None:
            self._active.pop(model, None)
        else:
            self._active[model] = version

    def load_failed(self, model: str) -> None:
        """Count a version that could not be loaded."""
        self._loads.add((model, "failed"))

    def loop_lag(self, seconds: float) -> None:
        """Note how late the event loop came to a timer."""
        self._loop_lag.set(seconds)

    # -- how it is read

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        yield _counter("requests", "Requests answered, by gRPC status.", self._requests)
        yield _counter(
            "version_requests", "Requests answered by a version that is still there.", self._by_version
        )
        yield _histogram("candidates", "Candidates in a request.", (), {(): self._candidates})
        phases: dict[tuple[str, ...], Histogram] = {
            (name,): histogram for name, histogram in self._phases.items()
        }
        yield _histogram("phase_seconds", "Time of a request by phase.", ("phase",), phases)
        yield _gauge("in_flight", "Requests admitted and not answered.", (), {(): self.in_flight.value})
        yield _gauge("loop_lag_seconds", "How late the event loop is.", (), {(): self._loop_lag.value})
        yield _counter("unknown_entities", "Entities without coefficients.", self._unknown_entities)
        yield _counter("unknown_features", "Feature values not in the index.", self._unknown_features)
        yield _counter("degraded", "Answers given by the store-failure policy.", self._degraded)
        yield _number("damaged_records", "Records that failed their checks.", self._damaged)
        if self._log is not None:
            yield _number("access_log_dropped", "Lines the access log had no room for.", self._log.dropped)
        yield _counter("version_loads", "Versions loaded, or not.", self._loads)
        states: dict[tuple[str, ...], float] = {(*key, state): 1.0 for key, state in self._states.items()}
        yield _gauge("version_state", "1 for the state of a version.", ("model", "version", "state"), states)
        active: dict[tuple[str, ...], float] = {
            (model,): float(version) for model, version in self._active.items()
        }
        yield _gauge("active_version", "Version of requests that name none.", ("model",), active)
        if self._cache is not None:
            yield from _cache_families(self._cache)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry holds this one collector, whose names cannot clash."""
        return ()

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the metric families as plain data for the parent; see `parent_metrics`."""
        return [
            {
                "name": family.name,
                "help": family.documentation,
                "type": family.type,
                "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
            }
            for family in self.collect()
        ]


def _cache_families(cache: CacheStats) -> Iterable[Metric]:
    yield _number("cache_hits", "Ids found in the cache, the absent ones included.", cache.hits)
    yield _number("cache_misses", "Ids not in the cache.", cache.misses)
    yield _number("cache_evictions", "Entries thrown out of the cache.", cache.evictions)
    yield _gauge("cache_bytes", "Bytes of the entries in the cache.", (), {(): float(cache.bytes_used)})
    yield _gauge("cache_entries", "Entries in the cache.", (), {(): float(cache.entries)})


def _number(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _counter(name: str, text: str, counts: Counts) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=counts.labels)
    for labels, value in counts.values.items():
        family.add_metric(labels, value)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for key, histogram in values.items():
        buckets, total = histogram.buckets()
        family.add_metric(key, buckets, sum_value=total)
    return family
