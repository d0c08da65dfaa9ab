"""When a serving process that died is started again, and when the scorer gives up. Pure: times come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

FIRST_SECONDS: Final = 0.1
MAX_SECONDS: Final = 10.0
LASTING_SECONDS: Final = 60.0
"""A process that lived this long is started again at once, whatever went before."""
MAX_EARLY_DEATHS: Final = 5
"""In a row, of one process, before it listened and while no other one listens."""


@dataclass(slots=True)
class RestartPolicy:
    """The deaths of the process in one place, and what follows from them."""

    deaths: int = 0
    """All of them."""
    _short_lives: int = field(default=0, init=False)
    _early_deaths: int = field(default=0, init=False)

    def died(self, lived_seconds: float, *, listened: bool, others_listen: bool) -> float | None:
        """Note a death that nobody asked for.

        Args:
            lived_seconds: how long the process lived.
            listened: whether it ever listened.
            others_listen: whether the scorer answers without it.

        Returns:
            Seconds to wait before the next one is started; None: give up, nobody answers and nobody will.
        """
        self.deaths += 1
        self._early_deaths = 0 if listened else self._early_deaths + 1
        self._short_lives = 0 if lived_seconds >= LASTING_SECONDS else self._short_lives + 1
        if self._early_deaths >= MAX_EARLY_DEATHS and not others_listen:
            return None
        if self._short_lives <= 1 and listened:
            return 0.0
        return float(min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(self._short_lives, 20)))
