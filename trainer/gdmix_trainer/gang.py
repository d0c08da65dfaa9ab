"""How a member of a gang meets the others: it holds a port, has the coordinator tell them, and hears where they are.

A bound socket that does not listen gets no connections; it keeps the port until the member listens there, in this
process or another one of the same user. Servers that set SO_REUSEADDR or SO_REUSEPORT, as gRPC's, asyncio's and
`socket.create_server` do, can listen beside it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeAlias

from gdmix_core.errors import Unavailable, UsageError
from gdmix_trainer.messages import Lease

LOOPBACK: Final = "127.0.0.1"

Join: TypeAlias = "Callable[[Lease, str], Future[tuple[str, ...]]]"
"""Starts to tell where a lease's unit listens; the future has the addresses of all, and may be cancelled."""


@dataclass(frozen=True, slots=True)
class Gang:
    """The members of a gang, seen from one of them.

    Attributes:
        rank: of this one, from 0.
        addresses: HOST:PORT of every member by rank; this one's port is held for it until its unit ends.
    """

    rank: int
    addresses: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.addresses)


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a member needs to meet the others.

    Attributes:
        host: name or address of this machine at which the others reach it.
        join: tells them, and waits for them.
    """

    host: str
    join: Join


class HeldPort:
    """A free port that stays this process's until `close`; `address` is HOST:PORT."""

    def __init__(self, host: str) -> None:
        """Take a port of one address.

        Args:
            host: name or address of this machine; only there the port is bound.

        Raises:
            UsageError: `host` has no address.
            Unavailable: it is not an address of this machine, or no port is free.
        """
        family, address = _resolve(host)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            known = {
                errno.EADDRNOTAVAIL: "it is no address of this machine",
                errno.EADDRINUSE: "no port is free",
            }
            reason = known.get(error.errno or 0, error.strerror or str(error))
            raise Unavailable(f"no port of {host} can be held for a gang: {reason}") from error
        bare = host.strip("[]")
        self.address = f"{f'[{bare}]' if ':' in bare else bare}:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Let the port go."""
        self._socket.close()


def _resolve(
    host: str,
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--advertise-host {host}: has no address: {error}") from error
    family, _, _, _, address = found[0]
    return family, address
