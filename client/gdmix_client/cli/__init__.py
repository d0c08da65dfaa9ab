"""gdmix-cli: the command line. Everything heavy is imported inside the commands that need it."""

from __future__ import annotations

from gdmix_client.cli.app import main

__all__ = ["main"]
