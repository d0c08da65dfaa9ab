"""What a training config of LinkedIn GDMix may say, key by key (its YAML of 2021, version 0.5).

Types and bounds are checked by these models; what the keys mean here is `gdmix_core.config.gdmix_yaml`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from gdmix_core.config.coordinates import Iterations, Strength
from gdmix_core.config.mistakes import Format, Location
from gdmix_core.config.strict import Strict, Switch

_UNUSED: Final = "unused"
_CARRIED: Final = "carried"

Unused = Annotated[Any, _UNUSED]
"""A key that upstream knows and that means nothing here."""
Carried = Annotated[Any, _CARRIED]
"""A key that upstream does not know: one of the job config's own, taken over and checked as such."""
Text = Annotated[str, Field(min_length=1)]
Samples = Annotated[int, Field(strict=True, ge=-1)]
VarianceMode = Literal["SIMPLE", "FULL"]


class SchemaConfig(Strict):
    """`gdmix_config`: the kind of model and the names of columns, the same for all effects."""

    model_type: Literal["logistic_regression", "linear_regression"] = "logistic_regression"
    """Loss and link of the whole model."""
    action: Literal["train", "inference"] = "train"
    """Whether to train, or to score with a model that is there."""
    label_column_name: Text | None = None
    """What the model predicts; needed for training."""
    uid_column_name: Text
    """Row id."""
    weight_column_name: Text | None = None
    """Row weight; files may lack the column."""
    prediction_score_column_name: Text | None = None
    """Name of the score in score files."""
    prediction_score_per_coordinate_column_name: Text | None = None
    """Name of the effect's own score in score files."""
    stage: Unused = None
    """Set by upstream's own launcher."""
    partition_list_file: Unused = None
    """Set by upstream's own launcher."""
    training_score_dir: Unused = None
    """Follows from the output directory."""
    validation_score_dir: Unused = None
    """Follows from the output directory."""


class EffectConfig(Strict):
    """What fixed and random effects have in common."""

    gdmix_config: SchemaConfig
    """Kind of model and names of columns."""
    training_data_dir: Text | None = None
    """Directory of the training rows; needed for training."""
    validation_data_dir: str | None = None
    """Directory of the validation rows."""
    metadata_file: Text | None = None
    """Describes the records."""
    data_format: Literal["tfrecord", "avro"] = "tfrecord"
    """Format of the rows."""
    feature_bag: Text | None = None
    """The features; without one the effect is an intercept only."""
    feature_file: Text | None = None
    """Names of the features, `name,term` a line."""
    l2_reg_weight: Strength = 1.0
    """Ridge strength."""
    regularize_bias: Switch = True
    """Whether the ridge covers the intercept."""
    has_intercept: Switch = True
    """Whether there is one."""
    offset_column_name: Text = "offset"
    """Known part of the linear predictor; files may lack the column."""
    sparsity_threshold: Strength | None = None
    """Smaller coefficients are 0; a constant, 1e-4, in upstream's code."""
    variance_mode: VarianceMode | None = None
    """Posterior variances, as older versions call it."""
    num_of_lbfgs_iterations: Iterations | None = None
    """Bound on the optimiser's iterations."""
    lbfgs_tolerance: Unused = None
    """Of upstream's optimiser."""
    num_of_lbfgs_curvature_pairs: Unused = None
    """Of upstream's optimiser."""
    batch_size: Unused = None
    """Of upstream's reader."""
    num_of_consumers: Unused = None
    """Of upstream's processes."""
    max_training_queue_size: Unused = None
    """Of upstream's processes."""
    training_queue_timeout_in_seconds: Unused = None
    """Of upstream's processes."""
    enable_local_indexing: Unused = None
    """Of upstream's solver; here it always is."""
    copy_to_local: Unused = None
    """Of upstream's TensorFlow cluster."""
    num_server_creation_retries: Unused = None
    """Of upstream's TensorFlow cluster."""
    retry_interval: Unused = None
    """Of upstream's TensorFlow cluster."""
    delayed_exit_in_seconds: Unused = None
    """Of upstream's TensorFlow cluster."""
    disable_fixed_effect_scoring_after_training: Unused = None
    """Scores are always needed."""
    disable_random_effect_scoring_after_training: Unused = None
    """Scores are always needed."""
    output_model_dir: Unused = None
    """Follows from the output directory."""
    training_score_dir: Unused = None
    """Follows from the output directory."""
    validation_score_dir: Unused = None
    """Follows from the output directory."""
    partition_list_file: Unused = None
    """Set by upstream's own launcher."""
    stage: Unused = None
    """Set by upstream's own launcher."""

    @property
    def variance(self) -> VarianceMode | None:
        """Posterior variances, by whichever name they are asked for."""
        return self.variance_mode

    @model_validator(mode="after")
    def _something_to_fit(self) -> EffectConfig:
        if self.feature_bag is None and not self.has_intercept:
            raise ValueError("no feature_bag and has_intercept false: nothing to fit")
        # True is the default: only who writes it asks for it.
        if "regularize_bias" in self.model_fields_set and self.regularize_bias and not self.has_intercept:
            raise ValueError("regularize_bias is true, but has_intercept is false")
        return self


