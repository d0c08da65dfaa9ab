"""What goes in and out of a store: tickets, parts, seals, listings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

from gdmix_core.errors import StoreCorrupt
from gdmix_core.store.control import VersionState

BLOB_CHUNK_BYTES: Final = 8 << 20
CHECKSUM_MASK: Final = (1 << 63) - 1
_SEAL_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """What one part of a coordinate came to; written twice by two attempts, it counts once.

    Attributes:
        coordinate: name of the coordinate.
        part: number of the part in the coordinate.
        entities: number of entities written.
        checksum: sum of the entities' digests modulo 2^63; sums of parts add up to that of the coordinate.
        spill: directory that holds the part's records, for a store that is put together at the end; else "".
    """

    coordinate: str
    part: int
    entities: int
    checksum: int
    spill: str = ""


@dataclass(frozen=True, slots=True)
class CoordinateSeal:
    """Entities of a sealed coordinate and the sum of their digests modulo 2^63."""

    entities: int
    checksum: int


@dataclass(frozen=True, slots=True)
class BlobSeal:
    """Size, zlib's crc32 and number of chunks of a sealed file."""

    size: int
    crc32: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Seal:
    """What a complete version consists of; its presence is what makes the version readable.

    Attributes:
        model: name of the model.
        version: its number.
        token: random name of the publication: caches go by it, for a store that was emptied counts anew.
        schema: fingerprint that every record carries.
        element_type: `float64` or `float32`.
        manifest_crc32: zlib's crc32 of the manifest.
        coordinates: the random-effect coordinates.
        blobs: the files: feature index, fixed effects.
    """

    model: str
    version: int
    token: str
    schema: int
    element_type: str
    manifest_crc32: int
    coordinates: Mapping[str, CoordinateSeal]
    blobs: Mapping[str, BlobSeal]

    def to_json(self) -> bytes:
        """Return the seal as it is stored."""
        return json.dumps(
            {"format": _SEAL_FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":")
        ).encode()


@lru_cache(maxsize=64)
def seal_from_json(data: bytes) -> Seal:
    """Read a stored seal.

    Raises:
        StoreCorrupt: it is not a seal of this format.
    """
    try:
        document = json.loads(data)
        if document.pop("format") != _SEAL_FORMAT:
            raise StoreCorrupt("the seal has a format that this GDMix does not read")
        coordinates = {name: CoordinateSeal(**entry) for name, entry in document.pop("coordinates").items()}
        blobs = {name: BlobSeal(**entry) for name, entry in document.pop("blobs").items()}
        return Seal(coordinates=coordinates, blobs=blobs, **document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"the seal of a version cannot be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version in a listing; times are the store's clock, in seconds since 1970."""

    version: int
    state: VersionState
    started: float
    sealed: float | None
    superseded: float | None
    aliases: tuple[str, ...]
    entities: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pointers:
    """What a model's names lead to, as of one moment.

    Attributes:
        active: the active version, None when there is none.
        aliases: versions by alias.
        tokens: of every complete version, the random name of its publication.
    """

    active: int | None
    aliases: Mapping[str, int]
    tokens: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class EntityRecords:
    """The answer of `get_many`: records in the order asked for, None where the entity is unknown."""

    seal: Seal
    records: Mapping[str, list[bytes | None]]


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """A batch of a coordinate's keys and records as `verify` reads them back, still untouched."""

    coordinate: str
    keys: Sequence[bytes]
    records: Sequence[bytes | None]
    prefix_bytes: int


def chunks(data: bytes) -> list[bytes]:
    """Cut a file into the values it is stored as."""
    return [data[start : start + BLOB_CHUNK_BYTES] for start in range(0, len(data), BLOB_CHUNK_BYTES)]


def distinct_parts(parts: Iterable[PublishedPart]) -> list[PublishedPart]:
    """Keep one of the attempts of each part, in order of coordinate and number.

    Raises:
        StoreCorrupt: two attempts wrote different things.
    """
    found: dict[tuple[str, int], PublishedPart] = {}
    for part in parts:
        other = found.setdefault((part.coordinate, part.part), part)
        if (other.entities, other.checksum) != (part.entities, part.checksum):
            raise StoreCorrupt(
                f"part {part.part} of coordinate {part.coordinate!r} was written twice with different "
                f"contents ({other.entities} and {part.entities} entities); publish the model again"
            )
    return [found[name] for name in sorted(found)]


def add_up(parts: Iterable[PublishedPart], expected: Mapping[str, int]) -> dict[str, CoordinateSeal]:
    """Add parts up to coordinates and compare with the entities expected.

    Raises:
        StoreCorrupt: they do not agree.
    """
    entities: dict[str, int] = dict.fromkeys(expected, 0)
    checksums: dict[str, int] = dict.fromkeys(expected, 0)
    for part in parts:
        entities[part.coordinate] = entities.get(part.coordinate, 0) + part.entities
        checksums[part.coordinate] = checksums.get(part.coordinate, 0) + part.checksum & CHECKSUM_MASK
    for name, count in expected.items():
        if entities[name] != count:
            raise StoreCorrupt(
                f"coordinate {name!r} has {count} entities, but its parts add up to {entities[name]}: "
                "the version is not sealed"
            )
    return {name: CoordinateSeal(entities[name], checksums[name]) for name in sorted(entities)}
