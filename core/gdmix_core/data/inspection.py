"""Looking at the input before any work: which files, which columns of which types, cut into which splits.

Everything that can be known without reading all rows is found out here and reported in one message: files
that are absent or unreadable, columns that are missing, types that a use cannot take, kinds that `auto`
cannot tell, and data sets without rows. Text files are judged by their first block; what comes after is
checked on reading.

The rows of a job may lie in several *sources*: `data` itself, the further ones of `data.sources`, and the
files of scores of external fixed effects. Here every column is assigned to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import pyarrow as pa

from gdmix_core.config import DataConfig, FeatureColumn, FeatureKind, ScoreFiles
from gdmix_core.config.data import Columns, Files
from gdmix_core.data.feature_names import read_feature_names
from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.inspection_files import find_files
from gdmix_core.data.inspection_heads import describe
from gdmix_core.data.inspection_types import FileDescription, kind_of_type, type_problems
from gdmix_core.data.layout import InputSpec
from gdmix_core.data.readers import read_split
from gdmix_core.errors import ConfigError, DataError
from gdmix_core.tasks import MAIN_SOURCE, EncodingSpec, ResolvedColumn, Role, Split, score_source

SPLIT_ROWS: Final = 500_000
"""Row groups of a Parquet file are put together into splits of at most this many rows."""

Features: TypeAlias = Mapping[str, tuple[FeatureColumn, ...]]
ROLES: Final[tuple[Role, ...]] = ("train", "validation")
NO_SCORES: Final[Mapping[str, ScoreFiles]] = {}
Inputs: TypeAlias = Mapping[str, tuple[InputSpec, ...]]
NO_INPUTS: Final[Inputs] = {}


@dataclass(slots=True)
class _Problems:
    """What is wrong: with the config, or with the data."""

    config: list[str]
    data: list[str]

    def raise_if_any(self) -> None:
        """Raise one error that lists them all; the data's faults decide its class."""
        problems = [*self.config, *self.data]
        if not problems:
            return
        count = len(problems)
        text = problems[0] if count == 1 else "\n  ".join([f"{count} problems with the data:", *problems])
        if self.data:
            raise DataError(text)
        raise ConfigError(text, tuple(problems))


def inspect_data(
    data: DataConfig,
    features: Features,
    entity_columns: tuple[str, ...],
    task: str,
    external: Mapping[str, ScoreFiles] = NO_SCORES,
    inputs: Inputs = NO_INPUTS,
) -> tuple[tuple[Split, ...], EncodingSpec]:
    """Find the input, settle the kinds and sources of its columns and cut it into splits.

    Args:
        data: Where the rows are; relative paths are relative to the current directory.
        features: Feature bags.
        entity_columns: Columns that hold entity ids.
        task: The job's task, which decides the labels allowed.
        external: Files of scores by external fixed effect.
        inputs: Columns that plug-ins read, by coordinate.

    Returns:
        The splits, training first, in each role the main source first and each source in the order of its
        sorted paths; and what rows become.

    Raises:
        ConfigError: No file matches, or columns and config do not fit; all problems in one message.
        DataError: A file cannot be read, or a role has no rows.
        MissingDependency: A format needs a package that is not installed.
    """
    problems = _Problems([], [])
    sources = _sources(data, external)
    described = [
        description
        for role in ROLES
        for source, (files, where) in sources.items()
        for description in _described(files, role, source, where, problems)
    ]
    for role in ROLES:
        for source, (_, where) in sources.items():
            _check_rows(role, where, [d for d in described if (d.role, d.source) == (role, source)], problems)
    problems.config += _weights_elsewhere(data.columns, described)
    resolved = _resolved(features, described, problems)
    encoding = EncodingSpec(
        data=data.model_copy(update={"columns": _present_roles(data.columns, described)}),
        columns=resolved,
        entity_columns=entity_columns,
        task=task,
        entity_sources={
            name: source
            for name in entity_columns
            if (source := _source_of(name, None, described)) != MAIN_SOURCE
        },
        external=dict(external),
        inputs={
            name: tuple(replace(c, source=_source_of(c.name, c.source, described)) for c in columns)
            for name, columns in inputs.items()
        },
    )
    for source in sources:
        of_source = [description for description in described if description.source == source]
        names = frozenset(name for description in of_source for name in description.types)
        for description in of_source:
            problems.config += type_problems(description, encoding, names)
    problems.raise_if_any()
    splits = tuple(split for description in described for split in _splits(description, sources))
    columns = tuple(_with_dimension(column, splits, described, problems) for column in resolved)
    measured = {
        name: tuple(_with_length(column, name, splits, described, problems) for column in of)
        for name, of in encoding.inputs.items()
    }
    problems.raise_if_any()
    return splits, replace(encoding, columns=columns, inputs=measured)


