"""GDMix from Python: clients of a coordinator and of a scorer, and processes of this machine that are some.

`Client`, `AsyncClient`, `LocalCluster` for training; `Scorer`, `AsyncScorer`, `LocalScorer` for scoring. Names
are loaded when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdmix_client.aio import AsyncClient
    from gdmix_client.client import Client
    from gdmix_client.connection import Connection, connection_to, scorer_connection_to
    from gdmix_client.local_cluster import LocalCluster
    from gdmix_client.local_scorer import LocalScorer
    from gdmix_client.scoring.aio import AsyncScorer
    from gdmix_client.scoring.packing import pack_ids
    from gdmix_client.scoring.requests import ColumnarRequest, FeatureRows, PackedIds, ReadableRequest
    from gdmix_client.scoring.results import ScoreAnswer, ScorerStatus, Scores, VersionState, VersionStatus
    from gdmix_client.scoring.scorer import Scorer
    from gdmix_client.types import (
        Cluster,
        CoordinateReport,
        FitProgress,
        GangMember,
        GroupShrinkage,
        Job,
        JobEvent,
        JobState,
        MemberState,
        Metric,
        ModelVersion,
        Notice,
        Progress,
        Published,
        ScoresUpload,
        StateChanged,
        UploadState,
        Worker,
    )

_HOMES = {
    "AsyncClient": "aio",
    "AsyncScorer": "scoring.aio",
    "Client": "client",
    "Cluster": "types",
    "ColumnarRequest": "scoring.requests",
    "Connection": "connection",
    "CoordinateReport": "types",
    "GangMember": "types",
    "GroupShrinkage": "types",
    "FeatureRows": "scoring.requests",
    "Job": "types",
    "JobEvent": "types",
    "JobState": "types",
    "LocalCluster": "local_cluster",
    "LocalScorer": "local_scorer",
    "MemberState": "types",
    "Metric": "types",
    "ModelVersion": "types",
    "Notice": "types",
    "PackedIds": "scoring.requests",
    "FitProgress": "types",
    "Progress": "types",
    "Published": "types",
    "ReadableRequest": "scoring.requests",
    "ScoreAnswer": "scoring.results",
    "Scorer": "scoring.scorer",
    "ScorerStatus": "scoring.results",
    "Scores": "scoring.results",
    "ScoresUpload": "types",
    "StateChanged": "types",
    "UploadState": "types",
    "VersionState": "scoring.results",
    "VersionStatus": "scoring.results",
    "Worker": "types",
    "connection_to": "connection",
    "pack_ids": "scoring.packing",
    "scorer_connection_to": "connection",
}

__all__ = [
    "AsyncClient",
    "AsyncScorer",
    "Client",
    "Cluster",
    "ColumnarRequest",
    "Connection",
    "CoordinateReport",
    "FeatureRows",
    "FitProgress",
    "GangMember",
    "GroupShrinkage",
    "Job",
    "JobEvent",
    "JobState",
    "LocalCluster",
    "LocalScorer",
    "MemberState",
    "Metric",
    "ModelVersion",
    "Notice",
    "PackedIds",
    "Progress",
    "Published",
    "ReadableRequest",
    "ScoreAnswer",
    "Scorer",
    "ScorerStatus",
    "Scores",
    "ScoresUpload",
    "StateChanged",
    "UploadState",
    "VersionState",
    "VersionStatus",
    "Worker",
    "connection_to",
    "pack_ids",
    "scorer_connection_to",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
