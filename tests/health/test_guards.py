"""What each guard of the health model keeps away: the same course of events with it and without."""

from __future__ import annotations

from itertools import pairwise

import pytest

from plexus_registry.health import evidence
from plexus_registry.health.evidence import SelfPreservation
from plexus_registry.health.tracker import HealthTracker, Policy
from plexus_registry.rules.backend import State
from tests.health.test_tracker import INTERVAL, REFUSED, Harness, answer

NAMES = tuple(f"hub{index}" for index in range(10))
STALE_AFTER = 60.0
guarded = pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "unguarded"])


def up(harness: Harness) -> Harness:
    for name in tuple(harness.backends):
        harness.probe(name, answer(name))
    harness.moment += INTERVAL
    return harness


def states(harness: Harness) -> set[State]:
    return {harness.state(name) for name in harness.backends}


@guarded
def test_a_network_that_is_cut_off_for_a_minute(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_guarded:
        monkeypatch.setattr(SelfPreservation, "may_mark", lambda *_, **__: True)
    harness = up(Harness(*NAMES))
    harness.rounds([REFUSED] * 4, *NAMES)
    assert states(harness) == ({State.UP} if is_guarded else {State.DOWN})


@guarded
def test_a_backend_that_comes_and_goes_all_day(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_guarded:
        monkeypatch.setattr(evidence, "FREE_FALLS", 10**6)
    harness = up(Harness("a"))
    seen = []
    for _ in range(500):
        for outcome in (REFUSED, REFUSED, REFUSED, answer("a")):
            harness.rounds([outcome])
            seen.append(harness.state())
    changes = sum(one is not other for one, other in pairwise(seen))
    assert changes <= 6 if is_guarded else changes == 1000


@guarded
def test_a_process_that_was_stopped_hears_no_pings(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_guarded:
        monkeypatch.setattr(HealthTracker, "note_pause", lambda *_, **__: None)
    harness = Harness(*NAMES, policy=Policy(stale_after=STALE_AFTER))
    for name in NAMES:
        harness.ping(name)
    harness.moment += STALE_AFTER + 1
    harness.tracker.note_pause(STALE_AFTER, moment=harness.moment)
    harness.sweep()
    assert states(harness) == ({State.UP} if is_guarded else {State.STALE})


@guarded
def test_a_probe_that_a_pause_overlaps_is_void(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure may be due to the pause; those before it were not."""
    if not is_guarded:
        monkeypatch.setattr(HealthTracker, "note_pause", lambda *_, **__: None)
    harness = up(Harness("a", "b"))
    harness.rounds([REFUSED] * 2, "a", "b")
    harness.moment += 1
    harness.tracker.note_pause(1, moment=harness.moment)
    for name in "ab":
        harness.probe(name, REFUSED, seconds=1)
    assert states(harness) == ({State.UP} if is_guarded else {State.DOWN})


@guarded
def test_a_pause_in_the_middle_of_a_probe(
    is_guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer came in time, but nobody was there to read it."""
    if not is_guarded:
        monkeypatch.setattr("plexus_registry.health.tracker.OVERTIME", float("inf"))
    harness = up(Harness("a", policy=Policy(probe_interval=INTERVAL, probe_failures=1)))
    harness.probe("a", REFUSED, seconds=10)
    assert harness.state() is (State.UP if is_guarded else State.DOWN)
