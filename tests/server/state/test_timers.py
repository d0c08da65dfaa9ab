"""Deadlines: set, moved, cleared, put off; each name has one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gdmix_server.state.timers import Deadline, Timers

NAMES = st.tuples(st.sampled_from(list(Deadline)), st.sampled_from("ab"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NAMES, st.integers(0, 50)),
        st.tuples(st.just("clear"), NAMES, st.just(0)),
        st.tuples(st.just("shift"), NAMES, st.integers(0, 9)),
        st.tuples(st.just("pop"), NAMES, st.integers(0, 60)),
    ),
    max_size=60,
)


@given(STEPS)
def test_they_agree_with_a_dictionary(steps):
    timers, expected = Timers(), {}
    for step, key, number in steps:
        if step == "set":
            timers.set(*key, float(number))
            expected[key] = float(number)
        elif step == "clear":
            timers.clear(*key)
            expected.pop(key, None)
        elif step == "shift":
            timers.shift(float(number))
            expected = {name: time + number for name, time in expected.items()}
        else:
            due = timers.pop_due(float(number))
            first = min(((time, name) for name, time in expected.items()), default=None)
            assert due == (first[1] if first is not None and first[0] <= number else None)
            expected.pop(due, None)
        assert timers.earliest() == min(expected.values(), default=None)
        assert all(timers.has(*name) == (name in expected) for name in [key])
