"""A scorer on a store whose model has a column of every kind that tensors carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.model import CoordinateManifest, ModelManifest, assemble_model, publish_model
from gdmix_core.model.coefficients import (
    INTERCEPT_NAME,
    RandomEffectCoefficients,
    write_fixed_effect,
    write_random_effect,
)
from gdmix_core.store import CoefficientBlock, open_store
from gdmix_proto.inference.v2 import inference_pb2, inference_pb2_grpc

MOVIE, USER = 7, 3
"""Features: a vector of three, three genres, the year; the age, two genders."""
GLOBAL = np.linspace(-1.0, 1.5, 1 + MOVIE + USER)
USERS = {"450": {0: 0.5, 1: 1.0, 5: -0.25}, "zoë": {0: -2.0, 7: 0.125}}
MOVIES = {"7": {0: 0.25, 1: -1.0}, "50": {0: -0.75, 2: 0.5}}


def feature_index() -> FeatureIndex:
    def categorical(bag: str, name: str, kind: Any, start: int, terms: list[str]) -> IndexedColumn:
        return IndexedColumn(
            bag, FeatureColumn(column=name, kind=kind), None, start, len(terms), ByteStrings.of(terms),
            np.ones(len(terms), np.int64),
        )  # fmt: skip

    def numeric(bag: str, name: str, start: int) -> IndexedColumn:
        column = FeatureColumn(column=name, kind="numeric")
        return IndexedColumn(bag, column, None, start, 1, mean=0.0, standard_deviation=1.0)

    columns = (
        IndexedColumn("movie", FeatureColumn(column="embedding", kind="vector"), 3, 0, 3),
        categorical("movie", "genres", "list", 3, ["Action", "Drama", "War"]),
        numeric("movie", "year", 6),
        numeric("user", "age", 0),
        categorical("user", "gender", "categorical", 1, ["F", "M"]),
    )
    return FeatureIndex(columns, 10, fingerprint(columns))


def write_effect(path: Path, of: Mapping[str, Mapping[int, float]]) -> None:
    ids = sorted(of, key=str.encode)
    encoded = [one.encode() for one in ids]
    indices = [index for one in ids for index in sorted(of[one])]
    write_random_effect(
        path,
        RandomEffectCoefficients(
            block=CoefficientBlock(
                ids_bytes=np.frombuffer(b"".join(encoded), np.uint8),
                ids_ptr=np.cumsum([0, *map(len, encoded)]).astype(np.int64),
                coefficient_ptr=np.cumsum([0, *(len(of[one]) for one in ids)]).astype(np.int64),
                indices=np.array(indices, np.int32),
                coefficients=np.array([of[one][index] for one in ids for index in sorted(of[one])]),
                variances=None,
            ),
            rows=np.full(len(ids), 5),
            status=np.zeros(len(ids), np.uint8),
            iterations=np.ones(len(ids), np.int32),
            gradient_norm=np.zeros(len(ids)),
        ),
    )


@pytest.fixture(scope="session")
def catalogue_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An LMDB store with version 1 of `catalogue`, active and aliased `canary`."""
    work = tmp_path_factory.mktemp("catalogue")
    index = feature_index()
    index.save(work / "index.parquet")
    write_fixed_effect(
        work / "global.parquet",
        GLOBAL,
        bags=["", *["movie"] * MOVIE, *["user"] * USER],
        names=[INTERCEPT_NAME, *["embedding"] * 3, *["genres"] * 3, "year", "age", "gender", "gender"],
        terms=["", "0", "1", "2", "Action", "Drama", "War", "", "", "F", "M"],
    )
    write_effect(work / "per-user.parquet", USERS)
    write_effect(work / "per-movie.parquet", MOVIES)

    def effect(name: str, bag: str, size: int, column: str, entities: int) -> CoordinateManifest:
        return CoordinateManifest(
            name, "random_effect", (bag,), True, 1 + size, entity_column=column, entities=entities, rows=10
        )

    manifest = ModelManifest(
        model="catalogue",
        version=1,
        task="logistic_regression",
        coordinates=(
            CoordinateManifest(
                "global", "fixed_effect", ("movie", "user"), True, len(GLOBAL),
                model="logistic_regression", rows=10,
            ),
            effect("per_user", "movie", MOVIE, "user_id", len(USERS)),
            effect("per_movie", "user", USER, "movie_id", len(MOVIES)),
        ),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
    )  # fmt: skip
    directory = assemble_model(
        work / "model" / "1",
        manifest,
        feature_index=work / "index.parquet",
        coefficients={
            "global": [work / "global.parquet"],
            "per_user": [work / "per-user.parquet"],
            "per_movie": [work / "per-movie.parquet"],
        },
        run={"job_id": "j1"},
    )
    url = f"lmdb:{work / 'store'}"
    with open_store(url) as store:
        publish_model(directory, store)
        store.set_alias("catalogue", "canary", 1)
    return url


@pytest.fixture(scope="session")
def catalogue_fingerprint() -> str:
    return feature_index().schema_fingerprint


@pytest.fixture(scope="package")
def catalogue(catalogue_store: str, scorer: Any, until: Any) -> Iterator[Any]:
    """A scorer that serves `catalogue`, and says so."""
    with scorer(catalogue_store) as running:
        with running.channel() as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            # Its parent may be the first to know of the version.
            until(lambda: stub.ServerReady(inference_pb2.ServerReadyRequest(), timeout=10).ready)
        yield running
