"""A scoring call and its answer, in the scorer's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gdmix_core.scoring.request import Columns, EncodedCandidates, Scores

Form = Literal["readable", "columnar", "inference"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model, and which of its versions.

    Attributes:
        name: of the model; "": the one that is served.
        version: a version; 0: none in particular.
        alias: an alias; "": none. With neither, the active version.
    """

    name: str = ""
    version: int = 0
    alias: str = ""

    @property
    def pinned(self) -> bool:
        """Whether it names a version, so that no other one may answer."""
        return self.version != 0 or self.alias != ""


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """One request.

    Attributes:
        form: how it came.
        choice: model and version.
        candidates: what is to be scored: data columns, or features that are encoded already.
        request_id: the caller's.
        contributions: whether the answer says what each coordinate adds.
    """

    form: Form
    choice: ModelChoice
    candidates: Columns | EncodedCandidates
    request_id: str = ""
    contributions: bool = False


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """One answer.

    Attributes:
        model: that answered.
        version: of it.
        coordinates: names of the rows of the contributions.
        scores: the numbers.
        unknown_features: values that the version's index does not know, by `<bag>.<column>`.
        degraded_reason: why the store-failure policy answered; "": it did not.
    """

    model: str
    version: int
    coordinates: tuple[str, ...]
    scores: Scores
    unknown_features: Mapping[str, int]
    degraded_reason: str = ""
