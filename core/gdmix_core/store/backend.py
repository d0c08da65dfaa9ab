"""What an implementation of the store supplies: reading, writing, one atomic step on the control document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store.control import Control
from gdmix_core.store.publication import PublishedPart, Seal, StoredPairs

T = TypeVar("T")


class StoreBackend(ABC):
    """The part of a store that differs between Redis and LMDB.

    Attributes:
        url: where it is, without secrets.
        host_local: True when only processes of one host can reach it.
    """

    url: str
    host_local: bool

    @abstractmethod
    def close(self) -> None:
        """Give up connections and files; the store must not be used afterwards."""

    @abstractmethod
    def _clock(self) -> float:
        """Return the store's time, in seconds since 1970."""

    @abstractmethod
    def _require_durable(self) -> None:
        """Raise Conflict when the store may throw keys away."""

    @abstractmethod
    def _control(self, model: str) -> Control:
        """Read the control document."""

    @abstractmethod
    def _transact(
        self,
        model: str,
        change: Callable[[Control, float], tuple[Control, T]],
        *,
        need_seal: int | None = None,
        put_seal: Seal | None = None,
        drop_seal: int | None = None,
    ) -> T:
        """Replace the control document atomically by `change(document, now)`, together with a seal.

        `change` may run more than once. With `need_seal`, absence of that version's seal raises VersionGone.
        """

    @abstractmethod
    def _seals(self, model: str, versions: Sequence[int]) -> list[bytes | None]:
        """Read the seals of some versions."""

    @abstractmethod
    def _read(self, model: str, version: int, wanted: Sequence[bytes]) -> tuple[Seal, list[bytes | None]]:
        """Read the seal and some keys (without the version's prefix) at once; VersionGone without a seal."""

    @abstractmethod
    def _assemble(
        self,
        ticket: PublishTicket,
        seal: Seal,
        parts: Sequence[PublishedPart],
        pairs: Sequence[tuple[bytes, bytes]],
        *,
        verify: bool,
    ) -> None:
        """Put everything but the seal's validity in place, checked against `seal`."""

    @abstractmethod
    def _scan(self, model: str, version: int) -> Iterator[StoredPairs]:
        """Read back all records of a version; a pair may come twice if the store cannot avoid it."""

    @abstractmethod
    def _drop_contents(self, model: str, version: int) -> None:
        """Remove what a version holds besides the seal."""
