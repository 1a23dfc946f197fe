"""Backends that come and go are held down, longer with every fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.health.evidence import (
    FIRST_HOLD,
    FORGOTTEN_AFTER,
    FREE_FALLS,
    LONGEST_HOLD,
    Damping,
)


def fallen(times: int) -> Damping:
    damping = Damping()
    for moment in range(times):
        damping.note_up(moment)
        damping.note_down(moment)
    return damping


@given(st.integers(0, 50))
def test_the_hold_down_doubles_up_to_the_longest(falls: int) -> None:
    surplus = falls - FREE_FALLS
    expected = 0.0 if surplus <= 0 else min(LONGEST_HOLD, FIRST_HOLD * 2 ** (surplus - 1))
    assert fallen(falls).hold_seconds == expected
    assert LONGEST_HOLD == 300


def test_it_must_answer_for_all_of_it_without_a_miss() -> None:
    damping = fallen(FREE_FALLS + 1)
    assert damping.remaining(0) == FIRST_HOLD
    damping.note_answer(100)
    assert damping.remaining(100) == FIRST_HOLD
    damping.note_answer(110)
    assert damping.remaining(110) == FIRST_HOLD - 10
    damping.note_miss()
    damping.note_answer(200)
    assert damping.remaining(200 + FIRST_HOLD - 1) == 1
    assert damping.remaining(200 + FIRST_HOLD) == 0


def test_a_long_time_up_is_a_new_start() -> None:
    damping = fallen(9)
    damping.note_up(1000)
    damping.note_up(1000 + FORGOTTEN_AFTER)
    damping.note_down(1000 + FORGOTTEN_AFTER)
    assert damping.falls == 1
    damping = fallen(9)
    damping.note_up(1000)
    damping.note_down(1000 + FORGOTTEN_AFTER - 1)
    assert damping.falls == 10
