"""The metrics of a scorer as a whole: its serving processes added up, and what its parent knows itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gdmix_scorer.metrics import PREFIX

PER_CHILD: Final = frozenset(
    f"{PREFIX}_{name}" for name in ("active_version", "version_state", "loop_lag_seconds", "version_requests")
)
"""What means nothing when added up, or does not last: the parent labels it by `child`. All else is added."""

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""From (sample name, sorted labels) to its value."""


class SnapshotSums:
    """Adds up what the serving processes tell, those that have ended included.

    A counter must never go down, or Prometheus takes it for a restart and counts everything again. So the last
    that was heard of a process that ended stays in the sums; only its gauges go.
    """

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._ended: Series = {}
        self._living: dict[str, Series] = {}
        self._gauges: dict[str, Series] = {}

    def update(self, child: str, snapshot: Iterable[Mapping[str, Any]]) -> None:
        """Take a process's latest numbers; `child` is its name among the labels."""
        counters: Series = {}
        gauges: Series = {}
        for family in snapshot:
            name, kind = str(family["name"]), str(family["type"])
            self._families[name] = (kind, str(family["help"]))
            into = gauges if kind == "gauge" or name in PER_CHILD else counters
            for sample, labels, value in family["samples"]:
                if name in PER_CHILD:
                    labels = {**labels, "child": child}  # noqa: PLW2901 - the same labels and one more
                into[(sample, tuple(sorted(labels.items())))] = float(value)
        self._living[child], self._gauges[child] = counters, gauges

    def end(self, child: str) -> None:
        """Keep the counters of a process that has ended, forget its gauges."""
        _add(self._ended, self._living.pop(child, {}))
        self._gauges.pop(child, None)

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families of all processes together."""
        sums: Series = dict(self._ended)
        for series in (*self._living.values(), *self._gauges.values()):
            _add(sums, series)
        by_family: dict[str, Metric] = {
            name: Metric(name, text, kind) for name, (kind, text) in self._families.items()
        }
        for (sample, labels), value in sums.items():
            by_family[_family_of(sample, self._families)].add_sample(sample, dict(labels), value)
        yield from by_family.values()


def _add(into: Series, series: Series) -> None:
    for key, value in series.items():
        into[key] = into.get(key, 0.0) + value


def _family_of(sample: str, families: Mapping[str, object]) -> str:
    if sample in families:
        return sample
    return sample.rsplit("_", 1)[0]


@dataclass(frozen=True, slots=True)
class ChildFacts:
    """What the parent knows of one serving process."""

    name: str
    """The label `child`: its number, which the process that takes its place inherits."""
    pid: int | None
    """None: between two processes."""
    serving: bool
    restarts: int


class ParentMetrics(Collector):
    """Everything that `/metrics` shows."""

    def __init__(self, sums: SnapshotSums, children: Callable[[], Sequence[ChildFacts]]) -> None:
        """Show these sums, and the processes that `children` tells whenever somebody asks."""
        self._sums = sums
        self._children = children
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry holds this one collector, whose names cannot clash."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families."""
        children = self._children()
        serving = GaugeMetricFamily(f"{PREFIX}_child_serving", "1 while it answers.", labels=("child",))
        restarts = CounterMetricFamily(
            f"{PREFIX}_child_restarts", "Serving processes started again.", labels=("child",)
        )
        for child in children:
            serving.add_metric((child.name,), float(child.serving))
            restarts.add_metric((child.name,), float(child.restarts))
        yield serving
        yield restarts
        yield from self._sums.collect()
        yield from _process_families(children)


def _process_families(children: Sequence[ChildFacts]) -> Iterable[Metric]:
    """Yield memory, processor time and open files of each process, as the system tells them."""
    families: dict[str, Metric] = {}
    for child in children:
        if child.pid is None:
            continue
        for family in ProcessCollector(pid=partial(int, child.pid), registry=None).collect():
            own = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                own.add_sample(sample.name, {"child": child.name}, sample.value)
    yield from families.values()
