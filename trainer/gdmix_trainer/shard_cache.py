"""Home shards that stay in memory between the rounds of a fixed effect."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_STAGES = 4
"""Stages kept at once: a bound for a worker that missed the word to drop them."""


class ShardCache:
    """Loaded shards by stage (`cache_key`) and shard; safe to share between threads.

    Design matrices stay memory-mapped: what a cached shard costs is its offsets, 8 bytes a row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: OrderedDict[str, dict[Hashable, Any]] = OrderedDict()

    def get(self, stage: str, key: Hashable, load: Callable[[], T]) -> T:
        """Return what is kept under (`stage`, `key`), calling `load` for it the first time."""
        with self._lock:
            kept = self._stages.setdefault(stage, {})
            self._stages.move_to_end(stage)
            while len(self._stages) > _MOST_STAGES:
                self._stages.popitem(last=False)
            if key in kept:
                found: T = kept[key]
                return found
        # Loading outside of the lock: two threads never ask for the same shard in one round.
        loaded = load()
        with self._lock:
            if stage in self._stages:
                self._stages[stage][key] = loaded
        return loaded

    def drop(self, prefix: str) -> None:
        """Forget all stages whose name begins with `prefix`."""
        with self._lock:
            for stage in [stage for stage in self._stages if stage.startswith(prefix)]:
                del self._stages[stage]

    def __len__(self) -> int:
        with self._lock:
            return sum(len(kept) for kept in self._stages.values())
