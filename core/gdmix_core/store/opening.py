"""From a URL to a store."""

from __future__ import annotations

from gdmix_core.errors import UsageError
from gdmix_core.store.contract import CoefficientStore


def open_store(url: str) -> CoefficientStore:
    """Open the coefficient store at `url`; nothing is connected or created before it is used.

    Args:
        url: `redis://[[user]:password@]host[:port][/db]`, `rediss://…` (TLS), `unix://PATH` or `lmdb:DIR`.

    Raises:
        UsageError: the URL names no kind of store.
    """
    scheme = url.partition(":")[0]
    if scheme == "lmdb":
        from gdmix_core.store.lmdb_store import LmdbStore

        path = url.removeprefix("lmdb:")
        return LmdbStore(path.removeprefix("//") if path.startswith("///") else path)
    if scheme in {"redis", "rediss", "unix"} and "://" in url:
        from gdmix_core.store.redis_store import RedisStore

        return RedisStore(url)
    raise UsageError(
        f"the store URL begins with {scheme!r}; allowed are lmdb:DIRECTORY, redis://HOST:PORT/DB, rediss://… "
        "and unix://…"
    )
