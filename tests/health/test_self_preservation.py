"""When the registry suspects its own network, and when marking goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.health.evidence import LEAST, ROUNDS, SelfPreservation

ROUND = 15.0


def suspicion_of(up: int, failing: int) -> SelfPreservation:
    self_preservation = SelfPreservation(round_seconds=ROUND)
    for index in range(up):
        self_preservation.count(str(index), is_up=True, fails=False, moment=0)
    for index in range(failing):
        self_preservation.count(str(index), is_up=True, fails=True, moment=0)
    return self_preservation


@given(st.integers(0, 30), st.data())
def test_it_takes_more_than_half_and_three(up: int, data: st.DataObject) -> None:
    failing = data.draw(st.integers(0, up))
    expected = failing >= LEAST and failing > up / 2
    self_preservation = suspicion_of(up, failing)
    assert self_preservation.suspects_network == expected
    assert self_preservation.may_mark("0", moment=0) != expected


def test_it_ends_when_half_of_them_answer() -> None:
    self_preservation = suspicion_of(10, 6)
    self_preservation.count("0", is_up=True, fails=False, moment=1)
    assert not self_preservation.suspects_network
    assert self_preservation.may_mark("1", moment=1)


def test_no_backend_is_marked_for_five_rounds_and_then_a_share_in_each() -> None:
    self_preservation = suspicion_of(40, 40)
    left = [str(index) for index in range(40)]
    marked_in: list[int] = []
    for number in range(ROUNDS + 4):
        marked = [name for name in left if self_preservation.may_mark(name, moment=number * ROUND)]
        for name in marked:
            self_preservation.count(name, is_up=False, fails=False, moment=number * ROUND)
        left = [name for name in left if name not in marked]
        marked_in.append(len(marked))
    assert marked_in == [0] * ROUNDS + [10, 10, 10, 10]
    assert not self_preservation.suspects_network


def test_a_backend_that_may_be_marked_may_be_so_until_it_is() -> None:
    self_preservation = suspicion_of(8, 8)
    late = ROUNDS * ROUND
    granted = [name for name in map(str, range(8)) if self_preservation.may_mark(name, moment=late)]
    assert len(granted) == LEAST
    assert all(self_preservation.may_mark(name, moment=late + 1) for name in granted)
    assert not self_preservation.may_mark("7", moment=late + 1)


@pytest.mark.parametrize(("pause", "marks_at"), [(1.0, ROUNDS * ROUND + 1), (100.0, None)])
def test_a_pause_is_no_round_and_a_long_one_starts_the_suspicion_over(
    pause: float, marks_at: float | None
) -> None:
    self_preservation = suspicion_of(5, 5)
    moment = 2 * ROUND + pause
    self_preservation.postpone(pause, moment=moment)
    assert self_preservation.suspects_network
    marks_at = marks_at or moment + ROUNDS * ROUND
    assert not self_preservation.may_mark("0", moment=marks_at - 1)
    assert self_preservation.may_mark("0", moment=marks_at)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_backend_that_was_not_up_does_not_count(failing: int) -> None:
    self_preservation = suspicion_of(4, failing)
    for index in range(10):
        self_preservation.count(f"down{index}", is_up=False, fails=True, moment=0)
    assert not self_preservation.suspects_network
