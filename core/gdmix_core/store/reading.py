"""The reading half of a coefficient store: versions, aliases, records, files, and checking them."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from gdmix_core.errors import NotFound, StoreCorrupt
from gdmix_core.store import keys
from gdmix_core.store.backend import StoreBackend
from gdmix_core.store.control import VersionState
from gdmix_core.store.publication import EntityRecords, Pointers, Seal, VersionInfo, seal_from_json


class StoreReader(StoreBackend):
    """What scorers, listings and verification need; nothing here changes the store."""

    # ---- looking -----------------------------------------------------------------------------------------

    @abstractmethod
    def list_models(self) -> list[str]:
        """Return the names of all models that were ever published here, sorted."""

    def list_versions(self, model: str) -> list[VersionInfo]:
        """Return all versions of a model, ascending; one whose seal is lost counts as being deleted."""
        control = self._control(model)
        numbers = sorted(control.versions)
        found = []
        for version, data in zip(numbers, self._seals(model, numbers), strict=True):
            record, state = control.versions[version], control.state_of(version)
            if data is None and record.state is VersionState.SEALED:
                state = VersionState.DELETING
            seal = None if data is None else seal_from_json(data)
            found.append(
                VersionInfo(
                    version=version,
                    state=state,
                    started=record.started,
                    sealed=record.sealed,
                    superseded=record.superseded,
                    aliases=tuple(sorted(name for name, to in control.aliases.items() if to == version)),
                    entities={} if seal is None else {n: c.entities for n, c in seal.coordinates.items()},
                )
            )
        return found

    def get_active(self, model: str) -> int | None:
        """Return the active version, None when there is none."""
        return self._control(model).active

    def get_aliases(self, model: str) -> dict[str, int]:
        """Return all aliases of a model."""
        return dict(sorted(self._control(model).aliases.items()))

    def get_alias(self, model: str, alias: str) -> int:
        """Return the version that an alias points to.

        Raises:
            NotFound: there is no such alias.
        """
        aliases = self._control(model).aliases
        if alias not in aliases:
            raise NotFound(f"model {model!r} has no alias {alias!r}")
        return aliases[alias]

    def pointers(self, model: str) -> Pointers:
        """Return what is active, all aliases and the complete versions, read at once."""
        control = self._control(model)
        return Pointers(
            active=control.active,
            aliases=dict(sorted(control.aliases.items())),
            tokens={
                version: record.token
                for version, record in sorted(control.versions.items())
                if record.state is VersionState.SEALED
            },
        )

    # ---- reading -----------------------------------------------------------------------------------------

    def read_seal(self, model: str, version: int) -> Seal:
        """Return a version's seal.

        Raises:
            VersionGone: it is absent.
        """
        return self._read(model, version, [])[0]

    def get_many(self, model: str, version: int, entities: Mapping[str, Sequence[bytes]]) -> EntityRecords:
        """Read the records of some entities, together with the seal, in one round trip.

        Args:
            model: name of the model.
            version: number of a complete version.
            entities: ids (unescaped) by coordinate.

        Raises:
            VersionGone: the seal is absent, so that absent records mean nothing.
        """
        wanted = [keys.entity_key(name, entity) for name, ids in entities.items() for entity in ids]
        seal, values = self._read(model, version, wanted)
        records: dict[str, list[bytes | None]] = {}
        start = 0
        for name, ids in entities.items():
            records[name] = values[start : start + len(ids)]
            start += len(ids)
        return EntityRecords(seal, records)

    def read_records(
        self, model: str, version: int, wanted: Sequence[bytes]
    ) -> tuple[Seal, list[bytes | None]]:
        """Read the seal and the records of some keys (`keys.entity_key`) in one round trip.

        Raises:
            VersionGone: the seal is absent, so that absent records mean nothing.
        """
        return self._read(model, version, wanted)

    def read_manifest(self, model: str, version: int) -> bytes:
        """Return a version's manifest.

        Raises:
            VersionGone: the seal is absent.
            StoreCorrupt: the manifest is lost or fails its checksum.
        """
        seal, (manifest,) = self._read(model, version, [keys.MANIFEST])
        if manifest is None or zlib.crc32(manifest) != seal.manifest_crc32:
            raise StoreCorrupt(f"the manifest of version {version} of model {model!r} is lost or damaged")
        return manifest

    def read_blob(self, model: str, version: int, name: str) -> bytes:
        """Return one of a version's files.

        Raises:
            VersionGone: the seal is absent.
            NotFound: the version has no such file.
            StoreCorrupt: the file is lost or fails its checksum.
        """
        expected = self.read_seal(model, version).blobs.get(name)
        if expected is None:
            raise NotFound(f"version {version} of model {model!r} has no file {name!r}")
        pieces = []
        for number in range(expected.chunks):
            pieces += self._read(model, version, [keys.blob_key(name, number)])[1]
        data = b"".join(piece or b"" for piece in pieces)
        if len(data) != expected.size or zlib.crc32(data) != expected.crc32:
            raise StoreCorrupt(f"file {name!r} of version {version} of model {model!r} is lost or damaged")
        return data

    def verify(self, model: str, version: int) -> Seal:
        """Read everything of a version back and compare it with its seal.

        Raises:
            VersionGone: the seal is absent.
            StoreCorrupt: a record, a count, a checksum or a file is wrong; the message says which.
        """
        from gdmix_core.store.verification import verify_records

        seal = self.read_seal(model, version)
        verify_records(seal, lambda: self._scan(model, version))
        self.read_manifest(model, version)
        for name in seal.blobs:
            self.read_blob(model, version, name)
        return seal
