"""The results of LinkedIn GDMix as a model version: `<coordinate>/models/*.avro` become a model directory.

Avro names features by name and term and says nothing of columns, so that the job's config and columns decide what
they are. The features of a vector with `names` are those of its list; a name-term-value column has every feature that
no other column of the coordinate has; of any other column are the features that bear its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.config import Coordinate, FixedEffect, JobConfig, RandomEffect
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.column_values import entity_ids
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.data.feature_names import TERM_SEPARATOR, read_feature_names
from gdmix_core.data.hashing import entity_partitions
from gdmix_core.errors import DataError
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_fixed_effect, write_random_effect
from gdmix_core.model.directory import (
    FEATURE_INDEX_FILE,
    FIXED_EFFECT_FILE,
    ModelDirectory,
    assemble_model,
    part_name,
)
from gdmix_core.model.linear_model_avro_import import map_models
from gdmix_core.model.linear_model_avro_names import FeatureNames, arrow_strings, strings_of
from gdmix_core.model.linear_model_avro_reading import LinearModels, model_files, read_models
from gdmix_core.model.linear_model_avro_writing import MODEL_CLASSES
from gdmix_core.model.manifest import EXTERNAL, CoordinateManifest, ModelManifest
from gdmix_core.store.record import CoefficientBlock
from gdmix_core.tasks import ResolvedColumn

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Int64Array: TypeAlias = npt.NDArray[np.int64]

ENTITIES_PER_PART: Final = 50_000
MOST_PARTS: Final = 65_536
MODELS_FOLDER: Final = "models"
_EXAMPLES: Final = 5
_DEFAULT_TASK: Final = "logistic_regression"
"""The task whose class LinkedIn GDMix writes into the models of every task."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A coordinate of the tree.

    Attributes:
        where: its folder of models.
        models: all of them.
        features: bool[features of the models] by place of a column of the job: which ones are of that column.
    """

    where: Path
    models: LinearModels
    features: Mapping[int, BoolArray]


def model_folders(root: str | Path, config: JobConfig) -> dict[str, Path]:
    """Return the folders of a results tree that hold models of the job's coordinates, in the order of the config."""
    folders = {
        name: Path(root) / name / MODELS_FOLDER
        for name, coordinate in config.coordinates.items()
        if isinstance(coordinate, Coordinate)
    }
    return {name: path for name, path in folders.items() if path.is_dir() and any(path.glob("[!._]*.avro"))}


def convert_tree(
    root: str | Path, config: JobConfig, columns: Sequence[ResolvedColumn], output: str | Path
) -> tuple[ModelDirectory, tuple[str, ...]]:
    """Write the models of a results tree as a model directory, `output/model`.

    Args:
        root: the tree.
        config: of the job that goes on from it; coordinates that the tree does not have are left out.
        columns: the job's feature columns, as inspecting its data settles them.
        output: where the directory, and the files it is put together from, go; nothing of the kind is there yet.

    Returns:
        The model directory, and what a person should know of it.

    Raises:
        DataError: A file is damaged, or models do not fit the config: a feature is of no column, an intercept or
            an entity id is not allowed, a fixed effect has several models, or an entity has two.
        Conflict: Another model is there already.
    """
    folders = model_folders(root, config)
    effects = {n: c for n, c in config.coordinates.items() if isinstance(c, Coordinate) and n in folders}
    found: dict[str, _Found] = {}
    notices: list[str] = []
    for name, effect in effects.items():
        models = read_models(model_files(folders[name]))
        found[name] = _Found(folders[name], models, _columns_of_features(models.names, effect, columns))
        notices += _left_out(name, effect, found[name], columns)
    index = _feature_index(config, columns, found)
    target = Path(output)
    directories = {name: target / "coefficients" / name for name in effects}
    for directory in directories.values():
        directory.mkdir(parents=True, exist_ok=True)
    index.save(target / FEATURE_INDEX_FILE)
    manifests: list[CoordinateManifest] = []
    files: dict[str, list[Path]] = {}
    for name, coordinate in config.coordinates.items():
        if name in effects:
            manifest, files[name] = _converted(name, effects[name], found[name], index, directories[name])
            manifests.append(manifest)
        elif isinstance(coordinate, Coordinate):
            notices.append(f"{name}: {root} holds no models of it ({name}/{MODELS_FOLDER}/*.avro)")
        else:
            files[name] = []
            manifests.append(CoordinateManifest(name, "fixed_effect", (), False, 0, 0.0, EXTERNAL))
    complete = ModelManifest(
        model=config.model,
        version=0,
        task=_task_of(config, found),
        coordinates=tuple(manifests),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
        features=config.model_dump(mode="json")["features"],
    )
    model = assemble_model(
        target / "model",
        complete,
        feature_index=target / FEATURE_INDEX_FILE,
        coefficients=files,
        run={"converted_from": str(root)},
    )
    return model, tuple(notices)


