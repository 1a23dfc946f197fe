"""Who is probed when: soon for the first time, then spread over the interval."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.tasks.prober import JITTER, Schedule

INTERVAL = 15.0


def test_it_gives_names_in_the_order_in_which_they_are_due() -> None:
    schedule = Schedule(interval=INTERVAL)
    for due, name in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        schedule.add(name, due)
    assert schedule.next_due() == 1.0
    assert schedule.take(0.9) is None
    assert [schedule.take(2.0) for _ in range(3)] == [("a", 1.0), ("b", 2.0), None]
    assert schedule.next_due() == 3.0
    assert schedule.take(3.0) == ("c", 3.0)
    assert schedule.next_due() is None
    assert schedule.take(inf) is None


def test_a_name_that_is_added_again_is_due_once_and_earlier() -> None:
    schedule = Schedule(interval=INTERVAL)
    schedule.add("a", 10.0)
    schedule.add("a", 2.0)
    schedule.add("a", 5.0)
    assert schedule.take(inf) == ("a", 2.0)
    assert schedule.next_due() is None


def test_a_name_that_is_added_while_it_is_taken_stays_due() -> None:
    schedule = Schedule(interval=INTERVAL)
    schedule.add("a", 1.0)
    schedule.take(1.0)
    schedule.add("a", 1.5)
    schedule.put_back("a", 1.0, due=1.0, chance=0)
    assert schedule.next_due() == 1.5


def test_nothing_is_left_of_a_forgotten_name() -> None:
    schedule = Schedule(interval=INTERVAL)
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.forget("a")
    schedule.put_back("a", 0.0, due=0.0, chance=0)
    assert schedule.next_due() == INTERVAL, "it has no part of its own any more"


@given(st.integers(1, 200))
def test_no_name_waits_longer_than_the_interval_and_all_are_spread(
    count: int,
) -> None:
    schedule = Schedule(interval=INTERVAL)
    last: dict[str, float] = {}
    for index in range(count):
        schedule.add(str(index), 0.0)
    turns: list[float] = []
    for _ in range(4 * count):
        turn = schedule.take(inf)
        assert turn is not None
        name, due = turn
        if name in last:
            assert due - last[name] <= INTERVAL
        last[name] = due
        turns.append(due)
        schedule.put_back(name, due, due=due, chance=0.5)
    # In the middle of it all, no second has many more than its share of the probes.
    share = count / (INTERVAL * (1 - JITTER / 2))
    second_round = [due for due in turns if INTERVAL <= due < 2 * INTERVAL]
    for second in range(15, 30):
        probes = sum(second <= due < second + 1 for due in second_round)
        assert probes <= share + 4


def test_after_a_pause_they_are_spread_again() -> None:
    schedule = Schedule(interval=INTERVAL)
    for index in range(15):
        schedule.add(str(index), 0.0)
    late = 100.0
    for _ in range(15):
        turn = schedule.take(late)
        assert turn is not None
        schedule.put_back(turn[0], late, due=turn[1], chance=0)
    dues = []
    while (turn := schedule.take(inf)) is not None:
        dues.append(turn[1])
    assert len(dues) == 15
    assert all(later - earlier < 3 for earlier, later in pairwise(dues))
    assert dues[-1] - dues[0] > INTERVAL * 0.8


@given(factor=st.floats(1, 64), chance=st.floats(0, 1))
def test_a_name_that_is_put_back_with_a_factor_waits_for_as_many_intervals(
    factor: float, chance: float
) -> None:
    schedule = Schedule(interval=INTERVAL)
    schedule.add("a", 0.0)
    schedule.put_back("a", 0.0, due=0.0, chance=chance)
    assert schedule.take(inf) is not None
    schedule.put_back("a", 100.0, due=100.0, chance=chance, factor=factor)
    due = schedule.next_due()
    assert due is not None
    assert (1 - JITTER) * factor * INTERVAL <= due - 100.0 + 1e-9
    assert due - 100.0 <= factor * INTERVAL + 1e-9
