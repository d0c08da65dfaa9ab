"""What a serving process counts, and how the parent adds several up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gdmix_scorer.metrics import MAX_SERIES, OTHER, SECONDS_BUCKETS, ScorerMetrics
from gdmix_scorer.parent_metrics import ChildFacts, ParentMetrics, SnapshotSums


@dataclass
class Cache:
    hits: int = 7
    misses: int = 3
    evictions: int = 1
    bytes_used: int = 4096
    entries: int = 5


@dataclass
class Log:
    dropped: int = 2


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[(f"gdmix_scorer_{name}", tuple(sorted(labels.items())))]


def used() -> ScorerMetrics:
    metrics = ScorerMetrics()
    metrics.request("movies", 3, "OK", "columnar", 100)
    metrics.request("movies", 3, "OK", "columnar", 50)
    metrics.request("", 0, "NOT_FOUND", "readable", 0)
    metrics.phase("total", 0.00015)
    metrics.phase("total", 5.0)
    metrics.unknown_entities("per_user", 2)
    metrics.unknown_features("movie.genres", 1)
    metrics.degraded("store")
    metrics.damaged_record()
    metrics.cache(Cache())
    metrics.access_log(Log())
    metrics.version("movies", 3, "LOADING")
    metrics.version("movies", 3, "AVAILABLE")
    metrics.active("movies", 3)
    metrics.in_flight.inc()
    metrics.loop_lag(0.25)
    return metrics


def test_everything_is_in_the_exposition():
    found = samples(generate_latest(used().registry))
    assert value(found, "requests_total", model="movies", outcome="OK", form="columnar") == 2
    assert value(found, "requests_total", model="", outcome="NOT_FOUND", form="readable") == 1
    assert value(found, "version_requests_total", model="movies", version="3") == 2
    assert value(found, "candidates_sum") == 150
    assert value(found, "candidates_bucket", le="50.0") == 1
    assert value(found, "phase_seconds_bucket", phase="total", le="0.0002") == 1
    assert value(found, "phase_seconds_bucket", phase="total", le="1.0") == 1
    assert value(found, "phase_seconds_bucket", phase="total", le="+Inf") == 2
    assert value(found, "phase_seconds_count", phase="total") == 2
    assert value(found, "phase_seconds_count", phase="store") == 0
    assert value(found, "unknown_entities_total", coordinate="per_user") == 2
    assert value(found, "unknown_features_total", feature="movie.genres") == 1
    assert value(found, "degraded_total", reason="store") == 1
    assert value(found, "damaged_records_total") == 1
    assert value(found, "cache_hits_total") == 7
    assert value(found, "cache_bytes") == 4096
    assert value(found, "access_log_dropped_total") == 2
    assert value(found, "version_state", model="movies", version="3", state="AVAILABLE") == 1
    assert value(found, "version_loads_total", model="movies", outcome="ok") == 1
    assert value(found, "active_version", model="movies") == 3
    assert value(found, "in_flight") == 1
    assert value(found, "loop_lag_seconds") == 0.25


def test_a_value_on_a_bound_belongs_to_its_bucket():
    metrics = ScorerMetrics()
    for bound in SECONDS_BUCKETS:
        metrics.phase("store", bound)
    found = samples(generate_latest(metrics.registry))
    counts = [value(found, "phase_seconds_bucket", phase="store", le=str(bound)) for bound in SECONDS_BUCKETS]
    assert counts == list(range(1, len(SECONDS_BUCKETS) + 1))


def test_the_end_of_a_version_removes_what_is_counted_by_version():
    metrics = used()
    metrics.version("movies", 3, "END")
    found = samples(generate_latest(metrics.registry))
    assert not [key for key in found if ("version", "3") in key[1] or key[0] == "gdmix_scorer_active_version"]
    assert value(found, "requests_total", model="movies", outcome="OK", form="columnar") == 2


def test_labels_out_of_requests_are_bounded():
    metrics = ScorerMetrics()
    for number in range(MAX_SERIES + 10):
        metrics.degraded(f"reason {number}")
    found = samples(generate_latest(metrics.registry))
    assert value(found, "degraded_total", reason=OTHER) == 10
    assert len([key for key in found if key[0] == "gdmix_scorer_degraded_total"]) == MAX_SERIES + 1


def exposition(sums: SnapshotSums, children=()) -> dict:
    return samples(ParentMetrics(sums, lambda: list(children)).text())


def wire(metrics: ScorerMetrics):
    """The snapshot as it arrives at the parent."""
    return json.loads(json.dumps(metrics.snapshot()))


def test_the_parent_adds_counters_up_and_labels_what_cannot_be_added():
    sums = SnapshotSums()
    sums.update("0", wire(used()))
    sums.update("1", wire(used()))
    found = exposition(sums)
    assert value(found, "requests_total", model="movies", outcome="OK", form="columnar") == 4
    assert value(found, "phase_seconds_bucket", phase="total", le="+Inf") == 4
    assert value(found, "phase_seconds_sum", phase="total") == pytest.approx(10.0003)
    assert value(found, "in_flight") == 2
    assert value(found, "cache_bytes") == 8192
    assert value(found, "active_version", model="movies", child="0") == 3
    assert value(found, "active_version", model="movies", child="1") == 3
    assert value(found, "version_requests_total", model="movies", version="3", child="1") == 2


def test_counters_of_a_process_that_ended_stay_and_its_gauges_go():
    sums = SnapshotSums()
    sums.update("0", wire(used()))
    sums.update("1", wire(used()))
    sums.end("1")
    after = exposition(sums)
    assert value(after, "requests_total", model="movies", outcome="OK", form="columnar") == 4
    assert value(after, "in_flight") == 1
    assert not [key for key in after if ("child", "1") in key[1]]
    sums.update("1", wire(used()))
    again = exposition(sums)
    assert value(again, "requests_total", model="movies", outcome="OK", form="columnar") == 6
    assert value(again, "cache_hits_total") == 21
    assert value(again, "in_flight") == 2


def test_a_later_snapshot_replaces_the_earlier():
    sums, metrics = SnapshotSums(), used()
    sums.update("0", wire(metrics))
    metrics.request("movies", 3, "OK", "columnar", 1)
    sums.update("0", wire(metrics))
    found = exposition(sums)
    assert value(found, "requests_total", model="movies", outcome="OK", form="columnar") == 3


def test_the_parent_tells_of_its_processes():
    children = [ChildFacts("0", os.getpid(), True, 0), ChildFacts("1", None, False, 4)]
    found = exposition(SnapshotSums(), children)
    assert value(found, "child_serving", child="0") == 1
    assert value(found, "child_serving", child="1") == 0
    assert value(found, "child_restarts_total", child="1") == 4
    assert found[("process_resident_memory_bytes", (("child", "0"),))] > 0
    assert ("process_resident_memory_bytes", (("child", "1"),)) not in found