def _sources(data: DataConfig, external: Mapping[str, ScoreFiles]) -> dict[str, tuple[Files, str]]:
    """Return the files of every source and where the config names them."""
    found: dict[str, tuple[Files, str]] = {MAIN_SOURCE: (data, "data")}
    for name, source in data.sources.items():
        found[name] = (source, f"data.sources.{name}")
    for coordinate, scores in external.items():
        validation = () if scores.validation is None else (scores.validation,)
        files = Files(train=(scores.train,), validation=validation)
        found[score_source(coordinate)] = (files, f"coordinates.{coordinate}.scores")
    return found


def _described(
    files: Files, role: Role, source: str, where: str, problems: _Problems
) -> list[FileDescription]:
    paths = files.train if role == "train" else files.validation
    found, missing = find_files(paths, files.format, f"{where}.{role}")
    problems.config += missing
    described = []
    for file in found:
        try:
            described.append(describe(file, role, source, files.metadata))
        except DataError as error:
            problems.data.append(str(error))
    return described


def _check_rows(role: str, where: str, described: list[FileDescription], problems: _Problems) -> None:
    paths = [description.path for description in described]
    rows = sum(sum(description.row_groups) for description in described)
    if paths and rows == 0 and not problems.data:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        problems.data.append(f"{where}.{role}: no rows in {paths[0]}{more}")


def _present_roles(columns: Columns, described: list[FileDescription]) -> Columns:
    """Return the roles without the optional ones that no file has."""
    there = {name for d in described if d.source == MAIN_SOURCE for name in d.types}
    absent: dict[str, str | None] = {
        role: "" if role == "label" else None
        for role in columns.optional
        if getattr(columns, role) is not None and getattr(columns, role) not in there
    }
    return columns.model_copy(update=absent)


def _weights_elsewhere(columns: Columns, described: list[FileDescription]) -> list[str]:
    """Say when an optional weight is not in `data` but in another source, where it would not be seen."""
    if "weight" not in columns.optional or columns.weight is None:
        return []
    holders = dict.fromkeys(d.source for d in described if columns.weight in d.types)
    if not holders or MAIN_SOURCE in holders:
        return []
    return [
        f"columns.weight: column {columns.weight!r} is in {', '.join(holders)}, not in data; weights are read from data"
    ]


def _source_of(name: str, wanted: str | None, described: list[FileDescription]) -> str:
    """Return the source of a column: the one asked for, else the first one whose files have it."""
    if wanted is not None:
        return wanted
    holders = dict.fromkeys(description.source for description in described if name in description.types)
    return next((source for source in holders if ":" not in source), MAIN_SOURCE)


def _resolved(
    features: Features, described: list[FileDescription], problems: _Problems
) -> tuple[ResolvedColumn, ...]:
    resolved = []
    for bag, columns in features.items():
        sources = {}
        for column in columns:
            source = sources[column.column] = _source_of(column.column, column.source, described)
            training = [d for d in described if (d.role, d.source) == ("train", source)]
            # Where nothing is trained, the validation files tell the kinds.
            training = training or [d for d in described if d.source == source]
            kind = column.kind
            if kind == "auto":
                kind = _automatic(bag, column.column, training, problems) or "auto"
            names = column.names if kind == "vector" else None  # of a column whose kind the file tells
            settled = column.model_copy(update={"kind": kind, "names": names})
            resolved.append(
                ResolvedColumn(bag=bag, column=settled, dimension=column.dimension, source=source)
            )
        if len(set(sources.values())) > 1:
            text = ", ".join(f"{name} in {source or 'data'}" for name, source in sources.items())
            problems.config.append(f"features.{bag}: columns of different sources ({text}); give each a bag")
    return tuple(resolved)


