"""Checkpoints: numbered directories that appear complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = Sequence[npt.NDArray[Any]]

_FACTS: Final = "facts.json"
_ARRAYS: Final = "arrays.npz"
_KEPT: Final = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a fit goes on from.

    Attributes:
        facts: JSON-serialisable.
        arrays: by name, each a list of arrays.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, Arrays]


class Checkpoints:
    """The checkpoints of one fit in a directory that outlives its process.

    A gang's directory is shared, and only its chief writes: weights of a synchronous gang are the same in all
    members, so that saving them needs no other member.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        """Open a directory.

        Args:
            directory: exists.
            fingerprint: of options, data and seed; checkpoints of another fit are passed over.
        """
        self._directory = directory
        self._fingerprint = fingerprint

    def write(self, number: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove those that it replaces; `number` grows."""
        for left in self._directory.glob("writing-*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = self._directory / f"writing-{number:09}"
        temporary.mkdir()
        flat: dict[str, Any] = {
            f"{name}/{i}": array
            for name, arrays in checkpoint.arrays.items()
            for i, array in enumerate(arrays)
        }
        np.savez(temporary / _ARRAYS, **flat)
        facts = {
            "fingerprint": self._fingerprint,
            "facts": checkpoint.facts,
            "counts": {name: len(arrays) for name, arrays in checkpoint.arrays.items()},
        }
        (temporary / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        target = self._directory / f"step-{number:09}"
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self._there()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint of this fit, None when there is none."""
        for directory in reversed(self._there()):
            found = json.loads((directory / _FACTS).read_text(encoding="utf-8"))
            if found["fingerprint"] != self._fingerprint:
                continue
            with np.load(directory / _ARRAYS, allow_pickle=False) as flat:
                arrays = {
                    name: [flat[f"{name}/{i}"] for i in range(count)]
                    for name, count in found["counts"].items()
                }
            return Checkpoint(found["facts"], arrays)
        return None

    def _there(self) -> list[Path]:
        return sorted(self._directory.glob("step-*"))
