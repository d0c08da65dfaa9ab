"""What a scorer answers. Frozen values; arrays are read-only and one number a candidate long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import GdmixError

Float64Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """The scores of one request's candidates, all from one version.

    Attributes:
        scores: float64[n], the sum of all parts.
        predictions: float64[n], the probability or mean that the score stands for.
        model: name of the model.
        version: that computed them.
        instance: the process that answered.
        contributions: float64[n] by coordinate, in the model's order; empty unless asked for.
        unknown_entities: by coordinate, how many distinct entities the version has no coefficients for;
            they add 0 there. Coordinates without any are left out.
        unknown_ids: by coordinate, those entities, at most 100; readable requests only.
        unknown_features: by `bag.column`, values that the model's feature index does not know; readable
            requests only.
        degraded: the store failed and the scorer's policy answered: random effects may be missing.
        degraded_reason: what failed.
        request_id: as it was sent.
    """

    scores: Float64Array
    predictions: Float64Array
    model: str
    version: int
    instance: str = ""
    contributions: Mapping[str, Float64Array] = field(default_factory=dict)
    unknown_entities: Mapping[str, int] = field(default_factory=dict)
    unknown_ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown_features: Mapping[str, int] = field(default_factory=dict)
    degraded: bool = False
    degraded_reason: str = ""
    request_id: str = ""

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreAnswer:
    """The answer to one request of a stream: its scores, or why there are none.

    Attributes:
        request_id: as it was sent.
        scores: None when the request failed.
        error: None when it did not.
    """

    request_id: str = ""
    scores: Scores | None = None
    error: GdmixError | None = None

    def result(self) -> Scores:
        """Return the scores.

        Raises:
            GdmixError: there are none.
        """
        if self.scores is None:
            raise self.error or GdmixError("the scorer answered with neither scores nor an error")
        return self.scores


class VersionState(StrEnum):
    """Where a version stands in a scorer process."""

    START = "start"
    LOADING = "loading"
    AVAILABLE = "available"
    UNLOADING = "unloading"
    END = "end"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """A model version in a scorer process.

    Attributes:
        model: name of the model.
        version: its number.
        state: where it stands.
        active: whether requests that name no version get it.
        aliases: names that point to it.
        since: seconds since 1970 of the last change of state.
        requests: answered so far.
        in_flight: under way now.
        error: why it ended or cannot be loaded; None otherwise.
        schema_fingerprint: what columnar requests with features must carry.
        entities: that it has coefficients for, by coordinate.
    """

    model: str
    version: int
    state: VersionState
    active: bool = False
    aliases: tuple[str, ...] = ()
    since: float = 0.0
    requests: int = 0
    in_flight: int = 0
    error: GdmixError | None = None
    schema_fingerprint: str = ""
    entities: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerStatus:
    """The versions that one scorer process knows.

    Attributes:
        instance: the process.
        versions: by model, each with its state.
    """

    instance: str
    versions: tuple[VersionStatus, ...]
