"""A stage of a gang while it runs: all of its members are out, or none is."""

from __future__ import annotations

from collections.abc import Mapping

from gdmix_core.tasks import TaskResult
from gdmix_server.state.model import GangMember, GangStage, MemberState, UnitRow
from gdmix_server.state.units import Unit, UnitsRun


class GangRun(UnitsRun):
    """A `GangStage` while it runs.

    Attributes:
        addresses: where members listen, by rank; of this attempt.
        results: what members brought, as a result and as JSON, by rank; they count when all are there.
        avoided: worker where a member failed last: others are taken if there are enough.
        failed_at: when an attempt failed last; workers that were not heard of since may be what it failed of.
        told_short: whether people know that it wants more slots than there are.
    """

    def __init__(self, stage: GangStage, rows: Mapping[int, UnitRow]) -> None:
        """Begin, or go on from the rows of a journal; raises as `UnitsRun`."""
        super().__init__(stage, rows)
        self.addresses: dict[int, str] = {}
        self.results: dict[int, tuple[TaskResult, str]] = {}
        self.avoided = ""
        self.failed_at = 0.0
        self.told_short = False
        if any(unit.lease is None for unit in self.units):
            self.recall()

    @property
    def waiting(self) -> bool:
        """Whether the gang waits for slots."""
        return not self.running and not self.finished

    @property
    def done(self) -> int:
        """Number of members that brought their result."""
        return len(self.results) or super().done

    @property
    def joined(self) -> bool:
        """Whether every member has said where it listens."""
        return len(self.addresses) == self.size

    @property
    def failures(self) -> int:
        """Attempts of the gang that failed, whoever's fault it was."""
        return sum(unit.failures + unit.deaths for unit in self.units)

    @property
    def reasons(self) -> tuple[str, ...]:
        """How they failed, in order."""
        return self.units[0].reasons

    def tell_reason(self, reason: str) -> None:
        """Keep how an attempt failed, with the row of rank 0."""
        self.units[0].reasons = (*self.units[0].reasons, reason)

    def recall(self) -> None:
        """Forget what members hold and have brought: the gang begins again."""
        for unit in self.units:
            unit.lease = None
        self.addresses.clear()
        self.results.clear()
        self.shown_rows = self.shown_entities = 0

    def members(self) -> tuple[GangMember, ...]:
        """Return the members by rank; none while the gang waits."""
        if not self.running:
            return ()
        return tuple(
            GangMember(
                worker_id=unit.worker_id, state=self._state(unit), address=self.addresses.get(unit.number, "")
            )
            for unit in self.units
        )

    def _state(self, unit: Unit) -> MemberState:
        if unit.number in self.results:
            return MemberState.FINISHED
        return MemberState.RUNNING if self.joined else MemberState.JOINING
