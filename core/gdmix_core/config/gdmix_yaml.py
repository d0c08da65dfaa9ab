"""A training config of LinkedIn GDMix (upstream), translated into a job config.

Upstream describes a model as named effects, each with files, a feature bag and a `gdmix_config` of its own.
Here it becomes one job: effects are coordinates, the files of the first are `data`, those of the others
`data.sources`, and everything that the optimum does not depend on is named in a note and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from gdmix_core.config.gdmix_yaml_format import (
    FORMAT,
    FixedEffectConfig,
    GdmixConfig,
    RandomEffectConfig,
    carried_keys,
    unused_keys,
)
from gdmix_core.config.mistakes import Lines, Location, at, config_error, describe_all, dotted
from gdmix_core.config.strict import NAME_PATTERN
from gdmix_core.errors import ConfigError

Effect: TypeAlias = FixedEffectConfig | RandomEffectConfig

_SECTIONS: Final = ("fixed_effect_config", "random_effect_config")
_SAME_FOR_ALL: Final = ("model_type", "action", "label_column_name", "uid_column_name", "weight_column_name")
_METRICS: Final = {"logistic_regression": ["auc"], "linear_regression": ["rmse", "mse"]}
"""What upstream reports."""
_SCORE_NAMES: Final = {
    "prediction_score_column_name": "predictionScore",
    "prediction_score_per_coordinate_column_name": "predictionScorePerCoordinate",
}
_LINES_OF_FIELDS: Final = {
    "features": "feature_bag",
    "intercept": "has_intercept",
    "l2": "l2_reg_weight",
    "max_rows": "max_num_of_samples_per_model",
    "min_rows": "min_num_of_samples_per_model",
    "partitions": "num_partitions",
    "random_effect": "partition_entity",
}


@dataclass(frozen=True, slots=True)
class Translation:
    """A job config as plain data, and what its author should know about it."""

    document: dict[str, Any]
    """The job config, not checked yet."""
    notes: tuple[str, ...]
    """What was left out, and what means something else."""
    lines: Lines = field(default_factory=dict)
    """Line in upstream's file of every path of the document that comes from one line."""


def is_gdmix_config(document: object) -> bool:
    """Return whether a parsed file is meant as a config of LinkedIn GDMix, not as a job config."""
    return (
        isinstance(document, dict)
        and "coordinates" not in document
        and any(section in document for section in _SECTIONS)
    )


def translate(document: Mapping[str, Any], source: str, lines: Lines) -> Translation:
    """Translate a parsed config of LinkedIn GDMix.

    Args:
        document: what YAML made of the file; `is_gdmix_config` holds.
        source: what messages call the file.
        lines: line of every path in it.

    Raises:
        ConfigError: mistakes (all of them, each with its line and path), upstream's older format, or what
            this version cannot do.
    """
    _refuse_older_format(document, source)
    document, problems = _without_networks(document, source, lines)
    try:
        config = GdmixConfig.model_validate(document)
    except ValidationError as error:
        problems.extend(describe_all(error, source, lines, FORMAT))
        raise config_error(source, problems) from error
    problems.extend(_disagreements(config, source, lines))
    problems.extend(_missing(config, source, lines))
    problems.extend(
        f"{at(source, path, lines)}allowed are letters, digits, '_', '.' and '-'"
        for path in config.effects
        if NAME_PATTERN.fullmatch(str(path[1])) is None
    )
    if problems:
        raise config_error(source, problems)
    return Translation(_job(config), tuple(_notes(config)), _lines_of_job(config, lines))


# ---- what cannot be translated ---------------------------------------------------------------------------


def _refuse_older_format(document: Mapping[str, Any], source: str) -> None:
    fixed, random = (document.get(section) for section in _SECTIONS)
    flat = isinstance(fixed, dict) and ("input_column_names" in fixed or isinstance(fixed.get("name"), str))
    if flat or isinstance(random, list) or isinstance(fixed, list):
        raise ConfigError(
            f"{source}: is in the older format of LinkedIn GDMix (.config: effects in a list or with a name "
            "among their keys, input_column_names). Understood is the newer one (.yaml): effects stand under "
            "their names, and each has a gdmix_config with model_type and the names of columns"
        )


def _without_networks(
    document: Mapping[str, Any], source: str, lines: Lines
) -> tuple[dict[str, Any], list[str]]:
    """Take out effects that are text networks, whose keys are another library's; return a problem for each."""
    kept, problems = dict(document), []
    for section in _SECTIONS:
        effects = document.get(section)
        for name, effect in effects.items() if isinstance(effects, dict) else ():
            schema = effect.get("gdmix_config") if isinstance(effect, dict) else None
            if isinstance(schema, dict) and schema.get("model_type") == "detext":
                where = at(source, (section, name, "gdmix_config", "model_type"), lines)
                problems.append(
                    f"{where}found 'detext'; this version has no text network for a fixed effect yet. Train it "
                    "elsewhere and give its scores: a job config whose coordinate says fixed_effect: external"
                )
                kept[section] = {key: value for key, value in kept[section].items() if key != name}
    left = any(isinstance(kept.get(section), dict) and kept[section] for section in _SECTIONS)
    if problems and not left:
        raise config_error(source, problems)
    return kept, problems


