"""One version of a model in a serving process, and the versions of one model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gdmix_core.errors import GdmixError
from gdmix_core.scoring.scoring_model import ScoringModel
from gdmix_core.store import Pointers

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0
_ENDED_SHOWN: Final = 8


class VersionState(StrEnum):
    """Where a version is in its life here."""

    START = "START"
    """It is known and wanted."""
    LOADING = "LOADING"
    """It is read and warmed."""
    AVAILABLE = "AVAILABLE"
    """It answers requests."""
    UNLOADING = "UNLOADING"
    """It finishes what is under way, and takes nothing new."""
    END = "END"
    """It is gone from memory, or could not be loaded."""


@dataclass(slots=True, eq=False)
class Version:
    """A version and what became of it.

    Attributes:
        model: name of the model.
        number: the version.
        token: random name of its publication.
        scoring: what scores, while it is loaded.
        requests: answered by it.
        in_flight: that it is answering now.
        lost: whether the store no longer has it.
        error: why it could not be loaded, or ended.
        error_code: of the error catalog.
        since: of its state, in seconds since 1970.
        used: `time.monotonic()` of its last request, or of the moment it lost its last pointer.
        retry_at: `time.monotonic()` before which it is not tried again.
    """

    model: str
    number: int
    token: str
    when_changed: Callable[[Version], None]
    state: VersionState = VersionState.START
    scoring: ScoringModel | None = None
    requests: int = 0
    in_flight: int = 0
    lost: bool = False
    error: str = ""
    error_code: str = ""
    since: float = field(default_factory=time.time)
    used: float = field(default_factory=time.monotonic)
    retry_at: float = 0.0
    failures: int = 0

    def __post_init__(self) -> None:
        self.when_changed(self)

    @property
    def available(self) -> bool:
        """Whether it answers requests."""
        return self.state is VersionState.AVAILABLE

    def to(self, state: VersionState) -> None:
        """Note a change of state."""
        self.state = state
        self.since = time.time()
        self.when_changed(self)

    def fail(self, error: GdmixError) -> None:
        """Note that it could not be loaded, and when to try again."""
        self.error, self.error_code = str(error), error.code
        delay = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0**self.failures)
        self.failures += 1
        self.retry_at = time.monotonic() + delay
        self.to(VersionState.END)

    def begin(self) -> None:
        """Note a request that it answers."""
        self.in_flight += 1

    def end(self) -> None:
        """Note the end of a request; the last one of a version that is unloaded ends it."""
        self.in_flight -= 1
        self.requests += 1
        self.used = time.monotonic()
        if self.in_flight == 0 and self.state is VersionState.UNLOADING:
            self._forget()

    def unload(self, reason: str = "", code: str = "") -> None:
        """Take nothing new, and go when nothing is under way."""
        self.error, self.error_code = reason, code
        if self.available:
            self.to(VersionState.UNLOADING)
        if self.in_flight == 0 and self.state is VersionState.UNLOADING:
            self._forget()

    def _forget(self) -> None:
        self.scoring = None
        self.to(VersionState.END)


@dataclass(slots=True, eq=False)
class ServedModel:
    """The versions of one model.

    Attributes:
        name: of the model.
        versions: by number, those that are wanted or loaded.
        active: the version of requests that choose none.
        aliases: versions by alias, available ones only.
        pointers: what the store said last.
        ended: versions that are gone, for those who ask.
    """

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    active: Version | None = None
    aliases: dict[str, Version] = field(default_factory=dict)
    pointers: Pointers = field(default_factory=lambda: Pointers(None, {}, {}))
    ended: deque[Version] = field(default_factory=lambda: deque(maxlen=_ENDED_SHOWN))

    def pointed_to(self) -> set[int]:
        """Return the versions that must be loaded: the active one and those with an alias."""
        wanted = set(self.pointers.aliases.values())
        if self.pointers.active is not None:
            wanted.add(self.pointers.active)
        return wanted & self.pointers.tokens.keys()
