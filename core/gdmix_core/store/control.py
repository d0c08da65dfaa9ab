"""The life of a model's versions, as pure functions from one control document to the next.

    writing ──seal──▶ sealed ──activate──▶ active ──another is activated──▶ superseded ──▶ deleting
                                             ▲                                  │
                                             └──────────── rolled back ─────────┘

Both stores keep this document under one key or file and replace it atomically; all rules are here, once.
Nothing here does I/O or reads a clock. Every function returns a new document and leaves its argument alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from gdmix_core.errors import ActivationConflict, Conflict, NotFound, StaleLease, StoreCorrupt, VersionGone

_FORMAT = 1


class VersionState(StrEnum):
    """Where a version is in its life."""

    WRITING = "writing"
    SEALED = "sealed"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What the control document says of one version; times are the store's clock, in seconds.

    Attributes:
        state: `writing`, `sealed` or `deleting`; the other states follow from the rest of the document.
        token: random name of this publication; tells two publications of one number apart.
        started: when the number was taken.
        sealed: when the seal was written.
        superseded: since when another version has been active instead.
        epoch: the highest epoch of the publishing coordinator that has worked on it.
    """

    state: VersionState
    token: str
    started: float
    sealed: float | None = None
    superseded: float | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """The control document of one model.

    Attributes:
        counter: the highest version number given out.
        active: the version that scorers take.
        epochs: by owner (the identity of a coordinator's journal), the highest epoch seen.
        aliases: names that point to versions and keep them from clean-up.
        versions: by number.
    """

    counter: int = 0
    active: int | None = None
    epochs: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[int, VersionRecord] = field(default_factory=dict)

    def state_of(self, version: int) -> VersionState:
        """Return a known version's state."""
        record = self.versions[version]
        if record.state is not VersionState.SEALED:
            return record.state
        if version == self.active:
            return VersionState.ACTIVE
        return VersionState.SEALED if record.superseded is None else VersionState.SUPERSEDED

    def to_json(self) -> bytes:
        """Return the document as it is stored."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()


def control_from_json(data: bytes | None, where: str) -> Control:
    """Read a stored document; an absent one is that of a model never published here.

    Raises:
        StoreCorrupt: it is not a control document of this format.
    """
    if data is None:
        return Control()
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise StoreCorrupt(
                f"{where}: the control document has format {document['format']}; this GDMix reads {_FORMAT}"
            )
        return Control(
            counter=document["counter"],
            active=document["active"],
            epochs=document["epochs"],
            aliases=document["aliases"],
            versions={
                int(version): VersionRecord(**{**record, "state": VersionState(record["state"])})
                for version, record in document["versions"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"{where}: the control document cannot be read: {error!r}") from error


def begin(
    control: Control, *, token: str, now: float, epoch: int | None = None, owner: str = "", minimum: int = 1
) -> tuple[Control, int]:
    """Take the next version number, at least `minimum`.

    Raises:
        StaleLease: `owner` has been seen with a higher epoch.
    """
    control = _announce_owner(control, epoch, owner)
    version = max(control.counter + 1, minimum)
    record = VersionRecord(VersionState.WRITING, token, now, epoch=epoch)
    return replace(control, counter=version, versions={**control.versions, version: record}), version


def require_writing(control: Control, model: str, version: int, token: str = "") -> VersionRecord:
    """Return the record of a version that is being written.

    Raises:
        VersionGone: the store no longer knows this publication.
        Conflict: it is sealed already, or being deleted.
    """
    record = control.versions.get(version)
    if record is None or (token and record.token != token):
        raise VersionGone(
            f"version {version} of model {model!r} is no longer being written: the store was emptied, or the "
            "publication was given up and cleaned away; publish again"
        )
    if record.state is not VersionState.WRITING:
        raise Conflict(
            f"version {version} of model {model!r} is {control.state_of(version)}, not being written"
        )
    return record


def seal(
    control: Control,
    model: str,
    version: int,
    *,
    now: float,
    token: str = "",
    epoch: int | None = None,
    owner: str = "",
) -> Control:
    """Mark a version complete; sealing the same publication again changes nothing.

    Raises:
        VersionGone, Conflict: as `require_writing`.
        StaleLease: as `announce`.
    """
    control = announce(control, version, epoch=epoch, owner=owner)
    known = control.versions.get(version)
    if known is not None and known.state is VersionState.SEALED and token and known.token == token:
        return control
    record = require_writing(control, model, version, token)
    sealed = replace(record, state=VersionState.SEALED, sealed=now)
    return replace(control, versions={**control.versions, version: sealed})


def activate(
    control: Control,
    model: str,
    version: int,
    *,
    expected: int | None,
    now: float,
    epoch: int | None = None,
    owner: str = "",
) -> Control:
    """Make a sealed version active, if `expected` still is; activating the active one changes nothing.

    Every sealed version with a lower number counts as superseded from now on, activated before or not.

    Raises:
        StaleLease: as `announce`.
        VersionGone: the version is not known, or is being deleted.
        Conflict: it is not sealed yet.
        ActivationConflict: another version is active than expected.
    """
    control = announce(control, version, epoch=epoch, owner=owner)
    require_servable(control, model, version)
    if control.active == version:
        return control
    if control.active != expected:
        raise ActivationConflict(
            f"version {version} of model {model!r} was not activated: version {control.active} is active, "
            f"and {'none' if expected is None else f'version {expected}'} was when its publication began",
            winner=control.active,
        )
    versions = dict(control.versions)
    for number, record in control.versions.items():
        left = number == control.active or (number < version and record.superseded is None)
        if left and record.state is VersionState.SEALED:
            versions[number] = replace(record, superseded=now)
    versions[version] = replace(versions[version], superseded=None)
    return replace(control, active=version, versions=versions)


def require_servable(control: Control, model: str, version: int) -> None:
    """Check that a version is complete and not being deleted.

    Raises:
        VersionGone: the version is not known, or is being deleted.
        Conflict: it is not sealed yet.
    """
    record = control.versions.get(version)
    if record is None or record.state is VersionState.DELETING:
        known = ", ".join(str(number) for number in sorted(control.versions)) or "none"
        raise VersionGone(f"version {version} of model {model!r} is not in the store; there: {known}")
    if record.state is VersionState.WRITING:
        raise Conflict(f"version {version} of model {model!r} is still being written")


def rollback_target(control: Control, model: str) -> int:
    """Return the newest complete version older than the active one.

    Raises:
        NotFound: nothing is active, or nothing older is complete.
    """
    older = [
        number
        for number, record in control.versions.items()
        if record.state is VersionState.SEALED and control.active is not None and number < control.active
    ]
    if not older:
        raise NotFound(
            f"model {model!r} has no version older than the active one ({control.active}) to go back to"
        )
    return max(older)


def set_alias(control: Control, model: str, alias: str, version: int) -> Control:
    """Point an alias to a complete version.

    Raises:
        VersionGone, Conflict: as `require_servable`.
    """
    require_servable(control, model, version)
    return replace(control, aliases={**control.aliases, alias: version})


def delete_alias(control: Control, model: str, alias: str) -> Control:
    """Remove an alias.

    Raises:
        NotFound: there is no such alias.
    """
    if alias not in control.aliases:
        raise NotFound(f"model {model!r} has no alias {alias!r}")
    return replace(control, aliases={name: v for name, v in control.aliases.items() if name != alias})


def start_deleting(control: Control, model: str, version: int) -> Control:
    """Mark a version as being deleted; from here there is no way back.

    Raises:
        NotFound: there is no such version.
        Conflict: it is active, or an alias points to it.
    """
    record = control.versions.get(version)
    if record is None:
        raise NotFound(f"model {model!r} has no version {version} in the store")
    if version == control.active:
        raise Conflict(
            f"version {version} of model {model!r} is active; activate another one before deleting it"
        )
    names = sorted(name for name, target in control.aliases.items() if target == version)
    if names:
        raise Conflict(
            f"version {version} of model {model!r} has the alias {', '.join(names)}; delete that first"
        )
    deleting = replace(record, state=VersionState.DELETING)
    return replace(control, versions={**control.versions, version: deleting})


def forget(control: Control, version: int) -> Control:
    """Drop a version whose keys are gone."""
    return replace(control, versions={v: record for v, record in control.versions.items() if v != version})


def removable(
    control: Control, *, keep: int, grace_seconds: float, abandoned_seconds: float, now: float
) -> tuple[int, ...]:
    """Return the versions that clean-up may delete, ascending.

    Those whose deletion was interrupted; those written for longer than `abandoned_seconds`; and of the
    complete, inactive and unaliased ones all but the newest `keep`, if superseded for longer than
    `grace_seconds`.
    """
    pinned = {control.active, *control.aliases.values()}
    complete = [
        number
        for number, record in control.versions.items()
        if record.state is VersionState.SEALED and number not in pinned
    ]
    candidates = sorted(complete, reverse=True)[keep:]
    found = []
    for number, record in sorted(control.versions.items()):
        since = record.superseded
        if (
            record.state is VersionState.DELETING
            or (record.state is VersionState.WRITING and now - record.started > abandoned_seconds)
            or (number in candidates and since is not None and now - since > grace_seconds)
        ):
            found.append(number)
    return tuple(found)


def announce(control: Control, version: int, *, epoch: int | None, owner: str = "") -> Control:
    """Record the epoch under which a coordinator works on a publication.

    Epochs rise in one coordinator's journal, which is also where a publication's number is kept, so they
    compare within a publication; `owner`, when given, extends that to all publications of the same journal.

    Args:
        control: the document.
        version: the publication.
        epoch: the coordinator's epoch; None stands for a person at the command line, who has none.
        owner: identity of the coordinator's journal, "" when it has none.

    Raises:
        StaleLease: a higher epoch has been seen: this coordinator was replaced while it slept.
    """
    control = _announce_owner(control, epoch, owner)
    record = control.versions.get(version)
    if epoch is None or record is None:
        return control
    _require_current(record.epoch, epoch)
    return replace(control, versions={**control.versions, version: replace(record, epoch=epoch)})


def _announce_owner(control: Control, epoch: int | None, owner: str) -> Control:
    if epoch is None or not owner:
        return control
    _require_current(control.epochs.get(owner), epoch)
    return replace(control, epochs={**control.epochs, owner: epoch})


def _require_current(seen: int | None, epoch: int) -> None:
    if seen is not None and seen > epoch:
        raise StaleLease(
            f"the store has seen epoch {seen} of this coordinator, and this request carries epoch {epoch}: "
            "a newer coordinator has taken over"
        )
