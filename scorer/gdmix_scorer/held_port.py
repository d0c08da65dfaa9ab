"""The scorer's port: bound by the parent, listened on by its serving processes.

A bound socket that does not listen gets no connections; it keeps the port, also one that the system chose, while
serving processes come and go. All set SO_REUSEPORT, and the kernel spreads new connections over those that listen.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from gdmix_core.errors import Unavailable, UsageError


class HeldPort:
    """A port that stays ours until `close`; `host` is the address in numbers, `port` the number."""

    def __init__(self, host: str, port: int) -> None:
        """Take a port.

        Args:
            host: name or address to listen on.
            port: 0: any free one.

        Raises:
            UsageError: `host` has no address.
            Unavailable: the port is taken, by another scorer too, or the address is not of this machine.
        """
        family, address = _resolve(host, port)
        self.host = str(address[0])
        where = f"{host}:{port}"
        if port:
            # SO_REUSEPORT would share the port with another scorer of the same user, without a word.
            _bound(family, address, where, socket.SO_REUSEADDR).close()
        try:
            self._socket = _bound(family, address, where, socket.SO_REUSEPORT)
        except Unavailable:
            if not port:
                raise
            # Connections that another program closed just now: they do not count, as the test above shows.
            self._socket = _bound(family, address, where, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        self.port = int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Let the port go."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _resolve(
    host: str, port: int
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    if not host:
        raise UsageError("--host: found nothing; allowed are a name or an address, 0.0.0.0 for all addresses")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: has no address: {error}") from error
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]  # numbers for hosts come from builds without IPv6 only


def _bound(
    family: socket.AddressFamily,
    address: tuple[str, int] | tuple[str, int, int, int],
    where: str,
    *options: int,
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise Unavailable(f"cannot listen on {where}: {reason}") from error
    return bound