class FixedEffectConfig(EffectConfig):
    """`fixed_effect_config.<name>`: one global model."""

    fixed_effect_variance_mode: VarianceMode | None = None
    """Posterior variances."""

    @property
    def variance(self) -> VarianceMode | None:
        """Posterior variances, by whichever name they are asked for."""
        return self.fixed_effect_variance_mode or self.variance_mode


class RandomEffectConfig(EffectConfig):
    """`random_effect_config.<name>`: one small model for each entity."""

    partition_entity: Text
    """Column of the entity id."""
    num_partitions: Annotated[int, Field(strict=True, ge=1, le=65536)] | None = None
    """Number of partitions."""
    random_effect_variance_mode: VarianceMode | None = None
    """Posterior variances."""
    max_num_of_samples_per_model: Samples | None = None
    """Entities with more rows are trained on so many; -1 for no bound."""
    min_num_of_samples_per_model: Samples | None = None
    """Entities with fewer get no model; -1 for no bound."""

    @property
    def variance(self) -> VarianceMode | None:
        """Posterior variances, by whichever name they are asked for."""
        return self.random_effect_variance_mode or self.variance_mode

    @field_validator("max_num_of_samples_per_model", "min_num_of_samples_per_model")
    @classmethod
    def _bound_or_none(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("found 0; allowed: 1 or more, or -1 for no bound")
        return None if value == -1 else value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> RandomEffectConfig:
        fewest, most = self.min_num_of_samples_per_model, self.max_num_of_samples_per_model
        if fewest is not None and most is not None and fewest > most:
            raise ValueError(
                f"min_num_of_samples_per_model {fewest} is above max_num_of_samples_per_model {most}"
            )
        return self


class GdmixConfig(Strict):
    """The whole file."""

    output_dir: Text
    """Where everything is written to; its last part names the model."""
    fixed_effect_config: dict[str, FixedEffectConfig] = Field(default_factory=dict)
    """Fixed effects by name, fitted first."""
    random_effect_config: dict[str, RandomEffectConfig] = Field(default_factory=dict)
    """Random effects by name, fitted in this order."""
    spark_config: Unused = None
    """Of upstream's Spark cluster."""
    tfjob_config: Unused = None
    """Of upstream's TensorFlow cluster."""
    model: Carried = None
    """Name of the model."""
    initial_model: Carried = None
    """Directory of a model version to begin with, or to score with."""
    passes: Carried = None
    """How often the effects are gone through."""
    metrics: Carried = None
    """Validation metrics."""
    search: Carried = None
    """Values to try."""
    store: Carried = None
    """Coefficient store."""
    activate: Carried = None
    """Whether the published version becomes the active one."""
    keep: Carried = None
    """How many superseded versions stay for rollback."""

    @model_validator(mode="after")
    def _effects(self) -> GdmixConfig:
        if not self.fixed_effect_config and not self.random_effect_config:
            raise ValueError(
                "fixed_effect_config: no effects; name at least one here or in random_effect_config"
            )
        twice = [name for name in self.random_effect_config if name in self.fixed_effect_config]
        if twice:
            raise ValueError(
                "\n".join(f"random_effect_config.{name}: fixed_effect_config has one too" for name in twice)
            )
        return self

    @property
    def effects(self) -> dict[Location, FixedEffectConfig | RandomEffectConfig]:
        """All effects in the order of fitting, by their paths in the file."""
        fixed: dict[Location, FixedEffectConfig | RandomEffectConfig] = {
            ("fixed_effect_config", name): effect for name, effect in self.fixed_effect_config.items()
        }
        return fixed | {
            ("random_effect_config", name): effect for name, effect in self.random_effect_config.items()
        }


def unused_keys(model: BaseModel) -> list[str]:
    """Return the keys that were written and mean nothing here, in the order of the model."""
    return [name for name in _marked(model, _UNUSED) if name in model.model_fields_set]


def carried_keys(config: GdmixConfig) -> list[str]:
    """Return the job config's own keys that were written."""
    return [name for name in _marked(config, _CARRIED) if name in config.model_fields_set]


def _marked(model: BaseModel, mark: str) -> list[str]:
    return [name for name, field in type(model).model_fields.items() if mark in field.metadata]


def _path_in_file(location: Location) -> Location:
    return tuple(part for part in location if part != "[key]")


def _model_at(location: Location) -> type[BaseModel]:
    if len(location) > 3 and location[2] == "gdmix_config":
        return SchemaConfig
    if len(location) > 2:
        return FixedEffectConfig if location[0] == "fixed_effect_config" else RandomEffectConfig
    return GdmixConfig


FORMAT: Final = Format(_path_in_file, _model_at)
