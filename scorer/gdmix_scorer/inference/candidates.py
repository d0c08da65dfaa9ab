"""From tensors to candidates: data columns, or features that are encoded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import entity_ids
from gdmix_core.data.csr import SparseRows
from gdmix_core.errors import UsageError
from gdmix_core.scoring.request import Columns, EncodedCandidates, EntityIds, FeatureRows, Float64Array
from gdmix_scorer.inference.tensors import (
    Tensor,
    check_utf8,
    column_of,
    finite_numbers,
    numbers_of,
)
from gdmix_scorer.settings import MAX_CANDIDATES

FIXED_EFFECT_SCORE: Final = "fixed_effect_score"
"""Input with the scores of an outside fixed effect."""
INDICES: Final = ":indices"
VALUES: Final = ":values"
OFFSETS: Final = ":offsets"
_CONTEXT: Final = ":context"
_PACKED: Final = (INDICES, VALUES, OFFSETS)


def rows_allowed(name: str) -> tuple[int, int | None]:
    """Return the least and the largest first dimension of a tensor; None: the message's size is bound enough."""
    if name.endswith((INDICES, VALUES)):  # a bag may have no feature in any row, or many in each
        return 0, None
    return 1, MAX_CANDIDATES + name.endswith(OFFSETS)


def candidates_of(
    tensors: Sequence[Tensor], candidates: int | None, schema_fingerprint: str
) -> Columns | EncodedCandidates:
    """Return what tensors say: encoded candidates if there are features of a bag among them.

    Args:
        tensors: with different names.
        candidates: how many, if the request says so.
        schema_fingerprint: of the feature index that encoded the features.

    Raises:
        UsageError: they do not fit together; the message names the tensor.
    """
    if any(tensor.name.endswith(_PACKED) for tensor in tensors):
        return _encoded(tensors, candidates, schema_fingerprint)
    return _columns(tensors, candidates)


def _columns(tensors: Sequence[Tensor], candidates: int | None) -> Columns:
    count = _count({tensor.name: tensor.rows for tensor in tensors}, candidates)
    context: dict[str, Any] = {}
    per_candidate: dict[str, Any] = {}
    scores: Float64Array | None = None
    for tensor in tensors:
        if tensor.name == FIXED_EFFECT_SCORE:
            scores = finite_numbers(tensor)
        else:
            part = context if tensor.rows == 1 else per_candidate
            part[tensor.name] = column_of(tensor)
    return Columns(count, context, per_candidate, scores)


def _count(rows: Mapping[str, int], candidates: int | None) -> int:
    """Return the number of candidates; every tensor has so many rows, or one that holds for all."""
    said = "parameter 'candidates'"
    if candidates is None:
        if not rows:
            raise UsageError(f"inputs: there are none, and no {said}")
        largest = max(rows, key=rows.__getitem__)
        candidates, said = rows[largest], f"input {largest!r}"
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"{said}: says {candidates} candidates; allowed are 1 to {MAX_CANDIDATES}")
    for name, own in rows.items():
        if own not in (1, candidates):
            raise UsageError(
                f"input {name!r}: has {own} rows; allowed are {candidates}, one for each candidate, and 1 for all"
            )
    return candidates


# ---- features that are encoded already -------------------------------------------------------------------


@dataclass(slots=True)
class _Bag:
    """The tensors of one bag: of its context, or of its candidates."""

    name: str
    context: bool
    parts: dict[str, Tensor] = field(default_factory=dict)

    def part(self, suffix: str) -> Tensor:
        tensor = self.parts.get(suffix)
        if tensor is None:
            there = next(iter(self.parts.values())).name
            raise UsageError(f"input {self.prefix + suffix!r}: is missing; {there!r} is there")
        return tensor

    @property
    def prefix(self) -> str:
        return self.name + _CONTEXT if self.context else self.name


def _encoded(tensors: Sequence[Tensor], candidates: int | None, schema_fingerprint: str) -> EncodedCandidates:
    bags: dict[str, _Bag] = {}
    others: list[Tensor] = []
    rows: dict[str, int] = {}
    for tensor in tensors:
        if not tensor.name.endswith(_PACKED):
            others.append(tensor)
            rows[tensor.name] = tensor.rows
            continue
        prefix, _, last = tensor.name.rpartition(":")
        suffix = ":" + last
        context = prefix.endswith(_CONTEXT)
        bag = bags.setdefault(prefix, _Bag(prefix.removesuffix(_CONTEXT) if context else prefix, context))
        bag.parts[suffix] = tensor
        if suffix == OFFSETS and not context:
            rows[tensor.name] = tensor.rows - 1
    count = _count(rows, candidates) if rows or candidates is not None else 1
    scores: Float64Array | None = None
    entities: dict[str, EntityIds] = {}
    for tensor in others:
        if tensor.name == FIXED_EFFECT_SCORE:
            scores = finite_numbers(tensor)
        else:
            entities[tensor.name] = _entity_ids(tensor)
    return EncodedCandidates(
        candidates=count,
        features=[_features(bag, count) for bag in bags.values()],
        entities=entities,
        fixed_effect_scores=scores,
        schema_fingerprint=schema_fingerprint,
    )


def _features(bag: _Bag, candidates: int) -> FeatureRows:
    indices = numbers_of(bag.part(INDICES), "INT32")
    values = finite_numbers(bag.part(VALUES))
    if len(values) != len(indices):
        raise UsageError(
            f"input {bag.prefix + VALUES!r}: has {len(values)} elements; {bag.prefix + INDICES!r} has {len(indices)}"
        )
    rows = 1 if bag.context else candidates
    if bag.context and OFFSETS not in bag.parts:
        return FeatureRows(bag.name, True, SparseRows(np.array([0, len(indices)], np.int64), indices, values))
    tensor = bag.part(OFFSETS)
    offsets = numbers_of(tensor, "INT32").astype(np.int64)
    if len(offsets) != rows + 1:
        raise UsageError(
            f"input {tensor.name!r}: has {len(offsets)} elements; allowed are {rows + 1}, one more than rows"
        )
    if offsets[0] != 0 or offsets[-1] != len(indices) or (offsets[1:] < offsets[:-1]).any():
        raise UsageError(
            f"input {tensor.name!r}: must begin with 0, never fall and end with the number of indices, {len(indices)}"
        )
    return FeatureRows(bag.name, bag.context, SparseRows(offsets, indices, values))


def _entity_ids(tensor: Tensor) -> EntityIds:
    name, values = tensor.name, tensor.values
    if len(values) != tensor.rows:
        raise UsageError(f"input {name!r}: shape {list(tensor.shape)}; allowed: one id in each row")
    if isinstance(values, ByteStrings):
        check_utf8(values, name)
        return EntityIds(tensor.rows == 1, values)
    if values.dtype.kind not in "iu":
        raise UsageError(
            f"input {name!r}: datatype {tensor.datatype}; allowed for entity ids: BYTES and integers"
        )
    import pyarrow as pa

    found, _ = entity_ids(pa.array(values), name)
    return EntityIds(tensor.rows == 1, found.ids)
