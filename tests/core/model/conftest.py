"""A small model on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gdmix_core.model import CoordinateManifest, ModelDirectory, ModelManifest, assemble_model
from gdmix_core.model.coefficients import (
    INTERCEPT_NAME,
    RandomEffectCoefficients,
    write_fixed_effect,
    write_random_effect,
)
from gdmix_core.store import CoefficientBlock


@pytest.fixture
def make_part() -> Callable[..., RandomEffectCoefficients]:
    def make(ids: list[bytes], *, seed: int = 0, variances: bool = False) -> RandomEffectCoefficients:
        random = np.random.default_rng(seed)
        counts = random.integers(0, 6, len(ids))
        ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = [np.sort(random.choice(50, count, replace=False)) for count in counts]
        block = CoefficientBlock(
            ids_bytes=np.frombuffer(b"".join(ids), np.uint8),
            ids_ptr=np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64),
            coefficient_ptr=ptr,
            indices=np.concatenate([np.empty(0, np.int32), *indices]).astype(np.int32),
            coefficients=random.normal(size=ptr[-1]),
            variances=random.random(ptr[-1]) if variances else None,
        )
        return RandomEffectCoefficients(
            block=block,
            rows=random.integers(1, 99, len(ids)),
            status=random.integers(0, 3, len(ids)).astype(np.uint8),
            iterations=random.integers(1, 9, len(ids)).astype(np.int32),
            gradient_norm=random.random(len(ids)),
        )

    return make


@pytest.fixture
def make_model(
    tmp_path: Path, make_part: Callable[..., RandomEffectCoefficients]
) -> Callable[..., ModelDirectory]:
    def make(
        *, version: int = 1, seed: int = 0, name: str = "model", variances: bool = False
    ) -> ModelDirectory:
        work = tmp_path / f"{name}-{version}-{seed}-work"
        work.mkdir()
        (work / "index.parquet").write_bytes(b"the feature index")
        write_fixed_effect(
            work / "global.parquet",
            np.array([0.5, -1.0]),
            bags=["", "user"],
            names=[INTERCEPT_NAME, "age"],
            terms=["", ""],
        )
        for part in range(2):
            ids = [b"user%02d" % i for i in range(part, 40, 2)]
            write_random_effect(work / f"user-{part}", make_part(ids, seed=seed + part, variances=variances))
        manifest = ModelManifest(
            model="movies",
            version=version,
            task="logistic_regression",
            coordinates=(
                CoordinateManifest(
                    "global", "fixed_effect", ("user",), True, 2, model="logistic_regression", rows=100
                ),
                CoordinateManifest(
                    "per_user",
                    "random_effect",
                    ("movie",),
                    True,
                    51,
                    l2={"default": 1.0},
                    entity_column="user_id",
                    entities=40,
                    statuses={"converged": 40},
                    variances=variances,
                ),
            ),
            bag_sizes={"user": 1, "movie": 50},
            schema_fingerprint="00ff00ff00ff00ff",
            metrics={"auc": {"value": 0.75}},
        )
        return assemble_model(
            tmp_path / name / "models" / str(version),
            manifest,
            feature_index=work / "index.parquet",
            coefficients={
                "global": [work / "global.parquet"],
                "per_user": [work / "user-0", work / "user-1"],
            },
            run={"job_id": "j1", "host": "here"},
        )

    return make
