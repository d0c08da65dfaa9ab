"""The manifest of a model version: everything but its numbers (`docs/specs/model-directory.md`).

A manifest says nothing of times, hosts and jobs (those are in `run.json`): equal trainings, equal manifests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from gdmix_core.data.array_file import atomic_path
from gdmix_core.errors import DataError, NotFound

FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"
EXTERNAL: Final = "external"


@dataclass(frozen=True, slots=True)
class GroupManifest:
    """How strongly a group of a coordinate's coefficients is pulled to 0, where that was learned.

    Attributes:
        name: `intercept`, `<bag>.<column>`, ...: as in the config's `l2`.
        coefficients: how many it has.
        l2: ridge strength.
        variance: prior variance τ²; None where nothing is penalised.
        effective: coefficients that the data decide.
        shrinkage: 1 − effective / coefficients.
        error: standard error of log τ²; None where it was not learned, or the data do not tell.
        learned: whether it was `auto`.
    """

    name: str
    coefficients: int
    l2: float
    variance: float | None
    effective: float
    shrinkage: float
    error: float | None = None
    learned: bool = False


@dataclass(frozen=True, slots=True)
class PluginColumn:
    """A data column that a plug-in reads, as `gdmix_core.fixed_effects.plugin.InputColumn` says.

    Attributes:
        name: of the column.
        kind: what its values become.
        dimension: `vector` and `sparse`: its length, also where the data told it.
    """

    name: str
    kind: Literal["number", "string", "strings", "vector", "sparse"]
    dimension: int | None = None


@dataclass(frozen=True, slots=True)
class PluginFile:
    """A file of a plug-in's model.

    Attributes:
        sha256: of its bytes, hex.
        size: in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PluginManifest:
    """The model of a fixed effect that is plugged in: who reads it, from what.

    Its files lie in `<coordinate>/plugin/` of a model directory, and under the same names in a store.

    Attributes:
        distribution: name of the installed distribution that the plug-in came from.
        version: its version.
        columns: data columns that scoring reads.
        files: by relative name, with `/` between folders.
    """

    distribution: str
    version: str
    columns: tuple[PluginColumn, ...] = ()
    files: dict[str, PluginFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that would lead out of a directory: manifests come from stores."""
        for name in self.files:
            parts = name.split("/")
            if PurePosixPath(name).is_absolute() or "\0" in name or {"", ".", ".."} & set(parts):
                raise ValueError(f"file {name!r} is not a relative name")


@dataclass(frozen=True, slots=True)
class CoordinateManifest:
    """One coordinate of a model.

    Attributes:
        name: as in the job config.
        kind: what sort of effect it is.
        features: feature bags, concatenated in this order.
        intercept: whether coefficient 0 is an intercept; every later index is then one higher.
        dimension: number of coefficients, intercept included.
        l2: ridge strength, or strengths by feature group.
        model: fixed effect: which one, say `logistic_regression`, or `external`, or a plug-in's name.
        entity_column: random effect: column that holds the entity id.
        variances: whether posterior variances are stored.
        parts: random effect: number of coefficient files.
        entities: random effect: number of entities.
        rows: training rows that took part.
        unconverged: entities (or 1 for a fixed effect) that missed the certificate.
        statuses: random effect: entities by status.
        validation: metrics of the model up to this coordinate, by name.
        shrinkage: by group of coefficients, where it was learned.
        plugin: fixed effect that is plugged in: its model; `model` is then the plug-in's name.
    """

    name: str
    kind: Literal["fixed_effect", "random_effect"]
    features: tuple[str, ...]
    intercept: bool
    dimension: int
    l2: float | dict[str, float] = 1.0
    model: str | None = None
    entity_column: str | None = None
    variances: bool = False
    parts: int = 0
    entities: int = 0
    rows: int = 0
    unconverged: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    shrinkage: tuple[GroupManifest, ...] = ()
    plugin: PluginManifest | None = None

    @property
    def external(self) -> bool:
        """Whether it is a fixed effect whose scores somebody else gives: it has no coefficients."""
        return self.model == EXTERNAL

    @property
    def native(self) -> bool:
        """Whether it has coefficients: a random effect, or a fixed effect that is a generalized linear model."""
        return not self.external and self.plugin is None


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model version.

    Attributes:
        model: name of the model.
        version: number that the store gave it.
        task: `logistic_regression`, `linear_regression` or `poisson_regression`.
        coordinates: in training order.
        bag_sizes: number of features of each bag.
        schema_fingerprint: 16 hex digits that every coefficient record carries.
        features: the config's feature bags, as the job gave them.
        offset_column: data column that every row's score begins with; None without one.
        metrics: validation metrics of the whole model, by name.
        config_digest: digest of the job config.
        content_digest: digest of feature index and coefficient files; "" before they are put together.
        element_type: of the coefficients in the store.
        reproducible: whether all workers had one numerics fingerprint.
        numerics: that fingerprint: versions and processor class.
        format: of the manifest.
    """

    model: str
    version: int
    task: str
    coordinates: tuple[CoordinateManifest, ...]
    bag_sizes: dict[str, int]
    schema_fingerprint: str
    features: dict[str, Any] = field(default_factory=dict)
    offset_column: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    content_digest: str = ""
    element_type: Literal["float64", "float32"] = "float64"
    reproducible: bool = True
    numerics: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def schema(self) -> int:
        """The schema fingerprint as a number."""
        return int(self.schema_fingerprint, 16)

    def coordinate(self, name: str) -> CoordinateManifest:
        """Return one coordinate.

        Raises:
            NotFound: the model has no such coordinate.
        """
        for coordinate in self.coordinates:
            if coordinate.name == name:
                return coordinate
        names = ", ".join(coordinate.name for coordinate in self.coordinates)
        raise NotFound(f"model {self.model!r} has no coordinate {name!r}; it has {names}")

    def random_effects(self) -> tuple[CoordinateManifest, ...]:
        """Return the random-effect coordinates, in training order."""
        return tuple(c for c in self.coordinates if c.kind == "random_effect")

    def fixed_effects(self) -> tuple[CoordinateManifest, ...]:
        """Return the fixed-effect coordinates, in training order."""
        return tuple(c for c in self.coordinates if c.kind == "fixed_effect")

    def to_json(self) -> bytes:
        """Return the manifest as a file; equal manifests give equal bytes."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"


def manifest_from_dict(values: Mapping[str, Any], where: str = "manifest") -> ModelManifest:
    """Build a manifest from plain values and check them.

    Raises:
        DataError: a value is missing, unknown or of the wrong type; the message names its place.
    """
    from pydantic import ValidationError

    if values.get("format", FORMAT) != FORMAT:
        raise DataError(f"{where}: the manifest has format {values['format']}; this GDMix reads {FORMAT}")
    try:
        manifest: ModelManifest = _adapter().validate_python(dict(values))
        _ = manifest.schema
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DataError(
            f"{where}: {place}: {first['msg']} ({error.error_count()} problems in all)"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{where}: schema_fingerprint: found {values['schema_fingerprint']!r}, not hex digits"
        ) from error
    return manifest


def manifest_from_json(data: bytes, where: str = "manifest") -> ModelManifest:
    """Read a manifest.

    Raises:
        DataError: it is not a manifest of this format.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: is not a JSON object")
    return manifest_from_dict(values, where)


def write_manifest(directory: str | Path, manifest: ModelManifest) -> None:
    """Write `manifest.json` into a model directory."""
    with atomic_path(Path(directory) / MANIFEST_FILE) as temporary:
        temporary.write_bytes(manifest.to_json())


def read_manifest(directory: str | Path) -> ModelManifest:
    """Read `manifest.json` of a model directory.

    Raises:
        NotFound: there is none: the directory holds no model.
        DataError: it is not a manifest of this format.
    """
    path = Path(directory) / MANIFEST_FILE
    try:
        return manifest_from_json(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        versions = [file.parent for file in (path.parent / "models").glob(f"*/{MANIFEST_FILE}")]
        newest = max((v for v in versions if v.name.isdecimal()), key=lambda v: int(v.name), default=None)
        hint = f"; the newest version below it is {newest}" if newest else ""
        raise NotFound(f"{directory}: holds no model version ({MANIFEST_FILE} is not there){hint}") from error


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(ModelManifest)
