"""GDMix from Python: `Client` and `AsyncClient` for a coordinator, `LocalCluster` to have one.

Names are loaded when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdmix_client.aio import AsyncClient
    from gdmix_client.client import Client
    from gdmix_client.connection import Connection, connection_to
    from gdmix_client.local_cluster import LocalCluster
    from gdmix_client.types import (
        Cluster,
        CoordinateReport,
        Job,
        JobEvent,
        JobState,
        Metric,
        ModelVersion,
        Notice,
        Progress,
        Published,
        StateChanged,
        Worker,
    )

_HOMES = {
    "AsyncClient": "aio",
    "Client": "client",
    "Cluster": "types",
    "Connection": "connection",
    "CoordinateReport": "types",
    "Job": "types",
    "JobEvent": "types",
    "JobState": "types",
    "LocalCluster": "local_cluster",
    "Metric": "types",
    "ModelVersion": "types",
    "Notice": "types",
    "Progress": "types",
    "Published": "types",
    "StateChanged": "types",
    "Worker": "types",
    "connection_to": "connection",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Cluster",
    "Connection",
    "CoordinateReport",
    "Job",
    "JobEvent",
    "JobState",
    "LocalCluster",
    "Metric",
    "ModelVersion",
    "Notice",
    "Progress",
    "Published",
    "StateChanged",
    "Worker",
    "connection_to",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
