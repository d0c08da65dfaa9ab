"""The coefficient store on Redis: one key for each entity, written in bulk by compiled RESP frames.

redis-py makes the connections (so its URLs bring authentication, TLS and timeouts along) and reads replies;
the commands that carry records are put together by one kernel, many thousand at a time, for the socket. The
control document changes by WATCH/MULTI/EXEC.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from gdmix_core.errors import Conflict, StoreError, StoreUnavailable, UsageError, VersionGone
from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store import control as rules
from gdmix_core.store import keys
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.control import Control, control_from_json
from gdmix_core.store.publication import (
    CHECKSUM_MASK,
    PublishedPart,
    Seal,
    StoredPairs,
    seal_from_json,
)
from gdmix_core.store.record import CoefficientBlock, ElementType, encode_block
from gdmix_core.store.verification import verify_records

T = TypeVar("T")

_CONNECT_TIMEOUT_SECONDS: Final = 5.0
_REPLY_TIMEOUT_SECONDS: Final = 30.0
_SCAN_KEYS: Final = 2_000
_DELETE_KEYS: Final = 1_000
_TRANSACTION_ATTEMPTS: Final = 100


class RedisStore(CoefficientStore):
    """Coefficients in a Redis server, 6.2 or later; `redis://`, `rediss://` and `unix://` URLs.

    Raises:
        UsageError: the URL is not one that redis-py understands.
    """

    host_local = False

    def __init__(self, url: str) -> None:
        import redis
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry

        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            # Untyped: what redis-py's annotations say of replies differs from version to version.
            self._client: Any = redis.Redis.from_url(
                url,
                protocol=2,
                socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                socket_timeout=_REPLY_TIMEOUT_SECONDS,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
            )
        except (ValueError, TypeError) as error:
            raise UsageError(f"the store {self.url} cannot be opened: {error}") from error

    def write_part(
        self,
        ticket: PublishTicket,
        coordinate: str,
        part: int,
        blocks: Iterable[CoefficientBlock],
        *,
        schema: int,
        element_type: ElementType = "float64",
        spill: str | Path | None = None,  # noqa: ARG002 - records go straight to the server
    ) -> PublishedPart:
        """Write one part of a coordinate; see `CoefficientStore.write_part`."""
        prefix = keys.version_prefix(ticket.model, ticket.version) + keys.entity_prefix(coordinate)
        entities = digest = waiting = 0
        with self._errors(), self._bulk_connection() as connection:
            # Every batch asks whether the version is still being written: an attempt that was thought dead
            # must not go on writing keys of a version that has been cleaned away.
            question = b"".join(connection.pack_command("GET", _control_key(ticket.model)))
            connection.send_packed_command([question])
            self._require_writing(ticket, connection.read_response())
            for block in blocks:
                for batch in encode_block(block, prefix, schema=schema, element_type=element_type, resp=True):
                    connection.send_packed_command([question, batch.data], check_health=False)
                    self._read_replies(ticket, connection, waiting)
                    waiting = batch.commands
                    entities += batch.entities
                    digest += batch.digest
            self._read_replies(ticket, connection, waiting)
        return PublishedPart(coordinate, part, entities, digest & CHECKSUM_MASK)

    def list_models(self) -> list[str]:
        """Return the names of all models that were ever published here, sorted."""
        with self._errors():
            return sorted(keys.unescape(name).decode() for name in self._client.smembers(keys.MODELS))

    def close(self) -> None:
        """Give up all connections."""
        self._client.close()

    # ---- what the contract asks for ----------------------------------------------------------------------

    def _clock(self) -> float:
        with self._errors():
            seconds, microseconds = self._client.time()
        return float(seconds) + float(microseconds) * 1e-6

    def _require_durable(self) -> None:
        with self._errors():
            memory = self._client.info("memory")
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        # Policies named volatile-* evict keys with a time to live only, and ours have none.
        if int(memory.get("maxmemory", 0)) > 0 and policy.startswith("allkeys"):
            raise Conflict(
                f"the store {self.url} evicts keys when memory runs short (maxmemory-policy {policy}), so "
                "coefficients would vanish silently; set maxmemory-policy to noeviction"
            )

    def _control(self, model: str) -> Control:
        with self._errors():
            return control_from_json(self._client.get(_control_key(model)), self.url)

    def _transact(
        self,
        model: str,
        change: Callable[[Control, float], tuple[Control, T]],
        *,
        need_seal: int | None = None,
        put_seal: Seal | None = None,
        drop_seal: int | None = None,
    ) -> T:
        import redis

        name = _control_key(model)
        active = keys.model_prefix(model) + b"active"
        with self._errors(), self._client.pipeline(transaction=True) as pipe:
            for _ in range(_TRANSACTION_ATTEMPTS):
                try:
                    pipe.watch(name)
                    seconds, microseconds = pipe.time()
                    before = control_from_json(pipe.get(name), self.url)
                    after, result = change(before, float(seconds) + float(microseconds) * 1e-6)
                    if need_seal is not None:
                        self._require_seal(pipe, model, need_seal)
                    pipe.multi()
                    pipe.set(name, after.to_json())
                    pipe.sadd(keys.MODELS, keys.name_part(model, "model"))
                    if after.active is not None:
                        pipe.set(active, str(after.active))
                    if put_seal is not None:
                        pipe.set(_seal_key(model, put_seal.version), put_seal.to_json())
                    if drop_seal is not None:
                        pipe.delete(_seal_key(model, drop_seal))
                    pipe.execute()
                except redis.WatchError:
                    continue
                return result
        raise StoreUnavailable(f"the store {self.url} is changed by too many publishers at once")

    def _require_seal(self, pipe: Any, model: str, version: int) -> None:
        pipe.watch(_seal_key(model, version))
        if not pipe.exists(_seal_key(model, version)):
            raise VersionGone(
                f"version {version} of model {model!r} lost its seal in {self.url}: the store was emptied, "
                "or evicted it; publish the version again"
            )

    def _seals(self, model: str, versions: Sequence[int]) -> list[bytes | None]:
        if not versions:
            return []
        with self._errors():
            return list(self._client.mget([_seal_key(model, version) for version in versions]))

    def _read(self, model: str, version: int, wanted: Sequence[bytes]) -> tuple[Seal, list[bytes | None]]:
        prefix = keys.version_prefix(model, version)
        with self._errors():
            seal, *values = self._client.mget([prefix + keys.SEAL, *(prefix + key for key in wanted)])
        if seal is None:
            raise VersionGone(
                f"version {version} of model {model!r} is not in the store {self.url}: it has no seal"
            )
        return seal_from_json(seal), values

    def _assemble(
        self,
        ticket: PublishTicket,
        seal: Seal,
        parts: Sequence[PublishedPart],  # noqa: ARG002 - they are in place already
        pairs: Sequence[tuple[bytes, bytes]],
        *,
        verify: bool,
    ) -> None:
        prefix = keys.version_prefix(ticket.model, ticket.version)
        with self._errors():
            for key, value in pairs:
                self._client.set(prefix + key, value)
        if verify:
            verify_records(seal, lambda: self._scan(ticket.model, ticket.version))

    def _scan(self, model: str, version: int) -> Iterator[StoredPairs]:
        prefix = keys.version_prefix(model, version) + b"e:"
        for found in self._key_batches(prefix, _SCAN_KEYS):
            found.sort()
            begin = 0
            while begin < len(found):
                start = found[begin][: found[begin].index(b":", len(prefix)) + 1]
                end = bisect_left(found, start[:-1] + b";", begin)  # the byte after the colon
                with self._errors():
                    records = self._client.execute_command("MGET", *found[begin:end])
                coordinate = keys.unescape(start[len(prefix) : -1]).decode()
                yield StoredPairs(coordinate, found[begin:end], records, len(start))
                begin = end

    def _drop_contents(self, model: str, version: int) -> None:
        for found in self._key_batches(keys.version_prefix(model, version), _DELETE_KEYS):
            with self._errors():
                self._client.unlink(*found)

    # ---- talking to the server ---------------------------------------------------------------------------

    def _key_batches(self, prefix: bytes, count: int) -> Iterator[list[bytes]]:
        """Go through all keys that begin with `prefix`, in no order; a key may come twice."""
        cursor = 0
        while True:
            with self._errors():
                cursor, found = self._client.scan(cursor, match=keys.glob_of(prefix), count=count)
            if found:
                yield found
            if cursor == 0:
                return

    @contextmanager
    def _bulk_connection(self) -> Iterator[Any]:
        """Lend a connection for hand-made commands; after a failure its unread replies go with it."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _read_replies(self, ticket: PublishTicket, connection: Any, commands: int) -> None:
        """Read the answers to one batch: whether the version is being written, then one OK for each MSET."""
        if not commands:
            return
        self._require_writing(ticket, connection.read_response())
        for _ in range(commands):
            reply = connection.read_response()
            if reply != b"OK":
                raise StoreError(f"the store {self.url} answered {reply!r} to MSET instead of OK")

    def _require_writing(self, ticket: PublishTicket, data: bytes | None) -> None:
        document = control_from_json(data, self.url)
        rules.require_writing(document, ticket.model, ticket.version, ticket.token)
        rules.announce(document, ticket.version, epoch=ticket.epoch, owner=ticket.owner)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn redis-py's exceptions into the project's."""
        import redis

        try:
            yield
        except redis.AuthenticationError as error:
            raise StoreUnavailable(f"the store {self.url} refuses the credentials of its URL") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise StoreUnavailable(f"the store {self.url} cannot be reached: {error}") from error
        except redis.exceptions.OutOfMemoryError as error:
            raise StoreError(
                f"the store {self.url} is out of memory; raise its maxmemory or delete old versions"
            ) from error
        except redis.RedisError as error:
            raise StoreError(f"the store {self.url} refused a command: {error}") from error


def _control_key(model: str) -> bytes:
    return keys.model_prefix(model) + b"control"


def _seal_key(model: str, version: int) -> bytes:
    return keys.version_prefix(model, version) + keys.SEAL
