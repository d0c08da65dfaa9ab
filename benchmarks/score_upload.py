"""Uploading scores: bytes a second over loopback, rows a second in the check, memory of the coordinator.

    python benchmarks/score_upload.py --rows 40000000 --format parquet

Writes a file of random scores with uids in random order (or `--sorted`), starts a coordinator in a process of its
own, sends a file of a thousand rows so that everything is imported, then the large one. The sending includes the
digest and the writing of the file by the coordinator, not the client's own digest before; the check includes
reading, checking, looking for duplicates, and writing the Parquet file that is kept. Memory is what the coordinator
has beyond its memory before the large file, by the most of many samples of `RssAnon` and of `VmRSS`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from gdmix_client import LocalCluster

BATCH_ROWS = 1_000_000
AVRO_SCHEMA = {
    "type": "record",
    "name": "Score",
    "fields": [{"name": "uid", "type": "long"}, {"name": "score", "type": "double"}],
}


def write_file(path: Path, rows: int, form: str, *, in_order: bool) -> None:
    """Write the scores, a million rows at a time."""
    rng = np.random.default_rng(7)
    uid = np.arange(rows) if in_order else rng.permutation(rows)
    tables = (
        pa.table(
            {
                "uid": uid[start : start + BATCH_ROWS],
                "score": rng.normal(size=len(uid[start : start + BATCH_ROWS])),
            }
        )
        for start in range(0, rows, BATCH_ROWS)
    )
    schema = pa.schema({"uid": pa.int64(), "score": pa.float64()})
    if form == "avro":
        with path.open("wb") as stream:
            records = (record for table in tables for record in table.to_pylist())
            fastavro.writer(stream, AVRO_SCHEMA, records, codec="deflate")
        return
    writer = pq.ParquetWriter(path, schema) if form == "parquet" else pa_csv.CSVWriter(path, schema)
    with writer:
        for table in tables:
            writer.write_table(table)


class Memory:
    """The most memory that a process had, in bytes, since the last look."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self.most = {"RssAnon": 0, "VmRSS": 0}
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> dict[str, int]:
        """Return what it has at this moment."""
        lines = dict(line.split(":", 1) for line in self._path.read_text().splitlines())
        return {key: int(lines[key].split()[0]) << 10 for key in self.most}

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def reset(self) -> None:
        """Begin anew."""
        self.most = self.now()

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            now = self.now()
            self.most = {key: max(value, now[key]) for key, value in self.most.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000_000)
    parser.add_argument("--format", choices=("parquet", "avro", "csv"), default="parquet")
    parser.add_argument("--sorted", action="store_true", help="uids that increase from row to row")
    parser.add_argument("--directory", type=Path, help="where files go (default: a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        small, large = (Path(directory) / f"{size}.{options.format}" for size in ("small", "large"))
        write_file(small, 1000, options.format, in_order=False)
        write_file(large, options.rows, options.format, in_order=options.sorted)
        with (
            LocalCluster(workers=0, state_dir=Path(directory) / "state") as cluster,
            cluster.client() as client,
        ):
            memory = Memory(cluster.pids()["coordinator"])
            cold = memory.now()
            client.upload_scores(small, "small")
            warm = memory.now()
            memory.reset()
            times: list[float] = []
            sent: list[int] = []

            def progress(done: int, _: int) -> None:
                times.append(time.perf_counter())
                sent.append(done)

            begin = time.perf_counter()
            upload = client.upload_scores(large, "large", progress=progress)
            end = time.perf_counter()
            memory.stop()
    sending, check = times[-1] - times[0], end - times[-1]
    figures = {
        "format": options.format,
        "sorted": options.sorted,
        "rows": upload.rows,
        "file_bytes": upload.byte_size,
        "sending_megabytes_per_second": round((sent[-1] - sent[0]) / sending / 1e6, 1),
        "check_rows_per_second": round(upload.rows / check),
        "client_digest_seconds": round(times[0] - begin, 2),
        "sending_seconds": round(sending, 2),
        "check_seconds": round(check, 2),
        "all_seconds": round(end - begin, 2),
        "imports_mebibytes": round((warm["RssAnon"] - cold["RssAnon"]) / 2**20, 1),
        "growth_anonymous_mebibytes": round((memory.most["RssAnon"] - warm["RssAnon"]) / 2**20, 1),
        "growth_resident_mebibytes": round((memory.most["VmRSS"] - warm["VmRSS"]) / 2**20, 1),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