def _disagreements(config: GdmixConfig, source: str, lines: Lines) -> list[str]:
    """Return what effects say differently that is one thing here."""
    problems = []
    (first, first_effect), *others = config.effects.items()
    for path, effect in others:
        for key in (*_SAME_FOR_ALL, "offset_column_name"):
            inside = () if key == "offset_column_name" else ("gdmix_config",)
            holders = (
                (first_effect, effect) if not inside else (first_effect.gdmix_config, effect.gdmix_config)
            )
            values = [getattr(holder, key) for holder in holders]
            if values[0] != values[1]:
                problems.append(
                    f"{at(source, (*path, *inside, key), lines)}found {values[1] or 'none'}; "
                    f"{dotted(first)} has {values[0] or 'none'}, and all effects must have the same"
                )
        for key in ("validation_data_dir", "training_data_dir"):
            if bool(getattr(effect, key)) != bool(getattr(first_effect, key)):
                has, lacks = (path, first) if getattr(effect, key) else (first, path)
                problems.append(
                    f"{at(source, (*path, key), lines)}{dotted(has)} has one, {dotted(lacks)} has none; all "
                    "effects are about the same rows"
                )
    return problems


def _missing(config: GdmixConfig, source: str, lines: Lines) -> list[str]:
    """Return what training, or scoring, needs and the file does not say."""
    problems = []
    for path, effect in config.effects.items():
        if effect.gdmix_config.action == "train":
            if effect.training_data_dir is None:
                problems.append(f"{at(source, (*path, 'training_data_dir'), lines)}missing; it is required")
            if effect.gdmix_config.label_column_name is None:
                where = at(source, (*path, "gdmix_config", "label_column_name"), lines)
                problems.append(f"{where}missing; it is required")
        elif config.initial_model is None:
            where = at(source, (*path, "gdmix_config", "action"), lines)
            problems.append(
                f"{where}found inference, which needs a model; name the directory of a model version: "
                "initial_model: DIRECTORY, beside output_dir"
            )
            break
    return problems


# ---- what becomes of it ----------------------------------------------------------------------------------


def _job(config: GdmixConfig) -> dict[str, Any]:
    (_, first), *_ = config.effects.items()
    schema = first.gdmix_config
    sources = _Sources(config)
    features, bags = _bags(config, sources)
    data: dict[str, Any] = {**_files(first), "columns": _columns(first)}
    if sources.documents:
        data["sources"] = sources.documents
    document: dict[str, Any] = {
        "model": _name(config.output_dir.rstrip("/").rpartition("/")[2], "gdmix"),
        "task": schema.model_type,
        "data": data,
        "features": features,
        "coordinates": {
            str(path[1]): _coordinate(effect, bags[path]) for path, effect in config.effects.items()
        },
        "metrics": _METRICS[schema.model_type],
        "output": config.output_dir,
        "action": schema.action,
        "results": "gdmix",
    }
    return document | {
        key: value for key in carried_keys(config) if (value := getattr(config, key)) is not None
    }


class _Sources:
    """The files of the effects: those of the first are the data, the others' become sources, each once."""

    def __init__(self, config: GdmixConfig) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[Any, ...], str | None] = {}
        for path, effect in config.effects.items():
            key = _files_key(effect)
            if not self._names:
                self._names[key] = None
            elif key not in self._names:
                name = str(path[1])
                self._names[key] = name
                self.documents[name] = _files(effect)

    def of(self, effect: Effect) -> str | None:
        """Return the source that has an effect's files, None for the data themselves."""
        return self._names[_files_key(effect)]


def _files_key(effect: Effect) -> tuple[Any, ...]:
    return tuple(sorted(_files(effect).items()))


def _files(effect: Effect) -> dict[str, Any]:
    files = {
        "train": effect.training_data_dir,
        "validation": effect.validation_data_dir or None,
        "format": effect.data_format,
        "metadata": effect.metadata_file,
    }
    return {role: value for role, value in files.items() if value is not None}


def _columns(effect: Effect) -> dict[str, Any]:
    schema = effect.gdmix_config
    optional = ["weight", "offset"] if schema.weight_column_name else ["offset"]
    columns = {
        "uid": schema.uid_column_name,
        "label": schema.label_column_name,
        "weight": schema.weight_column_name,
        "offset": effect.offset_column_name,
        "optional": [*optional, "label"] if schema.action == "inference" else optional,
    }
    return {role: value for role, value in columns.items() if value is not None}


