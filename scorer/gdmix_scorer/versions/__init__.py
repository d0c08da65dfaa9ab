"""The versions that a serving process knows: which are loaded, which answers, how one takes another's place."""

from __future__ import annotations

from gdmix_scorer.versions.catalog import Versions
from gdmix_scorer.versions.version import Version, VersionState

__all__ = ["Version", "VersionState", "Versions"]
