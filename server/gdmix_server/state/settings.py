"""How patient the coordinator is."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from importlib import metadata


@functools.cache
def installed_version() -> str:
    """Return the version of gdmix that runs, or `unknown` outside of an installation."""
    try:
        return metadata.version("gdmix")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """Times and bounds of the state machine."""

    lease_seconds: float = 15.0
    """A connected worker that was silent for this long has lost its units."""
    reconnect_seconds: float = 3.0
    """How long a worker may take to come back after its session broke."""
    restart_grace_seconds: float = 7.0
    """After a restart, leases of before are held this long for workers that announce them; longer than the 5 s that
    a worker waits at most between two tries."""
    attempts: int = 3
    """A unit that failed this often fails its job."""
    deaths: int = 3
    """A unit that took this many workers down is quarantined: its job fails."""
    gang_join_seconds: float = 60.0
    """A gang whose members have not all said where they listen by then has failed, and begins again."""
    workers_wait_seconds: float = 60.0
    """A job that wants a worker fails when none is connected for this long."""
    progress_seconds: float = 0.25
    """Shortest time between two progress events of a job."""
    store: str = ""
    """Coefficient store of jobs whose config names none; empty: `lmdb:<output>/store`."""
    version: str = field(default_factory=installed_version)
    """Workers MUST have the same major and minor version."""
