"""Feature indexes that several units of a job read one after another."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdmix_core.data.feature_index import FeatureIndex


@lru_cache(maxsize=2)
def feature_index_of(directory: str) -> FeatureIndex:
    """Load the feature index that a merge left in `directory`; the last two stay in memory.

    A directory belongs to one attempt and its files never change, so its name is enough of a key.
    """
    from gdmix_core.data.feature_index import FeatureIndex
    from gdmix_core.tasks import FEATURE_INDEX_FILE

    return FeatureIndex.load(Path(directory) / FEATURE_INDEX_FILE)
