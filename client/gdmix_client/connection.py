"""Where a coordinator or a scorer is and how to speak to it; importable without gRPC."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gdmix_core.errors import UsageError
from gdmix_core.security import Role, load_token

COORDINATOR_VARIABLE = "GDMIX_COORDINATOR"
SCORER_VARIABLE = "GDMIX_SCORER"
TLS_CA_VARIABLE = "GDMIX_TLS_CA"
_PEM_MARK = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a coordinator or a scorer.

    Attributes:
        address: HOST:PORT.
        token: sent with every call; None without one.
        tls_ca: certificate authority (PEM) that signed the server's certificate; None: no TLS.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    tls_ca: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_address(self.address, "address")


def connection_to(
    address: str | None = None,
    *,
    token_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
) -> Connection:
    """Return a connection from what was said, and from the environment where nothing was.

    Args:
        address: HOST:PORT; `GDMIX_COORDINATOR` when None.
        token_file: file with the token; `GDMIX_TOKEN` holds the token itself when None.
        tls_ca: PEM file; `GDMIX_TLS_CA` when None.

    Raises:
        UsageError: no address, one that is none, or a file that cannot be read.
    """
    address = address or os.environ.get(COORDINATOR_VARIABLE, "").strip()
    if not address:
        raise UsageError(f"no coordinator: give HOST:PORT by --coordinator or {COORDINATOR_VARIABLE}")
    return _connection(check_address(address, "coordinator"), token_file, tls_ca, Role.TRAIN)


def scorer_connection_to(
    address: str | None = None,
    *,
    token_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
) -> Connection:
    """Return a connection to a scorer, as `connection_to` does to a coordinator.

    Args:
        address: HOST:PORT; `GDMIX_SCORER` when None.
        token_file: file with the token; `GDMIX_TOKEN` holds the token itself when None.
        tls_ca: PEM file; `GDMIX_TLS_CA` when None.

    Raises:
        UsageError: no address, one that is none, or a file that cannot be read.
    """
    address = address or os.environ.get(SCORER_VARIABLE, "").strip()
    if not address:
        raise UsageError(f"no scorer: give HOST:PORT by --scorer or {SCORER_VARIABLE}")
    return _connection(check_address(address, "scorer"), token_file, tls_ca, Role.SCORE)


def _connection(
    address: str,
    token_file: str | os.PathLike[str] | None,
    tls_ca: str | os.PathLike[str] | None,
    role: Role,
) -> Connection:
    ca = tls_ca or os.environ.get(TLS_CA_VARIABLE, "").strip() or None
    try:
        certificate = None if ca is None else Path(ca).read_bytes()
    except OSError as error:
        raise UsageError(f"certificate authority {ca}: cannot be read: {error.strerror}") from error
    if certificate is not None and _PEM_MARK not in certificate:
        raise UsageError(f"certificate authority {ca}: holds no certificate in PEM form")
    return Connection(address, load_token(token_file, role=role), certificate)


def check_address(address: str, what: str) -> str:
    """Return `address` when it has the form HOST:PORT; `what` names it in the message.

    Raises:
        UsageError: it has not.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{what} {address!r}: not of the form HOST:PORT, say 127.0.0.1:50051 or [::1]:50051")
    return address
