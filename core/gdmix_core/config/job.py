"""The job config: what a person writes to have a mixed-effect model trained.

Small frozen models, one line of documentation under every field. Reading a file, reporting mistakes and
resolving paths is `gdmix_core.config.load`; nothing here touches the file system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gdmix_core.config.coordinates import (
    AnyCoordinate,
    Coordinate,
    ExternalEffect,
    FixedEffect,
    RandomEffect,
)
from gdmix_core.config.data import DataConfig
from gdmix_core.config.features import FeatureColumn, columns_of_bags
from gdmix_core.config.plugged import PluggedEffect
from gdmix_core.config.strict import NAME_PATTERN, Strict, Switch, check_name
from gdmix_core.errors import GdmixError

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.plugin import InputColumn

Task = Literal["logistic_regression", "linear_regression", "poisson_regression"]
MOST_PASSES: Final = 1000


def _number_or_until_converged(value: Any) -> Any:
    if value == "until_converged" or (type(value) is int and 1 <= value <= MOST_PASSES):
        return value
    allowed = f"Input should be an integer from 1 to {MOST_PASSES}, or until_converged"
    raise PydanticCustomError("passes", allowed)


# Checked before the union, so that a mistake is reported once and not for each of its members.
Passes = Annotated[int | Literal["until_converged"], BeforeValidator(_number_or_until_converged)]
MOST_TRIALS: Final = 1000
_OUTPUT_FOLDERS: Final = frozenset({"models", "store"})
SEARCHED_FIELDS: Final = ("l2", "regularize_bias", "sparsity_threshold")
"""What trials may differ in: nothing that would need the data to be prepared anew."""
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
    passes: Passes = 1
    """How often the coordinates are gone through; stops early when a pass improves nothing. `until_converged`
    reaches the joint optimum of all coordinates and publishes that."""
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
    action: Literal["train", "inference"] = "train"
    """`inference` trains nothing: it scores the rows with `initial_model`, measures, and writes the scores."""
    initial_model: str | None = None
    """Directory of a model version to begin with, or of LinkedIn GDMix's results: what the data do not show any
    more is taken over from it."""
    results: Literal["none", "gdmix"] = "none"
    """`gdmix` writes scores, metrics and models as Avro and JSON below the output, as LinkedIn GDMix does."""
    search: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """A grid: values to try by place, say `coordinates.per_user.l2`; the best by the first metric is published."""

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
            *_data_problems(self),
            *_feature_problems(self),
            *_coordinate_problems(self),
            *_center_problems(self),
            *_metric_problems(self),
        ]
        problems = problems or search_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def effective_metrics(self) -> tuple[str, ...]:
        """The metrics computed: those given, else the task's usual ones."""
        return self.metrics or DEFAULT_METRICS[self.task]


def _data_problems(config: JobConfig) -> list[str]:
    data, inference = config.data, config.action == "inference"
    problems = []
    if not data.train and not (inference and data.validation):
        problems.append("data.train: no training data; give at least one file, directory or glob")
    if "label" in data.columns.optional and not inference:
        problems.append("data.columns.optional: found label; training needs one; allowed are weight, offset")
    if inference and config.initial_model is None:
        problems.append("initial_model: missing; action inference needs a model to score with")
    if inference and config.passes != 1:
        problems.append(f"passes: found {config.passes}; nothing is trained with action inference")
    if config.results == "gdmix" or inference:
        problems.extend(
            f"coordinates.{name}: is the name of another folder of the output; with results: gdmix call it otherwise"
            for name in config.coordinates
            if name in _OUTPUT_FOLDERS
        )
    for name, source in data.sources.items():
        where = f"data.sources.{name}"
        if NAME_PATTERN.fullmatch(name) is None:
            problems.append(f"{where}: allowed are letters, digits, '_', '.' and '-'")
        for role in ("train", "validation"):
            if bool(getattr(source, role)) != bool(getattr(data, role)):
                present, absent = ("data", where) if getattr(data, role) else (where, "data")
                problems.append(f"{where}.{role}: {present} has {role} files, {absent} has none")
    return problems


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
        problems.extend(
            f"features.{bag}: column {column.column!r}: found source {column.source}; declared are "
            f"{', '.join(config.data.sources) or 'none'}"
            for column in columns
            if column.source is not None and column.source not in config.data.sources
        )
    return problems


def _coordinate_problems(config: JobConfig) -> list[str]:
    problems = []
    if not config.coordinates:
        problems.append("coordinates: none; name at least one fixed_effect or random_effect")
    external = [name for name, c in config.coordinates.items() if isinstance(c, ExternalEffect)]
    if len(external) > 1:
        problems.append(
            f"coordinates: {', '.join(external)} are external; allowed is one, whose score a request brings"
        )
    for name, coordinate in config.coordinates.items():
        where = f"coordinates.{name}"
        if NAME_PATTERN.fullmatch(name) is None:
            problems.append(f"{where}: allowed are letters, digits, '_', '.' and '-'")
        if isinstance(coordinate, ExternalEffect):
            problems.extend(_score_problems(config, where, coordinate))
            continue
        if isinstance(coordinate, PluggedEffect):
            problems.extend(_plugin_problems(config, where, coordinate))
            continue
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


def mean_coordinate(config: JobConfig, name: str) -> str:
    """Return the coordinate that fits a centred random effect's mean: the first native fixed effect, or a new one."""
    for other, coordinate in config.coordinates.items():
        if isinstance(coordinate, FixedEffect):
            return other
    return f"{name}_mean"


