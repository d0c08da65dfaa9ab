"""Reading records on an event loop: what a request waits for. Everything else uses `CoefficientStore`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from gdmix_core.errors import StoreError, StoreUnavailable, VersionGone
from gdmix_core.store import keys
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.lmdb_store import LmdbStore
from gdmix_core.store.opening import open_store
from gdmix_core.store.publication import Seal, seal_from_json

MAX_CONNECTIONS: Final = 8
"""To a Redis server, of one process; further reads wait for one of them."""
_CONNECT_SECONDS: Final = 1.0


class AsyncReader(ABC):
    """Reads records of one store; bound to one event loop."""

    @abstractmethod
    async def read_records(
        self, model: str, version: int, wanted: Sequence[bytes]
    ) -> tuple[Seal, list[bytes | None]]:
        """Read the seal and the records of some keys (`keys.entity_key`) in one round trip.

        It waits as long as the caller lets it: cancelling is safe.

        Raises:
            VersionGone: the seal is absent, so that absent records mean nothing.
            StoreUnavailable: the store cannot be reached.
            StoreError: the store refuses, or a seal is damaged.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give up connections and files."""


class MappedReader(AsyncReader):
    """An embedded store: its file is mapped into memory, so that a read is a look-up and nothing to wait for."""

    def __init__(self, store: CoefficientStore) -> None:
        self._store = store

    async def read_records(
        self, model: str, version: int, wanted: Sequence[bytes]
    ) -> tuple[Seal, list[bytes | None]]:
        """Read seal and records; see `AsyncReader.read_records`."""
        return self._store.read_records(model, version, wanted)

    async def close(self) -> None:
        """Close the files."""
        self._store.close()


class RedisReader(AsyncReader):
    """A Redis server: one MGET for seal and records."""

    def __init__(self, url: str, shown: str) -> None:
        """Prepare connections.

        Args:
            url: of the server, with its secrets.
            shown: the same for messages.
        """
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._shown = shown
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            protocol=2,
            max_connections=MAX_CONNECTIONS,
            timeout=None,
            socket_connect_timeout=_CONNECT_SECONDS,
            # A connection that the server closed while it was idle is noticed by the first command on it.
            retry=Retry(NoBackoff(), 1),
        )
        self._client: Any = redis.asyncio.Redis(connection_pool=pool)

    async def read_records(
        self, model: str, version: int, wanted: Sequence[bytes]
    ) -> tuple[Seal, list[bytes | None]]:
        """Read seal and records; see `AsyncReader.read_records`."""
        import redis

        prefix = keys.version_prefix(model, version)
        try:
            seal, *values = await self._client.execute_command(
                "MGET", prefix + keys.SEAL, *(prefix + key for key in wanted)
            )
        except redis.AuthenticationError as error:
            raise StoreUnavailable(f"the store {self._shown} refuses the credentials of its URL") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise StoreUnavailable(f"the store {self._shown} cannot be reached: {error}") from error
        except redis.RedisError as error:
            raise StoreError(f"the store {self._shown} refused a command: {error}") from error
        if seal is None:
            raise VersionGone(
                f"version {version} of model {model!r} is not in the store {self._shown}: it has no seal"
            )
        return seal_from_json(seal), values

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


def open_reader(url: str) -> AsyncReader:
    """Open the store at `url` for reading on the running event loop; nothing is connected before it is used.

    Raises:
        UsageError: the URL names no kind of store.
    """
    asyncio.get_running_loop()
    store = open_store(url)
    if isinstance(store, LmdbStore):
        return MappedReader(store)
    shown = store.url
    store.close()
    return RedisReader(url, shown)
