"""What is to be scored: one context's candidates, as data columns or as features that are encoded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows

if TYPE_CHECKING:
    import pyarrow as pa

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EntityIds:
    """The ids of one entity column.

    Attributes:
        context: whether there is one id, for all candidates, instead of one for each.
        ids: UTF-8; an empty one is no entity.
    """

    context: bool
    ids: ByteStrings


@dataclass(frozen=True, slots=True)
class Columns:
    """Candidates as data columns, as in the training data; the model's feature index encodes them.

    Attributes:
        candidates: number of candidates.
        context: arrays of length 1 by column: what holds for all candidates.
        per_candidate: arrays of length `candidates` by column.
        fixed_effect_scores: float64[candidates] or float64[1], scores of an outside fixed effect.
    """

    candidates: int
    context: Mapping[str, pa.Array]
    per_candidate: Mapping[str, pa.Array]
    fixed_effect_scores: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Encoded features of one bag.

    Attributes:
        bag: name of the bag.
        context: whether there is one row, for all candidates, instead of one for each.
        rows: the features; indices count inside the bag.
    """

    bag: str
    context: bool
    rows: SparseRows


@dataclass(frozen=True, slots=True)
class EncodedCandidates:
    """Candidates with features that a model's feature index has encoded.

    Attributes:
        candidates: number of candidates.
        features: a bag may come once for the context and once for the candidates: its features add up.
        entities: ids by entity column.
        fixed_effect_scores: float64[candidates] or float64[1], scores of an outside fixed effect.
        schema_fingerprint: of the index, 16 hex digits; "" where there are no features.
        unknown_features: values that the index does not know, by `<bag>.<column>`.
        inputs: by coordinate that is plugged in, its columns, one row a candidate.
    """

    candidates: int
    features: Sequence[FeatureRows] = ()
    entities: Mapping[str, EntityIds] = field(default_factory=dict)
    fixed_effect_scores: Float64Array | None = None
    schema_fingerprint: str = ""
    unknown_features: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, pa.RecordBatch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer.

    Attributes:
        scores: float64[candidates], the sums of all coordinates.
        predictions: float64[candidates]: probabilities, values or rates, by the model's task.
        contributions: float64[coordinates, candidates], in the model's order.
        unknown_entities: by random-effect coordinate, the ids that the version has no coefficients for.
    """

    scores: Float64Array
    predictions: Float64Array
    contributions: Float64Array
    unknown_entities: Mapping[str, Sequence[bytes]]