def _bags(
    config: GdmixConfig, sources: _Sources
) -> tuple[dict[str, list[dict[str, Any]]], dict[Location, str | None]]:
    """Return the feature bags, and which one each effect has."""
    columns: dict[Location, dict[str, Any]] = {}
    for path, effect in config.effects.items():
        if effect.feature_bag is not None:
            column: dict[str, Any] = {
                "column": effect.feature_bag,
                # An Avro file may hold lists of names, terms and values instead, as Photon-ML's do.
                "kind": "auto" if effect.data_format == "avro" else "vector",
                "names": effect.feature_file,
                "source": sources.of(effect),
            }
            columns[path] = {key: value for key, value in column.items() if value is not None}
    features: dict[str, list[dict[str, Any]]] = {}
    bags: dict[Location, str | None] = dict.fromkeys(config.effects)
    for path, column in columns.items():
        name = _bag_name(column["column"])
        # A bag that several effects have under one name is one bag only where the files are the same.
        if any(_bag_name(other["column"]) == name and other != column for other in columns.values()):
            name = _bag_name(f"{path[1]}_{column['column']}")
            while name in features and features[name] != [column]:
                name += "_"
        features[name] = [column]
        bags[path] = name
    return features, bags


def _coordinate(effect: Effect, bag: str | None) -> dict[str, Any]:
    linear = effect.gdmix_config.model_type == "linear_regression"
    document: dict[str, Any] = (
        {"random_effect": effect.partition_entity}
        if isinstance(effect, RandomEffectConfig)
        else {"fixed_effect": effect.gdmix_config.model_type}
    )
    document |= {
        "features": [] if bag is None else [bag],
        "intercept": effect.has_intercept,
        # Upstream's squared loss is (y - z)², ours half of that.
        "l2": effect.l2_reg_weight / 2 if linear else effect.l2_reg_weight,
        "variance": (effect.variance or "none").lower(),
    }
    if effect.has_intercept:
        document["regularize_bias"] = effect.regularize_bias
    if effect.sparsity_threshold is not None:
        document["sparsity_threshold"] = effect.sparsity_threshold
    if isinstance(effect, RandomEffectConfig):
        if effect.num_partitions is not None and effect.num_partitions > 1:
            document["partitions"] = effect.num_partitions
        if effect.min_num_of_samples_per_model is not None:
            document["min_rows"] = effect.min_num_of_samples_per_model
        if effect.max_num_of_samples_per_model is not None:
            document["max_rows"] = effect.max_num_of_samples_per_model
    return document


def _name(text: str, otherwise: str) -> str:
    """Make a name out of a text: other characters become `_`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("_.-")[:64] or otherwise


def _bag_name(text: str) -> str:
    return _name(text.replace(".", "_"), "features")


# ---- what people should know -----------------------------------------------------------------------------


def _notes(config: GdmixConfig) -> Iterable[str]:
    (_, first), *_ = config.effects.items()
    for path, effect in config.effects.items():
        for key, usual in _SCORE_NAMES.items():
            name = getattr(effect.gdmix_config, key)
            if name is not None and name != usual:
                yield f"{dotted(path)}.gdmix_config.{key}: {name} is not honoured; the column is called {usual}"
    bounds = {
        str(path[1]): effect.num_of_lbfgs_iterations
        for path, effect in config.effects.items()
        if effect.num_of_lbfgs_iterations is not None
    }
    if bounds:
        written = ", ".join(f"{name} {count}" for name, count in bounds.items())
        yield (
            f"num_of_lbfgs_iterations ({written}) is not taken over: coordinates are solved to the optimum, "
            "within max_iterations"
        )
    if first.gdmix_config.model_type == "linear_regression":
        yield "l2_reg_weight is halved: upstream's squared loss is (y - z)², here it is half of that"
    unused = [
        key
        for model in (config, *config.effects.values(), *(e.gdmix_config for e in config.effects.values()))
        for key in unused_keys(model)
    ]
    if unused:
        yield f"these have no meaning here and are ignored: {', '.join(dict.fromkeys(unused))}"


def _lines_of_job(config: GdmixConfig, lines: Lines) -> Lines:
    """Return where in upstream's file the parts of the job config come from."""
    carried = set(carried_keys(config))
    found: dict[Location, int] = {path: line for path, line in lines.items() if path and path[0] in carried}

    def link(path: Location, origin: Location) -> None:
        if origin in lines:
            found[path] = lines[origin]

    link((), ())
    link(("output",), ("output_dir",))
    for position, origin in enumerate(config.effects):
        if position == 0:
            link(("data",), origin)
        link(("data", "sources", origin[1]), origin)
        link(("coordinates", origin[1]), origin)
        for key in ("regularize_bias", "sparsity_threshold"):
            link(("coordinates", origin[1], key), (*origin, key))
        for key, upstream in _LINES_OF_FIELDS.items():
            link(("coordinates", origin[1], key), (*origin, upstream))
    return found
