"""The journal's tables, as the list of migrations that lead to them.

A migration that was released is never changed; what is new comes as the next one.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_unix_seconds REAL NOT NULL)",
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        """
        CREATE TABLE jobs (
            job_id TEXT PRIMARY KEY,
            request_id TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            submitted REAL NOT NULL,
            document TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE stages (
            job_id TEXT NOT NULL,
            stage TEXT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (job_id, stage)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE units (
            job_id TEXT NOT NULL,
            stage TEXT NOT NULL,
            unit INTEGER NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (job_id, stage, unit)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE events (
            job_id TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (job_id, sequence)
        ) WITHOUT ROWID
        """,
    ),
)
"""Statements by schema version: element k leads from version k to k + 1."""
