"""The synthetic model of the scoring benchmarks, requests for it, and what their scores must be.

A fixed effect over the bags `user` (context) and `item` (candidates), a random effect of every user over the bag
`item`, and one of every item over the bag `user`. Users and items are drawn by Zipf's law, as page views are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.config import FeatureColumn
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelManifest, assemble_model, publish_model
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_fixed_effect, write_random_effect
from gdmix_core.store import CoefficientBlock, open_store
from gdmix_proto.v1 import scoring_pb2 as wire

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

NAME: Final = "benchmark"
USER_FEATURES: Final = 50
ITEM_FEATURES: Final = 200
NONZEROS: Final = 20
COEFFICIENTS: Final = 16
UNKNOWN_SHARE: Final = 0.02
"""Of the candidates, those that no version has coefficients for."""
_ZIPF_EXPONENT: Final = 1.05


@dataclass(frozen=True, slots=True)
class SparseCoefficients:
    """The coefficients of all entities of a random effect, `COEFFICIENTS` each; the first is the intercept.

    Attributes:
        indices: int32[entities, COEFFICIENTS], ascending in each row.
        values: float64[entities, COEFFICIENTS].
    """

    indices: Int32Array
    values: Float64Array

    @classmethod
    def draw(cls, entities: int, features: int, rng: np.random.Generator) -> SparseCoefficients:
        """Draw coefficients of an intercept and some of the features."""
        width = features // (COEFFICIENTS - 1)
        starts = 1 + np.arange(COEFFICIENTS - 1) * width
        chosen = starts + rng.integers(0, width, (entities, COEFFICIENTS - 1))
        indices = np.concatenate([np.zeros((entities, 1), np.int64), chosen], axis=1).astype(np.int32)
        return cls(indices, rng.normal(scale=0.5, size=(entities, COEFFICIENTS)))


@dataclass(frozen=True, slots=True)
class Request:
    """One user and its candidates; ids are numbers, those beyond the entities are unknown.

    Attributes:
        user: number of the user.
        user_indices: int32[NONZEROS], ascending.
        user_values: float64[NONZEROS].
        items: int64[candidates].
        item_indices: int32[candidates, NONZEROS], ascending in each row.
        item_values: float64[candidates, NONZEROS].
    """

    user: int
    user_indices: Int32Array
    user_values: Float64Array
    items: Int64Array
    item_indices: Int32Array
    item_values: Float64Array

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return len(self.items)


def benchmark_index() -> FeatureIndex:
    """Return the feature index: two vectors."""
    columns = (
        IndexedColumn("item", FeatureColumn(column="item", kind="vector"), ITEM_FEATURES, 0, ITEM_FEATURES),
        IndexedColumn("user", FeatureColumn(column="user", kind="vector"), USER_FEATURES, 0, USER_FEATURES),
    )
    return FeatureIndex(columns, 10, fingerprint(columns))


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the model is, and what its feature index says."""

    users: int = 100_000
    items: int = 100_000
    index: FeatureIndex = field(default_factory=benchmark_index)

    @property
    def fingerprint(self) -> str:
        """What columnar requests must carry."""
        return self.index.schema_fingerprint


