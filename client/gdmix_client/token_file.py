"""The random token of processes that one command starts on this machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_token(path: Path) -> None:
    """Write a token that only this user can read, unless there is one.

    Processes that run with the directory's token already keep theirs.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    temporary.replace(path)
