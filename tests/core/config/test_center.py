"""`center: true`: whose features the fixed effect gets."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gdmix_core.config import ExternalEffect, FixedEffect, JobConfig, with_means


def config(**coordinates: Any) -> JobConfig:
    return JobConfig.model_validate(
        {
            "model": "m",
            "task": "logistic_regression",
            "data": {"train": "rows.parquet"},
            "features": {"user": ["age"], "item": ["genre"]},
            "coordinates": coordinates,
            "output": "out",
        }
    )


EXTERNAL = {"fixed_effect": "external", "scores": {"train": "scores.parquet"}}


def test_the_fixed_effect_gets_what_it_lacks() -> None:
    given = config(
        fixed={"fixed_effect": "logistic_regression", "features": "user", "intercept": False},
        per_user={"random_effect": "user_id", "features": ["user", "item"], "center": True},
        per_item={"random_effect": "item_id", "features": "user"},
    )
    found, changes = with_means(given)
    fixed = found.coordinates["fixed"]
    assert isinstance(fixed, FixedEffect)
    assert fixed.features == ("user", "item")
    assert fixed.intercept
    assert found.coordinates["per_user"] == given.coordinates["per_user"]
    assert changes == [
        "center: per_user's mean coefficients are fitted by fixed: bag item, an intercept added"
    ]


def test_a_fixed_effect_that_has_them_stays_as_it_is() -> None:
    given = config(
        fixed={"fixed_effect": "logistic_regression", "features": ["user", "item"]},
        per_user={"random_effect": "user_id", "features": "item", "center": True},
    )
    found, changes = with_means(given)
    assert found.coordinates["fixed"] == given.coordinates["fixed"]
    assert changes[0].endswith("fitted by fixed: it has all of their features already")


def test_without_a_native_fixed_effect_there_is_a_new_one() -> None:
    given = config(
        outside=EXTERNAL,
        per_user={"random_effect": "user_id", "features": "item", "center": True, "intercept": False},
        per_item={"random_effect": "item_id"},
    )
    found, changes = with_means(given)
    assert list(found.coordinates) == ["outside", "per_user_mean", "per_user", "per_item"]
    assert isinstance(found.coordinates["outside"], ExternalEffect)
    mean = found.coordinates["per_user_mean"]
    assert isinstance(mean, FixedEffect)
    assert (mean.features, mean.intercept) == (("item",), False)
    assert "fitted by per_user_mean, a fixed effect of their own" in changes[0]


def test_nothing_centred_changes_nothing() -> None:
    given = config(per_user={"random_effect": "user_id"})
    assert with_means(given) == (given, [])


def test_the_new_fixed_effect_needs_a_name_of_its_own() -> None:
    with pytest.raises(ValidationError, match=r"coordinates.per_user.center: .* called per_user_mean"):
        config(
            per_user={"random_effect": "user_id", "center": True},
            per_user_mean={"random_effect": "item_id"},
        )
