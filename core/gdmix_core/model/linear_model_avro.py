"""Model files of LinkedIn's GDMix and Photon-ML: Avro records `BayesianLinearModelAvro`, written, read and split.

A record is one linear model: `modelId`, `modelClass`, `means` and, where there are any, `variances`, both lists of
name, term and value. A fixed effect is a file with one record, a random effect some files with a record an entity.

    names = FeatureNames.of_coordinate(index.coordinate_names(bags, intercept))
    write_random_effect_models("part-00000.avro", "part-00000.parquet", names, model_class=...)
    block, counts = import_random_effect(model_files("models"), names)
"""

from __future__ import annotations

from gdmix_core.model.linear_model_avro_import import (
    ImportCounts,
    import_fixed_effect,
    import_random_effect,
    map_models,
)
from gdmix_core.model.linear_model_avro_names import FeatureNames
from gdmix_core.model.linear_model_avro_reading import LinearModels, model_files, read_models
from gdmix_core.model.linear_model_avro_split import CROSS, SplitModels, split_models
from gdmix_core.model.linear_model_avro_writing import (
    GLOBAL_MODEL,
    MODEL_CLASSES,
    WrittenModels,
    write_fixed_effect_model,
    write_models,
    write_random_effect_models,
)

__all__ = [
    "CROSS",
    "GLOBAL_MODEL",
    "MODEL_CLASSES",
    "FeatureNames",
    "ImportCounts",
    "LinearModels",
    "SplitModels",
    "WrittenModels",
    "import_fixed_effect",
    "import_random_effect",
    "map_models",
    "model_files",
    "read_models",
    "split_models",
    "write_fixed_effect_model",
    "write_models",
    "write_random_effect_models",
]
