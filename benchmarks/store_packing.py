"""One Redis key for each entity, against entities packed into hashes: memory, writing, reading, deleting.

    python benchmarks/store_packing.py [--entities N] [--coefficients D] [--requests N] [--rounds R]

The same records three ways into a Redis of its own: a key each; buckets (a hash of so many entities under one key, the
id as its field) as Redis keeps hashes by default; buckets in its packed form (listpack; ziplist before Redis 7), with
the bound on a value raised above the record. A request reads 101 entities and the version's seal: one MGET, or one
pipeline of a GET and an HMGET for each bucket that the request touches; and the same inside MULTI / EXEC, which is what
makes it one answer, as MGET is. Deleting is what the store does: SCAN, and UNLINK of a thousand keys, up to the moment
when the server has given the memory back.

Commands are encoded beforehand and replies are parsed by hiredis, so the client adds as little as it can to any of the
layouts. The last columns are what the scorer's client, redis.asyncio, makes of the plain reads: latency, and its own
CPU time, which grows with the number of commands and replies. Every kind of read has requests of its own, so that none
finds the server's caches warmed by another. Layouts alternate; of the rounds the best is shown, of the latencies of a
round the median. "CPU" is CPU time of the server unless the head says client.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import hiredis
import numpy as np
import redis
import redis.asyncio
import uvloop
from publish import SCHEMA, make_block, redis_server, server_cpu

from gdmix_core.data.hashing import hash_byte_strings
from gdmix_core.store import CoefficientBlock, keys
from gdmix_core.store.record import encode_block

BUCKETS = (16, 64, 128)
KEYS_PER_COMMAND = 128
ENTITIES_PER_SEND = 1024
READ_AT_ONCE = 101
DELETE_AT_ONCE = 1000
VERSION = keys.version_prefix("m", 1)
PREFIX = VERSION + keys.entity_prefix("per_user")
SEAL = VERSION + keys.SEAL
MULTI = ([b"MULTI"],)
EXEC = ([b"EXEC"],)


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


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table."""

    bytes_entity: float
    us_entity: float
    write_cpu_us: float
    delete_s: float
    commands: float
    read_ms: float
    read_cpu_ms: float
    multi_ms: float
    multi_cpu_ms: float
    client_ms: float
    client_cpu_ms: float


class Wire:
    """A connection that sends ready bytes and parses replies."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("redis://").partition("/")[0].rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, data: bytes, replies: int) -> Any:
        """Send commands, wait for so many replies, return the last one."""
        self._socket.sendall(data)
        reply: Any = False
        while replies:
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 18))
                continue
            if isinstance(reply, Exception):
                raise reply
            replies -= 1
        return reply

    def close(self) -> None:
        """Give up the connection."""
        self._socket.close()


def main() -> None:
    """Run the benchmark and print a table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--entities", type=int, default=200_000)
    arguments.add_argument("--coefficients", type=int, default=16)
    arguments.add_argument("--requests", type=int, default=300, help="for each kind of read")
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    records = records_of(make_block(0, given.entities, given.coefficients))
    ids = list(records)
    rng = np.random.default_rng(0)
    requests = [
        [ids[i] for i in rng.choice(len(ids), READ_AT_ONCE, replace=False)] for _ in range(3 * given.requests)
    ]
    layouts = [Layout(0), *(Layout(bucket, packed) for packed in (False, True) for bucket in BUCKETS)]
    found: dict[Layout, list[Measured]] = defaultdict(list)
    with redis_server() as url, redis.Redis.from_url(url, protocol=2) as client:
        version = client.info("server")["redis_version"]
        for _ in range(given.rounds):
            for layout in layouts:
                wire = Wire(url)
                found[layout].append(measure(client, wire, url, layout, records, requests))
                wire.close()
    size = statistics.mean(map(len, records.values()))
    print(
        f"Redis {version}, {len(ids):,} entities, records of {size:.0f} bytes; a request reads {READ_AT_ONCE}, "
        f"median of {given.requests}, best of {given.rounds} rounds"
    )
    head = ["bytes/ent.", "written/s", "CPU us/ent.", "delete s", "commands", "read ms", "CPU ms", "MULTI ms"]
    head += ["CPU ms", "redis-py ms", "client CPU"]
    print(f"{'layout':24}" + "".join(f"{name:>12}" for name in head))
    for layout, rounds in found.items():
        best = Measured(*map(min, zip(*map(astuple, rounds), strict=True)))
        figures = [f"{best.bytes_entity:,.0f}", f"{1e6 / best.us_entity:,.0f}", f"{best.write_cpu_us:.2f}"]
        figures += [f"{best.delete_s:.3f}", f"{best.commands:.0f}"]
        figures += [f"{figure:.3f}" for figure in astuple(best)[5:]]
        print(f"{layout.name:24}" + "".join(f"{figure:>12}" for figure in figures))


