"""Backends that come and go are held down, longer with every fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.health.damping import FIRST, FORGOTTEN, FREE_FALLS, LONGEST, Damping


def fallen(times: int) -> Damping:
    damping = Damping()
    for moment in range(times):
        damping.rose(moment)
        damping.fell(moment)
    return damping


@given(st.integers(0, 50))
def test_the_hold_down_doubles_up_to_the_longest(falls: int) -> None:
    surplus = falls - FREE_FALLS
    expected = 0.0 if surplus <= 0 else min(LONGEST, FIRST * 2 ** (surplus - 1))
    assert fallen(falls).hold_seconds == expected
    assert LONGEST == 300


def test_it_must_answer_for_all_of_it_without_a_miss() -> None:
    damping = fallen(FREE_FALLS + 1)
    assert damping.wait(0) == FIRST
    damping.answered(100)
    assert damping.wait(100) == FIRST
    damping.answered(110)
    assert damping.wait(110) == FIRST - 10
    damping.missed()
    damping.answered(200)
    assert damping.wait(200 + FIRST - 1) == 1
    assert damping.wait(200 + FIRST) == 0


def test_a_long_time_up_is_a_new_start() -> None:
    damping = fallen(9)
    damping.rose(1000)
    damping.rose(1000 + FORGOTTEN)
    damping.fell(1000 + FORGOTTEN)
    assert damping.falls == 1
    damping = fallen(9)
    damping.rose(1000)
    damping.fell(1000 + FORGOTTEN - 1)
    assert damping.falls == 10
