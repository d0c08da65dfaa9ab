"""The coordinates of a model: a fixed effect, a plug-in or uploaded scores in its place, random effects."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gdmix_core.config.data import ENDINGS
from gdmix_core.config.plugged import PluggedEffect
from gdmix_core.config.strict import Strict, Strings, Switch, check_name

Strength = Annotated[float, Field(strict=True, ge=0.0)]
Iterations = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Rows = Annotated[int, Field(strict=True, ge=1)]


GeneralizedLinearModel = Literal["logistic_regression", "linear_regression", "poisson_regression"]
AUTO: Final = "auto"
"""A ridge strength that is learned."""
MOST_LEARNED_COLUMNS: Final = 16
"""A coordinate with more columns learns one variance for each bag instead."""


def _number_or_auto(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == AUTO or (number and isfinite(value) and value >= 0.0):
        return value if value == AUTO else float(value)
    raise PydanticCustomError("ridge", "Input should be a number that is not negative, or auto")


# Checked before the unions, so that a mistake is reported once and not for each of their members.
StrengthOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_number_or_auto)]


def _kind_of_ridge(value: Any) -> str:
    return "groups" if isinstance(value, dict) else "one"


Ridge = Annotated[
    Annotated[StrengthOrAuto, Tag("one")] | Annotated[dict[str, StrengthOrAuto], Tag("groups")],
    Discriminator(_kind_of_ridge),
]


class Coordinate(Strict):
    """What trained fixed and random effects have in common."""

    features: Strings = ()
    """Feature bags of this coordinate, concatenated in this order."""
    intercept: Switch = True
    """Whether coefficient 0 is an intercept."""
    l2: Ridge = 1.0
    """Ridge strength: a number, or `auto` to learn it, or one of both per group: `default`, `intercept`,
    `<bag>`, `<bag>.<column>`."""
    variance: Literal["none", "simple", "full"] = "none"
    """Posterior variances to store: `full` diag(H⁻¹), `simple` 1 / diag(H)."""
    sparsity_threshold: Strength = 0.0
    """Coefficients of features that are not larger than this are 0 in the model that is scored and published."""
    max_iterations: Iterations = 100
    """Bound on the optimiser's iterations; what stops there is reported as unconverged."""

    @property
    def numeric_l2(self) -> float | dict[str, float]:
        """The ridge strength, or strengths, with 1 in the place of `auto`."""
        if isinstance(self.l2, dict):
            return {group: 1.0 if value == AUTO else float(value) for group, value in self.l2.items()}
        return 1.0 if self.l2 == AUTO else float(self.l2)

    @model_validator(mode="after")
    def _something_to_fit(self) -> Coordinate:
        if not self.features and not self.intercept:
            raise ValueError("no features and no intercept: nothing to fit")
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features: a bag is named twice in {list(self.features)}")
        return self


class FixedEffect(Coordinate):
    """One global model."""

    fixed_effect: GeneralizedLinearModel
    """The built-in generalized linear model; it must be the job's task."""
    regularize_bias: Switch = False
    """Whether l2 covers the intercept."""
    max_iterations: Iterations = 2000
    """Bound on the optimiser's iterations; what stops there is reported as unconverged."""
    solver: Literal["auto", "newton", "lbfgs"] = "auto"
    """`auto` takes exact Newton while its Hessian is affordable, L-BFGS beyond."""


class ScoreFiles(Strict):
    """Where the scores of an outside model are: uploads by name, or files, directories and globs."""

    train: str
    """Of the training rows: the name of an upload, or a path."""
    validation: str | None = None
    """Of the validation rows."""
    uid: str = "uid"
    """Files: column of the row id."""
    score: str = "score"
    """Files: column of the score, in units of the linear predictor (logits for logistic regression)."""

    @field_validator("train", "validation")
    @classmethod
    def _upload_or_path(cls, value: str | None) -> str | None:
        if value is not None and not is_path(value):
            check_name(value, "upload")
        return value


class ExternalEffect(Strict):
    """Somebody else's global model: its scores, aligned with the rows by uid, take the fixed effect's place."""

    fixed_effect: Literal["external"]
    """The scores are given, not trained."""
    scores: ScoreFiles
    """Where they are."""
    missing: Literal["error", "zero"] = "error"
    """What a row without a score is: an error, with a count, or 0, counted."""


class RandomEffect(Coordinate):
    """One small model for each entity: each user, each item, ..."""

    random_effect: str
    """Column that holds the entity id."""
    l2: Ridge = AUTO
    """Ridge strength: `auto` to learn it, or a number, or one of both per group: `default`, `intercept`,
    `<bag>`, `<bag>.<column>`."""
    regularize_bias: Switch = True
    """Whether l2 covers the intercept; without it, entities whose labels are all alike run to infinity."""
    center: Switch = False
    """Whether coefficients are pulled to their mean, which the fixed effect learns, and not to 0."""
    min_rows: Rows | None = None
    """Entities with fewer training rows get no model: their rows score 0 here."""
    max_rows: Rows | None = None
    """Entities with more are trained on so many, chosen by a hash of the uid and weighted up to all of them."""
    partitions: Annotated[int, Field(strict=True, ge=1, le=65536)] | None = None
    """Number of partitions; chosen from the row count when absent."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> RandomEffect:
        if self.min_rows is not None and self.max_rows is not None and self.min_rows > self.max_rows:
            raise ValueError(f"min_rows {self.min_rows} is above max_rows {self.max_rows}")
        return self


def is_path(scores: str) -> bool:
    """Return whether scores are named by a path, not by the name of an upload."""
    return "/" in scores or scores.lower().endswith(tuple(ENDINGS))


OTHER_FIXED_EFFECTS: Final = (*get_args(GeneralizedLinearModel), "external")
"""Names that no plug-in can have."""


def kind_of_coordinate(value: Any) -> str | None:
    """Return which class a coordinate is of, as the union's tag; None when that cannot be told."""
    for kind, model in COORDINATE_KINDS.items():
        if isinstance(value, model):
            return kind
    if not isinstance(value, dict):
        return None
    named = [kind for kind in ("fixed_effect", "random_effect") if kind in value]
    if len(named) != 1:
        return None
    effect = value.get("fixed_effect")
    if effect == "external":
        return "external"
    return "plugged" if isinstance(effect, str) and effect not in OTHER_FIXED_EFFECTS else named[0]


COORDINATE_KINDS: Final[dict[str, type[BaseModel]]] = {
    "fixed_effect": FixedEffect,
    "external": ExternalEffect,
    "plugged": PluggedEffect,
    "random_effect": RandomEffect,
}

AnyCoordinate = Annotated[
    Annotated[FixedEffect, Tag("fixed_effect")]
    | Annotated[ExternalEffect, Tag("external")]
    | Annotated[PluggedEffect, Tag("plugged")]
    | Annotated[RandomEffect, Tag("random_effect")],
    Discriminator(
        kind_of_coordinate,
        custom_error_type="coordinate_kind",
        custom_error_message="a coordinate has exactly one of the keys fixed_effect and random_effect",
    ),
]