def measure(
    client: Any,
    wire: Wire,
    url: str,
    layout: Layout,
    records: dict[bytes, bytes],
    requests: Sequence[Sequence[bytes]],
) -> Measured:
    """Fill Redis in one layout, read requests from it, delete it."""
    client.flushall()
    # The older names, which Redis 7 still takes.
    client.config_set("hash-max-ziplist-value", 4096 if layout.packed else 64)
    client.config_set("hash-max-ziplist-entries", 2 * layout.bucket if layout.packed else 128)
    client.set(SEAL, b"{}" * 200)
    key_of = keys_of(layout, list(records))
    before = settled(client)
    sends = list(writes(layout, records, key_of))
    cpu, start = server_cpu(client), time.perf_counter()
    for data, replies in sends:
        wire.call(data, replies)
    seconds = time.perf_counter() - start
    cpu = server_cpu(client) - cpu
    memory = settled(client) - before
    check(client, layout, key_of, records, requests[0])

    plain, multi, ours = (requests[kind::3] for kind in range(3))
    read = timed_reads(client, wire, [encoded(read_commands(layout, key_of, ids)) for ids in plain])
    # One MGET needs no MULTI: it is atomic as it is.
    around = (MULTI, EXEC) if layout.bucket else ((), ())
    atomic = [[*around[0], *read_commands(layout, key_of, ids), *around[1]] for ids in multi]
    atomic_read = timed_reads(client, wire, [encoded(commands) for commands in atomic])
    redis_py = uvloop.run(redis_py_reads(url, [read_commands(layout, key_of, ids) for ids in ours]))
    start = time.perf_counter()
    delete(client, before)
    return Measured(
        bytes_entity=memory / len(records),
        us_entity=1e6 * seconds / len(records),
        write_cpu_us=1e6 * cpu / len(records),
        delete_s=time.perf_counter() - start,
        commands=statistics.mean(len(read_commands(layout, key_of, ids)) for ids in plain),
        read_ms=read[0],
        read_cpu_ms=read[1],
        multi_ms=atomic_read[0],
        multi_cpu_ms=atomic_read[1],
        client_ms=redis_py[0],
        client_cpu_ms=redis_py[1],
    )


def timed_reads(client: Any, wire: Wire, requests: Sequence[tuple[bytes, int]]) -> tuple[float, float]:
    """Return the median milliseconds of a request, and the server's mean CPU time for one."""
    times, cpu = [], server_cpu(client)
    for data, replies in requests:
        start = time.perf_counter()
        wire.call(data, replies)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times), 1e3 * (server_cpu(client) - cpu) / len(requests)


async def redis_py_reads(url: str, requests: Sequence[list[list[bytes]]]) -> tuple[float, float]:
    """Return the median milliseconds of a request through redis.asyncio, and the client's mean CPU time."""
    times = []
    client: Any = redis.asyncio.Redis.from_url(url, protocol=2)
    async with client:
        await client.ping()
        cpu = time.process_time()
        for commands in requests:
            start = time.perf_counter()
            if len(commands) == 1:
                await client.execute_command(*commands[0])
            else:
                async with client.pipeline(transaction=False) as pipe:
                    for one in commands:
                        pipe.execute_command(*one)
                    await pipe.execute()
            times.append(time.perf_counter() - start)
        cpu = time.process_time() - cpu
    return 1e3 * statistics.median(times), 1e3 * cpu / len(requests)


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


def command(*parts: bytes) -> bytes:
    """Encode a command."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def encoded(commands: Sequence[Sequence[bytes]]) -> tuple[bytes, int]:
    """Encode the commands of one request; with the number of replies."""
    return b"".join(command(*one) for one in commands), len(commands)


def by_bucket(ids: Sequence[bytes], key_of: dict[bytes, bytes]) -> dict[bytes, list[bytes]]:
    """Group ids by the key that holds them."""
    groups: dict[bytes, list[bytes]] = defaultdict(list)
    for one in ids:
        groups[key_of[one]].append(one)
    return groups


def writes(
    layout: Layout, records: dict[bytes, bytes], key_of: dict[bytes, bytes]
) -> Iterator[tuple[bytes, int]]:
    """Yield what is sent at once and its number of replies: MSETs of 128 keys, or an HSET for each bucket."""
    ids = list(records)
    if layout.bucket:
        per_send = ENTITIES_PER_SEND // layout.bucket
        commands = [
            command(b"HSET", key, *(part for one in group for part in (one, records[one])))
            for key, group in by_bucket(ids, key_of).items()
        ]
    else:
        per_send = ENTITIES_PER_SEND // KEYS_PER_COMMAND
        commands = [
            command(
                b"MSET",
                *(part for one in ids[i : i + KEYS_PER_COMMAND] for part in (key_of[one], records[one])),
            )
            for i in range(0, len(ids), KEYS_PER_COMMAND)
        ]
    for i in range(0, len(commands), per_send):
        yield b"".join(commands[i : i + per_send]), len(commands[i : i + per_send])


def read_commands(layout: Layout, key_of: dict[bytes, bytes], ids: Sequence[bytes]) -> list[list[bytes]]:
    """Return the commands that read the seal and the entities of one request."""
    if not layout.bucket:
        return [[b"MGET", SEAL, *(key_of[one] for one in ids)]]
    groups = by_bucket(ids, key_of)
    return [[b"GET", SEAL], *([b"HMGET", key, *group] for key, group in groups.items())]


def check(
    client: Any,
    layout: Layout,
    key_of: dict[bytes, bytes],
    records: dict[bytes, bytes],
    ids: Sequence[bytes],
) -> None:
    """Make sure that the layout is what it is called, and holds the records."""
    for one in ids:
        key = key_of[one]
        value = client.hget(key, one) if layout.bucket else client.get(key)
        assert value == records[one]
    if layout.bucket:
        forms = [client.object("encoding", key_of[one]) in {b"listpack", b"ziplist"} for one in ids]
        assert statistics.mean(forms) > 0.9 if layout.packed else not any(forms)


def delete(client: Any, empty: int) -> None:
    """Delete a version as the store does, and wait until the server has freed its memory."""
    cursor = 0
    while True:
        cursor, found = client.scan(cursor, match=keys.glob_of(PREFIX), count=DELETE_AT_ONCE)
        if found:
            client.unlink(*found)
        if cursor == 0:
            break
    while client.info("memory")["lazyfree_pending_objects"]:
        time.sleep(0.001)
    assert client.info("memory")["used_memory"] < 2 * empty + (16 << 20)


def settled(client: Any) -> int:
    """Return the memory that the server uses, once its tables have stopped growing."""
    time.sleep(0.7)
    return int(client.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
