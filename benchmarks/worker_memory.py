"""Peak memory of a worker by the number of entities, with partitions of the same size.

    python benchmarks/worker_memory.py --entities 100000 1000000

Writes synthetic data (ten rows an entity, ten numeric features), trains a fixed effect and one random effect on
one worker of a local cluster, and prints the worker's peak resident memory beside the number of partitions.
A fresh cluster is started for each size. `anonymous` is what the worker allocated; `resident` also counts pages of
memory-mapped files, which the kernel takes back when it needs them.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdmix_client import JobState, LocalCluster

FEATURES = 10
ROWS_AN_ENTITY = 10
FILE_ROWS = 1_000_000


def write_data(directory: Path, entities: int) -> None:
    """Write the rows in files of a million."""
    rows = entities * ROWS_AN_ENTITY
    rng = np.random.default_rng(7)
    truth = rng.normal(size=FEATURES)
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        x = rng.normal(size=(count, FEATURES))
        entity = np.random.default_rng(start).integers(0, entities, count)
        z = x @ truth + 0.5 * np.sin(entity)
        label = (rng.random(count) < 1 / (1 + np.exp(-z))).astype(np.int64)
        columns: dict[str, object] = {
            "uid": np.arange(start, start + count),
            "label": label,
            "entity": entity,
        }
        columns |= {f"x{j}": x[:, j] for j in range(FEATURES)}
        path = directory / f"part-{start // FILE_ROWS:04d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=250_000)


class PeakMemory:
    """Samples a process's anonymous and resident memory until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.anonymous = self.resident = 0
        self._path = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(0.05):
            fields = dict(line.split(":", 1) for line in self._path.read_text().splitlines())
            self.anonymous = max(self.anonymous, int(fields["RssAnon"].split()[0]))
            self.resident = max(self.resident, int(fields["VmHWM"].split()[0]))

    def stop(self) -> None:
        """Take no more samples."""
        self._stop.set()
        self._thread.join()


def measure(entities: int, scratch: Path) -> None:
    data = scratch / "data"
    data.mkdir(parents=True)
    write_data(data, entities)
    features = [{"column": f"x{j}", "kind": "numeric"} for j in range(FEATURES)]
    config = {
        "model": "memory",
        "task": "logistic_regression",
        "data": {"train": str(data)},
        "features": {"all": features},
        "coordinates": {
            "global": {"fixed_effect": "logistic_regression", "features": ["all"]},
            "per_entity": {"random_effect": "entity", "features": ["all"]},
        },
        "output": str(scratch / "out"),
    }
    with LocalCluster(workers=1, state_dir=scratch / "state") as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        peak = PeakMemory(cluster.pids()["worker-1"])
        start = time.perf_counter()
        job = client.wait(client.submit(config).job_id)
        seconds = time.perf_counter() - start
        peak.stop()
    if job.state is not JobState.SUCCEEDED:
        raise SystemExit(job.error)
    rows = entities * ROWS_AN_ENTITY
    report = job.coordinates[-1]
    partitions = len(list(Path(job.published.directory).glob("per_entity/part-*"))) if job.published else 0
    print(
        f"{report.entities:10,} entities {rows:12,} rows {partitions:4} partitions: worker's peak "
        f"{peak.anonymous / 1024:7,.0f} MiB anonymous, {peak.resident / 1024:7,.0f} MiB resident; "
        f"job {seconds:6.1f} s, random effect {report.seconds:5.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entities", type=int, nargs="+", default=[100_000, 1_000_000])
    for entities in parser.parse_args().entities:
        with tempfile.TemporaryDirectory() as scratch:
            measure(entities, Path(scratch))


if __name__ == "__main__":
    main()