# ---- features --------------------------------------------------------------------------------------------


def _columns_of_features(
    names: FeatureNames, effect: Coordinate, columns: Sequence[ResolvedColumn]
) -> dict[int, BoolArray]:
    """Return which features are of which column of a coordinate, by the place of the column."""
    places = [place for place, column in enumerate(columns) if column.bag in effect.features]
    others = [place for place in places if columns[place].column.kind != "name_term_value"]
    features = {place: _named_by(columns[place], names) for place in others}
    rest = ~pc.match_substring(arrow_strings(names.names), TERM_SEPARATOR).to_numpy(zero_copy_only=False)
    if names.intercept() >= 0:
        rest[names.intercept()] = False
    for taken in features.values():
        rest = rest & ~taken
    return features | {place: rest for place in places if place not in features}


def _named_by(resolved: ResolvedColumn, names: FeatureNames) -> BoolArray:
    """Return which features are of a column that is not of name-term-values."""
    column, name, term = resolved.column, arrow_strings(names.names), arrow_strings(names.terms)
    if column.names is not None:
        listed = arrow_strings(read_feature_names(column.names))
        return _mask(pc.is_in(arrow_strings(_keys(names)), value_set=listed))
    of_column = pc.equal(name, pa.scalar(column.column.encode(), pa.large_binary()))
    if column.kind == "vector":
        assert resolved.dimension is not None
        positions = pa.array(np.arange(resolved.dimension)).cast(pa.large_string()).cast(pa.large_binary())
        return _mask(pc.and_(of_column, pc.is_in(term, value_set=positions)))
    without_term = pc.equal(pc.binary_length(term), 0)
    return _mask(pc.and_(of_column, without_term if column.kind == "numeric" else pc.invert(without_term)))


def _left_out(name: str, effect: Coordinate, found: _Found, columns: Sequence[ResolvedColumn]) -> list[str]:
    """Say which features are of no column: they are left out where there is a list of names, wrong elsewhere."""
    models, intercept = found.models, found.models.names.intercept()
    if intercept >= 0 and not effect.intercept and np.any(models.values[models.features == intercept]):
        raise DataError(f"{found.where}: the models have an intercept; coordinates.{name}.intercept is false")
    stray = ~np.any([np.zeros(len(models.names), np.bool_), *found.features.values()], axis=0)
    if intercept >= 0:
        stray[intercept] = False
    if not stray.any():
        return []
    numbers, more = np.flatnonzero(stray), "; …" if np.count_nonzero(stray) > _EXAMPLES else ""
    examples = "; ".join(",".join(models.names.text(int(number))) for number in numbers[:_EXAMPLES])
    text = f"{len(numbers):,} ({examples}{more})"
    if any(columns[place].column.names is not None for place in found.features):
        count = int(np.count_nonzero(stray[models.features]))
        return [
            f"{name}: features of the models in no list of names: {text}; {count:,} coefficients are left out"
        ]
    there = ", ".join(f"{columns[i].bag}.{columns[i].column.column}" for i in found.features) or "none"
    raise DataError(
        f"{found.where}: features of the models that fit no column of coordinates.{name}: {text}; its columns: {there}"
    )


def _feature_index(
    config: JobConfig, columns: Sequence[ResolvedColumn], found: Mapping[str, _Found]
) -> FeatureIndex:
    """Number the features of all columns; what several coordinates have of a column is put together."""
    indexed: list[IndexedColumn] = []
    for place in sorted(range(len(columns)), key=lambda i: (columns[i].bag, columns[i].column.column)):
        bag, column, dimension = columns[place].bag, columns[place].column, columns[place].dimension
        last = indexed[-1] if indexed and indexed[-1].bag == bag else None
        terms = frequency = None
        if column.names is not None:
            terms = read_feature_names(column.names)
        elif column.kind not in ("vector", "numeric"):
            terms = _terms(column.kind == "name_term_value", place, found.values())
            frequency = np.zeros(len(terms), np.int64)
        if column.weighting == "tfidf" and config.action == "inference":
            raise DataError(
                f"features.{bag}: column {column.column!r} is weighted by tfidf, and model files do not say how "
                "frequent a term is; score with a model version, or go on from the files by training"
            )
        size = len(terms) if terms is not None else dimension or 1
        start = last.start + last.size if last else 0
        indexed.append(IndexedColumn(bag, column, dimension, start, size, terms, frequency))
    return FeatureIndex(tuple(indexed), 0, fingerprint(indexed))


