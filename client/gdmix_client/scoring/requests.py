"""What a scorer is asked: the readable form, with named columns, and the columnar form, with packed arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import UsageError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
Row: TypeAlias = Mapping[str, object]
"""Data columns by name; None, or a name that is not there, is null."""
Candidates: TypeAlias = Sequence[Row] | Mapping[str, Sequence[object] | npt.NDArray[Any]]
"""A row for each candidate, or for each column the values of all candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model answers.

    Attributes:
        model: its name; "" is the one that the scorer serves.
        version: a version's number.
        alias: a name for a version, say `canary`. Without either: the active version.
    """

    model: str = ""
    version: int | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.alias is not None:
            raise UsageError("version and alias: give one of them, or neither for the active version")
        if self.version is not None and self.version < 1:
            raise UsageError(f"version: found {self.version}; allowed are 1 and above")
        if self.alias is not None and not self.alias:
            raise UsageError("alias: found an empty name")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadableRequest(ModelChoice):
    """Features and entity ids by the names of their data columns; the model's feature index encodes them.

    Values are str, int, float, bool, None, lists of strings or numbers, a sparse vector (a mapping with
    `indices` and `values`), or numpy's equivalents.

    Attributes:
        context: what holds for all candidates: the user and the user's features.
        candidates: what differs; a column stands here or in the context, not in both.
        fixed_effect_scores: of the outside fixed effect, where the model was trained with one: one number for
            all candidates, or one for each.
        contributions: also return what each coordinate adds.
        request_id: comes back with the scores; at most 128 characters.
    """

    context: Row = field(default_factory=dict)
    candidates: Candidates = ()
    fixed_effect_scores: float | Sequence[float] | FloatArray | None = None
    contributions: bool = False
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureRows:
    """Features of one bag, encoded by the model's feature index.

    Attributes:
        bag: its name.
        indices: int32[k], counted inside the bag, strictly increasing in each row.
        values: float64[k] or float32[k].
        row_offsets: int32[candidates + 1]: candidate i has the features row_offsets[i] ≤ k <
            row_offsets[i + 1]. None: all k features hold for every candidate.
    """

    bag: str
    indices: IntArray
    values: FloatArray
    row_offsets: IntArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PackedIds:
    """Entity ids of n candidates, ready to be sent.

    Attributes:
        ids: UTF-8, one behind the other; an empty id is no entity.
        offsets: int32[n + 1], where each begins.
    """

    ids: bytes
    offsets: IntArray


EntityIds: TypeAlias = "str | int | Sequence[str | int | None] | npt.NDArray[Any] | PackedIds"
"""One id that holds for all candidates, or one for each; None and "" are no entity."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnarRequest(ModelChoice):
    """Features and entity ids as arrays, for callers that ask on every page view.

    Attributes:
        candidates: how many there are.
        schema_fingerprint: of the feature index that the indices refer to; needed with any features.
        features: a bag may come once for all candidates and once for each: the features add up.
        entities: ids by the name of their data column, say `user_id`.
        fixed_effect_scores: of the outside fixed effect: float64[candidates], or one number for all.
        contributions: also return what each coordinate adds.
        request_id: comes back with the scores; at most 128 characters.
    """

    candidates: int
    schema_fingerprint: str = ""
    features: Sequence[FeatureRows] = ()
    entities: Mapping[str, EntityIds] = field(default_factory=dict)
    fixed_effect_scores: float | FloatArray | None = None
    contributions: bool = False
    request_id: str = ""


ScoreRequest: TypeAlias = ReadableRequest | ColumnarRequest
