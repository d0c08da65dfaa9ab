"""The life of versions, without any store: documents in, documents out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gdmix_core.errors import ActivationConflict, Conflict, GdmixError, StaleLease, StoreCorrupt, VersionGone
from gdmix_core.store import control as rules
from gdmix_core.store.control import Control, VersionState, control_from_json


def _sealed(*, upto: int, now: float = 0.0) -> Control:
    control = Control()
    for number in range(1, upto + 1):
        control, version = rules.begin(control, token=f"t{number}", now=now)
        control = rules.seal(control, "m", version, now=now)
    return control


def test_documents_survive_the_round_trip() -> None:
    control = rules.activate(_sealed(upto=2), "m", 2, expected=None, now=5.0, epoch=3, owner="o")
    control = rules.set_alias(control, "m", "prod", 1)
    assert control_from_json(control.to_json(), "x") == control
    assert control_from_json(None, "x") == Control()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "counter": 1}'])
def test_foreign_documents_are_refused(data: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        control_from_json(data, "x")


def test_numbers_rise_and_respect_the_minimum() -> None:
    control, first = rules.begin(Control(), token="a", now=0.0)
    control, second = rules.begin(control, token="b", now=0.0, minimum=7)
    control, third = rules.begin(rules.forget(control, second), token="c", now=0.0)
    assert (first, second, third) == (1, 7, 8)


def test_sealing_twice_is_the_same_publication_or_an_error() -> None:
    control = _sealed(upto=1)
    assert rules.seal(control, "m", 1, now=9.0, token="t1") == control
    with pytest.raises(Conflict):
        rules.seal(control, "m", 1, now=9.0)
    with pytest.raises(VersionGone):
        rules.seal(control, "m", 1, now=9.0, token="another")


def test_epochs_compare_inside_a_publication_only_unless_the_journal_is_named() -> None:
    control, first = rules.begin(Control(), token="a", now=0.0, epoch=9)
    control, second = rules.begin(control, token="b", now=0.0, epoch=1)  # another coordinator, counting anew
    control = rules.seal(control, "m", second, now=0.0, epoch=1)
    with pytest.raises(StaleLease):
        rules.seal(control, "m", first, now=0.0, epoch=8)
    with pytest.raises(StaleLease):
        rules.activate(rules.announce(control, second, epoch=2), "m", second, expected=None, now=0.0, epoch=1)
    # A person has no epoch and may always decide.
    assert rules.activate(control, "m", second, expected=None, now=0.0).active == second


def test_a_rolled_back_version_is_superseded_from_then_on() -> None:
    control = _sealed(upto=3)
    control = rules.activate(control, "m", 3, expected=None, now=10.0)
    assert [control.versions[v].superseded for v in (1, 2, 3)] == [10.0, 10.0, None]
    control = rules.activate(control, "m", 2, expected=3, now=20.0)
    assert [control.versions[v].superseded for v in (1, 2, 3)] == [10.0, None, 20.0]
    assert rules.removable(control, keep=0, grace_seconds=5, abandoned_seconds=1e9, now=22.0) == (1,)
    assert rules.removable(control, keep=1, grace_seconds=5, abandoned_seconds=1e9, now=99.0) == (1,)
    assert rules.removable(control, keep=0, grace_seconds=5, abandoned_seconds=1e9, now=99.0) == (1, 3)


class Lives(RuleBasedStateMachine):
    """Any order of requests: what must hold afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.control = Control()
        self.now = 0.0
        self.given: set[int] = set()

    def attempt(self, step: object, *arguments: object, **named: object) -> None:
        with suppress(GdmixError):
            self.control = step(self.control, "m", *arguments, **named)  # type: ignore[operator]

    @rule(minimum=st.integers(1, 5))
    def begin(self, minimum: int) -> None:
        self.control, version = rules.begin(self.control, token="t", now=self.now, minimum=minimum)
        assert version not in self.given
        self.given.add(version)

    @rule(seconds=st.floats(1, 500))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(version=st.integers(1, 8))
    def seal(self, version: int) -> None:
        self.attempt(rules.seal, version, now=self.now)

    @rule(version=st.integers(1, 8), expected=st.none() | st.integers(1, 8))
    def activate(self, version: int, expected: int | None) -> None:
        before = self.control.active
        refused: GdmixError | None = None
        try:
            self.control = rules.activate(self.control, "m", version, expected=expected, now=self.now)
        except GdmixError as error:
            refused = error
        if refused is None:
            assert before in {expected, version}
        elif isinstance(refused, ActivationConflict):
            assert refused.winner == before != expected

    @rule(version=st.integers(1, 8))
    def alias(self, version: int) -> None:
        self.attempt(rules.set_alias, "prod", version)

    @rule(version=st.integers(1, 8))
    def delete(self, version: int) -> None:
        self.attempt(rules.start_deleting, version)

    @precondition(lambda self: self.control.active is not None)
    @rule(keep=st.integers(0, 3))
    def clean(self, keep: int) -> None:
        for version in rules.removable(
            self.control, keep=keep, grace_seconds=100, abandoned_seconds=1000, now=self.now
        ):
            state = self.control.state_of(version)
            assert state is not VersionState.ACTIVE
            self.control = rules.forget(rules.start_deleting(self.control, "m", version), version)

    @invariant()
    def what_is_served_is_complete(self) -> None:
        for version in (self.control.active, *self.control.aliases.values()):
            if version is not None:
                rules.require_servable(self.control, "m", version)
        states = [self.control.state_of(version) for version in self.control.versions]
        assert states.count(VersionState.ACTIVE) == (self.control.active is not None)
        assert control_from_json(self.control.to_json(), "x") == self.control


TestLives = Lives.TestCase


@given(st.integers(1, 6))
def test_rollback_goes_to_the_newest_older_version(count: int) -> None:
    control = rules.activate(_sealed(upto=count + 1), "m", count + 1, expected=None, now=0.0)
    assert rules.rollback_target(control, "m") == count