def _terms(paired: bool, place: int, found: Iterable[_Found]) -> ByteStrings:
    """Return the distinct terms, or keys, that all models have of a column, sorted by bytes."""
    parts = []
    for one in found:
        if place in one.features:
            names = one.models.names
            of_all = _keys(names) if paired else names.terms
            parts.append(of_all.take(np.flatnonzero(one.features[place])))
    return ByteStrings.concatenate(parts).group()[0]


def _keys(names: FeatureNames) -> ByteStrings:
    """Return name, byte 1 and term of every feature, as a feature index has them."""
    separator = pa.scalar(TERM_SEPARATOR.encode(), pa.large_binary())
    pairs = (arrow_strings(names.names), arrow_strings(names.terms))
    return strings_of(pc.binary_join_element_wise(*pairs, separator))


def _mask(flags: pa.Array) -> BoolArray:
    found: BoolArray = flags.to_numpy(zero_copy_only=False)
    return found


# ---- coefficients ----------------------------------------------------------------------------------------


def _converted(
    name: str, effect: Coordinate, found: _Found, index: FeatureIndex, directory: Path
) -> tuple[CoordinateManifest, list[Path]]:
    """Write a coordinate's coefficient files."""
    names = index.coordinate_names(effect.features, effect.intercept)
    try:
        block, _ = map_models(found.models, FeatureNames.of_coordinate(names))
    except DataError as error:
        raise DataError(f"{found.where}: {error}") from error
    manifest = CoordinateManifest(
        name=name,
        kind="fixed_effect",
        features=effect.features,
        intercept=effect.intercept,
        dimension=len(names.name),
        l2=effect.numeric_l2,
    )
    if isinstance(effect, RandomEffect):
        _check_ids(found, effect.random_effect)
        of_entities = replace(
            manifest,
            kind="random_effect",
            entity_column=effect.random_effect,
            variances=block.variances is not None,
            entities=block.entities,
        )
        return of_entities, _write_parts(block, effect.partitions, directory)
    if block.entities != 1:
        raise DataError(f"{found.where}: holds {block.entities} models; that of a fixed effect is one")
    coefficients = np.zeros(manifest.dimension)
    coefficients[block.indices] = block.coefficients
    variances = block.variances if len(block.indices) == manifest.dimension else None
    file = directory / FIXED_EFFECT_FILE
    bags, texts, terms = names
    write_fixed_effect(file, coefficients, bags=bags, names=texts, terms=terms, variances=variances)
    model = effect.fixed_effect if isinstance(effect, FixedEffect) else None
    return replace(manifest, model=model, variances=variances is not None), [file]


def _check_ids(found: _Found, column: str) -> None:
    ids, faults = entity_ids(arrow_strings(found.models.ids).cast(pa.large_string()), column)
    if ids.missing.any():
        raise DataError(f"{found.where}: a model has an empty modelId")
    for fault in faults:
        raise DataError(f"{found.where}: modelId {fault.found[0]} is not allowed; allowed: {fault.allowed}")


def _write_parts(block: CoefficientBlock, wanted: int | None, directory: Path) -> list[Path]:
    """Write a random effect, an entity to the part that its id's hash says."""
    parts = wanted or min(MOST_PARTS, max(1, -(-block.entities // ENTITIES_PER_PART)))
    part_of = entity_partitions(block.ids_bytes, block.ids_ptr, parts)
    order = np.argsort(part_of, kind="stable")  # ids stay ascending inside a part
    bounds = np.searchsorted(part_of[order], np.arange(parts + 1))
    files = [directory / part_name(part) for part in range(parts)]
    for part, file in enumerate(files):
        chosen = _chosen(block, order[bounds[part] : bounds[part + 1]])
        none = np.zeros(chosen.entities, np.int64)
        of_training = (none, none.astype(np.uint8), none.astype(np.int32), none.astype(np.float64))
        write_random_effect(file, RandomEffectCoefficients(chosen, *of_training))
    return files


def _chosen(block: CoefficientBlock, chosen: Int64Array) -> CoefficientBlock:
    """Return some entities of a block."""
    sizes = np.diff(block.coefficient_ptr)[chosen]
    ptr = np.append(0, np.cumsum(sizes, dtype=np.int64))
    at = np.arange(ptr[-1]) + np.repeat(block.coefficient_ptr[:-1][chosen] - ptr[:-1], sizes)
    ids = ByteStrings(block.ids_bytes, block.ids_ptr).take(chosen)
    return CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=ptr,
        indices=block.indices[at],
        coefficients=block.coefficients[at],
        variances=None if block.variances is None else block.variances[at],
    )


def _task_of(config: JobConfig, found: Mapping[str, _Found]) -> str:
    """Return the task that the models' classes tell; the job's, where they tell none."""
    classes = {name for one in found.values() for name in one.models.model_classes}
    told = [task for task, name in MODEL_CLASSES.items() if name in classes and task != _DEFAULT_TASK]
    return told[0] if told and config.task not in told else config.task
