"""Who may do what: tokens, their roles, and what a client sends along with every call.

A token file holds one bare token, which is good for every role, or lines of `role[,role…] token`; blank
lines and lines that begin with `#` are skipped. Only its owner may read it. Tokens are compared in constant
time and never appear in messages or logs.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from gdmix_core.errors import NotPermitted, UsageError

TOKEN_VARIABLE: Final = "GDMIX_TOKEN"  # noqa: S105 - the name of a variable
AUTHORIZATION: Final = "authorization"
MIN_TOKEN_CHARACTERS: Final = 16
_SCHEME: Final = "Bearer "


class Role(StrEnum):
    """What a token is good for."""

    SCORE = "score"
    """Asking a scorer."""
    TRAIN = "train"
    """Jobs and models."""
    WORKER = "worker"
    """Being a worker."""
    ADMIN = "admin"
    """Everything."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A token's digest and what it is good for."""

    digest: bytes
    roles: frozenset[Role]


class Authorizer:
    """Decides whether a call may go on; without any grants every call may."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants = tuple(grants)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Authorizer:
        """Read a token file.

        Raises:
            UsageError: it cannot be read, others may read it, or a line is not of the form above.
        """
        return cls(Grant(_digest(token), roles) for token, roles in _read_tokens(Path(path)))

    @property
    def enforced(self) -> bool:
        """Whether a token is needed at all."""
        return bool(self._grants)

    def check(self, metadata: Iterable[tuple[str, str | bytes]], role: Role) -> None:
        """Let a call pass whose metadata carry a token for `role`.

        Raises:
            NotPermitted: the token is missing, wrong, or lacks the role.
        """
        if not self._grants:
            return
        token = _token_of(metadata)
        if token is None:
            raise NotPermitted(
                f"a token is needed; give one by {TOKEN_VARIABLE} or --token-file (role {role} or admin)"
            )
        digest = _digest(token)
        known = permitted = False
        # Every grant is compared, whatever the earlier ones said: the time taken tells nothing.
        for grant in self._grants:
            same = hmac.compare_digest(grant.digest, digest)
            known |= same
            permitted |= same and (role in grant.roles or Role.ADMIN in grant.roles)
        if not known:
            raise NotPermitted("the token is not one that this server knows")
        if not permitted:
            raise NotPermitted(f"the token lacks the role {role}")


def load_token(
    token_file: str | os.PathLike[str] | None = None,
    *,
    role: Role | None = None,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """Return the token a client sends: from the file when one is given, else from GDMIX_TOKEN, else None.

    Args:
        token_file: a token file as a server reads it.
        role: of the file's tokens, take the first one that is good for this role.
        environment: instead of the process's.

    Raises:
        UsageError: the file is not a token file, or has no token for the role.
    """
    if token_file is None:
        return (os.environ if environment is None else environment).get(TOKEN_VARIABLE, "").strip() or None
    path = Path(token_file)
    for token, roles in _read_tokens(path):
        if role is None or role in roles or Role.ADMIN in roles:
            return token
    raise UsageError(f"{path}: no token for role {role}")


def bearer_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the call metadata that carry a token; none without one."""
    return () if token is None else ((AUTHORIZATION, _SCHEME + token),)


def require_safe_binding(host: str, *, tls: bool, tokens: bool, insecure: bool) -> None:
    """Check that a server that can be reached from elsewhere is protected.

    Raises:
        UsageError: `host` is not loopback, and TLS or tokens are missing, and `insecure` was not said.
    """
    if insecure or (tls and tokens) or is_loopback(host):
        return
    missing = " and ".join(
        name for name, there in (("--tls-cert/--tls-key", tls), ("--token-file", tokens)) if not there
    )
    raise UsageError(
        f"--host {host} can be reached from other machines: give {missing}, or say --insecure, "
        "or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _token_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key.lower() == AUTHORIZATION:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            if text[: len(_SCHEME)].lower() == _SCHEME.lower():
                return text[len(_SCHEME) :].strip()
    return None


def _read_tokens(path: Path) -> list[tuple[str, frozenset[Role]]]:
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = file.read().splitlines()
    except OSError as error:
        raise UsageError(f"token file {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"token file {path}: not UTF-8 text") from error
    if mode & 0o077:
        raise UsageError(f"token file {path}: others may read it (mode {mode:04o}); run: chmod 600 {path}")
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        found.append(_parse_line(words, f"token file {path}, line {number}"))
    if not found:
        raise UsageError(f"token file {path}: holds no token")
    return found


def _parse_line(words: list[str], where: str) -> tuple[str, frozenset[Role]]:
    if len(words) > 2:
        raise UsageError(f"{where}: found {len(words)} words; allowed are a token, or roles and a token")
    roles = frozenset({Role.ADMIN})
    if len(words) == 2:
        names = words[0].split(",")
        unknown = [name for name in names if name not in set(Role)]
        if unknown:
            raise UsageError(f"{where}: no role {', '.join(unknown)}; allowed are {', '.join(Role)}")
        roles = frozenset(Role(name) for name in names)
    if len(words[-1]) < MIN_TOKEN_CHARACTERS:
        raise UsageError(f"{where}: the token is shorter than {MIN_TOKEN_CHARACTERS} characters")
    return words[-1], roles
