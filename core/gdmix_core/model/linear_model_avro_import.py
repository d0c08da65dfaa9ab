"""Models of an Avro model file as coefficients on a feature index: a warm start from a model of GDMix or Photon-ML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc

from gdmix_core.errors import DataError
from gdmix_core.model.coefficients import FixedEffectCoefficients
from gdmix_core.model.linear_model_avro_names import FeatureNames, arrow_strings
from gdmix_core.model.linear_model_avro_reading import LinearModels, read_models
from gdmix_core.store.record import CoefficientBlock

_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """What an import left behind.

    Attributes:
        models: models that were read.
        coefficients: coefficients taken over.
        unknown_features: different features of the models that the index does not have.
        unknown_coefficients: coefficients of those, not taken over.
        unknown_examples: name and term of some of those features.
        without_variance: coefficients taken over that have no variance.
    """

    models: int
    coefficients: int
    unknown_features: int
    unknown_coefficients: int
    unknown_examples: tuple[tuple[str, str], ...]
    without_variance: int


def map_models(models: LinearModels, names: FeatureNames) -> tuple[CoefficientBlock, ImportCounts]:
    """Give the coefficients of models the numbers of a coordinate's.

    Args:
        models: as `read_models` gives them.
        names: of the coordinate's coefficients; they say whether there is an intercept.

    Returns:
        The coefficients, ids ascending by bytes and indices inside a model, and the counts. Variances are there when
        every coefficient has one. A model of which no feature is known is there without coefficients.

    Raises:
        DataError: a value or a variance is not finite, or a variance is negative.
    """
    _check_values(models)
    place = pc.index_in(arrow_strings(models.names.keys()), value_set=arrow_strings(names.keys()))
    index_of = place.fill_null(-1).to_numpy().astype(np.int64)
    index = index_of[models.features]
    model = np.repeat(np.arange(len(models)), np.diff(models.ptr))
    ids, rank = models.ids.group()
    kept = np.flatnonzero(index >= 0)
    key = rank[model[kept]] * max(1, len(names)) + index[kept]
    order = kept[np.argsort(key, kind="stable")]
    sizes = np.bincount(rank[model[kept]], minlength=len(models))
    variances = None if models.variances is None else models.variances[order]
    without = len(order) if variances is None else int(np.count_nonzero(np.isnan(variances)))
    block = CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]),
        indices=index[order].astype(np.int32),
        coefficients=models.values[order],
        variances=None if without else variances,
    )
    unknown = np.flatnonzero(index_of < 0)
    counts = ImportCounts(
        models=len(models),
        coefficients=len(order),
        unknown_features=len(unknown),
        unknown_coefficients=len(index) - len(order),
        unknown_examples=tuple(models.names.text(int(feature)) for feature in unknown[:_EXAMPLES]),
        without_variance=without,
    )
    return block, counts


def import_random_effect(
    paths: str | Path | Sequence[str | Path], names: FeatureNames
) -> tuple[CoefficientBlock, ImportCounts]:
    """Read a random effect's model files and map them: `read_models` and `map_models` in one call.

    Raises:
        DataError: as those two.
    """
    return map_models(read_models(paths), names)


def import_fixed_effect(
    path: str | Path, names: FeatureNames
) -> tuple[FixedEffectCoefficients, ImportCounts]:
    """Read a fixed effect's model file; coefficients that the model does not have are 0.

    Returns:
        The coefficients, float64[D], and the counts. Variances are there when every one of the D coefficients has one.

    Raises:
        DataError: as `read_models` and `map_models`, or there is not exactly one model.
    """
    models = read_models(path)
    if len(models) != 1:
        raise DataError(f"{path}: holds {len(models)} models; that of a fixed effect is one")
    block, counts = map_models(models, names)
    coefficients = np.zeros(len(names))
    coefficients[block.indices] = block.coefficients
    variances = None
    if block.variances is not None and len(block.variances) == len(names):
        variances = block.variances
    return FixedEffectCoefficients(coefficients, variances), counts


def _check_values(models: LinearModels) -> None:
    faults = [("value", models.values, ~np.isfinite(models.values), "a finite number")]
    if models.variances is not None:
        wrong = (models.variances < 0) | np.isinf(models.variances)
        faults.append(("variance", models.variances, wrong, "a finite number from 0"))
    for what, values, wrong, allowed in faults:
        if wrong.any():
            at = int(np.argmax(wrong))
            model = models.id_of(int(np.searchsorted(models.ptr, at, "right")) - 1)
            name, term = models.names.text(int(models.features[at]))
            raise DataError(
                f"model {model!r}: the {what} of the feature with the name {name!r} and the term {term!r} is "
                f"{values[at]}; allowed: {allowed}"
            )
