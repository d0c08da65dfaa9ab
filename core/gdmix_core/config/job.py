"""The job config: what a person writes to have a mixed-effect model trained.

Small frozen models, one line of documentation under every field. Reading a file, reporting mistakes and
resolving paths is `gdmix_core.config.load`; nothing here touches the file system.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from gdmix_core.config.features import FeatureColumn, columns_of_bags

Task = Literal["logistic_regression", "linear_regression", "poisson_regression"]
DataFormat = Literal["auto", "parquet", "csv", "jsonl"]
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "logistic_regression": ("auc", "logloss"),
    "linear_regression": ("rmse",),
    "poisson_regression": ("poisson_deviance", "rmse"),
}
METRICS_OF_TASK: dict[str, tuple[str, ...]] = {
    "logistic_regression": ("auc", "aupr", "logloss", "rmse", "mse"),
    "linear_regression": ("rmse", "mse"),
    "poisson_regression": ("poisson_deviance", "rmse", "mse"),
}


def check_name(name: str, what: str) -> str:
    """Return `name` when it can be part of a path and of a store key, else raise ValueError."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(
            f"{what} {name!r} is not a name: allowed are 1 to 64 letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit"
        )
    return name


class Strict(BaseModel):
    """Base of every config model: frozen, unknown keys are errors, no silent coercion of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(Strict):
    """Which column of the data plays which role."""

    uid: str = "uid"
    """Unique int64 row id given by the user."""
    label: str = "label"
    """What the model predicts."""
    weight: str | None = None
    """Non-negative row weight; 1 for every row when absent."""
    offset: str | None = None
    """Known part of the linear predictor, added to every score; 0 when absent."""


class DataConfig(Strict):
    """Where the rows are."""

    train: tuple[str, ...]
    """Files, directories or globs of the training rows."""
    validation: tuple[str, ...] = ()
    """Files, directories or globs of the validation rows; none means no metrics."""
    format: DataFormat = "auto"
    """`auto` goes by the file names' endings."""
    columns: Columns = Columns()
    """Column roles."""
    shards: Annotated[int, Field(strict=True, ge=1, le=65536)] | None = None
    """Number of home shards of the training rows; chosen from the row count when absent."""

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("train", "validation")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not path.strip() for path in value):
            raise ValueError("an empty path; give a file, a directory or a glob")
        return value

    @field_validator("train")
    @classmethod
    def _at_least_one(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("no training data; give at least one file, directory or glob")
        return value


Strength = Annotated[float, Field(strict=True, ge=0.0)]
Switch = Annotated[bool, Field(strict=True)]


def _kind_of_ridge(value: Any) -> str:
    return "groups" if isinstance(value, dict) else "number"


# Told apart by hand, so that a mistake is reported once and not for each member of the union.
Ridge = Annotated[
    Annotated[Strength, Tag("number")] | Annotated[dict[str, Strength], Tag("groups")],
    Discriminator(_kind_of_ridge),
]


class Coordinate(Strict):
    """What fixed and random effects have in common."""

    features: tuple[str, ...] = ()
    """Feature bags of this coordinate, concatenated in this order."""
    intercept: Switch = True
    """Whether coefficient 0 is an intercept."""
    l2: Ridge = 1.0
    """Ridge strength: a number, or a number per group: `default`, `intercept`, `<bag>`, `<bag>.<column>`."""
    variance: Literal["none", "full"] = "none"
    """`full` stores diag(H⁻¹), the posterior variance of every coefficient."""
    max_iterations: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100
    """Bound on the optimiser's iterations; what stops there is reported as unconverged."""

    @field_validator("features", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_fit(self) -> Coordinate:
        if not self.features and not self.intercept:
            raise ValueError("no features and no intercept: nothing to fit")
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features: a bag is named twice in {list(self.features)}")
        return self


class FixedEffect(Coordinate):
    """One global model."""

    fixed_effect: Literal["logistic_regression", "linear_regression", "poisson_regression"]
    """The built-in generalized linear model; it must be the job's task."""
    regularize_bias: Switch = False
    """Whether l2 covers the intercept."""
    max_iterations: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 2000
    """Bound on the optimiser's iterations; what stops there is reported as unconverged."""
    solver: Literal["auto", "newton", "lbfgs"] = "auto"
    """`auto` takes exact Newton while its Hessian is affordable, L-BFGS beyond."""


class RandomEffect(Coordinate):
    """One small model for each entity: each user, each item, ..."""

    random_effect: str
    """Column that holds the entity id."""
    regularize_bias: Switch = True
    """Whether l2 covers the intercept; without it, entities whose labels are all alike run to infinity."""
    partitions: Annotated[int, Field(strict=True, ge=1, le=65536)] | None = None
    """Number of partitions; chosen from the row count when absent."""


def _kind_of_coordinate(value: Any) -> str | None:
    if isinstance(value, (FixedEffect, RandomEffect)):
        return "fixed_effect" if isinstance(value, FixedEffect) else "random_effect"
    if not isinstance(value, dict):
        return None
    named = [kind for kind in ("fixed_effect", "random_effect") if kind in value]
    return named[0] if len(named) == 1 else None


AnyCoordinate = Annotated[
    Annotated[FixedEffect, Tag("fixed_effect")] | Annotated[RandomEffect, Tag("random_effect")],
    Discriminator(
        _kind_of_coordinate,
        custom_error_type="coordinate_kind",
        custom_error_message="a coordinate has exactly one of the keys fixed_effect and random_effect",
    ),
]


class JobConfig(Strict):
    """A training job."""

    model: str
    """Name of the model; versions are numbered under it in the store."""
    task: Task
    """Loss and link of the whole model."""
    data: DataConfig
    """Where the rows are."""
    features: dict[str, tuple[FeatureColumn, ...]] = Field(default_factory=dict)
    """Feature bags: columns that become one sparse vector."""
    coordinates: dict[str, AnyCoordinate]
    """Trained in this order, each with the scores of the others as its offset."""
    passes: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    """How often the coordinates are gone through; stops early when a pass improves nothing."""
    metrics: tuple[str, ...] = ()
    """Validation metrics; the first decides which pass is kept. The task's usual ones when absent."""
    output: str
    """Directory for model versions and, by default, the embedded store."""
    store: str | None = None
    """Coefficient store, `lmdb:DIRECTORY` or `redis://…`; the coordinator's, else `lmdb:OUTPUT/store`."""
    activate: Switch = True
    """Whether the published version becomes the active one."""
    keep: Annotated[int, Field(strict=True, ge=0, le=1000)] = 2
    """How many superseded versions stay for rollback."""

    @field_validator("model")
    @classmethod
    def _model_name(cls, value: str) -> str:
        return check_name(value, "model")

    @field_validator("store")
    @classmethod
    def _store_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("lmdb:", "redis://", "rediss://", "unix://")):
            raise ValueError(
                f"{value!r} is not a store: allowed are lmdb:DIRECTORY, redis://, rediss://, unix://"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> JobConfig:
        problems = [
            *_feature_problems(self),
            *_coordinate_problems(self),
            *_metric_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def effective_metrics(self) -> tuple[str, ...]:
        """The metrics computed: those given, else the task's usual ones."""
        return self.metrics or DEFAULT_METRICS[self.task]


def _feature_problems(config: JobConfig) -> list[str]:
    problems = []
    for bag, columns in config.features.items():
        if NAME_PATTERN.fullmatch(bag) is None or "." in bag:
            problems.append(f"features.{bag}: a bag's name has letters, digits, '_' and '-' only")
        if not columns:
            problems.append(f"features.{bag}: no columns; name at least one or drop the bag")
        names = [column.column for column in columns]
        problems.extend(
            f"features.{bag}: column {name!r} is named {names.count(name)} times"
            for name in sorted(set(names))
            if names.count(name) > 1
        )
    return problems


def _coordinate_problems(config: JobConfig) -> list[str]:
    problems = []
    if not config.coordinates:
        problems.append("coordinates: none; name at least one fixed_effect or random_effect")
    for name, coordinate in config.coordinates.items():
        where = f"coordinates.{name}"
        if NAME_PATTERN.fullmatch(name) is None:
            problems.append(f"{where}: allowed are letters, digits, '_', '.' and '-'")
        unknown = [bag for bag in coordinate.features if bag not in config.features]
        if unknown:
            allowed = ", ".join(config.features) or "none are declared"
            problems.append(f"{where}.features: found {', '.join(unknown)}; declared bags are {allowed}")
        if isinstance(coordinate, FixedEffect) and coordinate.fixed_effect != config.task:
            problems.append(
                f"{where}.fixed_effect: found {coordinate.fixed_effect}; the job's task is {config.task}"
            )
        if isinstance(coordinate.l2, dict) and not unknown:
            problems.extend(_group_problems(config, where, coordinate))
    return problems


def _group_problems(config: JobConfig, where: str, coordinate: Coordinate) -> list[str]:
    assert isinstance(coordinate.l2, dict)
    columns = columns_of_bags(config.features, coordinate.features)
    allowed = ["default", *(["intercept"] if coordinate.intercept else []), *coordinate.features, *columns]
    return [
        f"{where}.l2.{group}: no such feature group; allowed are {', '.join(allowed)}"
        for group in coordinate.l2
        if group not in allowed
    ]


def _metric_problems(config: JobConfig) -> list[str]:
    allowed = METRICS_OF_TASK[config.task]
    problems = []
    for position, metric in enumerate(config.metrics):
        name, colon, column = metric.partition(":")
        if name not in allowed or (colon and not column):
            problems.append(
                f"metrics[{position}]: found {metric!r}; allowed for {config.task} are {', '.join(allowed)}, "
                "each alone or with :COLUMN for its average over entities"
            )
    if len(set(config.metrics)) != len(config.metrics):
        problems.append(f"metrics: one stands twice in {list(config.metrics)}")
    return problems
