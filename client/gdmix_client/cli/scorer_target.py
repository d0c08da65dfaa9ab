"""Which scorer a command speaks to."""

from __future__ import annotations

import os
from pathlib import Path

from gdmix_client.cli.target import same_address
from gdmix_client.connection import SCORER_VARIABLE, Connection, scorer_connection_to
from gdmix_client.running_cluster import default_state_dir, find_cluster
from gdmix_core.errors import UsageError
from gdmix_core.security import TOKEN_VARIABLE


def scorer_connection(scorer: str | None, token_file: Path | None, tls_ca: Path | None) -> Connection:
    """Return how to reach the scorer that is named, or that of the cluster that runs here.

    Raises:
        UsageError: no scorer is named, and none runs here.
    """
    running = find_cluster(default_state_dir())
    if scorer is None:
        if running is None or not running.scorer:
            raise UsageError(
                f"no scorer: give --scorer or {SCORER_VARIABLE}, or start one with gdmix-cli up, "
                "or with gdmix-cli scorer --store URL"
            )
        return running.scorer_connection
    said = token_file is not None or bool(os.environ.get(TOKEN_VARIABLE, "").strip())
    known: Path | str | None = token_file
    if running is not None and not said and same_address(scorer, running.scorer):
        known = running.token_file
    return scorer_connection_to(scorer, token_file=known, tls_ca=tls_ca)