class BenchmarkModel:
    """One version of the model: its coefficients follow from the seed alone."""

    def __init__(self, shape: Shape, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.seed = seed
        self.fixed = rng.normal(scale=0.2, size=1 + USER_FEATURES + ITEM_FEATURES)
        self.per_user = SparseCoefficients.draw(shape.users, ITEM_FEATURES, rng)
        self.per_item = SparseCoefficients.draw(shape.items, USER_FEATURES, rng)

    def publish(self, url: str, work: Path, *, activate: bool = True) -> int:
        """Write the model below `work`, publish it to a store, and return the number of its version."""
        directory = self._write(work / f"model-{self.seed}")
        with open_store(url) as store:
            return publish_model(directory, store, activate=activate).version

    def scores(self, request: Request) -> Float64Array:
        """Return the scores of a request's candidates, computed by numpy."""
        user = np.zeros(1 + USER_FEATURES)
        user[0], user[1 + request.user_indices] = 1.0, request.user_values
        own = np.zeros(1 + ITEM_FEATURES)
        if request.user < self.shape.users:
            own[self.per_user.indices[request.user]] = self.per_user.values[request.user]
        of_items = self.fixed[1 + USER_FEATURES :] + own[1:]
        fixed = self.fixed[: 1 + USER_FEATURES] @ user + own[0]
        scores: Float64Array = fixed + (of_items[request.item_indices] * request.item_values).sum(axis=1)
        known = request.items < self.shape.items
        rows = request.items[known]
        scores[known] += (self.per_item.values[rows] * user[self.per_item.indices[rows]]).sum(axis=1)
        return scores

    def save_arrays(self, path: Path) -> None:
        """Write the coefficients as plain numpy arrays, for a program that has no store."""
        np.savez(
            path,
            fixed=self.fixed,
            user_features=USER_FEATURES,
            user_ids=np.array([entity_id("u", n) for n in range(self.shape.users)]),
            item_ids=np.array([entity_id("i", n) for n in range(self.shape.items)]),
            user_indices=self.per_user.indices,
            user_values=self.per_user.values,
            item_indices=self.per_item.indices,
            item_values=self.per_item.values,
        )

    def _write(self, work: Path) -> Any:
        work.mkdir(parents=True)
        shape, index = self.shape, self.shape.index
        index.save(work / "index.parquet")
        names = [*(f"u{n}" for n in range(USER_FEATURES)), *(f"i{n}" for n in range(ITEM_FEATURES))]
        write_fixed_effect(
            work / "global.parquet",
            self.fixed,
            bags=["", *["user"] * USER_FEATURES, *["item"] * ITEM_FEATURES],
            names=["(INTERCEPT)", *names],
            terms=[""] * len(self.fixed),
        )
        write_random_effect(work / "per-user.parquet", _part("u", self.per_user))
        write_random_effect(work / "per-item.parquet", _part("i", self.per_item))
        manifest = ModelManifest(
            model=NAME,
            version=1,
            task="logistic_regression",
            coordinates=(
                CoordinateManifest(
                    "global",
                    "fixed_effect",
                    ("user", "item"),
                    True,
                    len(self.fixed),
                    model="logistic_regression",
                    rows=10,
                ),
                CoordinateManifest(
                    "per_user",
                    "random_effect",
                    ("item",),
                    True,
                    1 + ITEM_FEATURES,
                    entity_column="user_id",
                    entities=shape.users,
                    rows=10,
                ),
                CoordinateManifest(
                    "per_item",
                    "random_effect",
                    ("user",),
                    True,
                    1 + USER_FEATURES,
                    entity_column="item_id",
                    entities=shape.items,
                    rows=10,
                ),
            ),
            bag_sizes=index.bag_sizes,
            schema_fingerprint=index.schema_fingerprint,
            features={bag: [{"column": bag, "kind": "vector"}] for bag in index.bag_sizes},
        )
        return assemble_model(
            work / "models" / "1",
            manifest,
            feature_index=work / "index.parquet",
            coefficients={
                "global": [work / "global.parquet"],
                "per_user": [work / "per-user.parquet"],
                "per_item": [work / "per-item.parquet"],
            },
            run={"seed": self.seed},
        )


def entity_id(kind: str, number: int) -> bytes:
    """Return the id of a user ("u") or an item ("i"); ids sort as their numbers do."""
    return b"%s%07d" % (kind.encode(), number)


def _part(kind: str, coefficients: SparseCoefficients) -> RandomEffectCoefficients:
    entities = len(coefficients.indices)
    ids = b"".join(entity_id(kind, number) for number in range(entities))
    return RandomEffectCoefficients(
        block=CoefficientBlock(
            ids_bytes=np.frombuffer(ids, np.uint8),
            ids_ptr=np.arange(entities + 1, dtype=np.int64) * (len(ids) // entities),
            coefficient_ptr=np.arange(entities + 1, dtype=np.int64) * COEFFICIENTS,
            indices=coefficients.indices.ravel(),
            coefficients=coefficients.values.ravel(),
            variances=None,
        ),
        rows=np.full(entities, 5),
        status=np.zeros(entities, np.uint8),
        iterations=np.ones(entities, np.int32),
        gradient_norm=np.zeros(entities),
    )


# ---- requests --------------------------------------------------------------------------------------------


class RequestSource:
    """Draws requests; the same seed draws the same ones."""

    def __init__(self, shape: Shape, candidates: int, seed: int = 1) -> None:
        self._shape = shape
        self._candidates = candidates
        self._rng = np.random.default_rng(seed)
        self._users = _zipf(shape.users)
        self._items = _zipf(shape.items)

    def draw(self) -> Request:
        """Draw one request; its candidates are distinct."""
        rng, candidates = self._rng, self._candidates
        items = rng.choice(self._shape.items, candidates, replace=False, p=self._items)
        strangers = rng.random(candidates) < UNKNOWN_SHARE
        items[strangers] += self._shape.items
        return Request(
            user=int(rng.choice(self._shape.users, p=self._users)),
            user_indices=_features(1, USER_FEATURES, rng)[0],
            user_values=rng.normal(size=NONZEROS),
            items=items,
            item_indices=_features(candidates, ITEM_FEATURES, rng),
            item_values=rng.normal(size=(candidates, NONZEROS)),
        )


def _zipf(entities: int) -> Float64Array:
    weights: Float64Array = np.arange(1, entities + 1) ** -_ZIPF_EXPONENT
    return weights / weights.sum()


def _features(rows: int, size: int, rng: np.random.Generator) -> Int32Array:
    chosen = np.argsort(rng.random((rows, size)), axis=1)[:, :NONZEROS]
    return np.sort(chosen, axis=1).astype(np.int32)


def to_columnar(request: Request, shape: Shape, request_id: str = "") -> bytes:
    """Return a request as a serialized `gdmix.v1.ScoreRequest` in columnar form."""
    ids = [entity_id("i", int(number)) for number in request.items]
    return wire.ScoreRequest(
        request_id=request_id,
        columnar=wire.ColumnarInput(
            candidates=request.candidates,
            schema_fingerprint=shape.fingerprint,
            features=[
                wire.SparseRows(
                    bag="item",
                    row_offsets=_int32(np.arange(request.candidates + 1) * NONZEROS),
                    indices=_int32(request.item_indices),
                    values=request.item_values.astype("<f8").tobytes(),
                ),
                wire.SparseRows(
                    bag="user",
                    context=True,
                    indices=_int32(request.user_indices),
                    values=request.user_values.astype("<f8").tobytes(),
                ),
            ],
            entities=[
                wire.EntityIds(column="user_id", context=True, ids=entity_id("u", request.user)),
                wire.EntityIds(
                    column="item_id", ids=b"".join(ids), offsets=_int32(np.cumsum([0, *map(len, ids)]))
                ),
            ],
        ),
    ).SerializeToString()


def framed(message: bytes) -> bytes:
    """Return a message as the body of a gRPC call: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _int32(values: npt.NDArray[Any]) -> bytes:
    return values.astype("<i4").tobytes()