def _automatic(
    bag: str, name: str, training: list[FileDescription], problems: _Problems
) -> FeatureKind | None:
    """Return the kind that the types of all training files agree on."""
    kinds: dict[FeatureKind, tuple[str, pa.DataType]] = {}
    columns = [(d.path, d.types[name]) for d in training if name in d.types]
    for path, kind in columns:
        if pa.types.is_null(kind):
            continue
        found = kind_of_type(kind)
        if found is None:
            problems.config.append(
                f"{path}: column {name!r} (features.{bag}): kind auto cannot tell what to make of type "
                f"{kind}; give its kind"
            )
            return None
        kinds.setdefault(found, (path, kind))
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        text = " but ".join(f"{found} ({kind}) in {path}" for found, (path, kind) in kinds.items())
        problems.config.append(f"features.{bag}: column {name!r} looks {text}; give its kind")
    elif columns:
        problems.config.append(
            f"{columns[0][0]}: column {name!r} (features.{bag}): kind auto finds no values to go by; "
            "give its kind"
        )
    return None


def _with_dimension(
    resolved: ResolvedColumn,
    splits: tuple[Split, ...],
    described: list[FileDescription],
    problems: _Problems,
) -> ResolvedColumn:
    """Return the column with its vector length: of its names, else read off the data."""
    if resolved.column.kind != "vector" or resolved.dimension is not None:
        return resolved
    name = resolved.column.column
    declared = [d.dimensions[name] for d in described if d.source == resolved.source and name in d.dimensions]
    if resolved.column.names is not None:
        return _with_names(resolved, declared, problems)
    length = _vector_length(name, resolved.source, splits, described)
    if length is None:
        problems.data.append(_no_length(f"features.{resolved.bag}", name))
    return replace(resolved, dimension=length)


def _with_length(
    spec: InputSpec,
    coordinate: str,
    splits: tuple[Split, ...],
    described: list[FileDescription],
    problems: _Problems,
) -> InputSpec:
    """Return a plug-in's column with its vector length, read off the data where it is not given."""
    if spec.kind != "vector" or spec.dimension is not None:
        return spec
    length = _vector_length(spec.name, spec.source or MAIN_SOURCE, splits, described)
    if length is None:
        problems.data.append(_no_length(f"coordinates.{coordinate}", spec.name))
    return replace(spec, dimension=length)


def _vector_length(
    name: str, source: str, splits: tuple[Split, ...], described: list[FileDescription]
) -> int | None:
    """Return the length of the vectors of a column: as declared, else that of the first one."""
    of_source = [description for description in described if description.source == source]
    for description in of_source:
        if name in description.dimensions:
            return description.dimensions[name]
    for description in of_source:
        kind = description.types.get(name, pa.null())
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
    for split in splits:
        if split.source != source:
            continue
        for rows in read_split(split, [NeededColumn(name, ("vector",))]):
            array = rows.batch.column(0).drop_null()
            if len(array) and len(array[0]):
                return len(array[0])
    return None


def _no_length(where: str, name: str) -> str:
    return f"{where}: column {name!r} holds no vector in any training row to read a dimension off; give its dimension"


def _with_names(resolved: ResolvedColumn, declared: list[int], problems: _Problems) -> ResolvedColumn:
    assert resolved.column.names is not None
    try:
        count = len(read_feature_names(resolved.column.names))
    except DataError as error:
        problems.data.append(str(error))
        return resolved
    if declared and declared[0] != count:
        problems.data.append(
            f"{resolved.column.names}: names {count} features; the data's metadata say that column "
            f"{resolved.column.column!r} has {declared[0]}"
        )
    return replace(resolved, dimension=count)


def _splits(description: FileDescription, sources: Mapping[str, tuple[Files, str]]) -> list[Split]:
    """Cut a file: Parquet at row groups, any other not at all."""
    file, groups = description.file, description.row_groups
    if sum(groups) == 0:
        return []
    whole = Split(
        role=description.role,
        path=file.path,
        format=file.format,
        source=description.source,
        metadata=sources[description.source][0].metadata if file.format == "tfrecord" else None,
        passive=file.passive and description.role == "train",
    )
    if file.format != "parquet":
        return [whole]
    splits: list[Split] = []
    start = first_row = rows = 0
    for number, count in enumerate((*groups, 0)):
        if number == len(groups) or (rows and rows + count > SPLIT_ROWS):
            if rows:
                splits.append(
                    replace(whole, first_row_group=start, row_groups=number - start, first_row=first_row)
                )
            start, first_row, rows = number, first_row + rows, 0
        rows += count
    return splits
