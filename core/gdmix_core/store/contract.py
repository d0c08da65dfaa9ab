"""The coefficient store as its users see it: one abstract class.

Two implementations (`redis_store`, `lmdb_store`) supply reading, writing and one atomic step on the control
document; everything that has rules (states, activation, verification, clean-up) is here or in `control`,
written once. The contract is `docs/specs/store.md`; one suite of tests runs on both.
"""

from __future__ import annotations

import secrets
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gdmix_core.errors import Conflict, NotFound, VersionGone
from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store import control as rules
from gdmix_core.store import keys
from gdmix_core.store.control import Control, VersionState
from gdmix_core.store.publication import (
    BlobSeal,
    PublishedPart,
    Seal,
    add_up,
    chunks,
    distinct_parts,
)
from gdmix_core.store.reading import StoreReader
from gdmix_core.store.record import CoefficientBlock, ElementType

DEFAULT_GRACE_SECONDS: Final = 600.0
DEFAULT_ABANDONED_SECONDS: Final = 86_400.0


class CoefficientStore(StoreReader):
    """Versioned coefficients of any number of models.

    A store is safe to share between threads. Every method raises `StoreUnavailable` when the store cannot be
    reached and `StoreError` when it refuses.
    """

    # ---- publishing --------------------------------------------------------------------------------------

    def check_ready(self, model: str) -> None:
        """Raise what would keep a version of `model` from being begun, without writing anything.

        Raises:
            Conflict: the store may throw keys away (evicting memory policy).
            StoreCorrupt: what it knows of the model cannot be read.
        """
        self._require_durable()
        self._control(model)

    def begin_version(
        self, model: str, *, epoch: int | None = None, owner: str = "", minimum: int = 1
    ) -> PublishTicket:
        """Take the next version number and note what is active.

        Args:
            model: name of the model.
            epoch: the coordinator's epoch; None without a coordinator.
            owner: identity of the coordinator's journal.
            minimum: smallest number to take, say one more than the newest model directory's, so that a store
                that was emptied does not give a number out a second time.

        Raises:
            StaleLease: `owner` has been seen with a higher epoch.
            Conflict: the store may throw keys away (evicting memory policy).
        """
        self._require_durable()
        token = secrets.token_hex(8)

        def begin(control: Control, now: float) -> tuple[Control, PublishTicket]:
            changed, version = rules.begin(
                control, token=token, now=now, epoch=epoch, owner=owner, minimum=minimum
            )
            return changed, PublishTicket(model, version, control.active, epoch, owner, token)

        return self._transact(model, begin)

    @abstractmethod
    def write_part(
        self,
        ticket: PublishTicket,
        coordinate: str,
        part: int,
        blocks: Iterable[CoefficientBlock],
        *,
        schema: int,
        element_type: ElementType = "float64",
        spill: str | Path | None = None,
    ) -> PublishedPart:
        """Write one part of a coordinate; any process may, with nothing but the ticket.

        Args:
            ticket: the publication.
            coordinate: name of the random-effect coordinate.
            part: number of the part; a part written again replaces itself.
            blocks: the entities; consumed one by one.
            schema: fingerprint of the feature index, 64 bits.
            element_type: of the stored coefficients.
            spill: directory for this attempt's records, where the store is put together at the end (`lmdb:`).

        Raises:
            VersionGone: the store no longer knows the publication.
            Conflict: the version is sealed already.
            DataError: an id cannot be stored, or a value is not finite.
        """

    def finish(
        self,
        ticket: PublishTicket,
        parts: Iterable[PublishedPart],
        manifest: bytes,
        blobs: Mapping[str, bytes],
        *,
        schema: int,
        element_type: ElementType = "float64",
        expected: Mapping[str, int] | None = None,
        verify: bool = True,
    ) -> Seal:
        """Complete a version: write files and manifest, check everything, write the seal last.

        Args:
            ticket: the publication.
            parts: all parts; of a part that occurs twice one counts.
            manifest: the model's manifest.
            blobs: files by name: feature index, fixed effects.
            schema: fingerprint that the records carry.
            element_type: of the stored coefficients.
            expected: entities by coordinate; a coordinate without parts is complete with 0.
            verify: read every record back before sealing.

        Raises:
            StoreCorrupt: counts or checksums do not agree.
            VersionGone: the store no longer knows the publication.
            Conflict: the version is sealed already by another publication, or the store may throw keys away.
            StaleLease: a newer coordinator has taken this publication over.
        """
        self._require_durable()
        unique = distinct_parts(parts)
        coordinates = add_up(unique, expected or {})
        seal = Seal(
            model=ticket.model,
            version=ticket.version,
            token=self._token_to_write(ticket),
            schema=schema,
            element_type=element_type,
            manifest_crc32=zlib.crc32(manifest),
            coordinates=coordinates,
            blobs={
                name: BlobSeal(len(data), zlib.crc32(data), len(chunks(data)))
                for name, data in sorted(blobs.items())
            },
        )
        pairs = [(keys.MANIFEST, manifest)]
        for name, data in sorted(blobs.items()):
            pairs += [(keys.blob_key(name, number), chunk) for number, chunk in enumerate(chunks(data))]
        self._assemble(ticket, seal, unique, pairs, verify=verify)

        def complete(control: Control, now: float) -> tuple[Control, Seal]:
            changed = rules.seal(
                control,
                ticket.model,
                ticket.version,
                now=now,
                token=seal.token,
                epoch=ticket.epoch,
                owner=ticket.owner,
            )
            return changed, seal

        return self._transact(ticket.model, complete, put_seal=seal)

    def activate(
        self,
        model: str,
        version: int,
        *,
        expected_active: int | None,
        epoch: int | None = None,
        owner: str = "",
    ) -> None:
        """Make a complete version the active one, by compare-and-set on the active version.

        Args:
            model: name of the model.
            version: any complete version; an older one is a rollback.
            expected_active: the version that must be active now; None: none.
            epoch: epoch of the coordinator that publishes it; None for a person's decision, as a rollback is.
            owner: identity of the coordinator's journal.

        Raises:
            ActivationConflict: another version is active; `winner` names it.
            StaleLease: a newer coordinator has taken this publication over.
            VersionGone: the version, or its seal, is not there.
            Conflict: it is not complete.
        """

        def change(control: Control, now: float) -> tuple[Control, None]:
            changed = rules.activate(
                control, model, version, expected=expected_active, now=now, epoch=epoch, owner=owner
            )
            return changed, None

        self._transact(model, change, need_seal=version)

    def rollback(self, model: str) -> int:
        """Activate the newest complete version older than the active one and return it.

        Raises:
            NotFound: there is none.
            ActivationConflict: another version was activated meanwhile.
        """
        control = self._control(model)
        target = rules.rollback_target(control, model)
        self.activate(model, target, expected_active=control.active)
        return target

    # ---- aliases -----------------------------------------------------------------------------------------

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias to a complete version; clean-up keeps that version.

        Raises:
            VersionGone: the version, or its seal, is not there.
            Conflict: it is not complete.
            UsageError: `alias` is no name.
        """
        keys.name_part(alias, "alias")
        self._transact(
            model,
            lambda control, _: (rules.set_alias(control, model, alias, version), None),
            need_seal=version,
        )

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias.

        Raises:
            NotFound: there is no such alias.
        """
        self._transact(model, lambda control, _: (rules.delete_alias(control, model, alias), None))

    # ---- removing ----------------------------------------------------------------------------------------

    def delete_version(self, model: str, version: int) -> None:
        """Delete a version: its seal first, the rest in small batches; may be repeated after a failure.

        Raises:
            NotFound: there is no such version.
            Conflict: it is active, or an alias points to it.
        """
        self._transact(
            model, lambda control, _: (rules.start_deleting(control, model, version), None), drop_seal=version
        )
        self._drop_contents(model, version)
        self._transact(model, lambda control, _: (rules.forget(control, version), None))

    def abandon(self, ticket: PublishTicket) -> None:
        """Give up a publication and remove what it wrote; nothing happens if it is gone already.

        Raises:
            Conflict: it was completed meanwhile.
        """
        try:
            rules.require_writing(self._control(ticket.model), ticket.model, ticket.version, ticket.token)
        except VersionGone:
            return
        self.delete_version(ticket.model, ticket.version)

    def cleanup(
        self,
        model: str,
        *,
        keep: int = 2,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
        abandoned_seconds: float = DEFAULT_ABANDONED_SECONDS,
        now: float | None = None,
    ) -> list[int]:
        """Delete old versions and return their numbers.

        Only versions that are inactive, without alias, not among the newest `keep` of those, and superseded
        for longer than `grace_seconds`; besides, what interrupted deletions and abandoned publications leave.

        Args:
            model: name of the model.
            keep: inactive versions to keep for rollback.
            grace_seconds: longest time that a request may still read a superseded version.
            abandoned_seconds: age at which an unfinished publication counts as abandoned.
            now: seconds since 1970; the store's clock by default.
        """
        control = self._control(model)
        doomed = rules.removable(
            control,
            keep=keep,
            grace_seconds=grace_seconds,
            abandoned_seconds=abandoned_seconds,
            now=self._clock() if now is None else now,
        )
        removed = []
        for version in doomed:
            try:
                self.delete_version(model, version)
            except (NotFound, Conflict):
                continue  # another process was quicker: it is gone, active again or aliased
            removed.append(version)
        return removed

    def _token_to_write(self, ticket: PublishTicket) -> str:
        """Return the publication's token: the ticket's, else the one that the store noted."""
        known = self._control(ticket.model)
        record = known.versions.get(ticket.version)
        if record is None or record.state is VersionState.WRITING:
            record = rules.require_writing(known, ticket.model, ticket.version, ticket.token)
        return ticket.token or record.token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
