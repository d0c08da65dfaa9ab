"""One Redis key for each entity, against entities packed into hashes: memory, writing, reading a request.

    python benchmarks/store_packing.py [--entities N] [--coefficients D]

The same records three ways into a Redis of its own: a key each; buckets (a hash of so many entities under one key, the
id as its field) as Redis keeps hashes by default; buckets small enough for its packed form (listpack; ziplist before
Redis 7), with the bound on a value raised above the record. A request reads 101 entities: one MGET, or an HGET for each
in one pipeline, since they lie in different buckets. Times are medians, beside the server's own CPU time for a request.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
from publish import SCHEMA, make_block, redis_server

from gdmix_core.data.hashing import hash_byte_strings
from gdmix_core.store import CoefficientBlock
from gdmix_core.store.record import encode_block

BUCKETS = (16, 64, 128)
PER_COMMAND = 128
REQUESTS = 300
PREFIX = b"gdmix:m:v1:e:per_user:"


@dataclass(frozen=True, slots=True)
class Layout:
    """How entities lie in Redis: `bucket` of them under a key, 0 for a key each; `packed`: as a listpack."""

    bucket: int
    packed: bool = False

    @property
    def name(self) -> str:
        """How the table calls it."""
        if not self.bucket:
            return "one key an entity"
        return f"hashes of {self.bucket}, {'listpack' if self.packed else 'default'}"


def main() -> None:
    """Run the benchmark and print a table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--entities", type=int, default=200_000)
    arguments.add_argument("--coefficients", type=int, default=16)
    given = arguments.parse_args()
    block = make_block(0, given.entities, given.coefficients)
    records = records_of(block)
    ids = list(records)
    layouts = [Layout(0), *(Layout(b, packed) for packed in (False, True) for b in BUCKETS)]
    rng = np.random.default_rng(0)
    requests = [[ids[i] for i in rng.integers(0, len(ids), 101)] for _ in range(REQUESTS)]
    size = statistics.mean(map(len, records.values()))
    with redis_server() as url, redis.Redis.from_url(url, protocol=2) as client:
        print(
            f"Redis {client.info('server')['redis_version']}, {len(ids):,} entities, records of {size:.0f} bytes; "
            f"reading 101 entities, median of {REQUESTS}"
        )
        print(f"{'layout':28} {'bytes/entity':>13} {'written/s':>11} {'read ms':>9} {'server ms':>10}")
        for layout in layouts:
            measure(client, layout, ids, records, requests)


def measure(
    client: Any,
    layout: Layout,
    ids: Sequence[bytes],
    records: dict[bytes, bytes],
    requests: Sequence[Sequence[bytes]],
) -> None:
    """Fill Redis in one layout, read requests from it, print a line."""
    client.flushall()
    # The older names, which Redis 7 still takes.
    client.config_set("hash-max-ziplist-value", 4096 if layout.packed else 64)
    client.config_set("hash-max-ziplist-entries", 2 * layout.bucket if layout.packed else 128)
    key_of = keys_of(layout, ids)
    before = client.info("memory")["used_memory"]
    commands = write_commands(layout, ids, records, key_of)
    start = time.perf_counter()
    for first in range(0, len(commands), 8):  # a few commands on their way at once
        with client.pipeline(transaction=False) as pipe:
            for command in commands[first : first + 8]:
                pipe.execute_command(*command)
            pipe.execute()
    written = len(ids) / (time.perf_counter() - start)
    memory = (client.info("memory")["used_memory"] - before) / len(ids)
    read = reader(client, layout, key_of)
    assert read(requests[0]) == [records[one] for one in requests[0]]
    times, cpu = [], server_cpu(client)
    for request in requests:
        start = time.perf_counter()
        read(request)
        times.append(time.perf_counter() - start)
    server = (server_cpu(client) - cpu) / len(requests)
    print(
        f"{layout.name:28} {memory:13,.0f} {written:11,.0f} {1e3 * statistics.median(times):9.3f} {1e3 * server:10.3f}"
    )


def records_of(block: CoefficientBlock) -> dict[bytes, bytes]:
    """Return the records by id."""
    found: dict[bytes, bytes] = {}
    for batch in encode_block(block, b"", schema=SCHEMA):
        assert batch.bounds is not None
        edges = batch.bounds.tolist()
        for a, b, c in zip(edges[:-2:2], edges[1:-1:2], edges[2::2], strict=True):
            found[bytes(batch.data[a:b])] = bytes(batch.data[b:c])
    return found


def keys_of(layout: Layout, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the key that holds each id: its own, or its bucket's, by xxh64."""
    if not layout.bucket:
        return {one: PREFIX + one for one in ids}
    ptr = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
    hashes = hash_byte_strings(np.frombuffer(b"".join(ids), np.uint8), ptr)
    buckets = (hashes % np.uint64(max(1, len(ids) // layout.bucket))).tolist()
    return {one: PREFIX + b"%d" % bucket for one, bucket in zip(ids, buckets, strict=True)}


def write_commands(
    layout: Layout, ids: Sequence[bytes], records: dict[bytes, bytes], key_of: dict[bytes, bytes]
) -> list[list[bytes]]:
    """Return MSETs of 128 keys, or one HSET a bucket."""
    if not layout.bucket:
        return [
            [b"MSET", *(part for one in ids[i : i + PER_COMMAND] for part in (key_of[one], records[one]))]
            for i in range(0, len(ids), PER_COMMAND)
        ]
    commands: dict[bytes, list[bytes]] = {}
    for one in ids:
        commands.setdefault(key_of[one], [b"HSET", key_of[one]]).extend((one, records[one]))
    return list(commands.values())


def reader(
    client: Any, layout: Layout, key_of: dict[bytes, bytes]
) -> Callable[[Sequence[bytes]], list[bytes]]:
    """Return the function that reads the entities of one request."""
    if not layout.bucket:
        return lambda ids: list(client.execute_command("MGET", *(key_of[one] for one in ids)))

    def pipelined(ids: Sequence[bytes]) -> list[bytes]:
        with client.pipeline(transaction=False) as pipe:
            for one in ids:
                pipe.execute_command("HGET", key_of[one], one)
            return list(pipe.execute())

    return pipelined


def server_cpu(client: Any) -> float:
    """Return the CPU seconds that the server has used."""
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


if __name__ == "__main__":
    main()
