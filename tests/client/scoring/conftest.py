"""Small models whose scores can be computed by hand, published to a store, and one real scorer that serves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdmix_client import LocalScorer
from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelManifest, assemble_model, publish_model
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_fixed_effect, write_random_effect
from gdmix_core.store import CoefficientBlock, open_store

COLORS, TAGS = ("blue", "red"), ("1", "2", "x")
GLOBAL = [0.25, 2.0, 0.5, -0.5, 0.125, 0.25, 1.0, 3.0, -3.0]
"""Intercept, age, blue, red, tags 1, 2, x, both positions of the vector."""
PER_USER = {
    "ann": [0.5, 1.0, -1.0, 0.0, 0.0, 2.0, 0.25, 0.5],
    "bob": [-1.25, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
}
PER_ITEM = {"7": 0.75, "9": -0.5, "é": 1.5}
CANARY_BIAS = 10.0
"""What version 1 adds; version 2 is the active one."""


@dataclass(frozen=True)
class Candidate:
    """One candidate, and what a model of version 2 gives it."""

    item_id: int | str | None = None
    color: str | None = None
    tags: Sequence[str | int] | None = None
    vector: Sequence[float] | None = None

    @property
    def row(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "color": self.color, "tags": self.tags, "vector": self.vector}

    @property
    def features(self) -> np.ndarray:
        """float64[7], the features of the bag `item`."""
        found = np.zeros(7)
        if self.color in COLORS:
            found[COLORS.index(self.color)] = 1
        for tag in self.tags or ():
            if str(tag) in TAGS:
                found[2 + TAGS.index(str(tag))] += 1
        found[5:] = self.vector or (0, 0)
        return found

    def contributions(self, user: str | None, age: float) -> dict[str, float]:
        own = PER_USER.get(user or "", [0.0] * 8)
        return {
            "global": GLOBAL[0] + GLOBAL[1] * age + float(self.features @ GLOBAL[2:]),
            "per_user": own[0] + float(self.features @ own[1:]),
            "per_item": PER_ITEM.get(str(self.item_id), 0.0),
        }

    def score(self, user: str | None, age: float) -> float:
        return sum(self.contributions(user, age).values())


CANDIDATES = (
    Candidate("7", "red", ["x", "x"], [0.5, 1.0]),
    Candidate("9", "blue", [], [0.0, 0.25]),
    Candidate("é", "green", [1, 2, 99], None),
    Candidate("unheard of", None, None, [2.0, 0.0]),
    Candidate(),
)


def feature_index() -> FeatureIndex:
    age = IndexedColumn(
        "user", FeatureColumn(column="age", kind="numeric"), None, 0, 1, mean=0.0, standard_deviation=1.0
    )
    color = _terms("color", "categorical", COLORS, 0)
    tags = _terms("tags", "list", TAGS, 2)
    vector = IndexedColumn("item", FeatureColumn(column="vector", kind="vector"), 2, 5, 2)
    columns = (color, tags, vector, age)
    return FeatureIndex(columns, 10, fingerprint(columns))


def _terms(column: str, kind: Any, terms: Sequence[str], start: int) -> IndexedColumn:
    return IndexedColumn(
        "item",
        FeatureColumn(column=column, kind=kind),
        None,
        start,
        len(terms),
        terms=ByteStrings.of(terms),
        document_frequency=np.full(len(terms), 3),
    )


def _random_effect(path: Path, coefficients: Mapping[str, Sequence[float]]) -> Path:
    ids = sorted(coefficients, key=str.encode)
    strings = ByteStrings.of(ids)
    width = len(next(iter(coefficients.values())))
    count = len(ids)
    write_random_effect(
        path,
        RandomEffectCoefficients(
            block=CoefficientBlock(
                ids_bytes=strings.data,
                ids_ptr=strings.ptr,
                coefficient_ptr=np.arange(count + 1) * width,
                indices=np.tile(np.arange(width, dtype=np.int32), count),
                coefficients=np.concatenate([np.array(coefficients[each], np.float64) for each in ids]),
                variances=None,
            ),
            rows=np.full(count, 5),
            status=np.zeros(count, np.uint8),
            iterations=np.ones(count, np.int32),
            gradient_norm=np.zeros(count),
        ),
    )
    return path


def publish_shop(work: Path, url: str, version: int, bias: float = 0.0) -> None:
    """Publish and activate a version of `shop`: a fixed effect, a random effect of users and one of items."""
    index = feature_index()
    work.mkdir(parents=True, exist_ok=True)
    index.save(work / "index.parquet")
    names = index.coordinate_names(("user", "item"), True)
    write_fixed_effect(
        work / "global.parquet",
        np.array([GLOBAL[0] + bias, *GLOBAL[1:]]),
        bags=names.bag.to_pylist(),
        names=names.name.to_pylist(),
        terms=names.term.to_pylist(),
    )
    fixed = CoordinateManifest(
        "global", "fixed_effect", ("user", "item"), True, 9, model="logistic_regression", rows=10
    )
    per_user = CoordinateManifest(
        "per_user", "random_effect", ("item",), True, 8, entity_column="user_id", entities=2, rows=10
    )
    per_item = CoordinateManifest(
        "per_item", "random_effect", (), True, 1, entity_column="item_id", entities=3, rows=10
    )
    manifest = ModelManifest(
        model="shop",
        version=version,
        task="logistic_regression",
        coordinates=(fixed, per_user, per_item),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
    )
    directory = assemble_model(
        work / "models" / str(version),
        manifest,
        feature_index=work / "index.parquet",
        coefficients={
            "global": [work / "global.parquet"],
            "per_user": [_random_effect(work / "per_user.parquet", PER_USER)],
            "per_item": [_random_effect(work / "per_item.parquet", {k: [v] for k, v in PER_ITEM.items()})],
        },
        run={"job_id": "j1"},
    )
    with open_store(url) as store:
        publish_model(directory, store)


def publish_outside(work: Path, url: str) -> None:
    """Publish a version of `outside`: an offset of somebody else's model, and a random effect of users."""
    index = feature_index()
    work.mkdir(parents=True, exist_ok=True)
    index.save(work / "index.parquet")
    per_user = CoordinateManifest(
        "per_user", "random_effect", ("item",), True, 8, entity_column="user_id", entities=2, rows=10
    )
    manifest = ModelManifest(
        model="outside",
        version=1,
        task="linear_regression",
        coordinates=(per_user,),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
        offset_column="base",
    )
    directory = assemble_model(
        work / "models" / "1",
        manifest,
        feature_index=work / "index.parquet",
        coefficients={"per_user": [_random_effect(work / "per_user.parquet", PER_USER)]},
        run={"job_id": "j2"},
    )
    with open_store(url) as store:
        publish_model(directory, store)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with `shop` (version 2 active, version 1 the `canary`) and `outside`."""
    work = tmp_path_factory.mktemp("scoring")
    url = f"lmdb:{work / 'store'}"
    publish_shop(work / "one", url, 1, CANARY_BIAS)
    publish_shop(work / "two", url, 2)
    publish_outside(work / "outside", url)
    with open_store(url) as opened:
        opened.set_alias("shop", "canary", 1)
    return url


@pytest.fixture(scope="session")
def served(store: str) -> Iterator[LocalScorer]:
    """A scorer of that store, ready, for all tests that do not harm it."""
    with LocalScorer(store) as running:
        running.wait_until_ready()
        yield running