def _center_problems(config: JobConfig) -> list[str]:
    problems = []
    native = any(isinstance(coordinate, FixedEffect) for coordinate in config.coordinates.values())
    for name, coordinate in config.coordinates.items():
        if not (isinstance(coordinate, RandomEffect) and coordinate.center):
            continue
        where, target = f"coordinates.{name}.center", mean_coordinate(config, name)
        if config.action == "inference":
            problems.append(f"{where}: found true; nothing is trained with action inference")
        elif not native and target in config.coordinates:
            problems.append(
                f"{where}: its mean needs a fixed effect called {target}, which is another coordinate's name"
            )
    return problems


def _score_problems(config: JobConfig, where: str, coordinate: ExternalEffect) -> list[str]:
    if config.action == "inference" and not config.data.train:
        return []
    given, wanted = coordinate.scores.validation is not None, bool(config.data.validation)
    if given == wanted:
        return []
    if wanted:
        return [f"{where}.scores.validation: missing; the validation rows need scores as well"]
    return [f"{where}.scores.validation: there are no validation rows (data.validation is empty)"]


def _plugin_problems(config: JobConfig, where: str, coordinate: PluggedEffect) -> list[str]:
    try:
        columns = coordinate.columns
        coordinate.check(config.task)
    except (GdmixError, ValueError) as error:
        return [f"{where}: {error}"]
    return [
        f"{where}: column {column.name!r}: found source {column.source}; declared are "
        f"{', '.join(config.data.sources) or 'none'}"
        for column in columns
        if column.source is not None and column.source not in config.data.sources
    ]


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


def search_problems(config: JobConfig) -> list[str]:
    """Return what is wrong with the grid: places that cannot vary, and values that are not allowed there."""
    problems = []
    trials = 1
    for place, values in config.search.items():
        trials *= max(1, len(values))
        if not values:
            problems.append(f"search.{place}: no values; give a list of at least one")
        elif not _varies(config, place):
            problems.append(
                f"search.{place}: cannot be searched; allowed are passes, and of a trained coordinate "
                f"{', '.join(f'coordinates.NAME.{field}' for field in SEARCHED_FIELDS)}, of one that is plugged in "
                "its options"
            )
        else:
            problems.extend(_value_problems(config, place, values))
    if config.search and not (config.data.validation and config.action == "train"):
        problems.append("search: the best trial is chosen on validation rows of a training; there are none")
    if trials > MOST_TRIALS:
        problems.append(f"search: {trials} trials; allowed: {MOST_TRIALS}")
    return problems


def with_values(config: JobConfig, values: dict[str, Any]) -> JobConfig:
    """Return the config of one trial: the searched places set, nothing left to search.

    Raises:
        pydantic.ValidationError: a value is not allowed at its place.
    """
    document = config.model_dump(mode="json")
    document["search"] = {}
    for place, value in values.items():
        first, *rest = place.split(".")
        if first == "passes":
            document["passes"] = value
            continue
        plugged = _option(config, ".".join(rest))
        if plugged is not None:
            name, path = plugged
            _set(document["coordinates"][name], path, value)
            continue
        name, field, group = _parts(".".join(rest))
        coordinate = document["coordinates"][name]
        if group:
            ridge = coordinate[field]
            ridge = dict(ridge) if isinstance(ridge, dict) else {"default": ridge}
            coordinate[field] = ridge | {group: value}
        else:
            coordinate[field] = value
    return JobConfig.model_validate(document)


def _option(config: JobConfig, place: str) -> tuple[str, list[str]] | None:
    """Cut `<coordinate>.<option>[.<option>…]` of a coordinate that is plugged in; None for other places."""
    names = [
        name
        for name, coordinate in config.coordinates.items()
        if isinstance(coordinate, PluggedEffect) and place.startswith(f"{name}.")
    ]
    if not names:
        return None
    name = max(names, key=len)
    return name, place.removeprefix(f"{name}.").split(".")


def _set(document: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value where a path leads in nested mappings; what is on the way and none is made one."""
    *above, last = path
    for key in above:
        if not isinstance(document.get(key), dict):
            document[key] = {}
        document = document[key]
    document[last] = value


def _parts(place: str) -> tuple[str, str, str]:
    """Cut `<coordinate>.<field>[.<group>]`; a coordinate's name may hold dots, a group as well."""
    for field in SEARCHED_FIELDS:
        name, found, group = place.partition(f".{field}")
        if found and (not group or group.startswith(".")):
            return name, field, group.removeprefix(".")
    return place, "", ""


def _varies(config: JobConfig, place: str) -> bool:
    if place == "passes":
        return True
    first, _, rest = place.partition(".")
    plugged = _option(config, rest) if first == "coordinates" else None
    if plugged is not None:
        return plugged[1] != ["fixed_effect"]
    name, field, group = _parts(rest)
    known = first == "coordinates" and isinstance(config.coordinates.get(name), Coordinate)
    return known and bool(field) and (not group or field == "l2")


def _value_problems(config: JobConfig, place: str, values: tuple[Any, ...]) -> list[str]:
    problems = []
    for position, value in enumerate(values):
        try:
            tried = with_values(config, {place: value})
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            if message.startswith("Input should be "):
                message = f"allowed: {message.removeprefix('Input should be ')}"
            problems.append(f"search.{place}[{position}]: found {value!r}; {message}")
        else:
            if _inputs(tried) != _inputs(config):
                problems.append(
                    f"search.{place}[{position}]: found {value!r}, with which other columns are read; allowed is what "
                    "leaves the prepared data as they are"
                )
    return problems


def _inputs(config: JobConfig) -> list[tuple[InputColumn, ...]]:
    return [c.columns for c in config.coordinates.values() if isinstance(c, PluggedEffect)]
