"""`gdmix-cli models export` and `split`: model files that GDMix and Photon-ML of LinkedIn read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdmix_client.cli.options import JsonOption, OutputOption
from gdmix_client.cli.printing import note, result, result_document, table
from gdmix_core.errors import DataError, NotFound, UsageError

if TYPE_CHECKING:
    from gdmix_core.model import CoordinateManifest, ModelDirectory
    from gdmix_core.model.linear_model_avro import FeatureNames, WrittenModels

SourceArgument = Annotated[
    str,
    typer.Argument(metavar="DIRECTORY|VERSION", help="A model directory, or a version below --output."),
]
ToOption = Annotated[
    Path,
    typer.Option("--to", metavar="DIRECTORY", help="Where the files go; made if needed.", show_default=False),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Write into a directory that is not empty; its model files are replaced."),
]


class FileFormat(StrEnum):
    """How models are written."""

    AVRO = "avro"


def export(
    source: SourceArgument,
    to: ToOption,
    output: OutputOption = None,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="Avro records BayesianLinearModelAvro.")
    ] = FileFormat.AVRO,
    sparsity_threshold: Annotated[
        float,
        typer.Option(
            "--sparsity-threshold",
            min=0.0,
            metavar="X",
            help="Leave out coefficients with an absolute value up to this one; 0 keeps all.",
        ),
    ] = 0.0,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Write a version's models to files that GDMix and Photon-ML of LinkedIn read."""
    directory = model_directory(source, output)
    manifest = directory.manifest
    _require_room(to, force)
    coordinates = _exported(directory, to, sparsity_threshold)
    if json:
        result_document(
            {
                "model": manifest.model,
                "version": manifest.version,
                "format": file_format.value,
                "directory": str(to),
                "coordinates": coordinates,
            }
        )
        return
    headers = ["coordinate", "files", "models", "coefficients", "left_out"]
    rows = [
        [str(c["name"]), *(f"{c[name]:,}" for name in ("files", "models", "coefficients", "left_out"))]
        for c in coordinates
    ]
    titles = [header.replace("_", " ") for header in headers]
    result(
        f"wrote version {manifest.version} of {manifest.model} to {to}\n\n{table(titles, rows, range(1, 5))}"
    )


def split(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE|DIRECTORY", help="Avro file of one global model, or its directory."),
    ],
    to: ToOption,
    files: Annotated[
        int, typer.Option("--files", min=1, max=100_000, metavar="N", help="Number of files to write.")
    ] = 1,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make many models of one whose features are named <model>_gdmixcross_<feature>."""
    from gdmix_core.model.linear_model_avro import model_files, split_models

    sources = model_files(source)
    _require_room(to, force)
    if any(file.parent.resolve() == to.resolve() for file in sources):
        raise UsageError(f"{to}: holds the global model itself; name another directory for the many")
    done = split_models(sources, to, files)
    _remove_models_except(to, done.files)
    if done.intercept is not None:
        note(f"the global model's intercept, {done.intercept!r}, belongs to no model and was left out")
    if json:
        result_document(
            {
                "directory": str(to),
                "files": [path.name for path in done.files],
                "models": done.models,
                "coefficients": done.coefficients,
                "intercept": done.intercept,
            }
        )
        return
    result(
        f"split {source} into {done.models:,} models with {done.coefficients:,} coefficients in {len(done.files)} "
        f"files in {to}"
    )


def model_directory(source: str, output: str | None) -> ModelDirectory:
    """Open the model directory that a command's argument names.

    Raises:
        UsageError: it is the number of a version, and no output was given.
        NotFound: there is no such version or directory.
    """
    from gdmix_core.model import open_model

    path = Path(source)
    if source.isascii() and source.isdigit() and not path.is_dir():
        if output is None:
            raise UsageError(f"version {source}: give the --output below which its model directory is")
        path = Path(output) / "models" / source
        if not path.is_dir():
            raise NotFound(f"{path}: there is no such model version")
    return open_model(path)


def _exported(directory: ModelDirectory, to: Path, threshold: float) -> list[dict[str, Any]]:
    """Write every coordinate's models; return what there is of each."""
    from gdmix_core.data.feature_index import FeatureIndex
    from gdmix_core.model.linear_model_avro import FeatureNames

    index = FeatureIndex.load(directory.feature_index)
    documents: list[dict[str, Any]] = []
    for coordinate in directory.manifest.coordinates:
        if coordinate.external:
            note(f"{coordinate.name} was trained elsewhere: there is nothing of it to write")
            continue
        if coordinate.plugin is not None:
            note(
                f"{coordinate.name} has no coefficients; its files are in {directory.plugin(coordinate.name)}"
            )
            continue
        names = FeatureNames.of_coordinate(index.coordinate_names(coordinate.features, coordinate.intercept))
        written = _write_coordinate(directory, coordinate, names, to / coordinate.name / "models", threshold)
        documents.append(
            {
                "name": coordinate.name,
                "files": len(written),
                "models": sum(one.models for one in written),
                "coefficients": sum(one.coefficients for one in written),
                "left_out": sum(one.left_out for one in written),
            }
        )
    return documents


def _write_coordinate(
    directory: ModelDirectory,
    coordinate: CoordinateManifest,
    names: FeatureNames,
    target: Path,
    threshold: float,
) -> list[WrittenModels]:
    """Write the model files of one coordinate, those of a random effect side by side."""
    from concurrent.futures import ThreadPoolExecutor

    from gdmix_core.model.linear_model_avro import (
        MODEL_CLASSES,
        write_fixed_effect_model,
        write_random_effect_models,
    )

    model_class = MODEL_CLASSES[directory.manifest.task]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be made: {error.strerror}") from error
    if coordinate.kind == "fixed_effect":
        files = [target / "global_model.avro"]
        source = directory.fixed_effect(coordinate.name)
        written = [
            write_fixed_effect_model(
                files[0], source, names, model_class=model_class, sparsity_threshold=threshold
            )
        ]
    else:
        parts = directory.parts(coordinate.name)
        files = [target / part.with_suffix(".avro").name for part in parts]

        def write(file: Path, part: Path) -> WrittenModels:
            return write_random_effect_models(
                file, part, names, model_class=model_class, sparsity_threshold=threshold
            )

        # Parquet, kernels and zlib all work without the interpreter's lock.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            written = list(threads.map(write, files, parts))
    _remove_models_except(target, files)
    return written


def _require_room(to: Path, force: bool) -> None:
    """Refuse a target that is a file, or a directory with something in it unless forced."""
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to}: is not a directory")
    if not force and to.is_dir() and any(to.iterdir()):
        raise UsageError(f"{to}: is not empty; name another directory, or write into it with --force")


def _remove_models_except(directory: Path, files: Sequence[Path]) -> None:
    """Remove the model files of an earlier run: left behind, they would be taken for part of the new model."""
    names = {file.name for file in files}
    for file in directory.glob("*.avro"):
        if file.name not in names:
            file.unlink()
