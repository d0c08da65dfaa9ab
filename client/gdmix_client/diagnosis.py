"""Looking at the environment: what is there, what is not, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from gdmix_client.connection import Connection
from gdmix_core.errors import GdmixError

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 1.0
_NEEDED = (
    "grpcio",
    "protobuf",
    "numpy",
    "scipy",
    "numba",
    "pyarrow",
    "polars",
    "fastavro",
    "redis",
    "lmdb",
    "pydantic",
    "PyYAML",
    "typer",
    "rich",
    "uvloop",
)


class Verdict(StrEnum):
    """How a check came out."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `mend` says what to do about it, "" when there is nothing to do."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


def diagnose(state_dir: Path, connection: Connection | None) -> Iterator[Finding]:
    """Yield what each check finds.

    Args:
        state_dir: where local clusters keep their state.
        connection: of the coordinator to try; None for none.
    """
    yield _python()
    yield _packages()
    yield _numerics()
    yield _machine()
    yield from _cache()
    yield _writable_state(state_dir)
    yield _redis()
    yield _optional("tensorflow", "deep fixed effects and TFRecord files", 'pip install "gdmix[tensorflow]"')
    yield _optional("pyspark", "training on Spark", "pip install pyspark")
    yield _java()
    if connection is not None:
        yield _coordinator(connection)


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= LEAST_PYTHON
    least = ".".join(map(str, LEAST_PYTHON))
    return Finding(
        "python", Verdict.GOOD if good else Verdict.BAD, found, "" if good else f"use Python {least}+"
    )


def _packages() -> Finding:
    versions: dict[str, str] = {}
    missing = []
    for name in ("gdmix", *_NEEDED):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", Verdict.BAD, f"missing: {', '.join(missing)}", "pip install gdmix again")
    return Finding(
        "packages", Verdict.GOOD, ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def _numerics() -> Finding:
    from gdmix_core.fingerprint import numerics_digest, numerics_fingerprint

    parts = numerics_fingerprint()
    return Finding("numerics", Verdict.GOOD, f"{numerics_digest()} ({parts['cpu_target']}, {parts['libc']})")


def _machine() -> Finding:
    from gdmix_client.local_cluster import default_workers

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{default_workers()} workers by default, {memory:.1f} GiB of memory"
    if memory < LEAST_MEMORY_GIB:
        return Finding("machine", Verdict.NOTE, found, "train with --workers 1")
    return Finding("machine", Verdict.GOOD, found)


def _cache() -> Iterator[Finding]:
    from gdmix_core.compiled import CACHE_VARIABLE, cache_directory

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        directory = cache_directory()
    if raised:
        yield Finding(
            "cache", Verdict.BAD, str(raised[0].message), f"set {CACHE_VARIABLE} to a directory of yours"
        )
        return
    yield Finding("cache", Verdict.GOOD, str(directory))
    if any(directory.glob("warm-*[0-9a-f]")):
        yield Finding("kernels", Verdict.GOOD, "compiled")
    else:
        yield Finding(
            "kernels",
            Verdict.NOTE,
            "not compiled yet",
            "nothing to do: the first worker does it, once per machine",
        )


def _writable_state(directory: Path) -> Finding:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("state directory", Verdict.GOOD, str(directory))
    return Finding(
        "state directory",
        Verdict.BAD,
        f"{existing} is not writable",
        "set GDMIX_STATE_DIR, or give --state-dir",
    )


def _redis() -> Finding:
    path = shutil.which("redis-server")
    if path is not None:
        return Finding("redis-server", Verdict.GOOD, path)
    return Finding(
        "redis-server",
        Verdict.NOTE,
        "not on this machine",
        "needed only to run a Redis store here (apt install redis-server); lmdb: needs no server",
    )


def _optional(module: str, what_for: str, mend: str) -> Finding:
    if importlib.util.find_spec(module) is not None:
        found = metadata.packages_distributions().get(module, [module])  # tensorflow-cpu brings tensorflow
        return Finding(module, Verdict.GOOD, metadata.version(found[0]))
    return Finding(module, Verdict.NOTE, "not installed", f"needed only for {what_for}: {mend}")


def _java() -> Finding:
    path = shutil.which("java")
    if path is not None:
        return Finding("java", Verdict.GOOD, path)
    return Finding("java", Verdict.NOTE, "not on this machine", "needed only for training on Spark")


def _coordinator(connection: Connection) -> Finding:
    from gdmix_client.client import Client

    try:
        with Client(connection) as client:
            cluster = client.cluster()
    except GdmixError as error:
        return Finding(
            "coordinator", Verdict.BAD, str(error), "start one with gdmix-cli up, or correct --coordinator"
        )
    found = f"{connection.address}, version {cluster.version}, {len(cluster.workers)} workers"
    if cluster.workers:
        return Finding("coordinator", Verdict.GOOD, found)
    return Finding("coordinator", Verdict.NOTE, found, "start workers: gdmix-cli worker --coordinator …")
